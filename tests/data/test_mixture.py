"""Several sources: each prepared as if alone, compared with the others, accounted for, and dealt by its share."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.prepared_rows import tokens_of, write

from thinktune.config.loading import dump_recipe, load_recipe, validate_recipe
from thinktune.data import dealing
from thinktune.data.packing import account_for_sources, assign_rows, plan_steps
from thinktune.data.pipeline import prepare_with_faults
from thinktune.errors import UserError


@pytest.fixture
def make(tree, tmp_path):
    """Return a function that makes a recipe of several sources of rows, each with its own settings."""

    def recipe(*sources, **train):
        listed = []
        for number, (rows, settings) in enumerate(sources):
            path = write(tmp_path / f"s{number}" / settings.pop("file", f"rows{number}.jsonl"), rows)
            listed.append({"name": str(path), "columns": {"reasoning": "think"}, "max_tokens": 200, **settings})
        merged = {**tree, "data": listed, "train": {**tree["train"], **train}}
        return validate_recipe(merged, "here")

    for number in range(4):
        (tmp_path / f"s{number}").mkdir()
    return recipe


def asked(word, count, **changes):
    """Return rows whose questions no other word's are near to."""
    random_words = random.Random(word)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        {
            "question": " ".join("".join(random_words.choices(letters, k=7)) for _ in range(5)),
            "think": " ".join(f"{word} {number}, step {step}." for step in range(1 + number % 5)),
            "answer": f"{word} {number}.",
        }
        | changes
        for number in range(count)
    ]


def test_each_source_has_the_tokens_that_it_has_alone(make, tokenizer):
    columns = {"question": "frage", "reasoning": "denken", "answer": "antwort"}
    other = [{"frage": row["question"], "denken": row["think"], "antwort": row["answer"]} for row in asked("other", 15)]
    recipe = make(
        (asked("own", 20), {"system": "Be short.", "validation": 0.2}),
        (other, {"columns": columns, "validation": 0.0, "silent_share": 0.0, "system": "Answer."}),
    )
    joined = prepare_with_faults(recipe, tokenizer)
    alone = [prepare_with_faults(recipe.of_source(number), tokenizer) for number in range(2)]
    assert not joined.stop_reasons
    for side in (0, 1):
        assert tokens_of(joined)[side] == tokens_of(alone[0])[side] + tokens_of(alone[1])[side]
    assert [example.source for example in joined.train.examples()] == [
        example.source for each in alone for example in each.train.examples()
    ]
    counts = [len(each.train) for each in alone]
    assert joined.train.source_numbers.tolist() == [0] * counts[0] + [1] * counts[1]
    assert joined.fingerprint not in [each.fingerprint for each in alone]


def test_files_of_one_name_are_told_apart(make, tokenizer):
    recipe = make((asked("a", 3), {"file": "rows.jsonl"}), (asked("b", 3), {"file": "rows.jsonl", "validation": 0.0}))
    prepared = prepare_with_faults(recipe, tokenizer)
    places = [*prepared.train.sources(range(len(prepared.train))), *(e.source for e in prepared.validation.examples())]
    assert len(set(places)) == 6
    assert "rows.jsonl[data.1]:1" in places
    assert [row.source for row in prepared.train.replies()] == [each.source for each in prepared.train.examples()]


