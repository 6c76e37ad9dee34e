"""Writes a run's report page: one self-contained HTML file made from what the run folder holds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thinktune.report.diagnosis_text import advice_sentence, finding_sentence, state_name
from thinktune.report.evaluation_section import section
from thinktune.report.html import Words, write_page
from thinktune.report.run_charts import MACHINERY, Record, charts, is_finite
from thinktune.report.svg_charts import histogram
from thinktune.run.diagnosis import Row, Verdict, hardest, known_by_heart, rows_by_loss, run_verdict
from thinktune.run.journal import read_metrics, read_samples

REFRESH_SECONDS = 30


REPETITIVE = 0.5  # a reply half of whose runs of four tokens came before goes round in circles


UNFINISHED = Words("not yet finished", "尚未完成")


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
    evaluation: Record
    evaluation_section: Markup
    verdict: Verdict
    rows: Sequence[Row]
    finished: bool


def write(run: Path) -> Path:
    """Write RUN/report.html from the run folder, whole or not at all, and return its path.

    Only recipe.yaml must exist; the page says "Not yet" for every other part that is missing.
    """
    target = run / "report.html"
    report = read(run)
    write_page(target, "report.html.jinja", **_values(report))
    return target


def read(run: Path) -> RunReport:
    """Read what the run folder holds; of records that repeat a step (a resumed run), the last one counts."""
    metrics = read_metrics(run)
    verdict = run_verdict(run)
    return RunReport(
        name=run.resolve().name,
        recipe=(run / "recipe.yaml").read_text(encoding="utf-8", errors="replace"),
        environment=_read_object(run / "environment.json"),
        data=_read_object(run / "data.json"),
        train=_by_step(metrics, "train"),
        evals=_by_step(metrics, "eval"),
        events=[record for record in metrics if record.get("kind") == "event"],
        samples=read_samples(run),
        evaluation=_read_object(run / "eval" / "report.json"),
        evaluation_section=section(run),
        verdict=verdict,
        rows=rows_by_loss(run, verdict.best_step),
        finished=(run / "final").is_dir(),
    )


def _read_object(path: Path) -> Record:
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
    except ValueError:
        # Somebody else wrote it; the page says that it is missing, and the rest still shows.
        return {}
    return value if isinstance(value, dict) else {}


def _by_step(metrics: Sequence[Record], kind: str) -> list[Record]:
    latest = {
        record["step"]: record
        for record in metrics
        if record.get("kind") == kind and isinstance(record.get("step"), int)
    }
    return [latest[step] for step in sorted(latest)]


def _values(report: RunReport) -> dict[str, Any]:
    """What the template asks for."""
    evals = [record for record in report.evals if is_finite(record, "loss")]
    # Step 0 is the base model, which training cannot choose as its best.
    best = next((record for record in evals if record["step"] == report.verdict.best_step > 0), {})
    last_step = max((record["step"] for record in (*report.train, *report.evals)), default=0)
    state = _state(last_step, report.environment.get("steps"), report.finished)
    return {
        "report": report,
        "best": best,
        "first_eval": evals[0] if evals else {},
        "last_step": last_step,
        "state": state,
        "state_name": state_name(report.verdict),
        "finding": finding_sentence(report.verdict),
        "advice": advice_sentence(report.verdict, best["epoch"] if is_finite(best, "epoch") else None),
        "refresh_seconds": REFRESH_SECONDS if state == UNFINISHED else 0,
        "repetitive": REPETITIVE,
        "charts": charts(report.train, report.evals, best),
        "machinery": {key: words for key, (_, _, words) in MACHINERY.items()},
        "hardest": hardest(report.rows),
        "known": known_by_heart(report.rows),
        "fates": _fates(report.data),
        "histograms": _histograms(report.data),
        "groups": _grouped(report.samples),
    }


def _state(last_step: int, steps: Any, finished: bool) -> Words:
    if not last_step:
        return Words("not yet started", "尚未开始")
    if isinstance(steps, int) and last_step >= steps:
        return Words("finished", "已完成")
    return Words("stopped early, finished", "提前停止，已完成") if finished else UNFINISHED


def _fates(data: Record) -> list[tuple[Words, int]]:
    fates = [
        (Words("Training", "训练"), data.get("train_rows", 0)),
        (Words("Validation", "验证"), data.get("validation_rows", 0)),
    ]
    dropped = [(fault.get("fault"), (fault.get("actions") or {}).get("dropped")) for fault in data.get("faults") or []]
    return fates + [(Words(f"Dropped: {fault}", f"丢弃：{fault}"), count) for fault, count in dropped if count]


def _histograms(data: Record) -> dict[str, Markup]:
    return {
        part: histogram(found["counts"], found["width"], title=f"Lengths of {part}", style=part)
        for part, found in (data.get("histograms") or {}).items()
    }


def _grouped(samples: Sequence[Record]) -> list[list[Record]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for sample in samples:
        groups.setdefault((str(sample.get("row")), str(sample.get("question"))), []).append(sample)
    greedy_first = {"own": 1}
    return [
        sorted(group, key=lambda sample: (-(sample.get("step") or 0), greedy_first.get(str(sample.get("sampling")), 0)))
        for group in groups.values()
    ]
