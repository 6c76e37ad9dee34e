"""Write a run's report page: one self-contained HTML file made from the run's folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

from thinktune.config.strict_yaml import read_values
from thinktune.data.reading.raw_rows import is_of_file
from thinktune.errors import UserError, redact, redact_all
from thinktune.eval.votes import count_votes, judge_votes
from thinktune.report.averaging_section import AveragingSection, read_averaging_section
from thinktune.report.diagnosis_text import (
    advice_sentence,
    headline_sentence,
    is_base_lowest,
    reason_sentence,
    state_name,
)
from thinktune.report.evaluation_section import evaluation_html, read_reports
from thinktune.report.html import BilingualText, write_page
from thinktune.report.rounds_section import RoundsSection, read_rounds_section
from thinktune.report.run_charts import SYSTEM_CHARTS, clock, draw_charts, has_finite_value
from thinktune.report.run_sections.answer import answer_figures, eval_command, figures_record, price_figure, read_time
from thinktune.report.run_sections.cost import Price
from thinktune.report.run_sections.data_words import (
    action_name,
    environment_name,
    environment_value,
    fault_meaning,
    fault_name,
    policy_name,
)
from thinktune.report.run_sections.held_out_rows import HeldOutRows, read_shown_rows, without_texts
from thinktune.report.run_sections.progress import read_progress
from thinktune.report.run_sections.settings import head_settings
from thinktune.report.svg_charts import histogram
from thinktune.report.trained_rows import count_trained
from thinktune.run import Diagnosis, Record, RunFolder, diagnose_run, read_metrics
from thinktune.run.diagnosis import HeldOutRow, rows_by_loss
from thinktune.run.journal import read_samples
from thinktune.run.reading import AnyObject, read_object, refuse_damage
from thinktune.run.status import RunStatus, read_status

Part = TypeVar("Part")


REFRESH_SECONDS = 30


# A page cannot see whether its run still goes on. It is stale when it was not rewritten for so many times the longest
# stretch between two evaluations, and for a while at least.
STALE_STRETCHES = 3


MIN_STALE_SECONDS, UNKNOWN_STALE_SECONDS = 900, 6 * 3600


PAGE_SCRIPTS = ("page.js", "charts.js", "rows.js")


PART_NAMES = {
    "prompt": BilingualText("prompt", "提示词"),
    "reasoning": BilingualText("reasoning", "思考"),
    "answer": BilingualText("answer", "回答"),
    "whole": BilingualText("whole", "整条"),
}


_CATALOGUE = {  # words that the template asks for by name
    word.__name__: word
    for word in (action_name, environment_name, environment_value, fault_meaning, fault_name, is_of_file, policy_name)
}


REPETITIVE_RATE = 0.5  # a reply repeats itself if half of its 4-grams of tokens have come before


@dataclass(frozen=True, slots=True)
class RunReport:
    """The content of a run's folder; the part of a missing file is empty."""

    name: str
    recipe: str
    recipe_values: Record
    environment: Record
    data: Record
    train: Sequence[Record]
    evals: Sequence[Record]
    events: Sequence[Record]
    samples: Sequence[Record]
    evaluation: Record
    evaluation_section: Markup
    rounds_section: RoundsSection
    averaging: AveragingSection
    votes: Record | None
    diagnosis: Diagnosis
    rows: Sequence[HeldOutRow]
    shown_rows: HeldOutRows
    status: RunStatus
    damages: Sequence[str] = ()  # a sentence for each file that could not be used

    @property
    def steps(self) -> int | None:
        """Planned steps, where they are known."""
        steps = self.environment.get("steps")
        return steps if isinstance(steps, int) else None


def write_run_page(run: Path, *, running: bool | None = None, price: Price | None = None) -> Path:
    """Write the report page of a run, whole or not at all, and return its path.

    Only the recipe must exist; for every other missing part the page says "Not yet". `running` is whether a process
    trains in the folder, as that process knows; None asks the lock. `price`, that of an hour of one card, adds what the
    run cost. Raises UserError after writing where a part is damaged and left out, and before it where a journal is.
    """
    target = RunFolder(run).report
    report = read_run(run, running=running)
    write_page(target, "report.html.jinja", scripts=PAGE_SCRIPTS, **_template_values(report, price))
    if report.damages:
        raise UserError([f"{damage}; {target} was written without it" for damage in report.damages])
    return target