def test_what_two_sources_share_is_trained_once_and_never_where_it_is_held_out(make, tokenizer):
    rows = asked("a", 30)
    near = dict(rows[3], question=rows[3]["question"] + "?!", answer="another")
    twice = [*rows[:10], near, dict(rows[4], answer="quite another"), *asked("b", 5)]
    recipe = make((rows, {"validation": 0.3}), (twice, {"validation": 0.0, "faults": {"near_duplicate": "drop"}}))
    prepared = prepare_with_faults(recipe, tokenizer)
    facts = prepared.summary["sources"]
    by_fault = {fault["fault"]: fault["actions"] for fault in facts[1]["faults"]}
    held_out = {example.question for example in prepared.validation.examples()}
    assert held_out
    assert not held_out & {example.question for example in prepared.train.examples()}
    first = [row["question"] for row in twice[:10]]
    leaks = sum(question in held_out for question in first) + (rows[4]["question"] in held_out)
    assert by_fault["leak"] == {"dropped": leaks}
    assert by_fault["duplicate"] == {"dropped": 10 - sum(question in held_out for question in first)}
    assert by_fault["near_duplicate"] == {"dropped": 1}
    assert ("conflict" in by_fault) == (rows[4]["question"] not in held_out)
    across = {"leak", "duplicate", "conflict", "near_duplicate"}
    assert not across & {fault["fault"] for fault in facts[0]["faults"]}
    whole = prepared.summary
    assert whole["rows_read"] == whole["train_rows"] + whole["validation_rows"] + whole["dropped_rows"] == 47
    assert whole["train_rows"] == len(prepared.train) == sum(source["train_rows"] for source in facts)
    assert whole["train_tokens"] == int(prepared.train.lengths.sum())


def test_a_source_keeps_what_its_own_policy_keeps(make, tokenizer):
    rows = asked("a", 6)
    recipe = make((rows, {"validation": 0.0}), (rows, {"validation": 0.0, "faults": {"duplicate": "keep"}}))
    assert len(prepare_with_faults(recipe, tokenizer).train) == 12
    recipe = make((rows, {"validation": 0.0}), (rows, {"validation": 0.0, "faults": {"duplicate": "stop"}}))
    stops = prepare_with_faults(recipe, tokenizer).stop_reasons
    assert "rows1.jsonl:1: is the same as rows0.jsonl:1 (data.0); fix the row, or write data.1.faults:" in stops[0]
    recipe = make((rows, {"validation": 0.0}), (rows, {"validation": 0.0}))
    assert any("data.1: every usable row" in stop for stop in prepare_with_faults(recipe, tokenizer).stop_reasons)


def test_mistakes_of_all_sources_are_told_at_once_with_their_settings(make, tokenizer):
    strange = [{"alpha": "x y z", "beta": 3}] * 4
    recipe = make((strange, {}), (asked("a", 4), {}), (strange, {}))
    with pytest.raises(UserError) as error:
        prepare_with_faults(recipe, tokenizer)
    text = "\n".join(error.value.faults)
    assert "data.0.columns" in text
    assert "data.2.columns" in text
    assert "data.columns" not in text


def dealt(recipe, prepared):
    steps = plan_steps(recipe, prepared)
    return steps, account_for_sources(recipe, prepared, steps)["sources"]


@given(
    sizes=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=40), min_size=2, max_size=4),
    weights=st.lists(st.integers(1, 30), min_size=4, max_size=4),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 9),
    all_have_shares=st.booleans(),
)
def test_shares_are_exact_to_half_a_row_after_every_epoch(sizes, weights, epochs, seed, all_have_shares):
    count = len(sizes)
    shares = [weight / sum(weights[:count]) for weight in weights[:count]]
    listed = [
        {"name": str(number), **({} if number == 0 and not all_have_shares else {"share": share})}
        for number, share in enumerate(shares)
    ]
    train = {"epochs": epochs, "seed": seed, "tokens_per_step": 200}
    recipe = validate_recipe({"model": {"name": "m"}, "data": listed, "train": train}, "here")
    rows = Rows(sizes)
    orders = list(dealing.deal_epochs(recipe, rows))
    assert orders == list(dealing.deal_epochs(recipe, rows))
    owners, lengths = rows.source_numbers, rows.lengths
    base = np.flatnonzero(owners == 0)
    for epoch, order in enumerate(orders):
        assert sorted(row for row in order if owners[row] == 0) == base.tolist()
        so_far = np.concatenate(orders[: epoch + 1])
        own = int(lengths[so_far[owners[so_far] == 0]].sum())
        for number in range(1, count):
            tokens = int(lengths[so_far[owners[so_far] == number]].sum())
            assert abs(tokens - own * shares[number] / shares[0]) <= max(sizes[number]) / 2 + 1e-6
    everything = np.concatenate(orders)
    for number in range(1, count):  # each row once before any comes again
        seen = np.bincount(everything[owners[everything] == number], minlength=len(owners))[owners == number]
        assert seen.max() - seen.min() <= 1
    # Every stretch has the shares, to within a row of each source.
    given = np.zeros(count)
    for row in everything[: len(orders[0])]:
        given[owners[row]] += lengths[row]
        assert np.all(np.abs(given - given.sum() * np.array(shares)) <= max(map(max, sizes)) * count)


