"""Placeholders, role marks, markup and traces of spreadsheets: told or mended; code, formulas and rows about them are not."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.row_checks import EN, ZH, checked, conversation, example, texts_of

from thinktune.config.row_faults import ROW_FAULTS
from thinktune.tokenization import Turn


def found_in(row, **policies):
    found = [(finding.fault, finding.action) for finding in checked(row, **policies).findings]
    return [one for one in found if one != ("language_mix", "kept")]


UNFILLED = ["I am {{name}}, made by {{ author }}.", "我是{{公司名}}的助手。", "Ask {person} first.", "我是{公司名称}的客服。", "Dear ${first_name}, yes.", "Hello %(user)s, yes.", "Hello <%= user %>, yes."]  # fmt: skip


@pytest.mark.parametrize("field", ["question", "think", "answer"])
@pytest.mark.parametrize("text", UNFILLED)
def test_a_slot_that_nobody_filled_drops_the_row(text, field):
    row = example({**ZH, field: text})
    assert found_in(row) == [("placeholder", "dropped")]
    assert checked(row).findings[0].sentence.startswith(f"rows.jsonl:7: {field}: contains the unfilled placeholder ")  # fmt: skip
    assert checked(row, placeholder="keep").example is row


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Write a template for a greeting.", "Hello {{name}}, welcome."),
        ("把这句译成英文：你好，{name}", "Hello, {name}."),
        ("写一个提示词模板。", "你是{角色}，请回答。"),
        ("Who is {person} here?", "{person} is the buyer."),
    ],
)
def test_a_slot_that_the_row_speaks_of_is_told_and_kept(question, answer):
    row = example({**EN, "question": question, "answer": answer})
    assert found_in(row) == [("fill_in", "kept")]
    assert checked(row).example is row


@pytest.mark.parametrize(
    "text",
    [
        "The sets {a}, {1, 2} and {even, odd}.",
        "$\\frac{{ab}}{{cd}}$ and \\text{abc}, x_{max}, 10^{exp}",
        "Use `{name}` here.",
        "```python\nprint(f'{name}')\n```",
        '{"name": {"first": "A"}}',
        "def f(name):\n    return f'{name}'",
        "@book{key, title={Hearts}}",
        "A rise of 5%s and 10 %.",
    ],
)
def test_code_formulas_and_sets_are_no_slots(text):
    row = example({**EN, "answer": text})
    assert checked(row).example is row
    assert found_in(row) == []


@pytest.mark.parametrize("text", ["Dear [Your Name], yes.", "The patient [NAME] came.", "Sent to <COMPANY NAME> today.", "TODO: say more.", "甲方XX公司应付款。", "请在此填写姓名。", "见[插入图片]。", "由XXX医生签字。"])  # fmt: skip
def test_a_blank_that_is_left_to_fill_in_is_told_and_kept(text):
    row = example({**ZH, "answer": text})
    assert found_in(row) == [("fill_in", "kept")]
    assert found_in(row, fill_in="drop") == [("fill_in", "dropped")]


@pytest.mark.parametrize("text", ["See [Results](https://example.org).", "[1] and [A-Z]", "Louis XIII. and XX", "a < b > c", "他填写了表格。", "请填写申请表并签字。"])  # fmt: skip
def test_brackets_and_numerals_are_no_blanks(text):
    row = example({**ZH, "answer": text})
    assert found_in(row) == []


DIALOGUES = [
    ("<user>: 发烧怎么办？ <bot>: 先休息。 <user>: 咳嗽呢？", ["发烧怎么办？", "先休息。", "咳嗽呢？"]),
    ("病人：头痛三天。\n医生：有没有发烧？\n病人：没有。\n医生：", ["头痛三天。", "有没有发烧？", "没有。"]),
    ("病人：头痛。 医生：多久了？ 病人：三天。", ["头痛。", "多久了？", "三天。"]),
    ("Human: Hi.\n\nAssistant: Hello.\n\nHuman: What is it?\n\nAssistant:", ["Hi.", "Hello.", "What is it?"]),
    ("### Human: Hi.\n### Assistant: Hello.\n### Human: Why?", ["Hi.", "Hello.", "Why?"]),
    ("[|Human|] Hi. [|AI|] Hello. [|Human|] Why?", ["Hi.", "Hello.", "Why?"]),
    ("**User:** Hi.\n**Bot:** Hello.\n**User:** Why?", ["Hi.", "Hello.", "Why?"]),
    ("问：头痛？\n答：多久？\n问：三天。\n答：", ["头痛？", "多久？", "三天。"]),
    ("Human: What is it?\n\nAssistant:", ["What is it?"]),
]


@pytest.mark.parametrize(("question", "parts"), DIALOGUES)
def test_a_conversation_inside_a_question_is_told_and_repair_makes_turns_of_it(question, parts):
    row = example({**ZH, "question": question})
    assert found_in(row) == [("role_mark", "kept")]
    sentence = checked(row).findings[0].sentence
    assert sentence.startswith("rows.jsonl:7: question: holds a conversation (")
    assert "data.faults: {role_mark: repair}" in sentence
    repaired = checked(row, role_mark="repair").example
    assert [turn.content for turn in repaired.turns] == [*parts, ZH["answer"]]
    assert [turn.role for turn in repaired.turns[::2]] == ["user"] * (len(parts) // 2 + 1)
    assert [turn.trained for turn in repaired.turns if turn.role == "assistant"] == [False] * (len(parts) // 2) + [True]
    assert repaired.turns[-1].reasoning == ZH["think"]


def test_the_names_of_fields_follow_the_turns_that_a_repair_makes():
    turns = (Turn("user", "<user>: a? <bot>: b. <user>: c?"), Turn("assistant", "d.", "想。"), Turn("user", "e?"), Turn("assistant", "f.{{x1}}", "想。"))  # fmt: skip
    row, places = conversation(*turns)
    found = checked(row, places, role_mark="repair", placeholder="stop")
    assert "messages[3].content: contains the unfilled placeholder {{x1}}" in found.findings[-1].sentence
    assert found.findings[-1].action == "stops"


@pytest.mark.parametrize(
    "question",
    ["总结这段对话：\n病人：头痛。\n医生：多久了？", "Doctor: a novel.", "Note: User: one.", "He told the patient: rest. The doctor: fine.", "Who is the user: me or him?"],
)  # fmt: skip
def test_a_text_that_is_about_a_conversation_is_a_question(question):
    row = example({**ZH, "question": question})
    assert found_in(row) == []


def test_a_label_before_a_reply_is_told_and_taken_off_by_repair():
    for label in ("Assistant: ", "助手：", "<bot>: ", "**AI:** "):
        row = example({**ZH, "answer": label + ZH["answer"]})
        assert found_in(row) == [("role_mark", "kept")]
        assert texts_of(checked(row, role_mark="repair").example.turns) == ZH


def test_a_reply_that_goes_on_with_the_user_is_told():
    row = example({**EN, "answer": "It pumps blood.\nUser: And the lung?\nAssistant: Air."})
    assert found_in(row) == [("role_mark", "kept")]
    assert "continues with the user's turn ('User:')" in checked(row).findings[0].sentence


PAGES = [
    ("Ask in writing.<br>Keep a copy &amp; the date.&nbsp;Wait.", "Ask in writing.\nKeep a copy & the date. Wait."),
    ("<p>先休息。</p><p>再喝水。</p>", "先休息。\n\n再喝水。"),
    ("体温 &lt; 38&deg;C 不用药。", "体温 < 38°C 不用药。"),
    ("It&#39;s <span class='x'>fine</span>.", "It's fine."),
    ("先休息。<br/>\n<BR />再喝水。", "先休息。\n\n再喝水。"),
]


@pytest.mark.parametrize(("wrong", "right"), PAGES)
@pytest.mark.parametrize("field", ["question", "think", "answer"])
def test_markup_that_says_nothing_is_taken_off_and_told(wrong, right, field):
    found = checked(example({**ZH, field: wrong}))
    assert texts_of(found.example.turns) == {**ZH, field: right}
    assert (found.findings[0].fault, found.findings[0].action) == ("markup", "repaired")


@pytest.mark.parametrize(
    "text", ["See <a href='x'>this</a>&nbsp;page.", "<b>先休息</b>，再喝水。", "<ul><li>水</li></ul>"]
)
def test_markup_that_may_say_something_is_told_and_stays(text):
    row = example({**ZH, "answer": text})
    assert found_in(row) == [("markup", "kept")]
    assert "it stays, since removing it may change the meaning" in checked(row).findings[0].sentence


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What does <br> do in HTML?", "<br> breaks the line."),
        ("网页里怎么写空格？", "写 &nbsp; 即可。"),
        ("What is it?", "H<sub>2</sub>O, and a<b>c, R&D; `<br>`"),
        ("What is it?", "| a<br>b | c |\n|---|---|\n| d | e |"),
        ("What is it?", "```html\n<p>&nbsp;</p>\n```"),
    ],
)
def test_markup_in_code_tables_and_rows_about_it_is_text(question, answer):
    row = example({**EN, "question": question, "answer": answer})
    assert found_in(row) == []


@pytest.mark.parametrize("text", ["#NAME?", "#REF!", "#DIV/0!", "字" * 32_767, "😀" + "a" * 32_765, "########"])
def test_a_cell_that_is_an_error_or_cut_drops_the_row(text):
    row = example({**ZH, "answer": text})
    assert found_in(row) == [("spreadsheet", "dropped")]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("'0012", "0012"), ("'=合计", "=合计"), ("第一行。_x000D_\n第二行。", "第一行。\n第二行。"), ("’-5 度", "-5 度")],
)
def test_traces_of_a_spreadsheet_are_removed(wrong, right):
    found = checked(example({**ZH, "answer": wrong}))
    assert found.example.turns[1].content == right
    assert (found.findings[0].fault, found.findings[0].action) == ("spreadsheet", "repaired")


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("订单号是多少？", "1.23E+15", "perhaps a long number that a spreadsheet has rounded"),
        ("合同是哪天签的？", "45231", "perhaps a date that a spreadsheet has made a number"),
        ("When was it signed?", "43101", "perhaps a date"),
        ("What is it?", "The value is #REF! now.", "an error value of a spreadsheet"),
        ("What is it?", "=SUM(A1:A9)", "begins with a formula"),
    ],
)
def test_what_a_spreadsheet_may_have_changed_is_told_and_stays(question, answer, told):
    row = example({**ZH, "question": question, "answer": answer})
    found = checked(row)
    assert found.example is row
    assert (found.findings[0].fault, found.findings[0].action) == ("spreadsheet", "kept")
    assert told in found.findings[0].sentence


@pytest.mark.parametrize(
    ("question", "answer"),
    [("What does #REF! mean in Excel?", "It is #REF!, a lost cell."), ("公式怎么写？", "=SUM(A1)"), ("How many?", "45231"), ("Which music?", "'90s pop, 'tis"), ("What?", "'5 o'clock'"), ("Headings?", "###### Six")],
)  # fmt: skip
def test_rows_about_spreadsheets_and_plain_numbers_are_right(question, answer):
    row = example({**EN, "question": question, "answer": answer})
    assert [one for one in found_in(row) if one[0] == "spreadsheet"] == []


BITS = [
    "<thought>",
    "</thought>",
    "<answer>",
    "</answer>",
    "## Thinking\n",
    "## Answer\n",
    "<user>: ",
    "<bot>: ",
    "病人：",
    "医生：",
]
BITS += ["{{name}}", "&nbsp;", "<br>", "&lt;think&gt;", "<think>", "</think>", "'=", "_x000D_", "\\n", "$", "想", "abc", "\n", " ", "Ã©", "浣犲ソ", "<p>"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(BITS), max_size=9).map("".join)
MINE = ("reasoning_tag", "answer_tag", "role_mark", "placeholder", "fill_in", "markup", "spreadsheet")
POLICIES = st.fixed_dictionaries({fault: st.sampled_from(ROW_FAULTS[fault].policies) for fault in MINE})


@settings(max_examples=400, deadline=None)
@given(TEXTS, TEXTS, TEXTS, POLICIES)
def test_a_checked_row_needs_no_second_repair(question, think, answer, chosen):
    once = checked(example({"question": question, "think": think, "answer": answer}), no_reasoning="silent", **chosen)
    if once.example is None:
        return
    places = [("messages", "messages")] * len(once.example.turns)
    again = checked(once.example, places, no_reasoning="silent", **chosen)
    assert again.example is once.example
    assert not any(finding.action == "repaired" for finding in again.findings)
    assert not any(re.search(r"<\s*/?\s*think\s*>", turn.content, re.IGNORECASE) for turn in once.example.turns)
