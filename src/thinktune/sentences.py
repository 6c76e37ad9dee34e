"""What a verdict is in words, in English and in Chinese: the state, and what to do about it."""

from typing import NamedTuple

from thinktune.verdict import Verdict


class Words(NamedTuple):
    """The same said in both languages."""

    en: str
    zh: str


def state_sentence(verdict: Verdict) -> Words:
    """The verdict in one sentence, without a full stop."""
    best, loss = f"{verdict.best_step:,}", f"{verdict.best_loss:.3f}"
    match verdict.state:
        case "waiting":
            return Words("no verdict before two evaluations", "至少评估两次后才有结论")
        case "learning":
            return Words("still learning: the eval loss is still falling", "仍在学习：验证损失还在下降")
        case "best":
            return Words(
                f"at its best: the eval loss is level with its lowest, {loss} at step {best}",
                f"处于最佳状态：验证损失与最低值（第 {best} 步的 {loss}）没有明显差别",
            )
        case "overfitting":
            return Words(
                f"overfitting since step {verdict.since:,}: the eval loss has risen from {loss} (step {best}) "
                f"to {verdict.last_loss:.3f}",
                f"自第 {verdict.since:,} 步起过拟合：验证损失从 {loss}（第 {best} 步）升到了 {verdict.last_loss:.3f}",
            )
        case "diverging":
            return Words(
                f"diverging since step {verdict.since:,}: train and eval loss rise together",
                f"自第 {verdict.since:,} 步起发散：训练损失和验证损失一起上升",
            )


def advice_sentence(verdict: Verdict, epochs_at_best: float | None = None) -> Words:
    """What follows from the verdict, in one sentence; empty where nothing does."""
    best = f"{verdict.best_step:,}"
    if verdict.gained is False and verdict.state != "learning":
        return Words(
            "No step is clearly better on held-out rows than the base model; look at the data and the learning rate "
            "before training longer.",
            "没有任何一步在验证数据上明显好于基座模型；请先检查数据和学习率，不要急着延长训练。",
        )
    match verdict.state:
        case "waiting":
            return Words("", "")
        case "learning":
            return Words(
                "Let it go on; if the run ends like this, more epochs are likely to help.",
                "继续训练即可；如果结束时仍是这样，增加轮数（epochs）多半还有帮助。",
            )
        case "best":
            return Words(
                "More steps on the same rows bring nothing that can be measured; more or better rows may.",
                "在同样的数据上继续训练已没有可测量的收益；增加数据或提高数据质量才可能更好。",
            )
        case "overfitting":
            about = "" if epochs_at_best is None else f" ({epochs_at_best:.1f} epochs)"
            about_zh = "" if epochs_at_best is None else f"（约 {epochs_at_best:.1f} 轮）"
            return Words(
                f"Later steps learn the training rows by heart: stop here, train only to step {best}{about} next time, "
                f"or add rows; the model of step {best} is kept.",
                f"之后的步骤只是在背训练数据：可以就此停止；下次训练到第 {best} 步{about_zh}即可，或者增加数据；"
                f"第 {best} 步的模型已保留。",
            )
        case "diverging":
            return Words(
                "The steps are too large: lower train.learning_rate and start a new run.",
                "步子太大：请调低 train.learning_rate，重新开始训练。",
            )
