"""A diagnosis in words, in English and Chinese: its state, its reason, and what to do about it."""

from thinktune.report.html import BilingualText
from thinktune.run import Diagnosis
from thinktune.run.diagnosis import DiagnosisState

STATE_NAMES: dict[DiagnosisState, BilingualText] = {
    "waiting": BilingualText("Too early to say", "为时尚早"),
    "learning": BilingualText("Still learning", "仍在学习"),
    "best": BilingualText("At its best", "处于最佳"),
    "overfitting": BilingualText("Overfitting since step {since}", "自第 {since} 步起过拟合"),
    "diverging": BilingualText("Diverging since step {since}", "自第 {since} 步起发散"),
}


def state_name(diagnosis: Diagnosis) -> BilingualText:
    """Name the state in a few words."""
    en, zh = (text.format(since=f"{diagnosis.plateau_end_step:,}") for text in STATE_NAMES[diagnosis.state])
    return BilingualText(en, zh)


def reason_sentence(diagnosis: Diagnosis) -> BilingualText:
    """State the reason for the diagnosis."""
    best, loss, last = f"{diagnosis.best_step:,}", f"{diagnosis.best_loss:.3f}", f"{diagnosis.last_loss:.3f}"
    match diagnosis.state:
        case "waiting":
            return BilingualText("A diagnosis needs two evaluations.", "至少评估两次后才有结论。")
        case "learning":
            return BilingualText("The eval loss is still falling.", "验证损失还在下降。")
        case "best" if diagnosis.plateau_end_step < diagnosis.last_step:
            return BilingualText(
                f"The eval loss, {last}, is above its lowest, {loss} at step {best}; a second evaluation like this "
                "would mean overfitting.",
                f"验证损失 {last} 高于最低值（第 {best} 步的 {loss}）；如果下一次评估仍是这样，就是过拟合。",
            )
        case "best":
            return BilingualText(
                f"The eval loss is level with its lowest, {loss} at step {best}.",
                f"验证损失与最低值（第 {best} 步的 {loss}）没有明显差别。",
            )
        case "overfitting":
            return BilingualText(
                f"The eval loss has risen from {loss} at step {best} to {last}, more than chance explains.",
                f"验证损失从第 {best} 步的 {loss} 升到了 {last}，超出了随机波动的范围。",
            )
        case "diverging":
            return BilingualText(
                f"Train and eval loss are rising together, eval from {loss} to {last}.",
                f"训练损失和验证损失一起上升，验证损失从 {loss} 升到 {last}。",
            )


def diagnosis_line(diagnosis: Diagnosis) -> str:
    """Name the state and its reason in one line, for the terminal."""
    return f"{state_name(diagnosis).en.lower()}. {reason_sentence(diagnosis).en}"


def advice_sentence(diagnosis: Diagnosis, epochs_at_best: float | None = None) -> BilingualText:
    """Advise what to do next, in one sentence; empty where there is nothing to advise."""
    best = f"{diagnosis.best_step:,}"
    if diagnosis.improved is False and diagnosis.state != "learning":
        return BilingualText(
            "On held-out rows no step is clearly better than the base model; check the data and the learning rate "
            "before training longer.",
            "在验证数据上，没有哪一步明显优于基座模型；请先检查数据和学习率，再考虑延长训练。",
        )
    match diagnosis.state:
        case "waiting":
            return BilingualText("", "")
        case "learning":
            return BilingualText(
                "Let it continue; if the run ends like this, more epochs are likely to help.",
                "继续训练即可；如果训练结束时仍是如此，增加轮数（epochs）多半还有帮助。",
            )
        case "best":
            return BilingualText(
                "More steps on the same rows bring no measurable gain; more or better rows may.",
                "在同样的数据上继续训练已没有可测量的收益；增加数据或提高数据质量可能还有提升。",
            )
        case "overfitting":
            about = "" if epochs_at_best is None else f" ({epochs_at_best:.1f} epochs)"
            about_zh = "" if epochs_at_best is None else f"（约 {epochs_at_best:.1f} 轮）"
            return BilingualText(
                f"Later steps memorize the training rows: stop here, train only to step {best}{about} next time, "
                f"or add rows; the model of step {best} is kept.",
                f"之后的步骤只是在死记训练数据：可以就此停止；下次训练到第 {best} 步{about_zh}即可，或者增加数据；"
                f"第 {best} 步的模型已保留。",
            )
        case "diverging":
            return BilingualText(
                "The steps are too large: lower train.learning_rate and start a new run.",
                "更新步长太大：请调低 train.learning_rate，然后重新开始训练。",
            )
