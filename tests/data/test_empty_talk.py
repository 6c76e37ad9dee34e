"""Reasoning that says nothing, and answers that are their question once more."""

import pytest
from support.row_checks import checked, conversation, example

from thinktune.config.row_faults import resolve_policies
from thinktune.data.faults.checks import CheckRules, check_example
from thinktune.tokenization import Turn

QUESTION = {"zh": "合同没有写利息，借款要付利息吗？", "en": "Do I owe interest if the contract names none?"}
ANSWER = {"zh": "没有约定的，视为没有利息。", "en": "No, as a rule none is owed."}


def row(language, think, answer=None):
    return example({"question": QUESTION[language], "think": think, "answer": answer or ANSWER[language]})


EMPTY = [
    *("无", "无。", "略", "……", "。。。", "暂无", "同上", "(无)", "无思考过程", "这里不需要推理。", "思考过程：略", "让我想一想。", "思考中…", "好的。"),
    *("None", "N/A.", "...", "-", "***", "No reasoning needed.", "no thinking", "Reasoning: not available", "TODO", "ok", "See above.")[:10],
    *("Let me think.", "Let's think step by step.", "Thinking...", "Reasoning", "Obviously", "interest"),
    *("合同没有写利息，借款要付利息吗", "合同没有写利息,借款要付利息吗?"),
]  # fmt: skip


@pytest.mark.parametrize("think", EMPTY)
def test_reasoning_that_says_nothing_is_none(think):
    wrong = row("zh", think)
    *_, finding = checked(wrong).findings  # the others are of the text as such
    assert (finding.fault, finding.action) == ("no_reasoning", "dropped")
    assert finding.sentence.startswith("rows.jsonl:7: think: ")
    silent = checked(wrong, no_reasoning="silent")
    assert {found.action for found in silent.findings} == {"kept"}
    assert (silent.example.turns[1].reasoning, silent.example.turns[1].mode) == ("", "silent")
    assert checked(silent.example).findings == ()


SAYS = [
    *("没有约定，所以没有利息。", "2 + 2 = 4", "x", "n = 3", "→ 7", "借款合同，民法典 680 条。", "想一想，这是借款。", "无息借款。", "不用付。"),
    *("No interest is named.", "No law asks for it.", "See section 680.", "None is owed.", "It follows."),
]  # fmt: skip


@pytest.mark.parametrize("think", SAYS)
def test_short_reasoning_that_says_something_stays(think):
    right = row("zh", think)
    assert checked(right).example is right
    assert checked(right).findings == ()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_an_answer_that_is_the_question_is_dropped(language):
    for answer in (QUESTION[language], QUESTION[language].lower().rstrip("？?"), f" {QUESTION[language]} ".strip()):
        [finding] = checked(row(language, "Let me see what the law says on it.", answer)).findings
        assert (finding.fault, finding.action) == ("answer_is_question", "dropped")
        assert "only repeats the question" in finding.sentence
        assert "data.columns.answer may name the wrong column" in finding.sentence
    longer = row(language, "It is as it is.", f"{QUESTION[language]} {ANSWER[language]}")
    assert checked(longer).findings == ()


@pytest.mark.parametrize(("greeting", "reply"), [("你好", "你好！"), ("Hello!", "Hello!"), ("晚安。", "晚安。")])
def test_a_greeting_may_be_returned(greeting, reply):
    greeted = example({"question": greeting, "think": "He greets me, so I greet him.", "answer": reply})
    assert checked(greeted).findings == ()


def test_in_a_conversation_only_the_empty_reply_becomes_history():
    turns = (
        *(Turn("user", QUESTION["en"]), Turn("assistant", ANSWER["en"], "none")),
        *(Turn("user", QUESTION["zh"]), Turn("assistant", ANSWER["zh"], "没有约定就没有利息。")),
    )
    row_, places = conversation(*turns)
    found = check_example(row_, places, CheckRules(resolve_policies({})))
    assert [turn.trained for turn in found.example.turns if turn.role == "assistant"] == [False, True]
    assert found.findings[0].sentence.startswith("rows.jsonl:7: messages[1].think: says nothing ('none')")
