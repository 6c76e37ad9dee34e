"""The evaluation section of a run's page: base, tuned and difference with drawn intervals, and the rows to read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thinktune.eval import Measure, find_measure
from thinktune.eval.comparison import PRIMARY_MEASURES, format_figure_and_interval, format_with_interval, judge_line
from thinktune.report.exam_section import exam_values, harness_html
from thinktune.report.html import BilingualText, render_template
from thinktune.report.run_sections import evaluation_words
from thinktune.run import EvaluationFolder, RunFolder
from thinktune.run.reading import AnyObject, read_lines, read_object, refuse_damage

MAX_SHOWN_ROWS = 300  # of each evaluation, worse ones first; its file holds them all


# Shown at once; the others are folded.
MAIN_MEASURES = ("right", "preferred", "loss", "well_formed", "cut", "loops")


INTERVAL_WIDTH, INTERVAL_HEIGHT = 220, 22  # of a drawn interval, in viewBox units


_OUTCOME_ORDER = {"worse": 0, "better": 1, "same": 2, "": 3}


AGAIN = "run thinktune eval again: saved replies are not generated again"


AGAIN_HARNESS = "remove it, and run thinktune eval with --harness again"


def evaluation_html(run: Path) -> Markup:
    """Render a run's evaluations as safe HTML; empty where there are none.

    It relies on the page's style and adds its own; rows.js searches and sorts its rows. Raises UserError where their
    files are damaged.
    """
    folders = (
        (RunFolder(run).evaluation(), BilingualText("", "")),
        (RunFolder(run).evaluation(thinking=False), BilingualText(", without thinking", "（不思考）")),
    )
    found = [(note, *_read_evaluation(folder)) for folder, note in folders]
    complete = [(note, report, rows) for note, report, rows in found if report.get("sets")]
    with refuse_damage(RunFolder(run).evaluation().report, AGAIN):
        parts = [_evaluation_values(number, *each) for number, each in enumerate(complete)]
        shown = render_template("evaluation.html.jinja", parts=parts) if parts else Markup()
    with refuse_damage(RunFolder(run).harness_results, AGAIN_HARNESS):
        return shown + harness_html(run)


def read_reports(run: Path, average: str | None = None) -> dict[str, Any]:
    """Read the report of a run's evaluation, with that of the mode without thinking under `silent`; {} without any.

    `average` names a folder beside `final/` whose evaluation is read instead.
    """
    folders = (RunFolder(run).evaluation(thinking=mode, average=average) for mode in (True, False))
    thinking, silent = map(_read_report, folders)
    return thinking | ({"silent": silent} if silent else {})


def _read_report(folder: EvaluationFolder) -> dict[str, Any]:
    return read_object(folder.report, AnyObject, AGAIN) if folder.report.is_file() else {}


def _read_evaluation(folder: EvaluationFolder) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    report = _read_report(folder)
    return report, read_lines(folder.rows, AnyObject, AGAIN) if report else []


def _evaluation_values(
    number: int, note: BilingualText, report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    shown_first = sorted(rows, key=lambda row: _OUTCOME_ORDER.get(row["outcome"], 3))
    outcomes = ("worse", "better", "same")
    return {
        "number": number,
        "note": note,
        "verdicts": evaluation_words.verdicts(report),
        "sets": [_set_values(one) for one in report["sets"] if one["measures"]],
        "switches": [
            _measure_values(one)
            | {"label": evaluation_words.SWITCHES[one["mode"]], "meaning": BilingualText("", ""), "rows": one["rows"]}
            for one in report.get("switches", [])  # reports of earlier releases have none
        ],
        "exams": [exam_values(one) for one in report.get("exams", [])],
        "judge": evaluation_words.judge_words(report["judge"], judge_line(report["judge"]))
        if "judge" in report
        else "",
        "budget": evaluation_words.budget_words(report["settings"]["budget"]),
        "settings": report["settings"],
        "rows": [_row_values(row) for row in shown_first[:MAX_SHOWN_ROWS]],
        "all_rows": len(rows),
        "counts": {name: sum(row["outcome"] == name for row in rows) for name in outcomes},
    }


def _set_values(task_set: Mapping[str, Any]) -> dict[str, Any]:
    found = [row["measure"] for row in task_set["measures"]]
    answered = next((key for key in PRIMARY_MEASURES if key in found), "")
    main = [row for row in task_set["measures"] if row["measure"] in (answered, *MAIN_MEASURES)]
    return {
        **task_set,
        "lines": [_measure_values(row) for row in main],
        "more_lines": [_measure_values(row) for row in task_set["measures"] if row not in main],
        "words": evaluation_words.set_words(str(task_set["name"])),
        # Reports of earlier releases lack them.
        "groups": evaluation_words.groups_note(task_set.get("kinds", []), task_set.get("languages", [])),
    }


def _row_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Add what a row is sorted by, and its outcome and set in both languages."""
    lengths = [len(row[side].get("reasoning") or "") + len(row[side].get("answer") or "") for side in ("base", "tuned")]
    return {
        **row,
        "length": lengths[1],
        "change": lengths[1] - lengths[0],
        "outcome_words": evaluation_words.DIRECTIONS.get(row["outcome"], evaluation_words.DIRECTIONS[""]),
        "set_words": evaluation_words.set_words(str(row["set"])),
    }


def _measure_values(row: Mapping[str, Any]) -> dict[str, Any]:
    measure = find_measure(row["measure"])
    label, meaning = evaluation_words.measure_words(measure.key)
    in_both = evaluation_words.bilingual_interval
    return {
        "label": label,
        "meaning": meaning,
        "base": in_both(format_figure_and_interval(measure, row["base"])),
        "tuned": in_both(format_figure_and_interval(measure, row["tuned"])),
        "difference": in_both(format_figure_and_interval(measure, row["difference"], signed=True)),
        "verdict": row["verdict"],
        "verdict_words": evaluation_words.DIRECTIONS[row["verdict"]],
        "drawing": draw_interval(measure, row["difference"], row["verdict"]),
    }


def draw_interval(measure: Measure, change: Mapping[str, float], verdict: str) -> Markup:
    """Draw a difference and its interval as SVG, on a line with zero in the middle and more to the right.

    The line is as long as the interval needs; for shares at least 10 points, so that a small interval looks small.
    """
    reach = max(abs(change["low"]), abs(change["high"]), 0.1 if measure.kind == "share" else 1e-9)
    low, at, high = (INTERVAL_WIDTH / 2 * (1 + 0.94 * change[name] / reach) for name in ("low", "value", "high"))
    middle = INTERVAL_HEIGHT / 2
    text = format_with_interval(measure, change, signed=True)
    return Markup(
        '<svg class="interval {verdict}" viewBox="0 0 {width} {height}" role="img" aria-label="{text}">'
        '<line class="zero" x1="{half}" x2="{half}" y1="2" y2="{bottom}"/>'
        '<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        '<circle cx="{at:.1f}" cy="{middle}" r="4"/></svg>'
    ).format(
        verdict=verdict or "unclear",
        width=INTERVAL_WIDTH,
        height=INTERVAL_HEIGHT,
        text=text,
        half=INTERVAL_WIDTH / 2,
        bottom=INTERVAL_HEIGHT - 2,
        low=low,
        high=high,
        middle=middle,
        at=at,
    )
