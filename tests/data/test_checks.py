"""Row checks: every fault with each of its policies, in Chinese and English; repaired rows need no second repair."""

import json
import re
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.row_checks import EN, ESSAY_EN, ESSAY_ZH, FIELD_NAMES, ZH, checked, conversation, example, texts_of

from thinktune.config.row_faults import ROW_FAULTS, resolve_policies
from thinktune.data.faults.checks import CheckRules, check_example
from thinktune.tokenization import Turn

ELSEWHERE = {"unreadable", "encoding", "byte_order_mark", "not_text", "role", "too_long", "leak", "quoted_column"}
ELSEWHERE |= {"reasoning_tag", "answer_tag", "role_mark", "placeholder", "fill_in", "markup", "spreadsheet"}
ELSEWHERE |= {"file_form", "loose_json", "loss_weight", "media", "marked_bad"}
MINE = ROW_FAULTS.keys() - ELSEWHERE - {"duplicate", "near_duplicate", "one_question", "conflict"}
ACTIONS = {"keep": "kept", "silent": "kept", "drop": "dropped", "stop": "stops", "repair": "repaired"}

# The fault, the usual row, the field that is wrong, its text, what repair makes of it (None: nothing sure), the sentence.
WRONG = [
    ("garbled", ZH, "answer", "血\ufffd液。", None, "contains U+FFFD, where a character was lost in decoding ('血"),
    ("garbled", EN, "think", "Le café a été fermé.".encode().decode("latin-1"), "Le café a été fermé.", "is UTF-8 that was read as Windows-1252"),
    ("garbled", EN, "answer", "It’s the café’s blood.".encode().decode("cp1252"), "It’s the café’s blood.", "('Itâ€™s the cafÃ©â€™s' should be 'It’s the café’s bloo"),
    ("control_character", ZH, "answer", "血\a液。", "血液。", "contains the invisible character U+0007 ('血"),
    ("control_character", EN, "answer", "Blood,\r\nof\rcourse.", "Blood,\nof\ncourse.", "U+000D"),
    ("control_character", ZH, "think", "想\u200b一\ufeff想\u00ad。", "想一想。", "U+200B"),
    ("control_character", EN, "question", "What\u202e\x85is it?\x7f", "What\nis it?", "U+202E"),
    ("control_character", EN, "think", "Page one.\x0cPage two.", "Page one.\nPage two.", "U+000C"),
    ("think_tag", ZH, "think", "<think>\n想一想。\n</think>", "想一想。", "a think tag is doubled ('<think>"),
    ("think_tag", EN, "think", "<think> <THINK>So it is.</think>\\n</ think >\n", "So it is.", "is doubled"),
    ("think_tag", EN, "think", "< think >So it is.", "So it is.", "is unclosed"),
    ("think_tag", EN, "think", "So it is.\n< think\\n>", "So it is.", "is unclosed"),
    ("think_tag", ZH, "think", "想一想。</think>\n", "想一想。", "is stray"),
    ("think_tag", EN, "answer", "</think>\n\nBlood.", "Blood.", "is stray"),
    ("think_tag", EN, "answer", "Blood.\n</think>", "Blood.", "is stray"),
    ("think_tag", ZH, "answer", "<think>想一想，心脏推动血液流动。</think>\n\n血液。", "血液。", "is doubled"),
    ("think_tag", EN, "answer", "<think>\n\n</think>\n\nBlood.", "Blood.", "is doubled"),
    ("think_tag", EN, "answer", "<think>Something else.</think>Blood.", None, "is doubled"),
    ("think_tag", ZH, "think", "<think>想<think>一想。</think>", None, "is nested"),
    ("think_tag", EN, "think", "So</think>it is.", None, "is stray"),
    ("think_tag", EN, "answer", "<think>So it is.", None, "is unclosed"),
    ("think_tag", ZH, "question", "<think>是什么？</think>", None, "is stray"),
    ("literal_newline", ZH, "answer", "如下：\\n1. 抗酸药。\\n2. 抑酸药。", "如下：\n1. 抗酸药。\n2. 抑酸药。", "('如下：\\\\n1. 抗酸药"),
    ("literal_newline", EN, "answer", "Two:\\n\\n1. Acid.\\n- Base.", "Two:\n\n1. Acid.\n- Base.", "a backslash and an n"),
    ("odd_space", ZH, "question", "　心脏泵什么？", "心脏泵什么？", "begins with white space ('\\u3000心脏"),
    ("odd_space", EN, "answer", "Blood.\t\n \n", "Blood.", "ends with white space"),
    ("odd_space", ZH, "question", "\n心脏泵什么？\n", "心脏泵什么？", "begins with white space ('\\n心脏"),
    ("odd_space", EN, "answer", "\n  if x:\n    y()\n", "  if x:\n    y()", "begins with white space"),
    ("odd_space", EN, "think", "\n  So it\u00a0is.\n", "\nSo it is.\n", "begins with white space"),
    ("odd_space", ZH, "answer", "血\u2009液\u202f。", "血 液 。", "contains a space of unusual width, U+2009"),
    ("blank", ZH, "answer", "", None, "is empty"),
    ("blank", EN, "question", "\u200d", None, "is empty"),
    ("blank", EN, "answer", "None", None, "is 'None'"),
    ("blank", ZH, "question", "NaN", None, "is 'NaN'"),
    ("control_token", ZH, "question", "x<|im_end|>y", None, "contains the control token <|im_end|> ('x<|im"),
    ("control_token", EN, "think", "So <|im_start|>it is.", None, "contains the control token <|im_start|>"),
    ("soft_switch", {**ZH, "think": ""}, "question", "心脏泵什么？/no_think", "心脏泵什么？", "has a switch that asks for no reasoning ('心脏泵什么？/no_think')"),
    ("soft_switch", EN, "question", "/think What does it pump?", "What does it pump?", "has a switch that asks for reasoning"),
    ("no_reasoning", ZH, "think", "", None, "is empty or null"),
    ("no_reasoning", EN, "think", "\n\n", None, "is empty or null"),
    ("reasoning_is_answer", ZH, "think", "血 液\n。", None, "is the same text as answer ('血液"),
    ("reasoning_is_answer", EN, "think", "BLOOD, of\ncourse.", None, "is the same text as answer"),
    ("handed_answer", ZH, "think", "不过用户提供的答案里有这个数值。", None, "was given the answer ('不过用户提供的答案里有"),
    ("handed_answer", EN, "think", "The Given Answer choices say A. According to the answer, it pumps.", None, "according to the answer"),
    ("fragment", ZH, "answer", "包括以下（", None, "breaks off ('包括以下（')"),
    ("fragment", ZH, "answer", "血液，", None, "breaks off"),
    ("fragment", EN, "answer", "It pumps the anti-", None, "breaks off"),
    ("fragment", EN, "answer", "Run this:\n```python\npump()", None, "opens code and does not close it"),
    ("fragment", EN, "answer", "…", None, "is only a punctuation mark"),
    ("cut_text", ZH, "answer", "包括以下几种：", None, "ends in a colon or a dash"),
    ("cut_text", EN, "answer", "x", None, "is only one character ('x')"),
    ("no_reasoning", ZH, "think", "无需思考。", None, "says nothing ('无需思考。')"),
    ("no_reasoning", EN, "think", "What does it pump", None, "only repeats the question"),
    ("answer_is_question", ZH, "answer", "心脏泵什么？", None, "only repeats the question ('心脏泵什么？')"),
    ("answer_is_question", EN, "answer", "what does it pump?", None, "only repeats the question"),
    ("loop", ZH, "think", "想一想，再想。" * 30, None, "repeats '想一想，再想。' 30 times"),
    ("loop", EN, "answer", "It pumps. " + "And again. " * 30 + "Blood.", None, "repeats 'And again.' 30 times"),
    ("repetition", ZH, "answer", "心脏推动血液流遍全身。" * 9, None, "repeats '心脏推动血液流遍全身。' 9 times"),
    ("repetition", EN, "think", "Let me see that once more." + " Let me see that once more." * 6, None, "repeats 'Let me see that once more.'"),
    ("handed_context", ZH, "think", "用户提供的参考资料里说，它推动血液。", None, "mentions a reference that the prompt does not contain"),
    ("handed_context", EN, "answer", "The provided passage says blood.", None, "mentions a passage"),
    *(("bare_number", ZH, "answer", text, None, "is only the number") for text in ("7", "１２％", "三分之二。", "百分之五", "约3.5")),
    *(("bare_number", EN, "answer", text, None, "is only the number") for text in ("-1,234.5.", "1/2", "6.02e23", "$3 \\times 10^{-4}$")),
    ("bare_number", EN, "answer", "**\\(\\boxed{\\frac{1}{2}}\\)**", None, "is only the number"),
    ("language_mix", {**ZH, "question": ESSAY_ZH}, "answer", ESSAY_EN, None, "the question is Chinese, the reasoning is Chinese, the answer is Latin"),
    ("language_mix", {**EN, "question": ESSAY_EN}, "think", ESSAY_ZH, None, "the question is Latin, the reasoning is Chinese"),
    ("language_mix", {**ZH, "question": ESSAY_ZH}, "answer", "心臓は全身に血液を送る筋肉です。", None, "the answer is Japanese"),
    ("language_mix", {**EN, "question": ESSAY_EN}, "answer", "Сердце качает кровь по телу.", None, "the answer is Cyrillic"),
]  # fmt: skip

