"""Words of an evaluation in both languages: measures, kinds of questions, and its verdicts.

The English is the terminal's own (`eval.comparison`); the Chinese is said from the same figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from thinktune.eval import find_measure
from thinktune.eval.comparison import (
    FORGETTING_TOLERANCE_POINTS,
    PRIMARY_MEASURES,
    SWITCH_LABELS,
    TRUNCATED_SHARE,
    judge_forgetting,
    judge_switch,
    switch_verdict,
)
from thinktune.eval.general_probe import PROBE_SET
from thinktune.report.html import BilingualText, format_count, format_number
from thinktune.report.run_sections.answer import signed
from thinktune.run.sample_questions import HELD_OUT_SET
from thinktune.translation import translate

MEASURES_ZH = {
    "right": ("答对率", "只看最终答案"),
    "preferred": ("裁判模型更喜欢的比例", "两两比较中胜出的比例，平局算一半"),
    "chrf": ("chrF", "与参考答案的相似度，按字符 n-gram 计算"),
    "keypoint_recall": ("要点命中率", "正确答案应含的要点里说到了多少"),
    "rouge_l": ("ROUGE-L", "与参考答案的相似度，按词或汉字计算"),
    "loss": ("验证 loss", "参考回复的 loss，按 token 平均"),
    "reasoning_loss": ("思考 loss", "参考思考的 loss"),
    "answer_loss": ("回答 loss", "参考回答的 loss"),
    "end_loss": ("结束标记 loss", "回复结束标记的 loss"),
    "well_formed": ("格式完整", "思考只开始一次、结束一次"),
    "ended": ("自行结束", "在 token 上限之内"),
    "cut": ("被截断", "到 token 上限仍未结束"),
    "empty_answer": ("回答为空", "思考之后没有内容"),
    "loops": ("循环重复", "结尾不断重复同样的文字"),
    "language_switch": ("语言不一致", "与提问使用的文字不同"),
    "obeyed": ("遵守思考开关", "要求时思考，否则不思考"),
    "tokens": ("回复长度", "token"),
    "reasoning_tokens": ("思考长度", "token"),
    "answer_characters": ("回答长度", "字符"),
}

_SETS = {
    HELD_OUT_SET: BilingualText("held-out", "留出数据"),
    PROBE_SET: BilingualText("general", "通用题"),
}

SWITCHES = {
    "thinking": BilingualText(SWITCH_LABELS["thinking"], "思考开关打开"),
    "silent": BilingualText(SWITCH_LABELS["silent"], "思考开关关闭"),
}

DIRECTIONS = {
    "better": BilingualText("better", "变好"),
    "worse": BilingualText("worse", "变差"),
    "same": BilingualText("same", "相同"),
    "": BilingualText("", ""),
}

_LANGUAGES = {"en": BilingualText("English", "英文"), "zh": BilingualText("Chinese", "中文")}

_KINDS = {
    "arithmetic": BilingualText("arithmetic", "算术"),
    "code": BilingualText("code", "代码"),
    "dialogue": BilingualText("dialogue", "多轮对话"),
    "format": BilingualText("format", "格式要求"),
    "knowledge": BilingualText("knowledge", "常识"),
    "nonsense": BilingualText("nonsense", "无意义的问题"),
    "reading": BilingualText("reading", "阅读理解"),
    "translation": BilingualText("translation", "翻译"),
}


def measure_words(key: str) -> tuple[BilingualText, BilingualText]:
    """Return a measure's label and meaning."""
    measure = find_measure(key)
    label, meaning = MEASURES_ZH.get(key, (measure.label, measure.meaning))
    return BilingualText(measure.label, label), BilingualText(measure.meaning, meaning)


def set_words(name: str) -> BilingualText:
    """Return the name of a set of questions; a task file's is its own."""
    return _SETS.get(name, BilingualText(name, name))


def bilingual_interval(pair: tuple[str, str]) -> tuple[str | BilingualText, BilingualText]:
    """Return a formatted figure and interval in both languages."""
    figure, interval = pair
    known = BilingualText(figure, figure.replace(" points", " 个百分点"))
    return known, BilingualText(interval, interval.replace("(", "（").replace(" to ", " 至 ").replace(")", "）"))


def verdicts(report: Mapping[str, Any]) -> list[BilingualText]:
    """Return an evaluation's verdicts; a sentence that is no verdict of a set or switch stays as it was written."""
    chinese: dict[str, str] = {each["verdict"]: _set_verdict(each) for each in report["sets"] if each.get("verdict")}
    chinese |= {switch_verdict(each): _switch_verdict(each) for each in report.get("switches", [])}
    return [
        BilingualText(str(text), chinese.get(str(text)) or translate(str(text), "zh")) for text in report["verdicts"]
    ]


def groups_note(kinds: Sequence[Mapping[str, Any]], languages: Sequence[Mapping[str, Any]]) -> BilingualText:
    """Say how many answers of each kind and language are right, and how uncertain their differences are."""
    named = [(_named(str(group["kind"]), _KINDS), group) for group in kinds]
    named += [(_named(str(group["language"]), _LANGUAGES), group) for group in languages]
    if not named:
        return BilingualText("", "")
    counts = ", ".join(f"{name.en} {each['base']} → {each['tuned']} of {each['rows']}" for name, each in named)
    counts_zh = "，".join(f"{name.zh} {each['base']} → {each['tuned']} / {each['rows']}" for name, each in named)
    widths = [
        (word, max(50 * (each["high"] - each["low"]) for each in known))
        for word, groups in ((BilingualText("kind", "类"), kinds), (BilingualText("language", "语言"), languages))
        if (known := [group["difference"] for group in groups if "difference" in group])
    ]
    noise = ", ".join(f"of one {word.en} by up to ±{width:.0f}" for word, width in widths)
    noise_zh = "，".join(f"单个{word.zh} ±{width:.0f}" for word, width in widths)
    return BilingualText(
        f"Correct, base → tuned: {counts}.{f' The difference is uncertain: {noise} points.' if noise else ''}",
        f"答对数，训练前 → 训练后：{counts_zh}。{f'差值的不确定度：{noise_zh} 个百分点。' if noise_zh else ''}",
    )


