"""Holding out: by a hash that new rows never disturb, or as the common recipe shuffles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.split import hash_fraction, shuffled_holdout
from thinktune.data.types import MAX_STOP_SENTENCES, Finding, Tally


def held_out(questions, share, seed):
    return {index for index, question in enumerate(questions) if hash_fraction(question, seed) < share}


def test_the_same_question_in_other_dress_stays_on_one_side():
    for number in range(40):
        duplicates = [f"What is {number}?", f"what  is {number}? ", f"WHAT IS {number}？\n"]
        assert len(held_out(duplicates, 0.5, 42)) in (0, 3)


def test_the_hash_split_holds_out_about_the_share_and_the_seed_moves_it():
    names = [f"问题 {number}" for number in range(10_000)]
    assert 900 < len(held_out(names, 0.1, 42)) < 1_100
    assert held_out(names, 0.1, 42) != held_out(names, 0.1, 43)


@given(st.text(), st.integers())
def test_a_share_lies_between_nothing_and_everything(question, seed):
    assert 0 <= hash_fraction(question, seed) < 1


def test_the_shuffle_split_has_the_tutorials_sizes():
    chosen = shuffled_holdout(2407, 0.1, 42)
    assert len(chosen) == 241
    assert chosen == shuffled_holdout(2407, 0.1, 42)
    assert not shuffled_holdout(2407, 0.0, 42)


@pytest.mark.parametrize("count", [1, 1000])
def test_a_tally_counts_all_and_keeps_a_few_sentences(count):
    tally = Tally()
    for number in range(count):
        tally.add(Finding("blank", f"rows.jsonl:{number}: answer: is empty", "stops"))
    assert tally.counts == {"blank": {"stops": count}}
    assert tally.total("stops") == count
    assert len(tally.examples["blank"]) == min(count, 5)
    assert len(tally.stops) == min(count, MAX_STOP_SENTENCES)
