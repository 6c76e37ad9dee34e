"""Words of a model card, in English and Chinese: its measures, figures and verdicts, no surer than their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from thinktune.eval import find_measure
from thinktune.eval.comparison import (
    FORGETTING_TOLERANCE_POINTS,
    PRIMARY_MEASURES,
    TRUNCATED_SHARE,
    Forgetting,
    Obedience,
    format_figure_and_interval,
    judge_forgetting,
    judge_line,
    judge_switch,
)
from thinktune.report.html import BilingualText
from thinktune.report.run_sections.evaluation_words import SWITCHES, measure_words

_FORGETTING: Mapping[Forgetting, BilingualText] = {
    "lost": BilingualText("General ability was lost", "通用能力明显下降"),
    "nothing to lose": BilingualText("The base had almost none to lose", "基座模型本来就几乎答不出"),
    "kept": BilingualText(
        f"General ability is kept within {FORGETTING_TOLERANCE_POINTS} points",
        f"通用能力保持，下降不超过 {FORGETTING_TOLERANCE_POINTS} 个百分点",
    ),
}


_OBEDIENCE: Mapping[Obedience, BilingualText] = {
    "lost": BilingualText("LOST", "明显下降"),
    "better": BilingualText("better", "变好"),
    "kept": BilingualText("kept", "保持住了"),
    "no loss shown": BilingualText("no loss shown", "未见下降"),
}


def measure_name(key: str) -> BilingualText:
    """Name a measure, with the unit of an amount."""
    measure = find_measure(key)
    label, meaning = measure_words(key)
    if measure.kind != "amount":
        return label
    return BilingualText(f"{label.en} ({meaning.en})", f"{label.zh}（{meaning.zh}）")


def figure_text(key: str, figure: Mapping[str, float], *, signed: bool = False) -> BilingualText:
    """Format a figure of a measure with its interval; `signed` for a difference."""
    value, interval = format_figure_and_interval(find_measure(key), figure, signed=signed)
    low, _, high = interval.strip("()").partition(" to ")
    return BilingualText(f"{value} ({low} to {high})", f"{value.replace(' points', ' 个百分点')}（{low} 至 {high}）")


def set_sentence(scored: Mapping[str, Any]) -> BilingualText:
    """Write the verdict on a set of questions: by its first primary measure, or its eval loss."""
    figure = next((row for row in scored["measures"] if row["measure"] in (*PRIMARY_MEASURES, "loss")), None)
    if figure is None:
        return BilingualText("Nothing to compare.", "没有可比较的内容。")
    key = figure["measure"]
    en = {"better": "Better", "worse": "Worse", "": "No difference shown"}[figure["verdict"]]
    zh = {"better": "变好", "worse": "变差", "": "看不出差别"}[figure["verdict"]]
    if key == "chrf" and figure["verdict"]:
        en = {"better": "Closer to the references", "worse": "Further from the references"}[figure["verdict"]]
        zh = {"better": "更接近参考答案", "worse": "离参考答案更远"}[figure["verdict"]]
    return _with_facts(BilingualText(en, zh), figure)


def truncation_sentences(scored: Mapping[str, Any]) -> list[BilingualText]:
    """Say whose replies were often cut off: such a comparison is of the budget, too."""
    cut = next((row for row in scored["measures"] if row["measure"] == "cut"), None)
    sides = (("base", "base", "基座模型"), ("tuned", "tuned", "训练后的模型"))
    return [
        BilingualText(
            f"{100 * cut[side]['value']:.0f} % of the {en} model's replies had no end within the budget.",
            f"{zh}有 {100 * cut[side]['value']:.0f} % 的回复没有在 token 上限内结束。",
        )
        for side, en, zh in sides
        if cut is not None and cut[side]["value"] >= TRUNCATED_SHARE
    ]


def ungraded_sentence(rows: int) -> BilingualText:
    """Say how many rows could not be graded."""
    are = "answer was" if rows == 1 else "answers were"
    return BilingualText(f"{rows:,} {are} not graded, because the grader failed.", f"{rows:,} 个回答评分失败，未计入。")


def forgetting_sentence(measures: Sequence[Mapping[str, Any]]) -> BilingualText:
    """Write what became of general ability, by the bundled general questions."""
    state = judge_forgetting(measures)
    if state == "unknown":
        return BilingualText("General ability was not measured.", "没有测量通用能力。")
    figure = next(row for row in measures if row["measure"] == "right")
    points = f"{max(0.0, -100 * figure['difference']['low']):.0f}"
    unclear = BilingualText(
        f"No loss is shown, but so few questions cannot rule out a loss of {points} points",
        f"未见下降，但题目太少，不能排除下降 {points} 个百分点的可能",
    )
    return _with_facts(_FORGETTING.get(state, unclear), figure)


def switch_sentence(switch: Mapping[str, Any]) -> BilingualText:
    """Write how often replies obey the switch that they were asked under."""
    state = _OBEDIENCE[judge_switch(switch)]
    label = SWITCHES[switch["mode"]]
    return _with_facts(BilingualText(f"{label.en}: {state.en}", f"{label.zh}：{state.zh}"), switch)


def judge_sentence(judge: Mapping[str, Any]) -> BilingualText:
    """Write how often a judge model preferred which answer."""
    line = judge_line(judge)
    return BilingualText(
        f"{line[0].upper()}{line[1:]}.",
        f"裁判模型 {judge['model']}：共 {judge['pairs']} 对，训练后的模型胜 {judge['wins']}、平 {judge['ties']}、"
        f"负 {judge['losses']}；两种顺序一致的有 {judge['orders_agreed']} 对。",
    )


def duration_text(seconds: float) -> BilingualText:
    """Format a time in the unit that suits it."""
    for unit, en, zh in ((3600, "hours", "小时"), (60, "minutes", "分钟")):
        if seconds >= unit:
            return BilingualText(f"{seconds / unit:.1f} {en}", f"{seconds / unit:.1f} {zh}")
    return BilingualText(f"{seconds:.0f} seconds", f"{seconds:.0f} 秒")


def _with_facts(verdict: BilingualText, figure: Mapping[str, Any]) -> BilingualText:
    """Add to a verdict what it rests on: both figures, their difference with its interval, and the number of rows."""
    measure, name = find_measure(figure["measure"]), measure_name(figure["measure"])
    sides = " → ".join(format_figure_and_interval(measure, figure[side])[0] for side in ("base", "tuned"))
    change, rows = figure_text(figure["measure"], figure["difference"], signed=True), figure["rows"]
    label = name.en[0].lower() + name.en[1:]
    return BilingualText(
        f"{verdict.en}: {label} {sides}, {change.en}, {rows:,} {'row' if rows == 1 else 'rows'}.",
        f"{verdict.zh}：{name.zh} {sides}，{change.zh}，{rows:,} 条。",
    )