def group_words(key: str) -> BilingualText:
    """Return the name of a kind of questions or of a language; any other is its own."""
    return (_KINDS | _LANGUAGES).get(key, BilingualText(key, key))


def _named(key: str, names: Mapping[str, BilingualText]) -> BilingualText:
    return names.get(key, BilingualText(key, key))


def _set_verdict(task_set: Mapping[str, Any]) -> str:
    measures = task_set.get("measures", [])
    if task_set["name"] == PROBE_SET:
        return _forgetting_verdict(measures)
    figure = next((each for each in measures if each["measure"] in (*PRIMARY_MEASURES, "loss")), None)
    name = set_words(task_set["name"]).zh
    if figure is None:
        return f"{name}：没有可比较的结果"
    word = {"better": "变好", "worse": "变差", "": "看不出差别"}[figure["verdict"]]
    if figure["measure"] == "chrf" and figure["verdict"]:
        word = {"better": "更接近参考答案", "worse": "离参考答案更远"}[figure["verdict"]]
    return f"{name}：{word}；{measure_words(figure['measure'])[0].zh} {_facts(figure)}{_notes(task_set, measures)}"


def _notes(task_set: Mapping[str, Any], measures: Sequence[Mapping[str, Any]]) -> str:
    """Add what the English verdict adds: a loss that rose, replies that were cut, answers that were not graded."""
    found = {each["measure"]: each for each in measures}
    notes = ""
    if "loss" in found and found["loss"]["verdict"] == "worse" and any(key in found for key in PRIMARY_MEASURES):
        notes += f"；验证 loss 变差：{_sides(found['loss'])}"
    cut = [
        f"{who} {100 * found['cut'][side]['value']:.0f} %"
        for side, who in (("base", "训练前"), ("tuned", "训练后"))
        if "cut" in found and found["cut"][side]["value"] >= TRUNCATED_SHARE
    ]
    if cut:
        notes += f"；回复被截断的比例：{'，'.join(cut)}，请调高 expert.evaluate_tokens"
    if task_set.get("ungraded"):
        notes += f"；{format_count(task_set['ungraded'])} 行判分出错，未计入（原因见 rows.jsonl 的 grader_error）"
    return notes


def _forgetting_verdict(measures: Sequence[Mapping[str, Any]]) -> str:
    state = judge_forgetting(measures)
    if state == "unknown":
        return "通用能力：没有测量"
    figure = next(each for each in measures if each["measure"] == "right")
    facts = f"答对 {_facts(figure)}"
    match state:
        case "lost":
            return f"通用能力：明显下降；{facts}；请减少训练（降低学习率或减少轮数），或混入通用数据"
        case "nothing to lose":
            return f"通用能力：基座模型本来就几乎答不出；{facts}"
        case "kept":
            return f"通用能力：下降不超过 {FORGETTING_TOLERANCE_POINTS} 个百分点；{facts}"
        case _:
            lost = -100 * figure["difference"]["low"]
            return f"通用能力：未见下降，但题目太少，不能排除下降 {lost:.0f} 个百分点；{facts}"


def _switch_verdict(switch: Mapping[str, Any]) -> str:
    state = judge_switch(switch)
    word = {"lost": "明显下降", "better": "变好", "kept": "保持住了", "no loss shown": "未见下降"}[state]
    remedy = ""
    if state == "lost":
        remedy = "；请用 data.silent_share 混入不思考的行" if switch["mode"] == "silent" else "；请混入带思考的行"
    return f"{SWITCHES[switch['mode']].zh}：{word}；遵守率 {_facts(switch)}{remedy}"


def _sides(figure: Mapping[str, Any]) -> str:
    share = find_measure(figure["measure"]).kind == "share"
    scale, digits, unit = (100, 1, " %") if share else (1, 3, "")
    return " → ".join(f"{format_number(scale * figure[side]['value'], digits)}{unit}" for side in ("base", "tuned"))


def _facts(figure: Mapping[str, Any]) -> str:
    share = find_measure(figure["measure"]).kind == "share"
    scale, digits, unit = (100, 1, " 个百分点") if share else (1, 3, "")
    value, low, high = (signed(scale * figure["difference"][name], digits) for name in ("value", "low", "high"))
    return f"{_sides(figure)}，{value}{unit}（{low} 至 {high}），{format_count(figure['rows'])} 行"


def judge_words(summary: Mapping[str, Any], line: str) -> BilingualText:
    """Return the judge's line in both languages."""
    unread = f"，{summary['unread']} 对无法解读" if summary["unread"] else ""
    return BilingualText(
        line,
        f"裁判模型 {summary['model']}：{summary['pairs']} 对中，训练后的模型胜 {summary['wins']}，平 {summary['ties']}"
        f"，负 {summary['losses']}{unread}；两种次序一致的有 {summary['orders_agreed']} 对；"
        f"读入 {summary['prompt_tokens']:,} 个 token，写出 {summary['tokens']:,} 个",
    )


def budget_words(budget: str) -> BilingualText:
    """Return where the limit of a reply's tokens comes from."""
    return BilingualText(budget, {"twice the longest trained reply": "最长训练回复的两倍"}.get(budget, budget))
