"""Comparison of base and tuned: scores of rows to figures with intervals, and verdicts that claim no more."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from thinktune.eval.statistics import Interval, bootstrap_mean, paired_difference, wilson_interval
from thinktune.eval.votes import votes_parts

Scores = Mapping[str, float]  # of one row and one model, by measure
Forgetting = Literal["unknown", "lost", "nothing to lose", "kept", "possible"]
Obedience = Literal["lost", "better", "kept", "no loss shown"]

FORGETTING_TOLERANCE_POINTS = 5  # percentage points that general ability may fall by and still count as kept
KEPT_SHARE = 0.8  # a switch counts as kept if the tuned model surely obeys it this often
SWITCH_LABELS = {"thinking": "Switch on (reasons)", "silent": "Switch off (does not reason)"}
TRUNCATED_SHARE = 0.05  # the verdict mentions truncated replies from this share on


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure: its key in a row's scores, its label, and which direction is better.

    A `share` is between 0 and 1 and shown in per cent; `loss` and `amount` are plain numbers.
    """

    key: str
    label: str
    meaning: str
    kind: Literal["share", "loss", "amount"] = "share"
    better: Literal["higher", "lower", "neither"] = "higher"


# In the order of the table.
MEASURES = (
    Measure("right", "Correct answers", "by the answer alone"),
    Measure("preferred", "Preferred by the judge", "share of comparisons won; a tie counts as half"),
    Measure("chrf", "chrF", "similarity to the reference, by character n-grams"),
    Measure("keypoint_recall", "Key points found", "of those that a correct answer contains"),
    Measure("rouge_l", "ROUGE-L", "similarity to the reference, by words or Chinese characters"),
    Measure("loss", "Eval loss", "of the reference reply, per token", "loss", "lower"),
    Measure("reasoning_loss", "Reasoning loss", "of the reference reasoning", "loss", "lower"),
    Measure("answer_loss", "Answer loss", "of the reference answer", "loss", "lower"),
    Measure("end_loss", "End loss", "of the token that ends the reply", "loss", "lower"),
    Measure("well_formed", "Well formed", "reasoning opened and closed once"),
    Measure("ended", "Ended by itself", "within the token budget"),
    Measure("cut", "Truncated", "no end within the token budget", "share", "lower"),
    Measure("empty_answer", "Empty answer", "nothing after the reasoning", "share", "lower"),
    Measure("loops", "Loops", "ends by repeating the same text", "share", "lower"),
    Measure("language_switch", "Language switched", "to a script other than the question's", "share", "lower"),
    Measure("obeyed", "Switch obeyed", "reasons only if asked to"),
    Measure("tokens", "Reply length", "tokens", "amount", "neither"),
    Measure("reasoning_tokens", "Reasoning length", "tokens", "amount", "neither"),
    Measure("answer_characters", "Answer length", "characters", "amount", "neither"),
)
PRIMARY_MEASURES = ("right", "preferred", "chrf")  # a verdict is about the first one that its set has


def compare(base: Sequence[Scores], tuned: Sequence[Scores]) -> list[dict[str, Any]]:
    """Compare both models by each measure that they share: number of rows, both figures, and their difference."""
    figures: list[dict[str, Any]] = []
    for measure in MEASURES:
        pairs = [
            (float(before[measure.key]), float(after[measure.key]))
            for before, after in zip(base, tuned, strict=True)
            if measure.key in before and measure.key in after
        ]
        if not pairs:
            continue
        left, right = [before for before, _ in pairs], [after for _, after in pairs]
        change = paired_difference(left, right, bounded=measure.kind == "share")
        figures.append(
            {
                "measure": measure.key,
                "rows": len(pairs),
                "base": asdict(_estimate(measure, left)),
                "tuned": asdict(_estimate(measure, right)),
                "difference": asdict(change),
                "verdict": _direction(measure, change),
            }
        )
    return figures