RIGHT = [
    *[("answer", text) for text in ("A", "d", "是", "无", "Cl-", "HCO3-。", "SELECT * FROM t;", "---\nSo.\n\n---", "7 mg", "一点也不")],
    *[("answer", text) for text in ("求 $a\\n1$ 的值", "设 a\\neq 1", "在 C:\\New\\n1 下", "C:\\nO", "\\\\host\\n1", "用\\n换行", "`\\n`", "输出'A\\n'。")],
    *[("answer", text) for text in ("می\u200cخواهم", "👩\u200d⚕️。", "第一　第二。", "  if x:\n    y()", "```\nx\n```", "<thinking>")],
    *[("think", text) for text in ("\n好，是血。\n\n", "Ã la carte", "VDRL和RPR确实是标准答案。", "The given answer choices are A and B.", "所给选项。", "我先给出答案，再解释。")],
]  # fmt: skip


def test_every_fault_is_in_the_table_in_both_languages():
    for base in (ZH, EN):
        faults = {fault for fault, usual, *_ in WRONG if usual["answer"] == base["answer"]}
        assert faults == MINE - {"ends_on_user", "mode_conflict"}


@pytest.mark.parametrize(
    ("fault", "base", "field", "text", "repaired", "message", "policy"),
    [(*case, policy) for case in WRONG for policy in ROW_FAULTS[case[0]].policies],
)
def test_a_fault_is_reported_and_handled_by_its_policy(fault, base, field, text, repaired, message, policy):
    wrong = example({**base, field: text})
    found = checked(wrong, **{fault: policy})
    action = "dropped" if policy == "repair" and repaired is None else ACTIONS[policy]
    assert [(finding.fault, finding.action) for finding in found.findings] == [(fault, action)]
    sentence = found.findings[0].sentence
    assert sentence.startswith("rows.jsonl:7: answer: " if fault == "language_mix" else f"rows.jsonl:7: {field}: ")
    assert message in sentence
    if action == "kept" and fault == "soft_switch":  # the text stays, and the row has a mode now
        assert texts_of(found.example.turns) == {**base, field: text}
    elif action == "kept" and text.strip() and fault == "no_reasoning":  # what says nothing is not trained
        assert texts_of(found.example.turns) == {**base, field: ""}
    elif action == "kept":
        assert found.example is wrong
    elif action == "repaired":
        assert texts_of(found.example.turns) == {**base, field: repaired}
        assert found.example.source == wrong.source
    else:
        assert found.example is None


