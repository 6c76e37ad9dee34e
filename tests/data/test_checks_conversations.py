"""Row checks of conversations: what is left out, what is history, and the language of the last reply."""

from dataclasses import replace

import pytest
from support.row_checks import ESSAY_EN, ESSAY_ZH, checked, conversation, example

from thinktune.tokenization import Turn

ASKED, TOLD, UNTHOUGHT = (
    Turn("user", "甲？"),
    Turn("assistant", "乙。", "想一想。"),
    Turn("assistant", "Yes, of course."),
)
HISTORY = Turn("assistant", "", trained=False)


@pytest.mark.parametrize(
    ("policy", "turns", "action", "becomes"),
    [
        ("repair", (ASKED, TOLD, ASKED), "repaired", (ASKED, TOLD)),
        ("repair", (ASKED, TOLD, ASKED, ASKED), "repaired", (ASKED, TOLD)),
        ("repair", (ASKED,), "dropped", None),
        ("repair", (Turn("system", "S"), ASKED), "dropped", None),
        ("repair", (ASKED, HISTORY, ASKED), "dropped", None),
        ("drop", (ASKED, TOLD, ASKED), "dropped", None),
        ("stop", (ASKED, TOLD, ASKED), "stops", None),
    ],
)
def test_a_last_question_without_a_reply_is_left_out(policy, turns, action, becomes):
    found = checked(*conversation(*turns), ends_on_user=policy)
    message = f"rows.jsonl:7: messages[{len(turns) - 1}].content: is a user turn without a reply"
    assert [(finding.sentence, finding.action) for finding in found.findings] == [(message, action)]
    assert (found.example and found.example.turns) == becomes


@pytest.mark.parametrize(
    ("policy", "action", "becomes"),
    [
        ("drop", "repaired", (ASKED, TOLD, ASKED, Turn("assistant", "Yes, of course.", trained=False))),
        ("keep", "kept", (ASKED, TOLD, ASKED, UNTHOUGHT)),
        ("stop", "stops", None),
    ],
)
def test_only_replies_without_reasoning_are_not_trained(policy, action, becomes):
    found = checked(*conversation(ASKED, TOLD, ASKED, UNTHOUGHT), no_reasoning=policy)
    assert (found.example and found.example.turns) == becomes
    assert found.findings[0].action == action
    assert found.findings[0].sentence.startswith("rows.jsonl:7: messages[3].think: is empty")
    assert ("the reply becomes history, not trained" in found.findings[0].sentence) == (policy == "drop")


def test_a_conversation_without_any_reasoning_is_dropped_and_history_is_not_checked():
    found = checked(*conversation(ASKED, UNTHOUGHT, ASKED, UNTHOUGHT))
    assert (found.example, found.findings[0].action) == (None, "dropped")
    right, places = conversation(ASKED, HISTORY, ASKED, TOLD)
    assert checked(right, places).example is right


def test_the_language_is_that_of_the_last_trained_reply_and_its_question():
    english = (Turn("user", "Is it so? " + ESSAY_EN), Turn("assistant", ESSAY_EN, "Yes. " + ESSAY_EN))
    mixed = (Turn("user", "Is it so? " + ESSAY_EN), Turn("assistant", ESSAY_ZH, "好。" + ESSAY_ZH))
    chinese = (Turn("user", "是吗？" + ESSAY_ZH), Turn("assistant", ESSAY_ZH, "好。" + ESSAY_ZH))
    assert (
        checked(*conversation(*mixed, *english)).findings == checked(*conversation(*chinese, *english)).findings == ()
    )
    assert [finding.fault for finding in checked(*conversation(*english, *mixed)).findings] == ["language_mix"]


@pytest.mark.parametrize(
    "text",
    [
        ESSAY_ZH + "（blood pressure, heart rate, cardiac output, EF）",
        "Γ, β: " + ESSAY_EN,
        "心臓は全身に血液を送る筋肉です。",
    ],
)
def test_a_language_may_contain_terms_of_another(text):
    row = example({"question": text * 2, "think": "。" + text, "answer": text})
    assert checked(row).findings == ()


DAMAGED = Turn("user", "什么\ufffd？")
CUT_OFF = Turn("assistant", "还有，", "再想一点。")


@pytest.mark.parametrize(
    ("turns", "becomes", "note"),
    [
        ((ASKED, TOLD, ASKED, CUT_OFF), (ASKED, TOLD, ASKED, replace(CUT_OFF, trained=False)), "becomes history"),
        ((ASKED, CUT_OFF, ASKED, TOLD), (ASKED, replace(CUT_OFF, trained=False), ASKED, TOLD), "becomes history"),
        ((ASKED, TOLD, DAMAGED, TOLD, ASKED, TOLD), (ASKED, TOLD), "ends before it"),
        ((ASKED, TOLD, ASKED, Turn("assistant", "\ufffd", "想。")), (ASKED, TOLD), "ends before it"),
        ((ASKED, TOLD, Turn("user", " "), TOLD), (ASKED, TOLD), "ends before it"),
        ((DAMAGED, TOLD, ASKED, TOLD), None, ""),
        ((ASKED, CUT_OFF), None, ""),
    ],
)
def test_a_fault_leaves_out_its_reply_and_not_the_whole_conversation(turns, becomes, note):
    found = checked(*conversation(*turns), fragment="drop", garbled="drop")
    assert (found.example and found.example.turns) == becomes
    assert found.findings[0].action == ("repaired" if becomes else "dropped")
    assert note in found.findings[0].sentence