def sort_measures(measures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort figures into the order of the table."""
    keys = [measure.key for measure in MEASURES]
    return sorted(measures, key=lambda row: keys.index(row["measure"]))


def find_measure(key: str) -> Measure:
    """Return the measure with a key."""
    return next(measure for measure in MEASURES if measure.key == key)


def format_with_interval(measure: Measure, figure: Mapping[str, float], *, signed: bool = False) -> str:
    """Format a figure with its interval; `signed` for a difference."""
    return " ".join(format_figure_and_interval(measure, figure, signed=signed))


def format_figure_and_interval(
    measure: Measure, figure: Mapping[str, float], *, signed: bool = False
) -> tuple[str, str]:
    """Format a figure and its interval as two texts."""
    value, low, high = (_format_number(measure, figure[name], signed) for name in ("value", "low", "high"))
    unit = "" if measure.kind != "share" else " points" if signed else " %"
    return f"{value}{unit}", f"({low} to {high})"


def set_verdict(name: str, measures: Sequence[Mapping[str, Any]]) -> str:
    """Write one sentence about a set's first primary measure, or its eval loss, as certain as the interval."""
    figure = next((row for row in measures if row["measure"] in (*PRIMARY_MEASURES, "loss")), None)
    if figure is None:
        return f"{name}: nothing to compare"
    measure = find_measure(figure["measure"])
    word = {"better": "better", "worse": "worse", "": "no difference shown"}[figure["verdict"]]
    if measure.key == "chrf" and figure["verdict"]:
        word = {"better": "closer to the references", "worse": "further from the references"}[figure["verdict"]]
    sides = " → ".join(_format_side(measure, figure[side]["value"]) for side in ("base", "tuned"))
    change = format_with_interval(measure, figure["difference"], signed=True)
    label = measure.label[0].lower() + measure.label[1:]
    notes = _loss_note(measures) + _truncation_note(measures)
    return f"{name}: {word}; {label} {sides}, {change}, {_format_row_count(figure['rows'])}{notes}"


def judge_forgetting(measures: Sequence[Mapping[str, Any]]) -> Forgetting:
    """Judge by a set's correct answers what became of general ability; `possible` where so few questions cannot say."""
    figure = next((row for row in measures if row["measure"] == "right"), None)
    if figure is None:
        return "unknown"
    change = figure["difference"]
    if change["high"] < 0:
        return "lost"
    if figure["base"]["high"] * 100 <= 2 * FORGETTING_TOLERANCE_POINTS:
        return "nothing to lose"
    return "kept" if change["low"] * 100 >= -FORGETTING_TOLERANCE_POINTS else "possible"


def forgetting_verdict(measures: Sequence[Mapping[str, Any]]) -> str:
    """Write one sentence about general ability: lost, kept within a few points, or unknown from so few questions."""
    state = judge_forgetting(measures)
    if state == "unknown":
        return "general ability: not measured"
    figure = next(row for row in measures if row["measure"] == "right")
    measure, change = find_measure("right"), figure["difference"]
    sides = " → ".join(_format_side(measure, figure[side]["value"]) for side in ("base", "tuned"))
    facts = (
        f"{sides} correct, {format_with_interval(measure, change, signed=True)}, {_format_row_count(figure['rows'])}"
    )
    if state == "lost":
        return (
            f"general ability: LOST; {facts}; train less (a lower learning rate or fewer epochs), or mix in "
            "general rows"
        )
    if state == "nothing to lose":
        return f"general ability: the base had almost none to lose; {facts}"
    if state == "kept":
        return f"general ability: kept within {FORGETTING_TOLERANCE_POINTS} points; {facts}"
    possible = f"so few questions cannot rule out a loss of {-100 * change['low']:.0f} points"
    return f"general ability: no loss shown, but {possible}; {facts}"


def judge_switch(switch: Mapping[str, Any]) -> Obedience:
    """Judge whether replies obey the switch that they were asked under, against those of the base."""
    if switch["difference"]["high"] < 0:
        return "lost"
    if switch["verdict"] == "better":
        return "better"
    return "kept" if switch["tuned"]["low"] >= KEPT_SHARE else "no loss shown"


def switch_verdict(switch: Mapping[str, Any]) -> str:
    """Write one sentence about how often replies obeyed the switch that they were asked under: as certain as it is."""
    measure, change = find_measure("obeyed"), switch["difference"]
    sides = " → ".join(_format_side(measure, switch[side]["value"]) for side in ("base", "tuned"))
    facts = (
        f"obeyed by {sides}, {format_with_interval(measure, change, signed=True)}, {_format_row_count(switch['rows'])}"
    )
    name = SWITCH_LABELS[switch["mode"]].lower()
    state = judge_switch(switch)
    if state == "lost":
        remedy = (
            "mix in silent rows with data.silent_share" if switch["mode"] == "silent" else "mix in rows that reason"
        )
        return f"{name}: LOST; {facts}; {remedy}"
    return f"{name}: {state}; {facts}"


def row_outcome(base: Scores, tuned: Scores) -> str:
    """Return "better", "worse" or "same" by a row's first primary measure, or "" if it has none."""
    key = next((key for key in PRIMARY_MEASURES if key in base and key in tuned), None)
    if key is None:
        return ""
    change = tuned[key] - base[key]
    return "same" if abs(change) < (0.05 if key == "chrf" else 1e-9) else "better" if change > 0 else "worse"


def ungraded_note(rows: int) -> str:
    """Say how many rows a grader failed on, and where to read why."""
    are = "row is" if rows == 1 else "rows are"
    return f"{rows:,} {are} not graded, because the grader failed on an answer (see grader_error in rows.jsonl)"


def _estimate(measure: Measure, values: Sequence[float]) -> Interval:
    if measure.kind == "share" and set(values) <= {0.0, 1.0}:
        return wilson_interval(round(sum(values)), len(values))
    return bootstrap_mean(values, (0.0, 1.0) if measure.kind == "share" else None)


def _direction(measure: Measure, change: Interval) -> str:
    if measure.better == "neither" or not change.excludes_zero:
        return ""
    return "better" if (change.low > 0) == (measure.better == "higher") else "worse"


def _loss_note(measures: Sequence[Mapping[str, Any]]) -> str:
    """Return a warning where the eval loss has clearly risen and the verdict is about another figure."""
    loss = next((row for row in measures if row["measure"] == "loss"), None)
    is_verdict = not any(row["measure"] in PRIMARY_MEASURES for row in measures)
    if loss is None or is_verdict or loss["verdict"] != "worse":
        return ""
    sides = " → ".join(_format_side(find_measure("loss"), loss[side]["value"]) for side in ("base", "tuned"))
    return f"; the eval loss is worse: {sides}"


def _truncation_note(measures: Sequence[Mapping[str, Any]]) -> str:
    cut = next((row for row in measures if row["measure"] == "cut"), None)
    shares = {} if cut is None else {side: cut[side]["value"] for side in ("base", "tuned")}
    truncated = " and ".join(
        f"{100 * share:.0f} % of the {side} model's replies"
        for side, share in shares.items()
        if share >= TRUNCATED_SHARE
    )
    return f"; {truncated} were truncated, so raise expert.evaluate_tokens" if truncated else ""


def _format_side(measure: Measure, value: float) -> str:
    return _format_number(measure, value, signed=False) + (" %" if measure.kind == "share" else "")


def _format_number(measure: Measure, value: float, signed: bool) -> str:
    digits = {"share": 1, "loss": 3, "amount": 0}[measure.kind]
    value = 100 * value if measure.kind == "share" else value
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    zero = not float(text.replace(",", ""))
    return text.lstrip("+-") if zero else text.replace("-", "−")


def _format_row_count(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"


_VERDICT_STYLES = {"better": "green", "worse": "red", "": ""}


def comparison_tables(report: Mapping[str, Any]) -> Group:
    """Make a table for each set (base, tuned, difference with its 95 % interval), and the verdicts below.

    It fits 80 columns; the intervals of the two models' own figures are on the page and in report.json. A report of
    both modes has the one without thinking after the other, and the switches of both and people's votes last.
    """
    silent, votes = report.get("silent"), votes_parts(report.get("votes"))
    if silent is None:
        return Group(*_mode_parts(report), *_switch_parts(report["switches"]), *votes)
    both = switches_once([*report["switches"], *silent["switches"]])
    return Group(*_mode_parts(report), *_mode_parts(silent, ", without thinking"), *_switch_parts(both), *votes)


def _mode_parts(report: Mapping[str, Any], note: str = "") -> list[Table | Text]:
    """Make the tables and verdicts of the evaluation in one mode."""
    parts: list[Table | Text] = [_set_table(scored, note) for scored in report["sets"] if scored["measures"]]
    for scored in report["sets"]:
        if scored["apart"]:
            parts.append(
                Text(f"{scored['name']}: {scored['apart']} rows excluded, because the training rows ask the same")
            )
    if "judge" in report:
        parts.append(Text(judge_line(report["judge"])))
    verdicts = [text for text in report["verdicts"] if text not in map(switch_verdict, report["switches"])]
    return parts + [Text(f"{text}{note}", style="bold") for text in verdicts]


def switches_once(switches: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keep one entry a mode, that of the most rows: rows trained silent are asked so in both evaluations."""
    most: dict[str, Mapping[str, Any]] = {}
    for switch in switches:
        if switch["rows"] > most.get(switch["mode"], {"rows": 0})["rows"]:
            most[switch["mode"]] = switch
    return list(most.values())


def _switch_parts(switches: Sequence[Mapping[str, Any]]) -> list[Table | Text]:
    """Make the table of how often each switch is obeyed, with the intervals of both models, and its verdicts."""
    if not switches:
        return []
    measure = find_measure("obeyed")
    table = Table("Switches obeyed", box=box.SIMPLE_HEAD)
    for name in ("base", "tuned", "difference"):
        table.add_column(name, justify="right")
    for switch in switches:
        sides = [format_with_interval(measure, switch[side]) for side in ("base", "tuned")]
        change = format_with_interval(measure, switch["difference"], signed=True)
        table.add_row(SWITCH_LABELS[switch["mode"]], *sides, Text(change, style=_VERDICT_STYLES[switch["verdict"]]))
    return [table, *(Text(switch_verdict(switch), style="bold") for switch in switches)]


def judge_line(summary: Mapping[str, Any]) -> str:
    """Summarize the judge's verdicts and their cost in one sentence."""
    unread = f", {summary['unread']} unreadable" if summary["unread"] else ""
    return (
        f"judge {summary['model']}: of {summary['pairs']} pairs the tuned model won {summary['wins']}, "
        f"tied {summary['ties']}, lost {summary['losses']}{unread}; both orders agreed on {summary['orders_agreed']}; "
        f"{summary['prompt_tokens']:,} tokens read and {summary['tokens']:,} written"
    )


def _set_table(scored: Mapping[str, Any], note: str) -> Table:
    table = Table(f"{scored['name']}, {scored['rows']} rows{note}", box=box.SIMPLE_HEAD)
    for name in ("base", "tuned", "difference"):
        table.add_column(name, justify="right")
    for row in scored["measures"]:
        measure = find_measure(row["measure"])
        change = format_with_interval(measure, row["difference"], signed=True)
        sides = [format_figure_and_interval(measure, row[side])[0] for side in ("base", "tuned")]
        table.add_row(measure.label, *sides, Text(change, style=_VERDICT_STYLES[row["verdict"]]))
    return table