class Rows:
    """The tables of a subset of rows: sources and lengths."""

    def __init__(self, sizes):
        self.source_numbers = np.repeat(np.arange(len(sizes)), [len(each) for each in sizes])
        self.lengths = np.concatenate([np.array(each, np.int32) for each in sizes])


@pytest.mark.parametrize("size", [{"rows_per_step": 4}, {"rows_per_step": None, "tokens_per_step": 300}])
def test_steps_hold_every_row_of_ones_own_once_an_epoch_and_others_by_share(make, tokenizer, size):
    recipe = make(
        (asked("own", 40), {"validation": 0.1}),
        (asked("general", 3), {"validation": 0.0, "share": 0.25}),
        (asked("more", 60), {"validation": 0.0, "share": 0.1}),
        **size,
        epochs=2,
    )
    prepared = prepare_with_faults(recipe, tokenizer)
    steps, account = dealt(recipe, prepared)
    assert steps == plan_steps(recipe, prepared)
    lengths, owners = prepared.train.lengths, prepared.train.source_numbers
    assert account[0]["passes"] == 2
    assert account[1]["passes"] > 2 > 1 > account[2]["passes"]
    total = sum(int(lengths[list(step.rows)].sum()) for step in steps)
    for number, share in ((1, 0.25), (2, 0.1)):
        assert account[number]["dealt_tokens"] == pytest.approx(total * share, abs=int(lengths.max()))
        assert account[number]["dealt_share"] == pytest.approx(share, abs=0.02)
    for step in steps:
        rows = list(step.rows)
        assert step.label_tokens == int(prepared.train.label_tokens[rows].sum())
        assert step.epoch_rows == int((owners[rows] == 0).sum())
        if "tokens_per_step" in size:
            assert lengths[rows].sum() <= 300
    assert sum(step.epoch_rows for step in steps) == 2 * len(owners[owners == 0])


def test_sources_without_shares_are_dealt_like_one(make, tokenizer):
    recipe = make((asked("own", 9), {"validation": 0.0}), (asked("more", 7), {"validation": 0.0}))
    prepared = prepare_with_faults(recipe, tokenizer)
    steps, account = dealt(recipe, prepared)
    rows = prepared.train
    assert steps == assign_rows(
        rows.lengths, rows.label_tokens, tokens_per_step=None, rows_per_step=2, epochs=3, seed=recipe.train.seed
    )
    assert [each["passes"] for each in account] == [3, 3]


def test_one_source_in_a_list_is_a_recipe_of_one(tree):
    assert validate_recipe({**tree, "data": [tree["data"]]}, "here") == validate_recipe(tree, "here")


def test_an_override_of_all_sources_counts_where_a_recorded_list_names_the_former_value(tree, tmp_path):
    recorded = tmp_path / "recipe.yaml"
    sources = [tree["data"], tree["data"] | {"share": 0.1}]
    recorded.write_text(dump_recipe(validate_recipe({**tree, "data": sources}, "here")), encoding="utf-8")
    recipe = load_recipe(recorded, ["expert.split_seed=9"])
    assert [source.seed for source in recipe.sources] == [9, 9]
