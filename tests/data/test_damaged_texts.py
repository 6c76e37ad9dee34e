"""Damaged texts: mojibake of all common kinds and escaped newlines, mended at their place; what may be meant stays."""

import time

import pytest
from support.row_checks import EN, ZH, checked, example, texts_of

ZH_TEXT, EN_TEXT = "今天天气很好，适合出门散步。", "It’s a café in the old town — naïve, but fine."


def misread(text, written, read):
    return text.encode(written).decode(read)


MISREAD = [
    (misread(EN_TEXT, "utf-8", "cp1252"), EN_TEXT, "UTF-8 that was read as Windows-1252"),
    (misread(misread("a café’s", "utf-8", "cp1252"), "utf-8", "cp1252"), "a café’s", "UTF-8 that was read as Windows-1252"),
    (misread("心脏推动血液。", "utf-8", "latin-1"), "心脏推动血液。", "UTF-8 that was read as Windows-1252"),
    ("心脏与 CafÃ© 无关，itâ€™s so。", "心脏与 Café 无关，it’s so。", "UTF-8 that was read as Windows-1252"),
    ("The heart 中 ðŸ˜€ beats.", "The heart 中 😀 beats.", "UTF-8 that was read as Windows-1252"),
    (misread("今天天气很好", "utf-8", "gb18030"), "今天天气很好", "UTF-8 that was read as GBK"),
    ("Well: " + misread("今天天气很好", "utf-8", "gb18030"), "Well: 今天天气很好", "UTF-8 that was read as GBK"),
    ("琛€娑查噷鐨勬哀", "血液里的氧", "UTF-8 that was read as GBK"),  # 80 as browsers read it
    (misread("心脏推动血液。", "gbk", "latin-1"), "心脏推动血液。", "GBK that was read as Latin-1"),
    (misread("こんにちは世界", "utf-8", "cp932"), "こんにちは世界", "UTF-8 that was read as Shift-JIS"),
    (misread("привет мир", "utf-8", "cp1251"), "привет мир", "UTF-8 that was read as Windows-1251"),
    (misread("It’s the café.", "utf-8", "mac_roman"), "It’s the café.", "UTF-8 that was read as Mac Roman"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "right", "name"), MISREAD)
@pytest.mark.parametrize("field", ["question", "think", "answer"])
def test_a_misread_text_is_read_again_and_named(wrong, right, name, field):
    found = checked(example({**ZH, field: wrong}), language_mix="keep")
    if right[:1].isspace() or right[-1:].isspace():
        right = right.strip()
    assert texts_of(found.example.turns) == {**ZH, field: right}
    assert (found.findings[0].fault, found.findings[0].action) == ("garbled", "repaired")
    assert name in found.findings[0].sentence


def test_the_place_of_the_damage_is_shown():
    found = checked(example({**EN, "question": "Tell me about the old town of this region and its CafÃ© there."}))
    assert "(' and its CafÃ© there' should be ' and its Café there.')" in found.findings[0].sentence


@pytest.mark.parametrize(
    "lost",
    [
        "锟斤拷是心脏",
        "心脏ï¿½血液",
        "内存是烫烫烫烫",
        "浠婂ぉ澶╂皵寰堝ソ鍟婃湅鍙?",
    ],
)
def test_what_no_decoding_brings_back_drops_the_row(lost):
    found = checked(example({**ZH, "answer": lost}))
    assert [(finding.fault, finding.action) for finding in found.findings] == [("garbled", "dropped")]
    assert checked(example({**ZH, "answer": lost}), garbled="keep").example is not None


@pytest.mark.parametrize(
    "text",
    [
        "«CAFÉ» et «été»… MENÜ– À la carte, NÃO, Ângela, MAÇÃ»",
        "联通公司的锌、钬和铥",
        "ÄÖÜ und ÀÉÈ",
        "РОССИЯ и СССР",
        "データとﾃﾞｰﾀ",
        "√2 与 √a",
        "洹河、涞水、浣熊与渑池",
    ],
)
def test_letters_that_people_write_are_not_misread(text):
    right = example({**ZH, "answer": text})
    assert checked(right).example is right


NEWLINES = [
    ("体温正常。\\n\\n其中 $\\alpha=1$。", "体温正常。\n\n其中 $\\alpha=1$。"),
    ("Two steps:\\n1. Rest, where $x\\neq 2$.\\n2. Drink.", "Two steps:\n1. Rest, where $x\\neq 2$.\n2. Drink."),
    ("Rest.\\nThen \\(a\\neq b\\).", "Rest.\nThen \\(a\\neq b\\)."),
    ("Rest.\\r\\nThen drink.", "Rest.\nThen drink."),
    ("如下：\\n- 休息\\n- 喝水\\nand more", "如下：\n- 休息\n- 喝水\nand more"),
    ("See `a\\nb`.\\nDone.", "See `a\\nb`.\nDone."),
]


@pytest.mark.parametrize(("wrong", "right"), NEWLINES)
@pytest.mark.parametrize("field", ["think", "answer"])
def test_a_sure_newline_breaks_the_line_whatever_else_stands_in_the_text(wrong, right, field):
    found = checked(example({**ZH, field: wrong}), language_mix="keep")
    assert texts_of(found.example.turns)[field] == right
    assert (found.findings[0].fault, found.findings[0].action) == ("literal_newline", "repaired")


@pytest.mark.parametrize("text", ["Sleep early.\\nthen drink.", "先休息\\nthen drink."])
def test_a_newline_that_may_be_meant_is_told_and_stays(text):
    row = example({**EN, "answer": text})
    found = checked(row)
    assert found.example is row
    assert [(finding.fault, finding.action) for finding in found.findings] == [("literal_newline", "kept")]
    assert found.findings[0].sentence.endswith("; it stays, since it may be meant")
    assert checked(row, literal_newline="drop").example is None


@pytest.mark.parametrize("text", ["the operators \\nabla, \\nu and \\Rightarrow", 'def f():\n    print("a\\nB")\n    return 1', "\\nRightarrow 与 \\nVDash"])  # fmt: skip
def test_formulas_and_code_have_no_newlines_to_mend(text):
    row = example({**EN, "answer": text})
    assert checked(row).findings == ()


def test_line_separators_of_other_programs_break_the_line():
    found = checked(example({**ZH, "answer": "可以喝，\u2028每天一杯。\u2029完。"}))
    assert texts_of(found.example.turns)["answer"] == "可以喝，\n每天一杯。\n完。"
    assert "U+2028" in found.findings[0].sentence


@pytest.mark.parametrize(
    "text",
    ["\\(" * 50_000, "$" * 99_999, "`" * 99_999, "~~~" * 33_333, "\\n" * 50_000, "浠婂ぉ澶" * 25_000, "é»" * 50_000, "РС" * 50_000, "<|a" * 33_333,
     "&amp" * 25_000, "{{a " * 25_000, " x" + "\n  " * 50_000, "x" + " " * 50_000 + "y" + " \t" * 50_000, "[your " * 16_000, "病人：" * 33_333, "<br " * 25_000, "## a" * 25_000, "**a" * 33_333, "#" * 99_999],
)  # fmt: skip
def test_no_text_takes_long(text):
    began = time.process_time()
    checked(example({**EN, "think": text, "answer": text}), no_reasoning="silent")
    checked(example({**EN, "question": text, "answer": f"<thought>{text}"}), no_reasoning="silent", role_mark="repair")
    assert time.process_time() - began < 5