def read_run(run: Path, *, running: bool | None = None) -> RunReport:
    """Read a run's folder; of records that repeat a step (a resumed run), the last one counts."""
    folder = RunFolder(run)
    metrics = read_metrics(run)
    verdict = diagnose_run(run)
    damages: list[str] = []

    def keep(read: Callable[[], Part], otherwise: Part) -> Part:
        try:
            return read()
        except UserError as error:
            damages.extend(error.faults)
            return otherwise

    section = keep(lambda: evaluation_html(run), Markup())
    evaluation = keep(lambda: read_reports(run), dict[str, Any]()) if section else {}
    environment = keep(lambda: read_object(folder.environment, AnyObject), {})
    data = keep(lambda: _read_data_summary(folder.data_summary), {})
    samples, rows = read_samples(run), rows_by_loss(run, verdict.best_step)
    return RunReport(
        name=run.resolve().name,
        recipe=redact(folder.recipe.read_text(encoding="utf-8", errors="replace")),
        recipe_values=redact_all(_read_recipe_values(folder.recipe)),
        environment=redact_all(environment),
        data=redact_all(data),
        train=_latest_by_step(metrics, "train"),
        evals=_latest_by_step(metrics, "eval"),
        events=redact_all([record for record in metrics if record.get("kind") == "event"]),
        samples=samples,
        evaluation=evaluation,
        evaluation_section=section,
        rounds_section=keep(lambda: read_rounds_section(run), RoundsSection((), (), Markup())),
        averaging=keep(lambda: read_averaging_section(run), AveragingSection()),
        votes=keep(lambda: count_votes(run), None),
        diagnosis=verdict,
        rows=rows,
        shown_rows=keep(lambda: read_shown_rows(run, rows, samples), without_texts(rows)),
        status=read_status(run, running=running),
        damages=damages,
    )


def _read_recipe_values(path: Path) -> Record:
    """Read the values of a run's recipe; {} where it is no longer YAML, since the page shows its text as it is."""
    try:
        values = read_values(path)
    except UserError:
        return {}
    return values if isinstance(values, dict) else {}


def _read_data_summary(path: Path) -> Record:
    """Read the counts of rows, and make what the page shows of them once, so that their form is known to be right."""
    data = read_object(path, AnyObject)
    with refuse_damage(path):
        count_trained(data)
        _row_counts(data)
        _histograms(data)
    return data


def _latest_by_step(metrics: Sequence[Record], kind: str) -> list[Record]:
    latest = {
        record["step"]: record
        for record in metrics
        if record.get("kind") == kind and isinstance(record.get("step"), int)
    }
    return [latest[step] for step in sorted(latest)]


def _template_values(report: RunReport, price: Price | None) -> dict[str, Any]:
    """Collect the values for the template."""
    evals = [record for record in report.evals if has_finite_value(record, "loss")]
    diagnosis, status = report.diagnosis, report.status
    best = next((record for record in evals if record["step"] == diagnosis.best_step > 0), {})
    first = (evals[0]["step"], evals[0]["loss"]) if evals else (0, 0.0)
    epochs = best["epoch"] if has_finite_value(best, "epoch") else None
    sentences = [headline_sentence(diagnosis, status.state, first)]
    if diagnosis.best_step or status.state == "finished":
        sentences += [reason_sentence(diagnosis, status.state), advice_sentence(diagnosis, status.state, epochs)]
    return head_values(report, price, epochs) | {
        "report": report,
        "state_name": state_name(diagnosis, status.state),
        "sentences": [sentence for sentence in sentences if sentence.en],
        "state": run_state_name(report),
        "ending": ending_sentence(report),
        "refresh_seconds": REFRESH_SECONDS if status.state == "running" else 0,
        "stale_seconds": _stale_seconds(report),
        "written": datetime.now(UTC),
        "repetitive": REPETITIVE_RATE,
        "charts": draw_charts(
            report.train,
            report.evals,
            evals[0] if is_base_lowest(diagnosis) else best,
            steps=report.steps if status.state == "running" else None,
        ),
        "clock": json.dumps(clock(report.train), separators=(",", ":")),
        "system_charts": {key: words for key, (_, _, words) in SYSTEM_CHARTS.items()},
        "vote_direction": judge_votes(report.votes["share"]) if report.votes else "",
        "row_counts": _row_counts(report.data),
        "part_names": PART_NAMES,
        **_CATALOGUE,
        "histograms": _histograms(report.data),
        "groups": [kept_first(group, diagnosis.best_step) for group in group_samples(report.samples)],
    }


def head_values(report: RunReport, price: Price | None, epochs_at_best: float | None) -> dict[str, Any]:
    """Collect what the head of the page shows: the answer, progress and settings."""
    time = read_time(report.train, report.evals, report.environment)
    command = eval_command(report.recipe_values.get("runs_folder"), report.name)
    figures = answer_figures(
        report.evaluation,
        report.diagnosis,
        report.status.state,
        time,
        best_of=(epochs_at_best, report.steps),
        command=command,
    )
    if price is not None and time.seconds:
        figures.append(price_figure(price, time))
    running = report.status.state == "running"
    return {
        "figures": figures,
        "figures_json": json.dumps(figures_record(figures), ensure_ascii=False),
        "eval_command": command,
        "settings": head_settings(report.recipe_values, report.environment, report.data),
        "progress": read_progress(report.status.step, report.steps, report.train, report.evals, time)
        if running
        else None,
    }


