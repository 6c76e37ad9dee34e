"""A diagnosis in words, in English and Chinese: its state, its reason, and what to do about it."""

import math

from thinktune.report.html import BilingualText
from thinktune.run import Diagnosis
from thinktune.run.diagnosis import DiagnosisState
from thinktune.run.status import RunState

STATE_NAMES: dict[DiagnosisState, BilingualText] = {
    "waiting": BilingualText("Too early to say", "暂无结论"),
    "learning": BilingualText("Still learning", "仍在学习"),
    "best": BilingualText("At its best", "已到最低点"),
    "overfitting": BilingualText("Overfitting since step {since}", "自第 {since} 步起过拟合"),
    "diverging": BilingualText("Diverging since step {since}", "自第 {since} 步起发散"),
    "no_gain": BilingualText("No better than the base model", "没有优于基座模型"),
    "worse": BilingualText("Worse than the base model", "比基座模型更差"),
}


ROUNDED_UP_EPOCHS = 0.25  # this little below a whole number of epochs is that number, elsewhere the one below


NOT_EVALUATED = BilingualText("Not evaluated", "没有评估")


_ADVICE_WITHOUT_GAIN = BilingualText(
    "On held-out rows, no step is clearly better than the base model; check the data and the learning rate before "
    "training longer.",
    "在留出数据上，没有哪一步明显优于基座模型；请先检查数据和学习率，再考虑延长训练。",
)


def state_name(diagnosis: Diagnosis, run_state: RunState = "running") -> BilingualText:
    """Name the state in a few words."""
    if _was_never_evaluated(diagnosis, run_state):
        return NOT_EVALUATED
    en, zh = (text.format(since=f"{diagnosis.plateau_end_step:,}") for text in STATE_NAMES[diagnosis.state])
    return BilingualText(en, zh)


def headline_sentence(diagnosis: Diagnosis, run_state: RunState, first: tuple[int, float]) -> BilingualText:
    """State which step has the lowest eval loss, and call it best only if it is below that of the base model.

    `first` is the step and loss of the first evaluation. Empty where the reason of the diagnosis says it all.
    """
    if _was_never_evaluated(diagnosis, run_state):
        return BilingualText("", "")
    if not diagnosis.best_step:
        return BilingualText(
            "Not yet: no trained step has been evaluated, so there is no best one.",
            "开始训练之后还没有评估过，所以没有最好的一步。",
        )
    if diagnosis.state in ("worse", "no_gain") or not math.isfinite(diagnosis.best_loss):
        return BilingualText("", "")
    best, loss, base = f"{diagnosis.best_step:,}", f"{diagnosis.best_loss:.3f}", f"{diagnosis.base_loss:.3f}"
    if is_base_lowest(diagnosis):
        return BilingualText(
            f"Lowest after training at step {best}, with an eval loss of {loss}; the base model's is {base}.",
            f"训练后最低的是第 {best} 步，验证 loss {loss}；基座模型是 {base}。",
        )
    first_step, first_loss = first
    if first_step == diagnosis.best_step:
        since = BilingualText(".", "。")
    elif first_step:
        since = BilingualText(
            f", down from {first_loss:.3f} at step {first_step:,}.", f"，第 {first_step:,} 步为 {first_loss:.3f}。"
        )
    else:
        since = BilingualText(f", down from {first_loss:.3f} before training.", f"，训练前为 {first_loss:.3f}。")
    return BilingualText(
        f"Best at step {best}, with an eval loss of {loss}{since.en}",
        f"最好的是第 {best} 步，验证 loss {loss}{since.zh}",
    )


def is_base_lowest(diagnosis: Diagnosis) -> bool:
    """Return True if no trained step has an eval loss below the base model's."""
    return diagnosis.base_loss <= diagnosis.best_loss


def reason_sentence(diagnosis: Diagnosis, run_state: RunState = "running") -> BilingualText:
    """State the reason for the diagnosis."""
    best, loss, last = f"{diagnosis.best_step:,}", f"{diagnosis.best_loss:.3f}", f"{diagnosis.last_loss:.3f}"
    match diagnosis.state:
        case "no_gain" | "worse":
            return _reason_against_base(diagnosis)
        case "best":
            return _reason_where_best(diagnosis, run_state)
        case "waiting" if _was_never_evaluated(diagnosis, run_state):
            return BilingualText(
                "No row was held out, so nothing shows whether the model is better than its base.",
                "没有留出数据（验证集），所以无法知道模型是否优于基座模型。",
            )
        case "waiting":
            return BilingualText("A diagnosis needs two evaluations.", "至少评估两次后才有结论。")
        case "learning":
            return BilingualText("The eval loss is still falling.", "验证 loss 还在下降。")
        case "overfitting":
            return BilingualText(
                f"The eval loss has risen from {loss} at step {best} to {last}, which is more than chance explains.",
                f"验证 loss 从第 {best} 步的 {loss} 升到了 {last}，超出了随机波动的范围。",
            )
        case "diverging" if not math.isfinite(diagnosis.last_loss):
            return BilingualText("The last eval loss is not a finite number.", "最后一次验证 loss 已经不是有限的数。")
        case "diverging":
            return BilingualText(
                f"Train and eval loss are rising together, eval from {loss} to {last}.",
                f"训练 loss 和验证 loss 一起上升，验证 loss 从 {loss} 升到 {last}。",
            )


