"""Comparison page of several runs: their losses on one chart, their results, and how their recipes differ."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thinktune.config.recipe_keys import EXPERT_FIELDS
from thinktune.config.strict_yaml import read_values
from thinktune.errors import UserError, redact_all
from thinktune.report.diagnosis_text import state_name
from thinktune.report.html import BilingualText, both, format_count, format_number, write_page
from thinktune.report.run_charts import LOWER_IS_BETTER, metric_points, smoothed
from thinktune.report.run_page import REPETITIVE_RATE, RunReport, read_run, run_state_name
from thinktune.report.run_sections.run_differences import RunDifferences, compare_runs
from thinktune.report.svg_charts import Axes, Series, line_chart
from thinktune.run import RunFolder

LINE_COLOURS = 4


IGNORED_KEYS = ("name", "runs_folder")


def write_comparison(runs: Sequence[Path]) -> Path:
    """Write the page next to the first run's folder and return its path; each folder must be a run's."""
    reports = [read_run(run) for run in runs]
    names = [report.name for report in reports]
    target = runs[0].resolve().parent / f"{'-beside-'.join(names)}.html"
    tuned = [report for report in reports if report.diagnosis.best_step]
    write_page(
        target,
        "comparison.html.jinja",
        scripts=("page.js", "charts.js"),
        runs=reports,
        names=names,
        winner=min(tuned, key=lambda report: report.diagnosis.best_loss, default=None),
        tie=len(tuned) > 1 and len({report.diagnosis.best_loss for report in tuned}) == 1,
        same_rows=len({frozenset((row.source, row.tokens) for row in report.rows) for report in tuned}) < 2,
        chart=_chart(reports),
        to_first=_differences_to_first(runs, reports),
        outcomes=list(_outcomes(reports)),
        differences=_differences([redact_all(read_values(RunFolder(run).recipe)) for run in runs]),
        samples=_shared_samples(reports),
        repetitive=REPETITIVE_RATE,
    )
    return target


def _differences_to_first(runs: Sequence[Path], reports: Sequence[RunReport]) -> list[RunDifferences]:
    """Compare every further run with the first; one whose evaluation is damaged is left out, as on its own page."""
    found: list[RunDifferences] = []
    for run, report in zip(runs[1:], reports[1:], strict=True):
        with suppress(UserError):
            found.append(compare_runs((runs[0], reports[0].diagnosis), (run, report.diagnosis), report.name))
    return found


def _chart(reports: Sequence[RunReport]) -> Markup:
    lines: list[Series] = []
    for index, report in enumerate(reports):
        train, colour = metric_points(report.train, "loss", "epoch"), f"run{index % LINE_COLOURS}"
        train, unsmoothed = smoothed(train)
        train_name = BilingualText(f"{report.name}: train", f"{report.name}：训练")
        eval_name = BilingualText(f"{report.name}: eval", f"{report.name}：验证")
        lines.append(Series(train_name, train, f"{colour} dotted", unsmoothed=unsmoothed))
        lines.append(Series(eval_name, metric_points(report.evals, "loss", "epoch"), colour, has_markers=True))
    return line_chart(
        lines,
        Axes(
            BilingualText("Loss", "loss"), BilingualText("epoch", "轮"), LOWER_IS_BETTER, may_be_log=True, over="epoch"
        ),
        size=(640, 320),
    )


def _outcomes(reports: Sequence[RunReport]) -> list[tuple[BilingualText, list[Any]]]:
    def last(report: RunReport, key: str) -> Any:
        return next((record[key] for record in reversed(report.train) if key in record), None)

    return [
        (BilingualText("State", "状态"), [both(run_state_name(report)) for report in reports]),
        (
            BilingualText("Verdict", "结论"),
            [both(state_name(report.diagnosis, report.status.state)) for report in reports],
        ),
        (
            BilingualText("Eval loss before training", "训练前的验证 loss"),
            [format_number(report.diagnosis.base_loss) for report in reports],
        ),
        (
            BilingualText("Lowest eval loss after it", "训练后的最低验证 loss"),
            [format_number(report.diagnosis.best_loss) for report in reports],
        ),
        (BilingualText("at step", "所在步"), [format_count(report.diagnosis.best_step) for report in reports]),
        (
            BilingualText("Last eval loss", "最后的验证 loss"),
            [format_number(report.diagnosis.last_loss) for report in reports],
        ),
        (
            BilingualText("Last train loss", "最后的训练 loss"),
            [format_number(last(report, "loss")) for report in reports],
        ),
        (BilingualText("Correct answers", "答对"), [_right_percent(report.evaluation) for report in reports]),
        (
            BilingualText("Thinking switch on, obeyed", "思考开关打开时遵守"),
            [_obeyed_percent(report.evaluation, "thinking") for report in reports],
        ),
        (
            BilingualText("Thinking switch off, obeyed", "思考开关关闭时遵守"),
            [_obeyed_percent(report.evaluation, "silent") for report in reports],
        ),
        (
            BilingualText("Training rows", "训练数据（条）"),
            [format_count(report.data.get("train_rows")) for report in reports],
        ),
        (
            BilingualText("Tokens per second", "每秒 token"),
            [format_count(_rounded(last(report, "tokens_per_second"))) for report in reports],
        ),
        (
            BilingualText("Memory, GiB", "内存 / 显存，GiB"),
            [format_number(last(report, "memory_gib"), 2) for report in reports],
        ),
    ]


def _right_percent(evaluation: dict[str, Any]) -> str:
    """Format the tuned model's share of correct answers among the held-out rows, where they were graded."""
    held_out = [each for each in evaluation.get("sets") or [] if each.get("name") == "held-out"]
    measures = [measure for each in held_out for measure in each.get("measures") or []]
    share = next((measure["tuned"]["value"] for measure in measures if measure.get("measure") == "right"), None)
    return f"{share:.1%}" if isinstance(share, int | float) else "–"


