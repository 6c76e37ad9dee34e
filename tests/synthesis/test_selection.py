"""Which tries are kept: the right, well-formed, honest ones in the asked language, and of those the best ones alone."""

from dataclasses import replace

import pytest
from support.row_checks import TOKENS

from thinktune.config.row_faults import HANDED_PHRASES, resolve_policies
from thinktune.data.faults.checks import CheckRules
from thinktune.synthesis import SelectionRules, Try, select
from thinktune.tokenization import Example, Turn

RULES = SelectionRules(CheckRules(resolve_policies({}), HANDED_PHRASES, TOKENS))
QUESTION, ANSWER = "A farm has 7 rows of 6 trees each. How many trees are there?", "There are 42 trees."
GOOD = "Each row has 6 trees and there are 7 rows, so I multiply 7 by 6. That makes 42 trees."
ZH_QUESTION, ZH_ANSWER = "农场有七行树，每行六棵，请问这个农场一共有多少棵树？", "一共有42棵树。"
ZH_GOOD = "每行有六棵树，一共有七行，所以用七乘以六来计算，得到四十二，也就是四十二棵树。"


def example(question=QUESTION, answer=ANSWER, keypoint=None):
    return Example((Turn("user", question), Turn("assistant", answer)), "farm.jsonl:4", keypoint)


def attempt(reasoning=GOOD, answer=ANSWER, **changed):
    return replace(Try(reasoning, answer, reasoning_tokens=len(reasoning.split())), **changed)


def decide(*tries, row=None, rules=RULES, judge=None):
    return select(row or example(), tries, rules, judge)


def why(*tries, **given):
    return [verdict.why for verdict in decide(*tries, **given)]


def test_a_right_try_is_kept_as_it_came():
    [verdict] = decide(attempt())
    assert (verdict.kept, verdict.why, verdict.grader) == (True, "", "number")
    assert (verdict.reasoning, verdict.answer, verdict.kind) == (GOOD, ANSWER, "plain")


def test_chinese_too():
    row = example(ZH_QUESTION, ZH_ANSWER)
    assert why(Try(ZH_GOOD, "一共有42棵树。", reasoning_tokens=30), row=row) == [""]
    assert why(Try(ZH_GOOD, "一共有48棵树。", reasoning_tokens=30), row=row) == ["wrong answer"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"finish": "length"}, "cut off"),
        ({"closed": False}, "not well formed"),
        ({"reasoning": f"{GOOD}</think>"}, "not well formed"),
        ({"answer": f"<|START_THINKING|> {ANSWER}"}, "not well formed"),
        ({"answer": "…"}, "empty"),
        ({"reasoning": ""}, "empty"),
        ({"reasoning": QUESTION}, "empty"),
        ({"reasoning": ANSWER}, "empty"),
        ({"reasoning": "ok ok ok ok"}, "too short"),
        ({"reasoning": GOOD + " Let me count the trees again." * 9}, "loops"),
        ({"reasoning": " ".join(f"Let me count the trees again. Row {row}." for row in range(9))}, "loops"),
        ({"answer": "There are 48 trees."}, "wrong answer"),
        ({"answer": "There are 42 trees, or 48."}, "wrong answer"),
        ({"reasoning": GOOD + " So the answer is 48."}, "reasoning and answer differ"),
        ({"reasoning": "The given answer is 42, so I multiply 7 by 6."}, "admits that it was given the answer"),
        ({"reasoning": GOOD, "answer": f"As the hint says: {ANSWER}"}, "admits that it was given the answer"),
        ({"reasoning": ZH_GOOD}, "another language"),
        ({"reasoning": f"{GOOD} <|im_end|>"}, "a fault of its row"),
        ({"reasoning": GOOD.replace(" and", "\x07 and")}, "a fault of its row"),
    ],
)
def test_each_reason_to_refuse(changed, reason):
    assert why(attempt(**changed)) == [reason]


def test_a_reasoning_that_changes_its_language_is_refused():
    mixed = " ".join([GOOD] * 5) + ZH_GOOD * 8 + " ".join([GOOD] * 2)
    sentences = [f"Step {step}: the farm has row {step} with six trees, which I add." for step in range(20)]
    assert why(attempt(mixed)) in (["another language"], ["loops"])
    plain = " ".join(sentences)
    assert why(attempt(plain)) == [""]
    for count, detail in ((25, "in part Chinese"), (60, "zh, not en")):  # half of the text by its weight, and most
        chinese = "".join(f"第{step}行有六棵树，我把它们加起来。" for step in range(count))
        [verdict] = decide(attempt(plain + chinese))
        assert verdict.why == "another language"
        assert detail in verdict.detail