def run_state_name(report: RunReport) -> BilingualText:
    """Name the state of the run: running, stopped, died or finished, and where."""
    status, steps = report.status, report.steps
    step = f"{status.step:,}"
    match status.state:
        case "finished" if steps is not None and status.step < steps:
            return BilingualText("stopped early, finished", "提前停止，已完成")
        case "finished":
            return BilingualText("finished", "已完成")
        case "running":
            return BilingualText("running", "正在训练")
        case "stopped":
            return BilingualText(f"stopped at step {step}", f"在第 {step} 步停止")
        case "died":
            return BilingualText(f"died at step {step}", f"在第 {step} 步中断")


def ending_sentence(report: RunReport) -> BilingualText:
    """State how a run ended that is neither finished nor running, and how it goes on; else empty."""
    status, of = report.status, "" if report.steps is None else f" of {report.steps:,}"
    of_zh = "" if report.steps is None else f"（共 {report.steps:,} 步）"
    step = f"{status.step:,}"
    again = "Run the same command to resume from the last checkpoint, or to start again if there is none."
    again_zh = "用同一条命令即可从最后的检查点接着训练；没有检查点则从头开始。"
    match status.state:
        case "stopped":
            return BilingualText(
                f"Stopped at step {step}{of}: {status.reason}. {again}",
                f"在第 {step} 步{of_zh}停止：{status.reason}。{again_zh}",
            )
        case "died" if status.reason:
            return BilingualText(
                f"Died at step {step}{of}: {status.reason.rstrip('.')}. {again}",
                f"在第 {step} 步{of_zh}中断：{status.reason.rstrip('.')}。{again_zh}",
            )
        case "died":
            return BilingualText(
                f"Died at step {step}{of} without a message: it was killed, or the machine went down. {again}",
                f"在第 {step} 步{of_zh}中断，没有留下原因：进程被杀，或机器停机。{again_zh}",
            )
        case _:
            return BilingualText("", "")


def _stale_seconds(report: RunReport) -> int:
    """Return after how many seconds without a newer page a run that was running may have died."""
    timed = [record for record in report.train if has_finite_value(record, "seconds")]
    if not timed:
        return UNKNOWN_STALE_SECONDS
    evaluated = [0, *(record["step"] for record in report.evals if record["step"] > 0)]
    stretches = [later - earlier for earlier, later in pairwise(evaluated)]
    steps = max(stretches, default=report.steps or timed[-1]["step"])
    seconds = timed[-1]["seconds"] / max(1, timed[-1]["step"]) * steps
    seconds += 2 * max((record.get("seconds", 0) for record in report.evals), default=0)
    return max(MIN_STALE_SECONDS, round(STALE_STRETCHES * seconds))


def _row_counts(data: Record) -> list[tuple[BilingualText, int]]:
    counts = [
        (BilingualText("Training", "训练"), data.get("train_rows", 0)),
        (BilingualText("Validation", "留出"), data.get("validation_rows", 0)),
    ]
    if left_over := data.get("left_over_rows"):
        why = BilingualText("Left over: their source has its share", "未用到：所属来源已占满其比例")
        counts.append((why, left_over))
    dropped = [(fault.get("fault"), (fault.get("actions") or {}).get("dropped")) for fault in data.get("faults") or []]
    return counts + [
        (BilingualText(f"Dropped: {fault}", f"丢弃：{fault_name(str(fault)).zh}"), count)
        for fault, count in dropped
        if count
    ]


def _histograms(data: Record) -> dict[str, Markup]:
    return {
        part: histogram(found["counts"], found["width"], title=f"Lengths of {part}", style=part)
        for part, found in (data.get("histograms") or {}).items()
    }


def kept_first(group: Sequence[Record], step: int) -> list[Record]:
    """Move the replies of the step that is kept before the others."""
    return sorted(group, key=lambda sample: sample.get("step") != step)


def group_samples(samples: Sequence[Record]) -> list[list[Record]]:
    """Group replies by their question, the newest first, and of one step the greedy one first."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for sample in samples:
        groups.setdefault((str(sample.get("row")), str(sample.get("question"))), []).append(sample)
    greedy_first = {"own": 1}
    return [
        sorted(group, key=lambda sample: (-(sample.get("step") or 0), greedy_first.get(str(sample.get("sampling")), 0)))
        for group in groups.values()
    ]