def diagnosis_line(diagnosis: Diagnosis, run_state: RunState = "running") -> str:
    """Name the state and its reason in one line, for the terminal."""
    return f"{state_name(diagnosis, run_state).en.lower()}. {reason_sentence(diagnosis, run_state).en}"


def advice_sentence(
    diagnosis: Diagnosis, run_state: RunState = "running", epochs_at_best: float | None = None
) -> BilingualText:
    """Advise what to do next, in one sentence; empty where there is nothing to advise.

    A run that has ended is not told to go on, and one that stopped can be resumed.
    """
    running = run_state == "running"
    match diagnosis.state:
        case "waiting" if _was_never_evaluated(diagnosis, run_state):
            return BilingualText(
                "To know, set data.validation, for example to 0.1, and start a new run with another name=....",
                "想知道的话，请设置 data.validation（例如 0.1），换一个 name=... 重新训练。",
            )
        case "waiting":
            return BilingualText("", "")
        case "worse":
            return _advice_where_worse(running)
        case "no_gain" if run_state != "finished":
            return BilingualText(
                "If the run ends like this, check the data and the learning rate before training longer.",
                "如果训练结束时仍是如此，请先检查数据和学习率，再考虑延长训练。",
            )
        case "overfitting" | "diverging" if diagnosis.improved is False:
            return _ADVICE_WITHOUT_GAIN
        case "no_gain":
            return _ADVICE_WITHOUT_GAIN
        case "learning":
            return _advice_where_learning(run_state)
        case "best":
            return BilingualText(
                "More steps on the same rows bring no measurable gain; more or better rows may help.",
                "在同样的数据上继续训练已没有可测量的收益；增加数据或提高数据质量可能还有提升。",
            )
        case "overfitting":
            return _advice_where_overfitting(f"{diagnosis.best_step:,}", epochs_at_best, run_state)
        case "diverging":
            return BilingualText(
                "The steps are too large: start a new run with name=... and a lower train.learning_rate.",
                "更新步长太大：换一个 name=... 并调低 train.learning_rate，重新训练。",
            )


def final_step_phrase(diagnosis: Diagnosis, step: int) -> str:
    """Say for the terminal which step the final model is, and how good it is."""
    match diagnosis.state:
        case "worse":
            return f"step {step}, worse than the base model"
        case "no_gain":
            return f"step {step}, the lowest eval loss after training, but no better than the base model"
        case _ if math.isinf(diagnosis.best_loss):
            return f"step {step}; its eval loss is not finite"
        case _ if _was_never_evaluated(diagnosis, "finished"):
            return f"step {step}, the last; no row is held out, so it was not evaluated"
        case _:
            return f"step {step}, the best of those evaluated"


def epochs_to_keep(epochs_at_best: float) -> int:
    """Return the whole epochs to train next time, of the epochs at the lowest eval loss of a run that overfitted."""
    return max(1, int(epochs_at_best + ROUNDED_UP_EPOCHS))


def _was_never_evaluated(diagnosis: Diagnosis, run_state: RunState) -> bool:
    return run_state == "finished" and not diagnosis.best_step


def _reason_where_best(diagnosis: Diagnosis, run_state: RunState) -> BilingualText:
    best, loss, last = f"{diagnosis.best_step:,}", f"{diagnosis.best_loss:.3f}", f"{diagnosis.last_loss:.3f}"
    if diagnosis.plateau_end_step == diagnosis.last_step:
        return BilingualText(
            f"The eval loss is about the same as its lowest, {loss} at step {best}.",
            f"验证 loss 与最低值（第 {best} 步的 {loss}）没有明显差别。",
        )
    if run_state == "finished":
        return BilingualText(
            f"The last eval loss, {last}, is above the lowest, {loss} at step {best}; one evaluation alone may be "
            "chance.",
            f"最后一次验证 loss {last} 高于最低值（第 {best} 步的 {loss}）；只有一次，可能是偶然。",
        )
    return BilingualText(
        f"The eval loss, {last}, is above its lowest, {loss} at step {best}; a second evaluation like this would mean "
        "overfitting.",
        f"验证 loss {last} 高于最低值（第 {best} 步的 {loss}）；如果下一次评估仍是这样，就是过拟合。",
    )