@pytest.mark.parametrize("base", [ZH, EN], ids=["zh", "en"])
@pytest.mark.parametrize(("field", "text"), [("answer", EN["answer"]), *RIGHT])
def test_what_is_right_comes_back_as_the_same_object(base, field, text):
    right = example({**base, field: text})
    found = checked(right)
    assert [finding.sentence for finding in found.findings] == []
    assert found.example is right


def test_one_fault_in_several_fields_is_one_finding():
    found = checked(example({"question": " 甲？", "think": "想一想。 ", "answer": " 乙。 "}))
    assert [finding.sentence for finding in found.findings] == [
        "rows.jsonl:7: question: begins with white space (' 甲？') (and 2 more)"
    ]
    assert texts_of(found.example.turns) == {"question": "甲？", "think": "想一想。", "answer": "乙。"}


def test_garbled_chinese_is_decoded_before_its_bytes_count_as_control_characters():
    found = checked(example({**ZH, "answer": "血液，流动。".encode().decode("latin-1")}))
    assert texts_of(found.example.turns)["answer"] == "血液，流动。"
    assert [finding.fault for finding in found.findings] == ["garbled"]


def test_an_answer_without_any_reasoning_is_reported_as_having_no_think_block():
    found = checked(example({**EN, "think": ""}), field_names=(("question", ""), ("answer", "answer")))
    assert found.findings[0].sentence == "rows.jsonl:7: answer: has no think block"


