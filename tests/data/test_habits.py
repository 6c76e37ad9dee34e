"""Rows judged by their file's habits: cut texts, fragments, one character, colons, and reasoning that rows share."""

import pytest
from support.row_checks import FIELD_NAMES, example

from thinktune.config.row_faults import resolve_policies
from thinktune.data.faults.checks import CheckRules, check_example
from thinktune.data.faults.habits import NO_HABITS, Habits, measure_habits

PROSE = [
    ("为什么会打喷嚏？", "鼻黏膜受到刺激，身体要把异物排出去。", "因为鼻黏膜受到了刺激，这是一种反射。"),
    ("租房合同要写明什么？", "租金、期限和押金最容易起争议，要写清楚。", "要写明租金、期限、押金和维修责任。"),
    ("Why does bread rise?", "Yeast eats sugar, and gas forms.", "Yeast makes gas, which the dough holds."),
    ("What is a budget?", "A plan of what comes in, and what goes out.", "It is a plan for income and spending."),
    ("为什么天空是蓝色的？", "蓝光波长短，散射得比红光更强。", "因为空气把蓝光散射得更强。"),
]


def rows(triples):
    return [example({"question": question, "think": think, "answer": answer}) for question, think, answer in triples]


def findings(triples, place, habits=None, **chosen):
    """Check the row at a place of a file by the habits of its rows."""
    examples = rows(triples)
    rules = CheckRules(resolve_policies(chosen), habits=measure_habits(examples) if habits is None else habits)
    found = check_example(examples[place], FIELD_NAMES, rules).findings
    return [
        (finding.fault, finding.action, finding.sentence.removeprefix("rows.jsonl:7: "))
        for finding in found
        if finding.fault != "language_mix"
    ]


CUT = [
    ("answer", "感冒多半自己会好，但如果高烧不退，应当尽早去医", "尽早去医"),
    ("answer", "The tax is due in April, but a company may ask for six", "ask for six"),
    ("answer", "第一步先看合同。\n第二步把双方往来的证据都整理成", "证据都整理成"),
    ("think", "先要排除感染，再看看有没有贫血，然后考虑甲状", "考虑甲状"),
    ("think", "The rate rose twice, so the price of older bonds", "older bonds"),
]


@pytest.mark.parametrize(("field", "text", "end"), CUT)
def test_a_text_without_a_stop_is_told_where_nearly_all_others_have_one(field, text, end):
    row = (PROSE[0][0], text, PROSE[0][2]) if field == "think" else (*PROSE[0][:2], text)
    [(fault, action, sentence)] = findings([*PROSE, row], -1)
    assert (fault, action) == ("cut_text", "kept")
    assert sentence.startswith(f"{field}: ends without a full stop, unlike nearly all others")
    assert end in sentence


@pytest.mark.parametrize(("field", "text", "end"), CUT)
def test_without_that_habit_a_text_needs_no_stop(field, text, end):
    row = (PROSE[0][0], text, PROSE[0][2]) if field == "think" else (*PROSE[0][:2], text)
    loose = [(*PROSE[1][:1], "租金和期限最容易起争议，要写清楚", "要写明租金和期限，还有押金和维修的责任")]
    assert findings([*PROSE[:2], *loose * 4, row], -1) == []
    assert findings([row], 0, NO_HABITS) == []


WHOLE = [
    "感冒多半自己会好，多喝水。",
    "他说：“明天再来。”",
    "- 多喝水\n- 早点休息，不要熬夜\n- 发烧就去看医生",
    "步骤如下：\n```python\nprint(1)\n```",
    "于是 $x = 2$，所以面积为 $$x^2 = 4$$",
    "Come and see, it is lovely! #spring",
    "好的，祝你开心😊",
    "见 https://example.org/a,b",
    "北京",
    "A big city",
    "| 药 | 量 |\n|---|---|\n| 甲，乙 | 一片 |",
]


@pytest.mark.parametrize("text", WHOLE)
def test_a_whole_text_is_not_called_cut(text):
    assert findings([*PROSE * 5, (*PROSE[0][:2], text)], -1) == []