def _reason_against_base(diagnosis: Diagnosis) -> BilingualText:
    best, loss, base = f"{diagnosis.best_step:,}", f"{diagnosis.best_loss:.3f}", f"{diagnosis.base_loss:.3f}"
    if diagnosis.state == "no_gain":
        return BilingualText(
            f"The eval loss was {base} before training; its lowest since, {loss} at step {best}, is not clearly below "
            "that.",
            f"训练前的验证 loss 是 {base}；训练后的最低值（第 {best} 步的 {loss}）没有明显低于它。",
        )
    if not math.isfinite(diagnosis.best_loss):
        return BilingualText(
            f"The eval loss was {base} before training; since then it is not a finite number.",
            f"训练前的验证 loss 是 {base}；训练后已经不是有限的数。",
        )
    return BilingualText(
        f"The eval loss was {base} before training; since then its lowest is {loss}, at step {best}.",
        f"训练前的验证 loss 是 {base}；训练后最低也有 {loss}（第 {best} 步）。",
    )


def _advice_where_worse(running: bool) -> BilingualText:
    if running:
        return BilingualText(
            "Unless the next evaluation is below the base model's, stop the run (Ctrl-C) and start a new one with "
            "name=... and a lower train.learning_rate, for example a tenth of it.",
            "除非下一次评估低于基座模型，请停止训练（Ctrl-C），换一个 name=... 并调低 train.learning_rate"
            "（例如十分之一），重新开始。",
        )
    return BilingualText(
        "Keep using the base model, and start a new run with name=... and a lower train.learning_rate, for example a "
        "tenth of it; if the train loss is far below the eval loss, lower train.epochs too.",
        "请继续使用基座模型；换一个 name=... 并调低 train.learning_rate（例如十分之一），重新训练；"
        "如果训练 loss 远低于验证 loss，也请减少 train.epochs。",
    )


def _advice_where_learning(run_state: RunState) -> BilingualText:
    if run_state == "running":
        return BilingualText(
            "Let it continue; if the run ends like this, more epochs are likely to help.",
            "继续训练即可；如果训练结束时仍是如此，增加轮数（epochs）多半还有帮助。",
        )
    if run_state == "finished":
        return BilingualText(
            "More epochs are likely to help: start a new run with name=... and a higher train.epochs.",
            "增加轮数多半还有帮助：换一个 name=... 并调高 train.epochs，重新训练。",
        )
    return BilingualText(
        "Resume it; if the run ends like this, more epochs are likely to help.",
        "请接着训练；如果训练结束时仍是如此，增加轮数（epochs）多半还有帮助。",
    )


def _advice_where_overfitting(best: str, epochs_at_best: float | None, run_state: RunState) -> BilingualText:
    if run_state == "running":
        return BilingualText(
            f"Later steps only memorize the training rows; the model of step {best} is kept. To end the run with it, "
            "press Ctrl-C, then run the same command with --finish; train.stop_when_overfitting=2 ends the next one by "
            "itself.",
            f"之后只是在死记训练数据；第 {best} 步的模型已保留。要以它结束训练，请按 Ctrl-C，再运行同一条命令并加上 "
            "--finish；下次写上 train.stop_when_overfitting=2，就会自动结束。",
        )
    if run_state != "finished":
        return BilingualText(
            f"Later steps only memorized the training rows; the model of step {best} is kept. To end the run with it, "
            "run the same command with --finish; train.stop_when_overfitting=2 ends the next one by itself.",
            f"之后只是在死记训练数据；第 {best} 步的模型已保留。要以它结束训练，请运行同一条命令并加上 --finish；"
            "下次写上 train.stop_when_overfitting=2，就会自动结束。",
        )
    if epochs_at_best is None:
        return BilingualText(
            f"Later steps only memorize the training rows; the model of step {best} is kept. Next time, write a lower "
            "train.epochs and another name=..., or add rows.",
            f"之后只是在死记训练数据；第 {best} 步的模型已保留。下次请调低 train.epochs 并换一个 name=...，"
            "或者增加数据。",
        )
    epochs = epochs_to_keep(epochs_at_best)
    return BilingualText(
        f"Later steps only memorize the training rows; the model of step {best} ({epochs_at_best:.1f} epochs) is kept. "
        f"Next time, write train.epochs={epochs} name=..., or add rows.",
        f"之后只是在死记训练数据；第 {best} 步（约 {epochs_at_best:.1f} 轮）的模型已保留。下次请写 "
        f"train.epochs={epochs} name=...，或者增加数据。",
    )
