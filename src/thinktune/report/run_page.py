"""Write a run's report page: one self-contained HTML file made from the run's folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thinktune.errors import redact, redact_all
from thinktune.report.diagnosis_text import advice_sentence, reason_sentence, state_name
from thinktune.report.evaluation_section import evaluation_html
from thinktune.report.html import BilingualText, write_page
from thinktune.report.run_charts import SYSTEM_CHARTS, draw_charts, has_finite_value
from thinktune.report.svg_charts import histogram
from thinktune.run import Diagnosis, Record, RunFolder, diagnose_run, read_metrics
from thinktune.run.diagnosis import HeldOutRow, hardest_rows, memorized_rows, rows_by_loss
from thinktune.run.journal import read_samples

REFRESH_SECONDS = 30


REPETITIVE_RATE = 0.5  # a reply repeats itself if half of its 4-grams of tokens have come before


UNFINISHED = BilingualText("not yet finished", "尚未完成")


@dataclass(frozen=True, slots=True)
class RunReport:
    """The content of a run's folder; the part of a missing file is empty."""

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
    diagnosis: Diagnosis
    rows: Sequence[HeldOutRow]
    finished: bool


def write_run_page(run: Path) -> Path:
    """Write the report page of a run, whole or not at all, and return its path.

    Only the recipe must exist; for every other missing part the page says "Not yet".
    """
    target = RunFolder(run).report
    report = read_run(run)
    write_page(target, "report.html.jinja", **_template_values(report))
    return target


def read_run(run: Path) -> RunReport:
    """Read a run's folder; of records that repeat a step (a resumed run), the last one counts."""
    folder = RunFolder(run)
    metrics = read_metrics(run)
    verdict = diagnose_run(run)
    return RunReport(
        name=run.resolve().name,
        recipe=redact(folder.recipe.read_text(encoding="utf-8", errors="replace")),
        environment=redact_all(_read_object(folder.environment)),
        data=redact_all(_read_object(folder.data_summary)),
        train=_latest_by_step(metrics, "train"),
        evals=_latest_by_step(metrics, "eval"),
        events=redact_all([record for record in metrics if record.get("kind") == "event"]),
        samples=read_samples(run),
        evaluation=_read_object(folder.evaluation().report),
        evaluation_section=evaluation_html(run),
        diagnosis=verdict,
        rows=rows_by_loss(run, verdict.best_step),
        finished=folder.final.is_dir(),
    )


def _read_object(path: Path) -> Record:
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
    except ValueError:
        # Something else wrote it; the page says that it is missing, and the rest still shows.
        return {}
    return value if isinstance(value, dict) else {}


def _latest_by_step(metrics: Sequence[Record], kind: str) -> list[Record]:
    latest = {
        record["step"]: record
        for record in metrics
        if record.get("kind") == kind and isinstance(record.get("step"), int)
    }
    return [latest[step] for step in sorted(latest)]


def _template_values(report: RunReport) -> dict[str, Any]:
    """Collect the values for the template."""
    evals = [record for record in report.evals if has_finite_value(record, "loss")]
    # Step 0 is the base model, which training cannot choose as its best.
    best = next((record for record in evals if record["step"] == report.diagnosis.best_step > 0), {})
    last_step = max((record["step"] for record in (*report.train, *report.evals)), default=0)
    state = _run_state(last_step, report.environment.get("steps"), report.finished)
    return {
        "report": report,
        "best": best,
        "first_eval": evals[0] if evals else {},
        "last_step": last_step,
        "state": state,
        "state_name": state_name(report.diagnosis),
        "finding": reason_sentence(report.diagnosis),
        "advice": advice_sentence(report.diagnosis, best["epoch"] if has_finite_value(best, "epoch") else None),
        "refresh_seconds": REFRESH_SECONDS if state == UNFINISHED else 0,
        "repetitive": REPETITIVE_RATE,
        "charts": draw_charts(report.train, report.evals, best),
        "system_charts": {key: words for key, (_, _, words) in SYSTEM_CHARTS.items()},
        "hardest": hardest_rows(report.rows),
        "memorized": memorized_rows(report.rows),
        "row_counts": _row_counts(report.data),
        "histograms": _histograms(report.data),
        "groups": _group_samples(report.samples),
    }


def _run_state(last_step: int, steps: Any, finished: bool) -> BilingualText:
    if not last_step:
        return BilingualText("not yet started", "尚未开始")
    if isinstance(steps, int) and last_step >= steps:
        return BilingualText("finished", "已完成")
    return BilingualText("stopped early, finished", "提前停止，已完成") if finished else UNFINISHED


def _row_counts(data: Record) -> list[tuple[BilingualText, int]]:
    counts = [
        (BilingualText("Training", "训练"), data.get("train_rows", 0)),
        (BilingualText("Validation", "验证"), data.get("validation_rows", 0)),
    ]
    dropped = [(fault.get("fault"), (fault.get("actions") or {}).get("dropped")) for fault in data.get("faults") or []]
    return counts + [(BilingualText(f"Dropped: {fault}", f"丢弃：{fault}"), count) for fault, count in dropped if count]


def _histograms(data: Record) -> dict[str, Markup]:
    return {
        part: histogram(found["counts"], found["width"], title=f"Lengths of {part}", style=part)
        for part, found in (data.get("histograms") or {}).items()
    }


def _group_samples(samples: Sequence[Record]) -> list[list[Record]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for sample in samples:
        groups.setdefault((str(sample.get("row")), str(sample.get("question"))), []).append(sample)
    greedy_first = {"own": 1}
    return [
        sorted(group, key=lambda sample: (-(sample.get("step") or 0), greedy_first.get(str(sample.get("sampling")), 0)))
        for group in groups.values()
    ]