@pytest.mark.parametrize("end", ["以及", "并且", "because", "such as", "the"])
def test_a_word_that_asks_for_another_is_a_fragment_in_a_file_of_whole_sentences(end):
    row = (*PROSE[0][:2], f"It is caused by dust, pollen, {end}")
    [(fault, action, sentence)] = findings([*PROSE * 6, row], -1)
    assert (fault, action) == ("fragment", "dropped")
    assert sentence.startswith("answer: breaks off (")
    assert findings([row], 0, NO_HABITS) == []


def test_a_colon_is_a_cut_only_among_many_answers_that_end_in_stops():
    cut = (*PROSE[0][:2], "常见的原因有以下几种：")
    assert [found[:2] for found in findings([*PROSE * 5, cut], -1)] == [("fragment", "dropped")]
    [(fault, action, sentence)] = findings([cut, PROSE[1]], 0)
    assert (fault, action) == ("cut_text", "kept")
    assert "ends in a colon or a dash, which may be its form, or a cut ('常见的原因有以下几种：')" in sentence


@pytest.mark.parametrize("answer", ["姓名：张三\n电话：\n地址：", "Name: Ann\nPhone:", "疾病：无\n药物："])
def test_an_empty_field_of_a_form_is_whole(answer):
    assert findings([*PROSE * 5, (*PROSE[0][:2], answer)], -1) == []


@pytest.mark.parametrize("answer", ["娘娘——", "I was going to say –", "等一等—"])
def test_a_dash_may_be_a_manner_of_speech(answer):
    assert [found[:2] for found in findings([*PROSE * 5, (*PROSE[0][:2], answer)], -1)] == [("cut_text", "kept")]


def test_where_many_answers_end_in_a_colon_it_is_their_form():
    forms = [(f"抽取第{n}段", "文中没有。", "药名：") for n in range(4)]
    assert findings([*PROSE, *forms], -1) == []


@pytest.mark.parametrize("answer", ["血，", "一，二、", "He said (", "包括《", "It pumps the anti-"])
def test_what_surely_breaks_off_needs_no_habit(answer):
    assert [found[:2] for found in findings([(*PROSE[0][:2], answer)], 0, NO_HABITS)] == [("fragment", "dropped")]


@pytest.mark.parametrize("letter", "AFJZbk")
def test_a_letter_that_the_question_lists_is_a_whole_answer(letter):
    listed = " ".join(f"{option}. {option}{option}" for option in "ABFJZbk")
    assert findings([*PROSE * 5, (f"选哪一项？\n{listed}", "看第三行就知道。", letter)], -1) == []


@pytest.mark.parametrize("answers", ["肝心脾肺", "金铁铜锌", "+-×÷", "KLMN", "ёжзи"])
def test_where_others_are_one_character_it_is_a_whole_answer(answers):
    assert findings([("归于哪一类？", f"按表去查，它归于{answer}。", answer) for answer in answers], 2) == []


def test_one_character_among_long_answers_is_told_and_a_lone_mark_dropped():
    [(fault, action, sentence)] = findings([*PROSE, (*PROSE[0][:2], "肾")], -1)
    assert (fault, action, sentence) == ("cut_text", "kept", "answer: is only one character ('肾')")
    [(fault, action, sentence)] = findings([*PROSE, (*PROSE[0][:2], "。")], -1)
    assert (fault, action, sentence) == ("fragment", "dropped", "answer: is only a punctuation mark ('。')")
    assert findings([*PROSE, ("句子末尾用“。”还是“，”？", "一句话说完了，用句号。", "。")], -1) == []


SHARED = ["Let me work through this question now.", "先看题目，再一步一步回答这个问题。"]


@pytest.mark.parametrize("text", SHARED)
def test_short_reasoning_that_several_rows_share_says_nothing(text):
    triples = [(question, text, answer) for question, _, answer in PROSE]
    assert [found[:2] for found in findings(triples, 1)] == [("no_reasoning", "dropped")]
    assert "is the same text in many rows with other answers" in findings(triples, 1)[0][2]
    assert findings([*PROSE * 4, *triples[:2]], -1) == []  # two of many may be chance
    same_answer = [(question, text, "因为血液里的氧气不够了。") for question, _, _ in PROSE]
    assert findings(same_answer, 1) == []


def test_habits_are_values_of_the_rows_alone():
    assert measure_habits([]) == NO_HABITS == Habits()
    measured = measure_habits(rows(PROSE))
    assert measured == measure_habits(rows(PROSE))
    assert (measured.replies, measured.answers.texts, measured.answers.stopped) == (5, 5, 5)