def _obeyed_percent(evaluation: dict[str, Any], mode: str) -> str:
    """Format how often the tuned model obeyed a switch, where it was asked under it; the report of most rows counts."""
    reports = (evaluation, evaluation.get("silent") or {})
    switches: list[dict[str, Any]] = [each for report in reports for each in report.get("switches") or []]
    asked = [(each["rows"], each["tuned"]["value"]) for each in switches if each.get("mode") == mode]
    share = max(asked)[1] if asked else None
    return f"{share:.1%}" if isinstance(share, int | float) else "–"


def _rounded(value: Any) -> Any:
    return round(value) if isinstance(value, float) else value


def _differences(recipes: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    trees = [recipe if isinstance(recipe, dict) else {} for recipe in recipes]
    listed = any(isinstance(tree.get("data"), list) for tree in trees)
    flat = [_flatten(_with_sources(tree) if listed else tree) for tree in trees]
    keys = sorted({key for one in flat for key in one if key not in IGNORED_KEYS})
    return [
        (key, [_format_value(one.get(key, "–")) for one in flat])
        for key in keys
        if len({repr(one.get(key, "–")) for one in flat}) > 1
    ]


def _format_value(value: Any) -> str:
    """Format a value as a recipe spells it."""
    return (
        {None: "none", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, list)
        else str(value)
    )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(each, dict) for each in value):
            value = {str(number): each for number, each in enumerate(value)}
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _with_sources(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe whose `data` is a list of sources, as it is where it is one, so that source stands by source.

    The expert settings of a single section's rows go to that source, where a list has them.
    """
    data = tree.get("data")
    if not isinstance(data, dict):
        return tree
    written = tree.get("expert")
    expert: dict[str, Any] = written if isinstance(written, dict) else {}
    fields = {name: field.removeprefix("data.") for name, field in EXPERT_FIELDS.items() if field.startswith("data.")}
    moved = {fields[name]: value for name, value in expert.items() if name in fields}
    left = {name: value for name, value in expert.items() if name not in fields}
    return tree | {"data": [data | moved]} | ({"expert": left} if expert else {})


def _shared_samples(reports: Sequence[RunReport]) -> list[tuple[str, list[Any]]]:
    newest: list[dict[str, Any]] = []
    for report in reports:
        greedy = [sample for sample in report.samples if sample.get("sampling", "greedy") == "greedy"]
        newest.append({str(sample.get("question")): sample for sample in greedy})
    shared = [question for question in newest[0] if all(question in answers for answers in newest)]
    return [(question, [answers[question] for answers in newest]) for question in shared]
