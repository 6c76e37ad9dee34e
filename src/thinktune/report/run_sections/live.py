"""What a run's page shows, as JSON and as charts alone, for a page that shows it while the run goes on."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from thinktune.report.diagnosis_text import (
    advice_sentence,
    headline_sentence,
    is_base_lowest,
    reason_sentence,
    state_name,
)
from thinktune.report.html import BilingualText, Label, render_template
from thinktune.report.run_charts import SYSTEM_CHARTS, clock, draw_charts, has_finite_value
from thinktune.report.run_page import RunReport, ending_sentence, group_samples, head_values, run_state_name
from thinktune.report.run_sections.advised_settings import AdvisedSetting, advised_by_diagnosis
from thinktune.run import Record

LATEST_KEYS = ("loss", "tokens_per_second", "memory_gib", "mfu", "learning_rate", "gradient_norm", "epoch")
MAX_EVENTS = 500  # the last ones


def run_facts(report: RunReport) -> dict[str, Any]:
    """Return the facts of a run as its page leads with them; texts are {en, zh}."""
    best, epochs = _best_record(report)
    head = head_values(report, None, epochs)
    diagnosis, status, progress = report.diagnosis, report.status, head["progress"]
    evals = [record for record in report.evals if has_finite_value(record, "loss")]
    first = (evals[0]["step"], evals[0]["loss"]) if evals else (0, 0.0)
    sentences = [headline_sentence(diagnosis, status.state, first)]
    if diagnosis.best_step or status.state == "finished":
        sentences += [reason_sentence(diagnosis, status.state), advice_sentence(diagnosis, status.state, epochs)]
    return {
        "name": report.name,
        "state": status.state,
        "state_name": in_both(run_state_name(report)),
        "step": status.step,
        "steps": report.steps,
        "ending": in_both(ending_sentence(report)),
        "verdict": {"state": diagnosis.state, "name": in_both(state_name(diagnosis, status.state))},
        "advised": advised_as_json(advised_by_diagnosis(diagnosis, status.state, epochs, report.recipe_values)),
        "sentences": [in_both(sentence) for sentence in sentences if sentence.en],
        "best": {"step": best.get("step"), "loss": best.get("loss")},
        "figures": [
            {"key": one.key, "name": in_both(one.name), "value": in_both(one.value), "note": in_both(one.note)}
            | {"direction": one.direction, "command": one.command}
            for one in head["figures"]
        ],
        "settings": [
            {"name": in_both(one.name), "value": in_both(one.value), "key": one.key} for one in head["settings"]
        ],
        "progress": progress
        and {"elapsed": progress.elapsed, "left": progress.left, "percent": progress.percent}
        | {"train_loss": progress.train_loss, "eval_loss": progress.eval_loss},
        "latest": _latest(report.train),
        "events": [{"step": one.get("step"), "text": str(one.get("text", ""))} for one in report.events[-MAX_EVENTS:]],
        "samples": len(report.samples),
        "evaluated": bool(report.evaluation),
        "damages": list(report.damages),
    }


def run_samples(report: RunReport) -> list[dict[str, Any]]:
    """Return the replies to held-out questions, by question, the newest first, each beside its reference."""
    keys = ("step", "reasoning", "answer", "tokens", "finish", "sampling", "reasoning_closed", "repetition")
    return [
        {
            "row": str(group[0].get("row")),
            "question": group[0].get("question"),
            "reference": {
                "reasoning": group[0].get("reference_reasoning"),
                "answer": group[0].get("reference_answer"),
            },
            "replies": [{key: sample[key] for key in keys if key in sample} for sample in group],
        }
        for group in group_samples(report.samples)
    ]


def render_live_charts(report: RunReport) -> Markup:
    """Draw the charts of a run's page, with the form that steers them, as a part of a page."""
    best, epochs = _best_record(report)
    evals = [record for record in report.evals if has_finite_value(record, "loss")]
    base_is_lowest = is_base_lowest(report.diagnosis) and evals
    charts = draw_charts(
        report.train,
        report.evals,
        evals[0] if base_is_lowest else best,
        steps=report.steps if report.status.state == "running" else None,
    )
    return render_template(
        "live_charts.html.jinja",
        charts=charts,
        clock=json.dumps(clock(report.train), separators=(",", ":")),
        figures_json=head_values(report, None, epochs)["figures_json"],
        system_charts={key: words for key, (_, _, words) in SYSTEM_CHARTS.items()},
    )


def advised_as_json(settings: Sequence[AdvisedSetting]) -> list[dict[str, Any]]:
    """Return settings that are advised as JSON."""
    return [asdict(one) | {"name": in_both(one.name)} for one in settings]


def in_both(label: Label) -> dict[str, str]:
    """Return a text as JSON, by language."""
    return {"en": label.en, "zh": label.zh} if isinstance(label, BilingualText) else {"en": label, "zh": label}


def _best_record(report: RunReport) -> tuple[Record, float | None]:
    evals = [record for record in report.evals if has_finite_value(record, "loss")]
    best = next((record for record in evals if record["step"] == report.diagnosis.best_step > 0), {})
    return best, best["epoch"] if has_finite_value(best, "epoch") else None


def _latest(train: Sequence[Record]) -> dict[str, float]:
    last = train[-1] if train else {}
    return {key: last[key] for key in LATEST_KEYS if has_finite_value(last, key)}
