"""Admissions of a handed answer are found in both languages, and usual words of reasoning are none."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.synthesis.handed_traces import MAX_REMOVED_SHARE, find_trace, split_sentences, without_traces

HANDED = [
    "The given answer is 12, so I go from there.",
    "According to the answer key, it is C.",
    "I was told that the correct answer is Paris.",
    "As the provided solution states, we add.",
    "The hint suggests iron.",
    "We already know the answer: 5.",
    "This matches the expected answer.",
    "Working backwards from the answer, 40 was doubled.",
    "The ground truth says otherwise.",
    "The answer was already given as 7.",
    "It agrees with the answer.",
    "根据提示，应该是心脏。",
    "提示中说答案是B。",
    "参考答案是坏血病，所以往这个方向想。",
    "已知答案为5，倒推可得。",
    "题目已经告诉了正确的答案。",
    "这与给出的答案一致。",
    "因为答案已经给出，我只需解释。",
    "从答案反推，应该先除以二。",
]
HONEST = [
    "The answer is 12 because 3 times 4 is 12.",
    "So the correct answer is C.",
    "Among the given answer choices, only B fits.",
    "We are given the radius of the circle, 5 cm.",
    "The known values are put into the equation.",
    "I check the result by working backwards: 12 divided by 4 is 3.",
    "The solution was heated to 40 degrees, and the final answer follows.",
    "The response of the immune system provides protection.",
    "The patient's answers to the questions were slow.",
    "所以正确答案是C。",
    "已知半径为5厘米，代入公式。",
    "综合以上，答案是坏血病。",
    "检查结果提示肺炎。",
    "这些症状提示患者贫血。",
    "题目给出的条件是三角形的两条边。",
    "医生给出了诊断，患者的回答很慢。",
]


@pytest.mark.parametrize("text", HANDED)
def test_an_admission_is_found(text):
    assert find_trace("What is it?", text)


@pytest.mark.parametrize("text", HONEST)
def test_usual_words_are_no_admission(text):
    assert not find_trace("What is it?", text)


def test_what_the_question_itself_says_is_no_admission():
    assert not find_trace("Use the hint below. Hint: think of iron.", "The hint speaks of iron, so I take it.")
    assert find_trace("What is it?", "The hint speaks of iron, so I take it.")


def test_a_reasoning_that_is_built_upon_its_hint_is_left_as_it_is():
    text = "The hint says iron. It carries oxygen."
    assert without_traces("What?", text) == text
    longer = text + " Oxygen is bound to it in the lung." * 4
    assert find_trace("What?", without_traces("What?", longer)) == ""
    assert len(without_traces("What?", longer)) >= (1 - MAX_REMOVED_SHARE) * len(longer)


@given(st.text(alphabet="ab .。!？\n3'”)"))
def test_sentences_joined_are_the_text_again(text):
    assert "".join(split_sentences(text)) == text


def test_a_point_in_a_number_ends_no_sentence():
    assert split_sentences("It is 3.5 mg. Good.") == ["It is 3.5 mg. ", "Good."]


@pytest.mark.parametrize("piece", ["given ", "给", "已经", "答案已", "hint hint ", ".", "the ", " "])
def test_time_is_linear_in_the_text(piece):
    started = time.process_time()
    find_trace("q", piece * 20_000)
    split_sentences(piece * 20_000)
    assert time.process_time() - started < 5