def test_the_asked_language_is_that_of_the_reasoning_not_of_the_answer():
    rules = replace(RULES, language="zh", check=CheckRules(resolve_policies({"language_mix": "keep"})))
    assert why(attempt(ZH_GOOD), rules=rules) == [""]
    assert why(attempt(), rules=rules) == ["another language"]


def test_the_length_band_is_of_the_reasoning():
    assert why(attempt(), rules=replace(RULES, min_reasoning_tokens=50)) == ["too short"]
    assert why(attempt(), rules=replace(RULES, max_reasoning_tokens=5)) == ["too long"]


def test_of_several_right_tries_the_shorter_are_kept_and_copies_never():
    other = "Seven times six is what we need. Six times five is thirty, plus twice six is forty-two, hence 42."
    tries = (attempt(), attempt(GOOD.replace("That makes", "This makes")), attempt(other))
    assert why(*tries, rules=replace(RULES, max_kept=3)) == ["", "nearly the same as another", ""]
    assert why(*tries) == ["", "more than asked for", "more than asked for"] or why(*tries).count("") == 1
    assert sum(verdict.kept for verdict in decide(*tries)) == 1


def test_a_hinted_try_loses_the_sentence_that_speaks_of_the_hint_and_is_marked():
    spoken = f"{GOOD} The hint says 42. Every row is the same, so nothing is left over, and no tree stands alone."
    [verdict] = decide(attempt(spoken, hinted=True))
    assert verdict.kept
    assert verdict.kind == "hinted"
    assert "hint" not in verdict.reasoning
    assert verdict.reasoning.startswith(GOOD)
    assert why(attempt(spoken)) == ["admits that it was given the answer"]


def test_a_hinted_try_that_only_justifies_its_answer_is_refused():
    backwards = (
        "It is 42. " + "Seven rows of six trees fit that well, as one sees when one counts them row by row. " * 2
    )
    assert why(attempt(backwards, hinted=True)) == ["admits that it was given the answer"]
    assert why(attempt("Since the hint says so, it is 42.", hinted=True)) == ["admits that it was given the answer"]


def test_a_plain_try_comes_before_a_hinted_one():
    tries = (attempt("Six and six and so on, seven times, is 42 trees.", hinted=True), attempt())
    assert [verdict.kept for verdict in decide(*tries)] == [False, True]


def test_the_rows_own_answer_can_stay():
    [verdict] = decide(attempt(answer="42"), rules=replace(RULES, own_answers=True))
    assert verdict.kept
    assert verdict.answer == ANSWER


FREE = example(
    "Why does ice float on water in a glass?",
    "Ice is less dense than water, because its crystal lattice keeps the molecules further apart than in the liquid, "
    "so that the same mass takes more room and is carried by the water that it displaces.",
)
FREE_TRY = attempt(
    "Floating depends on density. Water expands when it freezes, so ice has less mass in the same room.",
    "Because frozen water takes more room, it is lighter than the liquid around it.",
)


def test_free_text_needs_a_judge():
    assert why(FREE_TRY, row=FREE) == ["answer cannot be graded"]
    for said, reason in (
        (True, ""),
        (False, "worse than the row's own answer"),
        (None, "the judge's verdict is unreadable"),
    ):
        [verdict] = decide(
            FREE_TRY, row=FREE, judge=lambda _question, _own, answers, said=said: [said for _ in answers]
        )
        assert (verdict.why, verdict.grader) == (reason, "judge")


def test_a_judge_is_asked_once_an_answer_and_only_where_nothing_else_decides():
    asked = []

    def judge(question, own, answers):
        asked.append((question, own, tuple(answers)))
        return [True for _ in answers]

    wrong_form = replace(FREE_TRY, finish="length")
    decide(FREE_TRY, FREE_TRY, wrong_form, row=FREE, judge=judge)
    decide(attempt(), row=example(), judge=judge)
    assert asked == [(FREE.question, FREE.turns[-1].content, (FREE_TRY.answer,))]


def test_no_try_gives_no_verdict():
    assert decide() == []
