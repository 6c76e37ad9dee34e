"""Base against tuned: measures of every row to figures with intervals, and a verdict that claims no more."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from thinktune.eval.statistics import Interval, bootstrap_mean, paired_difference, wilson_interval

Scores = Mapping[str, float]  # the measures of one row and one model


FORGETTING_TOLERANCE_POINTS = (
    5  # percentage points of general ability that a tuned model may lose and still be said to keep it
)


TRUNCATED_SHARE = 0.05  # of replies cut by the budget, from which the verdict says so


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a model: its name in a row's scores, how people read it, and which way is better.

    `share` lies between 0 and 1 and is shown in per cent, `loss` and `amount` are plain numbers.
    """

    key: str
    label: str
    meaning: str
    kind: Literal["share", "loss", "amount"] = "share"
    better: Literal["higher", "lower", "neither"] = "higher"


# In the order of the table. The first that a set has is the one that its verdict speaks of.
MEASURES = (
    Measure("right", "Answers right", "by the answer alone"),
    Measure("preferred", "Preferred by the judge", "share of comparisons won, a tie being half"),
    Measure("chrf", "chrF", "likeness to the reference, by runs of characters"),
    Measure("keypoint_recall", "Key points held", "of those that a right answer holds"),
    Measure("rouge_l", "ROUGE-L", "likeness to the reference, by words or Chinese characters"),
    Measure("loss", "Eval loss", "of the reference reply, a token", "loss", "lower"),
    Measure("reasoning_loss", "Reasoning loss", "of the reference reasoning", "loss", "lower"),
    Measure("answer_loss", "Answer loss", "of the reference answer", "loss", "lower"),
    Measure("end_loss", "End loss", "of the token that ends the reply", "loss", "lower"),
    Measure("well_formed", "Well formed", "reasoning opened and closed once"),
    Measure("ended", "Ended by itself", "within the token budget"),
    Measure("cut", "Cut by the budget", "no end within it", "share", "lower"),
    Measure("empty_answer", "Empty answer", "nothing after the reasoning", "share", "lower"),
    Measure("loops", "Loops", "ends in the same piece over and over", "share", "lower"),
    Measure("language_switch", "Language switched", "away from the question's", "share", "lower"),
    Measure("tokens", "Length of a reply", "tokens", "amount", "neither"),
    Measure("reasoning_tokens", "Length of the reasoning", "tokens", "amount", "neither"),
    Measure("answer_characters", "Length of an answer", "characters", "amount", "neither"),
)


PRIMARY_MEASURES = ("right", "preferred", "chrf")


def compare(base: Sequence[Scores], tuned: Sequence[Scores]) -> list[dict[str, Any]]:
    """Every measure that rows of both models have: rows, both figures and their difference, each with its interval."""
    found: list[dict[str, Any]] = []
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
        found.append(
            {
                "measure": measure.key,
                "rows": len(pairs),
                "base": asdict(_estimate(measure, left)),
                "tuned": asdict(_estimate(measure, right)),
                "difference": asdict(change),
                "verdict": _direction(measure, change),
            }
        )
    return found