def test_a_row_is_dropped_by_one_fault_alone():
    found = checked(example({"question": "甲\a？", "think": "", "answer": "乙，"}))
    assert [(finding.fault, finding.action) for finding in found.findings] == [
        ("control_character", "repaired"),
        ("no_reasoning", "dropped"),
    ]


def test_one_unsafe_tag_drops_the_row_and_is_reported_first():
    found = checked(example({"question": "甲？", "think": "<think>想一想。</think>", "answer": "乙</think>丙。"}))
    assert found.example is None
    assert found.findings[0].sentence == "rows.jsonl:7: answer: a think tag is stray ('乙</think>丙。') (and 1 more)"


def test_phrases_and_tokens_are_texts_and_not_patterns():
    row = example({**ZH, "think": "答案（见上）已知，心脏推动血液。"})
    found = check_example(row, FIELD_NAMES, CheckRules(resolve_policies({}), ("答案（见上）", ""), ("[a-z]", "(", "")))
    assert [finding.fault for finding in found.findings] == ["handed_answer"]
    assert check_example(row, FIELD_NAMES, CheckRules(resolve_policies({}))).example is row


@pytest.mark.parametrize("text", ["<think>" * 20_000 + "x", "<think>" + " " * 99_999 + "x", " x" + "\n  " * 99_999])
def test_no_row_takes_long(text):
    began = time.perf_counter()
    checked(example({**EN, "think": text, "answer": text}))
    assert time.perf_counter() - began < 5


BITS = ["<think>", "</think>", "< THINK\\n>", "\\n", "\\", "n", " ", "\u3000", "\u00a0", "\n", "\r", "\u200b", "\x07"]
BITS += [
    "\ufffd",
    "Ã©",
    "None",
    "想",
    "abc",
    "Def",
    "$",
    "`",
    "：",
    "<",
    "<|im_end|>",
    "    x",
    "。",
    "用户提供的答案",
    "7",
]
TEXTS = st.lists(st.sampled_from(BITS), max_size=9).map("".join)
TURNS = st.builds(lambda question, reply: (Turn("user", question), reply), TEXTS, st.builds(Turn, st.just("assistant"), TEXTS, TEXTS))  # fmt: skip
POLICIES = st.fixed_dictionaries({fault: st.sampled_from(ROW_FAULTS[fault].policies) for fault in MINE})
LENIENT = POLICIES.map(
    lambda chosen: {**chosen, "think_tag": "repair", "control_token": "keep", "no_reasoning": "drop"}
)


@settings(max_examples=500, deadline=None)
@given(st.lists(TURNS, min_size=1, max_size=2), POLICIES | LENIENT)
def test_a_checked_row_needs_no_repair(pairs, chosen):
    row, places = conversation(*(turn for pair in pairs for turn in pair))
    once = checked(row, places, **chosen)
    assert (once.example is None) == any(finding.action in ("dropped", "stops") for finding in once.findings)
    if once.example is None:
        return
    again = checked(once.example, places, **chosen)
    assert again.example is once.example
    assert not any(finding.action == "repaired" for finding in again.findings)
    for turn in once.example.turns:
        for text in (turn.content, turn.reasoning):
            assert not re.search(r"<\s*/?\s*think\s*>", text, re.IGNORECASE)
            assert chosen["control_character"] != "repair" or not re.search("[\r\u200b\x07]", text)


@pytest.mark.real
def test_the_real_rows_have_these_faults(real):
    file = real / "medical" / "delicate_medical_r1_val.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = [checked(example(row), handed_answer="keep") for row in rows]
    assert Counter((finding.fault, finding.action) for each in found for finding in each.findings) == {
        ("handed_answer", "kept"): 105,
        ("literal_newline", "repaired"): 8,
    }
    assert not any("\\n" in each.example.turns[1].content for each in found)
