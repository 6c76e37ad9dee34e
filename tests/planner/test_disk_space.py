"""Sizes that somebody is asked to free: whoever frees what is written has freed enough."""

from hypothesis import example, given
from hypothesis import strategies as st

from thinktune.planner.disk_space import spell_missing

UNIT_BYTES = {"MiB": 2**20, "GiB": 2**30}


@given(st.integers(1, 2**45))
@example(1)
@example(2**30 - 1)
@example(2**30 + 1)
def test_the_size_to_free_is_never_less_than_what_is_missing(missing_bytes):
    number, unit = spell_missing(missing_bytes).split()
    spelled_bytes = float(number.replace(",", "")) * UNIT_BYTES[unit]
    assert missing_bytes <= round(spelled_bytes) <= missing_bytes + UNIT_BYTES[unit] / 10
