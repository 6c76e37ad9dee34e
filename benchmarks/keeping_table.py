"""Cells of the experiment on forgetting: kept as lines of a file, put together by seed, and printed as tables."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from statistics import fmean

from keeping_domain import ROWS, draw_domain
from keeping_general import KINDS, LANGUAGES, Question

from thinktune.eval.statistics import Interval, bootstrap_mean, paired_difference

BASE = "base"
NONE = "none"
FILE = "cells.jsonl"
KEPT = 0.9  # of the base's general figure, at least, and
LOST = 0.1  # of the domain's gain without a cure, at most: a cure that works


@dataclass(frozen=True, slots=True)
class Cell:
    """One tuning, or the base, whose seed and rows are 0: 1 or 0 for each question, and what it took.

    `silent` are the general questions asked without thinking. `weight` is the tuned model's part of an average, and
    `curve` has of each weight the domain's and the general figure by which it was chosen.
    """

    condition: str
    seed: int
    rows: int
    domain: Sequence[float]
    general: Sequence[float]
    silent: Sequence[float]
    seconds: float  # of CPU, all that the cure does included
    peak_mib: int
    weight: float = 1.0
    curve: Sequence[tuple[float, float, float]] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int, int]:
        """What is done once."""
        return self.condition, self.seed, self.rows

    def summary(self) -> str:
        """Return a line that says what came of it."""
        right = f"domain {fmean(self.domain):.1%}, general {fmean(self.general):.1%}, silent {fmean(self.silent):.1%}"
        taken = f"{self.seconds:.0f} s, {self.peak_mib} MiB, weight {self.weight:g}"
        return f"{self.condition:<12} seed {self.seed} rows {self.rows:<5} {right}, {taken}"


@dataclass(frozen=True, slots=True)
class Result:
    """A condition's cells as one: each question has its mean over seeds, so that intervals are over questions."""

    condition: str
    cells: Sequence[Cell]

    def scores(self, name: str) -> list[float]:
        """Return the mean over seeds of each question of `domain`, `general` or `silent`."""
        return [fmean(each) for each in zip(*(getattr(cell, name) for cell in self.cells), strict=True)]

    def figure(self, name: str) -> Interval:
        """Return the share of correct answers with its interval."""
        return bootstrap_mean(self.scores(name), (0.0, 1.0))

    def change(self, other: "Result", name: str) -> Interval:
        """Return what this one has more than another, paired by question."""
        return paired_difference(other.scores(name), self.scores(name), bounded=True)

    def kept(self, base: "Result") -> float:
        """Return the part of the base's general figure that is left."""
        return self.figure("general").value / base.figure("general").value

    def lost(self, base: "Result", none: "Result") -> float:
        """Return the part of the domain's gain without a cure that is missing; NaN where there was no gain."""
        gain = none.figure("domain").value - base.figure("domain").value
        return (none.figure("domain").value - self.figure("domain").value) / gain if gain > 0 else nan

    def works(self, base: "Result", none: "Result") -> bool:
        """Return True if this cure keeps what is asked of one."""
        return self.kept(base) >= KEPT and self.lost(base, none) <= LOST


def add_cell(folder: Path, cell: Cell) -> None:
    """Add a finished cell to the folder's file."""
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(cell)) + "\n")


def read_cells(folder: Path) -> list[Cell]:
    """Read the finished cells of a folder; a line that a stop cut short counts as absent."""
    file = folder / FILE
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    if lines and not lines[-1].endswith("\n"):
        file.write_text("".join(lines[:-1]), encoding="utf-8")
    return [Cell(**json.loads(line)) for line in lines if line.endswith("\n")]


def results(cells: Sequence[Cell], rows: int = ROWS) -> dict[str, Result]:
    """Put the cells of one number of rows together by condition, the base first."""
    chosen = [cell for cell in cells if cell.condition == BASE or cell.rows == rows]
    return {
        name: Result(name, [cell for cell in chosen if cell.condition == name])
        for name in dict.fromkeys(cell.condition for cell in chosen)
    }


def print_tables(cells: Sequence[Cell], general: Sequence[Question]) -> None:
    """Print the tables of what is there, as Markdown."""
    for rows in sorted({cell.rows for cell in cells} - {0}, key=lambda rows: (rows != ROWS, rows)):
        found = results(cells, rows)
        if BASE not in found or NONE not in found:
            continue
        print(f"\n### {rows} rows of the domain\n")
        print("\n".join(main_table(found)))
        print()
        print("\n".join(kind_table(found, general)))


def main_table(found: dict[str, Result]) -> Iterator[str]:
    """Yield the lines of the table of conditions."""
    base, none = found[BASE], found[NONE]
    yield (
        "| condition | seeds | domain right | general right | general kept | domain gain lost | general, no thinking "
        "| CPU seconds | memory, MiB | weight | works |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, one in found.items():
        is_cure = name not in (BASE, NONE)
        shares = (f"{one.kept(base):.0%}", f"{one.lost(base, none):.0%}") if name != BASE else ("", "")
        yield "| " + " | ".join(
            (
                name, str(len(one.cells)), *(percent(one.figure(part)) for part in ("domain", "general")), *shares,
                percent(one.figure("silent")), f"{max(cell.seconds for cell in one.cells):.0f}",
                str(max(cell.peak_mib for cell in one.cells)),
                ", ".join(f"{cell.weight:g}" for cell in one.cells) if one.cells[0].curve else "",
                ("yes" if one.works(base, none) else "no") if is_cure else "",
            )
        ) + " |"  # fmt: skip
    yield ""
    for name, one in found.items():
        seeds = [f"{fmean(cell.domain):.1%} / {fmean(cell.general):.1%}" for cell in one.cells]
        against = f"; general against no cure {points(one.change(none, 'general'))}" if name != NONE else ""
        yield f"- {name}, domain / general of each seed: {', '.join(seeds)}{against}"


def kind_table(found: dict[str, Result], general: Sequence[Question]) -> Iterator[str]:
    """Yield the lines of the table of kinds and languages, with the domain's own kinds at the end."""
    parts = {kind: ("general", [one.kind == kind for one in general]) for kind in KINDS}
    parts |= {each: ("general", [one.language == each for one in general]) for each in LANGUAGES}
    asked = draw_domain()["test"]
    parts |= {f"domain: {each}": ("domain", [one.kind == each for one in asked]) for each in ("fact", "skill")}
    yield "| | questions | " + " | ".join(found) + " |"
    yield "|---" * (2 + len(found)) + "|"
    for name, (scores, mask) in parts.items():
        figures = [
            bootstrap_mean([score for score, is_in in zip(one.scores(scores), mask, strict=True) if is_in], (0.0, 1.0))
            for one in found.values()
        ]
        yield f"| {name} | {sum(mask)} | " + " | ".join(map(percent, figures)) + " |"


def percent(figure: Interval) -> str:
    """Return a share with its interval in percent."""
    return f"{100 * figure.value:.1f} ({100 * figure.low:.0f}–{100 * figure.high:.0f})"


def points(figure: Interval) -> str:
    """Return a difference with its interval in percentage points."""
    return f"{100 * figure.value:+.1f} ({100 * figure.low:+.1f} to {100 * figure.high:+.1f})"
