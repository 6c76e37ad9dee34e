"""Right answers are recognised as people would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.grade import holds, normalise


@pytest.mark.parametrize(
    ("answer", "keypoint", "right"),
    [
        ("The cause is lack of Vitamin C.", "vitamin c", True),
        ("由缺乏维生素Ｃ引起。", "维生素C", True),
        ("There are 120 of them.", "12", False),
        ("There are 12 of them.", "12", True),
        ("the environment", "iron", False),
        ("an andiron", "iron", False),
        ("ironing", "iron", False),
        ("an iron.", "iron", True),
        ("不得超过百分之二十。", "百分之二十", True),
        ("Miranda", "rand", False),
        ("a  \n b", "a b", True),
        ("", "x", False),
    ],
)
def test_key_points_count_as_whole_words(answer, keypoint, right):
    assert holds(answer, keypoint) is right


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(min_size=1).filter(str.strip))
def test_a_key_point_is_in_itself(text):
    assert holds(text, text)
