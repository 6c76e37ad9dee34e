"""What a run's journal says of it: the verdict, the rows the model finds hardest and those it knows by heart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinktune.track import read_metrics, read_row_losses
from thinktune.verdict import Margin, Rows, Verdict, evaluations_above, judge, margins

MOST_ROWS = 8
KNOWN_BY_HEART = -math.log(0.9)  # a mean loss below this gives each token nine chances in ten


@dataclass(frozen=True, slots=True)
class Row:
    """A held-out row: its `file:line`, its mean loss before training (where measured) and now, its learned tokens."""

    row: str
    before: float | None
    loss: float
    tokens: int

    @property
    def probability(self) -> float:
        """The geometric mean of the chances that the model gives the row's tokens."""
        return math.exp(-self.loss)


def run_verdict(run: Path) -> Verdict:
    """The verdict over a run's evaluations so far, with the noise of its own rows."""
    metrics = read_metrics(run)
    losses = eval_losses(metrics)
    return judge(losses, _margin(run, losses), train_losses(metrics))


def overfits_for(run: Path) -> int:
    """How many of a run's last evaluations in a row stand clearly above its best one."""
    losses = eval_losses(read_metrics(run))
    return evaluations_above(losses, _margin(run, losses))


def eval_losses(metrics: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Eval loss by step; of records that repeat a step, the last one counts."""
    return {record["step"]: record["loss"] for record in metrics if record.get("kind") == "eval" and _counts(record)}


def train_losses(metrics: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """By step of evaluation, the mean train loss of the steps since the evaluation before it."""
    found: dict[int, float] = {}
    total = tokens = 0.0
    for record in metrics:
        if record.get("kind") == "train" and _counts(record):
            weight = record.get("learned_tokens", 1)
            total, tokens = total + weight * record["loss"], tokens + weight
        elif record.get("kind") == "eval" and tokens:
            found[record["step"]] = total / tokens
            total = tokens = 0.0
    return found


def rows_by_loss(run: Path, step: int) -> list[Row]:
    """The held-out rows as they stood at a step, the hardest first; none where that step kept none."""
    kept = read_row_losses(run)
    before: Rows = kept.get(0, {})
    rows = [
        Row(name, before[name][0] if name in before else None, loss, tokens)
        for name, (loss, tokens) in kept.get(step, {}).items()
    ]
    return sorted(rows, key=lambda row: (-row.loss, row.row))


def hardest(rows: Sequence[Row]) -> list[Row]:
    """Of rows in that order, the first few: often faulty data."""
    return list(rows[:MOST_ROWS])


def known_by_heart(rows: Sequence[Row]) -> list[Row]:
    """The rows whose every token the model all but knows, although it never trained on them; the surest first."""
    return [row for row in reversed(rows) if row.loss < KNOWN_BY_HEART][:MOST_ROWS]


def _margin(run: Path, losses: Mapping[int, float]) -> Margin:
    return margins(read_row_losses(run), losses)


def _counts(record: Mapping[str, Any]) -> bool:
    return all(isinstance(record.get(key), int | float) for key in ("step", "loss")) and math.isfinite(record["loss"])
