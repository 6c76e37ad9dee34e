"""Format metrics of replies: tags, ends, loops, languages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.faults.loops import ends_in_loop
from thinktune.eval.grading import format_metrics, switches_language

REPLY = {"reasoning": "because", "answer": "so", "tokens": 7, "reasoning_tokens": 4, "finish": "end", "closed": True}


@pytest.mark.parametrize(
    ("change", "thinking", "measure", "value"),
    [
        ({}, True, "well_formed", True),
        ({"closed": False, "reasoning": "", "answer": "so"}, True, "well_formed", False),
        ({"answer": "so </think> and so"}, True, "well_formed", False),
        ({"reasoning": "<think> because"}, True, "well_formed", False),
        ({}, False, "well_formed", False),
        ({"reasoning": "", "closed": True}, False, "well_formed", True),
        ({"reasoning": "", "closed": False}, False, "well_formed", True),
        ({}, True, "ended", True),
        ({"finish": "stop"}, True, "ended", True),
        ({"finish": "length"}, True, "ended", False),
        ({"finish": "length"}, True, "cut", True),
        ({"answer": " \n"}, True, "empty_answer", True),
        ({}, True, "empty_answer", False),
        ({}, True, "answer_characters", 2),
        ({}, True, "tokens", 7),
    ],
)
def test_format_metrics(change, thinking, measure, value):
    assert format_metrics("why?", REPLY | change, thinking)[measure] == value


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("It is so. " + "I must check again. " * 4, True),
        ("It is so. " + "I must check again. " * 2, False),
        ("好的，我再想想。" * 8, True),
        ("Begin " + "ab" * 30, True),
        ("ab" * 8, False),
        ("-" * 80, False),
        ("A normal text that says one thing, then another, and ends.", False),
        ("x. " * 200 + "But then it goes on and ends as it should, with other words.", False),
        ("", False),
    ],
)
def test_loops_at_the_end_are_found(text, looping):
    assert ends_in_loop(text) is looping


@given(
    st.text(alphabet="abcde ", min_size=11, max_size=60).filter(lambda text: len(set(text.strip())) > 1),
    st.integers(5, 9),
)
def test_anything_repeated_five_times_is_a_loop(text, times):
    assert ends_in_loop("start: " + text * times)


def test_a_switch_of_language_is_found():
    chinese, english = "患者咳嗽三周，应当先做哪一项检查？", "The patient has been coughing for three weeks."
    assert switches_language(chinese, english)
    assert switches_language(english, chinese)
    assert not switches_language(chinese, "应当先做胸部影像检查，排除肺结核。")
    assert not switches_language(chinese, "CT")
    assert format_metrics(chinese, REPLY | {"reasoning": english}, True)["language_switch"]
