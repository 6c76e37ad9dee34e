"""Writes a run's report page: one self-contained HTML file made from what the run folder holds."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from thinktune.chart import Marks, Point, Series, histogram, line_chart, smoothed
from thinktune.evaluation_page import section
from thinktune.files import write_whole
from thinktune.track import read_metrics, read_samples

Record = dict[str, Any]

SMOOTHED_FROM_POINTS = 50
MOST_EPOCH_MARKS = 12
MOST_NAMED_EPOCH_MARKS = 6
SMALL_CHART = (360, 220)
LOSS_PARTS = ("reasoning", "answer", "end")


@dataclass(frozen=True, slots=True)
class RunReport:
    """The facts a run folder holds; the part of a missing file is empty."""

    name: str
    recipe: str
    environment: Record
    data: Record
    train: Sequence[Record]
    evals: Sequence[Record]
    events: Sequence[Record]
    samples: Sequence[Record]
    evaluation: Markup


def write(run: Path) -> Path:
    """Write RUN/report.html from the run folder, whole or not at all, and return its path.

    Only recipe.yaml must exist; the page says "Not yet" for every other part that is missing.
    """
    target = run / "report.html"
    # A half of a surrogate pair, which JSON can spell, has no UTF-8 form; it must not cost the page.
    write_whole(target, _render(read(run)).encode("utf-8", errors="replace").decode())
    return target


def read(run: Path) -> RunReport:
    """Read what the run folder holds; of records that repeat a step (a resumed run), the last one counts."""
    metrics = read_metrics(run)
    return RunReport(
        name=run.resolve().name,
        recipe=(run / "recipe.yaml").read_text(encoding="utf-8", errors="replace"),
        environment=_read_object(run / "environment.json"),
        data=_read_object(run / "data.json"),
        train=_by_step(metrics, "train"),
        evals=_by_step(metrics, "eval"),
        events=[record for record in metrics if record.get("kind") == "event"],
        samples=read_samples(run),
        evaluation=section(run),
    )


def _read_object(path: Path) -> Record:
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
    except ValueError:
        # Somebody else wrote it; the page says that it is missing, and the rest still shows.
        return {}
    return value if isinstance(value, dict) else {}


def _by_step(metrics: Sequence[Record], kind: str) -> list[Record]:
    latest = {record["step"]: record for record in metrics if record.get("kind") == kind and _is_number(record, "step")}
    return [latest[step] for step in sorted(latest)]


def _is_number(record: Record, key: str) -> bool:
    return isinstance(record.get(key), int | float)


def _is_finite(record: Record, key: str) -> bool:
    return _is_number(record, key) and math.isfinite(record[key])


def _render(report: RunReport) -> str:
    templates = FileSystemLoader(Path(__file__).parent / "bundled")
    page = Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters.update(number=_number, count_of=_count, rows=_row_count)
    evals = [record for record in report.evals if _is_finite(record, "loss")]
    # Step 0 is the base model, which training cannot choose as its best.
    best = min((record for record in evals if record["step"] > 0), key=lambda record: record["loss"], default={})
    last_step = max((record["step"] for record in (*report.train, *report.evals)), default=0)
    return page.get_template("report.html.jinja").render(
        report=report,
        best=best,
        first_eval=evals[0] if evals else {},
        last_eval=evals[-1] if evals else {},
        last_step=last_step,
        state=_state(last_step, report.environment.get("steps")),
        charts=_charts(report, best),
        fates=_fates(report.data),
        histograms=_histograms(report.data),
        groups=_grouped(report.samples),
    )


def _number(value: Any, digits: int = 3) -> str:
    return f"{value:,.{digits}f}".replace("-", "−") if isinstance(value, int | float) else "–"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _number(value, 0)


def _row_count(value: Any) -> str:
    return f"{_count(value)} {'row' if value == 1 else 'rows'}"


def _state(last_step: int, steps: Any) -> str:
    if not last_step:
        return "not yet started"
    return "finished" if isinstance(steps, int) and last_step >= steps else "not yet finished"


def _fates(data: Record) -> list[tuple[str, int]]:
    fates = [("Training", data.get("train_rows", 0)), ("Validation", data.get("validation_rows", 0))]
    dropped = [(fault.get("fault"), (fault.get("actions") or {}).get("dropped")) for fault in data.get("faults") or []]
    return fates + [(f"Dropped: {fault}", count) for fault, count in dropped if count]


def _histograms(data: Record) -> dict[str, Markup]:
    return {
        part: histogram(found["counts"], found["width"], title=f"Lengths of {part}", style=part)
        for part, found in (data.get("histograms") or {}).items()
    }


def _grouped(samples: Sequence[Record]) -> list[list[Record]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for sample in samples:
        groups.setdefault((str(sample.get("row")), str(sample.get("question"))), []).append(sample)
    return [sorted(group, key=lambda sample: -(sample.get("step") or 0)) for group in groups.values()]


def _charts(report: RunReport, best: Record) -> dict[str, Markup]:
    epochs = _epoch_marks(report.train)
    ring = (best["step"], best["loss"]) if best else None
    unnamed = Marks([(step, "") for step, _ in epochs])
    charts = {
        "loss": line_chart(
            [*_train_lines(report.train), Series("eval", _points(report.evals, "loss"), "eval", has_markers=True)],
            title="Loss",
            x_label="step",
            y_label="train and eval, lower is better",
            marks=Marks(epochs, ring),
            size=(640, 300),
        ),
        "parts": line_chart(
            _part_lines(report),
            title="Loss by part",
            x_label="step",
            y_label="lower is better",
            marks=Marks(epochs),
        ),
    }
    for key, title, unit in (
        ("learning_rate", "Learning rate", "size of each correction"),
        ("tokens_per_second", "Speed", "tokens per second"),
        ("gradient_norm", "Gradient norm", "length of each correction"),
    ):
        line = Series("", _points(report.train, key), key)
        charts[key] = line_chart(
            [line], title=title, x_label="step", y_label=unit, marks=unnamed, size=SMALL_CHART, y_from_zero=True
        )
    return charts


def _points(records: Sequence[Record], key: str) -> list[Point]:
    return [(record["step"], record[key]) for record in records if _is_number(record, key)]


def _train_lines(train: Sequence[Record]) -> list[Series]:
    points = _points(train, "loss")
    if len(points) <= SMOOTHED_FROM_POINTS:
        return [Series("train", points, "train")]
    return [Series("train, each record", points, "train raw"), Series("train, smoothed", smoothed(points), "train")]


def _part_lines(report: RunReport) -> list[Series]:
    lines: list[Series] = []
    for part in LOSS_PARTS:
        points = _points(report.train, f"{part}_loss")
        points = smoothed(points) if len(points) > SMOOTHED_FROM_POINTS else points
        lines.append(Series(f"{part}, train", points, f"{part} dotted"))
        lines.append(Series(f"{part}, eval", _points(report.evals, f"{part}_loss"), part, has_markers=True))
    return lines


def _epoch_marks(train: Sequence[Record]) -> list[tuple[float, str]]:
    paced = [record for record in train if _is_finite(record, "epoch") and record["epoch"] > 0]
    if not paced:
        return []
    step, epochs = paced[-1]["step"], paced[-1]["epoch"]
    stride = math.ceil(epochs / MOST_EPOCH_MARKS)
    numbers = range(stride, math.ceil(epochs), stride)
    word = "epoch " if len(numbers) <= MOST_NAMED_EPOCH_MARKS else ""
    return [(number * step / epochs, f"{word}{number}") for number in numbers]
