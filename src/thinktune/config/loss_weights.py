"""Weights of the parts of a reply in the loss: what a recipe may say."""

import json
from typing import Any, Literal, get_args

Part = Literal["reasoning", "answer"]

# Of a part that weighs anything: beyond them a weight is a mistake, and its gradients would be lost in rounding.
SMALLEST_WEIGHT, LARGEST_WEIGHT = 0.001, 1000
SHOWN_CHARACTERS = 60


def resolve_weights(given: Any) -> dict[Part, float]:
    """Return the weight of each part, 1 where none is given; raise ValueError with a sentence for every mistake."""
    if not isinstance(given, dict):
        raise ValueError(f"is {_show(given)}; write parts and their weights, as in {{reasoning: 0.5, answer: 1}}")
    parts = get_args(Part)
    mistakes = [_foreign_part(name) for name in given if name not in parts]
    weights: dict[Part, float] = {part: given.get(part, 1.0) for part in parts}
    mistakes += [
        f"{part} is {_show(weight)}; write 0, or a number from {SMALLEST_WEIGHT} to {LARGEST_WEIGHT}"
        for part, weight in weights.items()
        if not _is_weight(weight)
    ]
    if not mistakes and not any(weights.values()):
        mistakes.append(
            "reasoning and answer both have weight 0, so nothing would be learned; give one of them a weight"
        )
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return weights


def _foreign_part(name: Any) -> str:
    if name == "end":
        return "end has no weight of its own (the token that ends a reply has the answer's weight); leave it out"
    return f"{_show(name)} is not a part of a reply with a weight; write reasoning or answer"


def _is_weight(weight: Any) -> bool:
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    return is_number and (weight == 0 or SMALLEST_WEIGHT <= weight <= LARGEST_WEIGHT)


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)[:SHOWN_CHARACTERS]