def sort_measures(measures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures in the order of the table."""
    keys = [measure.key for measure in MEASURES]
    return sorted(measures, key=lambda row: keys.index(row["measure"]))


def find_measure(key: str) -> Measure:
    """The measure of a name."""
    return next(measure for measure in MEASURES if measure.key == key)


def format_with_interval(measure: Measure, figure: Mapping[str, float], *, signed: bool = False) -> str:
    """A figure with its interval, as tables and sentences write it; `signed` for a difference."""
    return " ".join(format_figure_and_interval(measure, figure, signed=signed))


def format_figure_and_interval(
    measure: Measure, figure: Mapping[str, float], *, signed: bool = False
) -> tuple[str, str]:
    """A figure and its interval, apart."""
    value, low, high = (_format_number(measure, figure[name], signed) for name in ("value", "low", "high"))
    unit = "" if measure.kind != "share" else " points" if signed else " %"
    return f"{value}{unit}", f"({low} to {high})"


def set_verdict(name: str, measures: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on a set's first measure of substance (without any, on the eval loss), as sure as its interval."""
    found = next((row for row in measures if row["measure"] in (*PRIMARY_MEASURES, "loss")), None)
    if found is None:
        return f"{name}: nothing to compare"
    measure = find_measure(found["measure"])
    word = {"better": "better", "worse": "worse", "": "no difference shown"}[found["verdict"]]
    if measure.key == "chrf" and found["verdict"]:
        word = {"better": "closer to the references", "worse": "further from the references"}[found["verdict"]]
    sides = " → ".join(_format_side(measure, found[side]["value"]) for side in ("base", "tuned"))
    change = format_with_interval(measure, found["difference"], signed=True)
    text = f"{name}: {word}; {measure.label[0].lower()}{measure.label[1:]} {sides}, {change}, {_format_row_count(found['rows'])}"
    return text + _truncation_note(measures)


def forgetting_verdict(measures: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on general ability: lost, kept to within a few points, or not known from so few questions."""
    found = next((row for row in measures if row["measure"] == "right"), None)
    if found is None:
        return "general ability: not measured"
    measure, change = find_measure("right"), found["difference"]
    sides = " → ".join(_format_side(measure, found[side]["value"]) for side in ("base", "tuned"))
    facts = f"{sides} right, {format_with_interval(measure, change, signed=True)}, {_format_row_count(found['rows'])}"
    if change["high"] < 0:
        return (
            f"general ability: LOST; {facts}; train less (a lower learning rate, fewer epochs) or mix in general rows"
        )
    if found["base"]["high"] * 100 <= 2 * FORGETTING_TOLERANCE_POINTS:
        return f"general ability: the base had next to none to lose; {facts}"
    if change["low"] * 100 >= -FORGETTING_TOLERANCE_POINTS:
        return f"general ability: kept, to within {FORGETTING_TOLERANCE_POINTS} points; {facts}"
    unknown = f"so few questions cannot rule out {-100 * change['low']:.0f} points"
    return f"general ability: no loss shown, but {unknown}; {facts}"


def row_outcome(base: Scores, tuned: Scores) -> str:
    """What became of one row by its first measure of substance: "better", "worse", "same", or "" without one."""
    key = next((key for key in PRIMARY_MEASURES if key in base and key in tuned), None)
    if key is None:
        return ""
    change = tuned[key] - base[key]
    return "same" if abs(change) < (0.05 if key == "chrf" else 1e-9) else "better" if change > 0 else "worse"


def _estimate(measure: Measure, values: Sequence[float]) -> Interval:
    if measure.kind == "share" and set(values) <= {0.0, 1.0}:
        return wilson_interval(round(sum(values)), len(values))
    return bootstrap_mean(values, (0.0, 1.0) if measure.kind == "share" else None)


def _direction(measure: Measure, change: Interval) -> str:
    if measure.better == "neither" or not change.excludes_zero:
        return ""
    return "better" if (change.low > 0) == (measure.better == "higher") else "worse"


def _truncation_note(measures: Sequence[Mapping[str, Any]]) -> str:
    cut = next((row for row in measures if row["measure"] == "cut"), None)
    sides = (
        []
        if cut is None
        else [(side, cut[side]["value"]) for side in ("base", "tuned") if cut[side]["value"] >= TRUNCATED_SHARE]
    )
    told = " and ".join(f"{100 * share:.0f} % of the {side}'s replies" for side, share in sides)
    return f"; {told} were cut by the budget, so raise generate.evaluate_tokens" if told else ""


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
    """A table for each set (base, tuned, and the difference with its 95 % interval), and the verdicts.

    It fits 80 columns; the intervals of the two models' own figures stand on the page and in report.json.
    """
    parts: list[Table | Text] = [_set_table(found) for found in report["sets"] if found["measures"]]
    for found in report["sets"]:
        if found["apart"]:
            parts.append(Text(f"{found['name']}: {found['apart']} rows set apart, for they stand in the training rows"))
    if "judge" in report:
        parts.append(Text(judge_line(report["judge"])))
    parts += [Text(text, style="bold") for text in report["verdicts"]]
    return Group(*parts)


def judge_line(judged: Mapping[str, Any]) -> str:
    """What the judge said and cost, in a sentence."""
    unread = f", {judged['unread']} not readable" if judged["unread"] else ""
    return (
        f"judge {judged['model']}: of {judged['pairs']} pairs the tuned model won {judged['wins']}, "
        f"tied {judged['ties']}, lost {judged['losses']}{unread}; both orders agreed on {judged['orders_agreed']}; "
        f"{judged['prompt_tokens']:,} tokens read and {judged['tokens']:,} written"
    )


def _set_table(found: Mapping[str, Any]) -> Table:
    table = Table(f"{found['name']}, {found['rows']} rows", box=box.SIMPLE_HEAD)
    for name in ("base", "tuned", "difference"):
        table.add_column(name, justify="right")
    for row in found["measures"]:
        measure = find_measure(row["measure"])
        change = format_with_interval(measure, row["difference"], signed=True)
        sides = [format_figure_and_interval(measure, row[side])[0] for side in ("base", "tuned")]
        table.add_row(measure.label, *sides, Text(change, style=_VERDICT_STYLES[row["verdict"]]))
    return table
