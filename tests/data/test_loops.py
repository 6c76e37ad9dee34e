"""Loops: text that repeats itself at its end or sentence by sentence in its middle; refrains and tables are none."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.faults.loops import ends_in_loop, find_loop

LOOPS = [
    ("等等，我再检查一遍。" * 40, "等等，我再检查一遍。", 40),
    ("The sum is 12. " + "Hmm, let me recount. " * 25, "Hmm, let me recount.", 25),
    ("可以。" + "每天两片，" * 30 + "每天", "每天两片，", 30),
    ("0" * 400, "0", 400),
    ("So: " + "!" * 150, "!", 150),
    ("First, the plan. " + "No, wait. " * 22 + "The answer is four.", "No, wait.", 22),
    ("先想。" + "甲对吗？乙对吗？" * 21 + "答案是丙。", "甲对吗？ 乙对吗？", 21),
    ("ab cd ef " * 30, "ab cd ef", 30),
]


@pytest.mark.parametrize(("text", "unit", "repeats"), LOOPS)
def test_a_loop_is_found_with_its_unit_and_count(text, unit, repeats):
    loop = find_loop(text)
    assert loop is not None
    assert loop.is_sure
    assert abs(loop.repeats - repeats) <= 1
    assert sorted(loop.unit.replace(" ", "")) == sorted(unit.replace(" ", ""))


NO_LOOPS = [
    "啦啦啦，" * 5,
    "Row, row, row your boat. " * 3,
    "-" * 500,
    "| --- " * 30 + "|",
    "=" * 200,
    "……" * 200,
    "The gene holds " + "CAG" * 40 + ".",
    "CAG" * 45,
    "1/7 = 0." + "142857" * 14,
    "[" + "0, 0, 1, " * 14 + "0]",
    "</div>\n" * 9,
    "def f():\n    pass\n\n" * 3,
    "\n".join(f"{number}. 多喝水。" for number in range(40)),
    "\n".join(f"Step {number}: add one." for number in range(40)),
    "x",
    "",
]


@pytest.mark.parametrize("text", NO_LOOPS)
def test_a_refrain_a_table_and_a_list_are_no_sure_loops(text):
    loop = find_loop(text)
    assert loop is None or not loop.is_sure


@given(
    st.text(st.sampled_from("ab，。 \n.!"), max_size=20),
    st.text(st.sampled_from("甲乙丙abc .，"), min_size=4, max_size=12),
)
def test_what_is_repeated_forty_times_at_the_end_is_found_whatever_is_before_it(before, unit):
    words = unit.strip()
    if len(set(words)) > 2 and any(map(str.isalnum, words)) and not words.isascii():
        assert find_loop(before + words * 40) is not None


@given(st.text(max_size=60), st.integers(1, 30))
def test_the_quick_look_at_the_end_loses_no_loop(unit, times):
    """Compare with the whole pass, which looks at every period."""
    tail = (unit * times).rstrip()[-4000:]

    def repeats_by(period):
        length = max(40, 4 * period)
        end = tail[-length:]
        return len(tail) >= length and len(set(end[-period:])) > 1 and end[period:] == end[:-period]

    assert ends_in_loop(unit * times) is any(repeats_by(period) for period in range(1, len(tail) // 4 + 1))


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "ab" * 500_000, "甲。" * 500_000, ". " * 500_000, "word. other. " * 80_000]
)
def test_no_text_takes_long(text):
    began = time.process_time()
    find_loop(text)
    assert time.process_time() - began < 5
