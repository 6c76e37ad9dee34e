"""What a run minimizes by its recipe, and what that makes of its rows."""

from thinktune.config import TrainConfig
from thinktune.data import Subset
from thinktune.model.loss import Objective


def make_objective(settings: TrainConfig) -> Objective:
    """Return what a step minimizes; of the weights of parts only the ratio counts, so the largest is made 1."""
    weights = settings.weights
    largest = max(weights.values())
    return Objective(weights["reasoning"] / largest, weights["answer"] / largest, settings.loss == "dft")


def unlearned_fault(settings: TrainConfig, rows: Subset) -> str | None:
    """Return the sentence for weights by which nothing of the training rows is learned, or None.

    Every reply has an end token, which weighs what its answer does, so this takes an answer that weighs nothing.
    """
    if settings.weights["answer"] or not len(rows.lengths) or rows.reasoning_tokens():
        return None
    return (
        "train.weights: answer is 0, and no training row has reasoning, so nothing would be learned; give answer a "
        "weight, as in train.weights.answer=1"
    )


def objective_lines(settings: TrainConfig, rows: Subset) -> list[str]:
    """Return lines about an objective other than plain cross entropy, for people; none about that."""
    objective, lines = make_objective(settings), list[str]()
    if objective.by_probability:
        lines.append("loss: dft, which weights each token's cross entropy by the token's own probability")
    if objective.weighs_parts:
        labels, reasoning = int(rows.label_tokens.sum()), rows.reasoning_tokens()
        weight = objective.summed_weight(labels, reasoning)
        share = objective.reasoning_weight * reasoning / max(weight, 1e-9)
        reasoning_weight, answer_weight = (settings.weights[part] for part in ("reasoning", "answer"))
        lines.append(
            f"weights: reasoning {reasoning_weight:g}, answer and end token {answer_weight:g}; reasoning is "
            f"{reasoning / max(labels, 1):.0%} of the learned tokens and {share:.0%} of their weight"
        )
    return [*lines, "losses are shown as cross entropy, with all tokens equal"] if lines else []
