"""Differences between two runs with intervals: held-out loss, correct answers, general ability, on shared rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinktune.eval import find_measure
from thinktune.eval.comparison import PRIMARY_MEASURES
from thinktune.eval.general_probe import PROBE_SET
from thinktune.eval.statistics import Interval, paired_difference
from thinktune.report.html import BilingualText, format_number
from thinktune.report.run_sections.answer import MEASURE_NAMES, Direction, signed
from thinktune.run import Diagnosis, EvaluationFolder, Record, RunFolder
from thinktune.run.diagnosis import LossByRow, paired_margin
from thinktune.run.journal import read_row_losses
from thinktune.run.reading import AnyObject, read_lines, refuse_damage
from thinktune.run.sample_questions import HELD_OUT_SET

AGAIN = "run thinktune eval again: saved replies are not generated again"


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both runs on the rows that both have: first, other, other minus first with its interval."""

    name: BilingualText
    first: str
    other: str
    change: str
    interval: BilingualText
    direction: Direction
    rows: int


@dataclass(frozen=True, slots=True)
class RunDifferences:
    """All differences of a run to the first one, and how many held-out rows each has and both share."""

    name: str
    lines: Sequence[Difference]
    held_out: tuple[int, int, int]

    @property
    def same_rows(self) -> bool:
        """True if both runs held out the same rows."""
        first, other, shared = self.held_out
        return first == other == shared


def compare_runs(first: tuple[Path, Diagnosis], other: tuple[Path, Diagnosis], name: str) -> RunDifferences:
    """Compare two runs at the best step of each; raises UserError where a file of an evaluation is damaged."""
    losses = [read_row_losses(run).get(diagnosis.best_step, {}) for run, diagnosis in (first, other)]
    shared = {row for row in losses[0].keys() & losses[1].keys() if losses[0][row][1] == losses[1][row][1]}
    lines: list[Difference] = []
    if any(losses[0][row][1] for row in shared):
        ours, theirs = ({row: kept[row] for row in shared} for kept in losses)
        lines.append(_loss_difference(ours, theirs))
    before, after = (_scores(RunFolder(run).evaluation()) for run, _ in (first, other))
    for set_name, label in ((HELD_OUT_SET, None), (PROBE_SET, BilingualText("General ability", "通用能力"))):
        if found := _score_difference(before.get(set_name, {}), after.get(set_name, {}), label):
            lines.append(found)
    return RunDifferences(name, lines, (len(losses[0]), len(losses[1]), len(shared)))


def _loss_difference(first: LossByRow, other: LossByRow) -> Difference:
    tokens = sum(count for _, count in first.values())
    means = [sum(loss * count for loss, count in rows.values()) / tokens for rows in (first, other)]
    change, margin = means[1] - means[0], paired_margin(first, other)
    interval = Interval(change, change - margin, change + margin)
    return _difference(MEASURE_NAMES["loss"], means, interval, len(first), share=False, better="lower")


def _scores(folder: EvaluationFolder) -> dict[str, dict[str, Mapping[str, float]]]:
    """Return the tuned model's scores by set and question; rows that the training rows ask are left out."""
    if not folder.report.is_file():
        return {}
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    with refuse_damage(folder.rows, AGAIN):
        for row in read_lines(folder.rows, AnyObject, AGAIN):
            if not row.get("apart"):
                found.setdefault(str(row["set"]), {})[_key(row)] = row["tuned"]["scores"]
    return found


def _key(row: Record) -> str:
    return f"{row['row']}\n{row['question']}"


def _score_difference(
    first: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]], label: BilingualText | None
) -> Difference | None:
    shared = sorted(first.keys() & other.keys())
    for key in PRIMARY_MEASURES:
        rows = [row for row in shared if key in first[row] and key in other[row]]
        # A judge has compared each with its own base, not with each other.
        if rows and key != "preferred":
            values: list[list[float]] = [[float(each[row][key]) for row in rows] for each in (first, other)]
            means = [sum(column) / len(rows) for column in values]
            interval = paired_difference(values[0], values[1], bounded=True)
            better = find_measure(key).better
            return _difference(label or MEASURE_NAMES[key], means, interval, len(rows), share=True, better=better)
    return None


def _difference(
    name: BilingualText, means: Sequence[float], change: Interval, rows: int, *, share: bool, better: str
) -> Difference:
    scale, digits = (100, 1) if share else (1, 3)

    def side(value: float) -> str:
        return f"{format_number(scale * value, digits)}{' %' if share else ''}"

    low, high = (signed(scale * bound, digits) for bound in (change.low, change.high))
    direction: Direction = ""
    if change.excludes_zero:
        direction = "better" if (change.low > 0) == (better == "higher") else "worse"
    return Difference(
        name,
        side(means[0]),
        side(means[1]),
        signed(scale * change.value, digits),
        BilingualText(f"{low} to {high}", f"{low} 至 {high}"),
        direction,
        rows,
    )
