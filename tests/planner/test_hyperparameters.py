"""Rules by which a run can learn: what they propose is never what they warn of, and each warning works when followed."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.config.loading import load_recipe, validate_recipe
from thinktune.config.strict_yaml import parse_yaml
from thinktune.data.packing import assign_rows
from thinktune.planner.hyperparameters import (
    MIN_HELD_OUT,
    MIN_STEPS,
    RunSize,
    advise,
    most_epochs,
    suit_epochs,
    suit_learning_rate,
    suit_max_tokens,
    suit_step_size,
    suit_validation,
    usual_rates,
)
from thinktune.planner.run_time import RunTokens, parse_hourly_price, run_seconds, spell_range, time_as_dict

PARAMETERS = st.sampled_from([1_115_520, 135_000_000, 600_000_000, 1_720_000_000, 8_200_000_000, 32_800_000_000])


def recipe_of(**settings):
    tree = {"model": {"name": "m"}, "data": {"name": "r"}, "train": {}}
    for key, value in settings.items():
        section, _, leaf = key.partition("__")
        tree.setdefault(section, {})[leaf] = value
    return validate_recipe(tree, "here")


def size_of(recipe, lengths, parameters, rows_read):
    """Describe the run that a recipe makes of rows of these lengths."""
    steps = assign_rows(
        lengths, lengths, tokens_per_step=recipe.train.tokens_per_step, rows_per_step=recipe.train.rows_per_step,
        epochs=recipe.train.epochs, seed=1,
    )  # fmt: skip
    held_out = rows_read - len(lengths)
    return RunSize(parameters, len(lengths), sum(lengths), held_out, rows_read, len(steps), rows_read)


@given(PARAMETERS, st.integers(2, 3000), st.integers(8, 4000), st.integers(0, 10**6))
def test_what_is_proposed_is_never_warned_of(parameters, rows, mean, seed):
    share = suit_validation(rows)
    held_out = round(share * rows)
    lengths = [max(1, mean + (seed * (row + 1)) % (mean // 2 + 1) - mean // 4) for row in range(rows - held_out)] or [8]
    epochs = suit_epochs(parameters, len(lengths))
    recipe = recipe_of(
        train__epochs=epochs, train__tokens_per_step=suit_step_size(sum(lengths), len(lengths), epochs),
        train__learning_rate=suit_learning_rate(parameters), data__validation=share,
    )  # fmt: skip
    advice = advise(recipe, size_of(recipe, lengths, parameters, rows))
    assert not advice.warnings
    told = {note.partition(":")[0] for note in advice.notes}
    assert ("data.validation" in told) == (held_out < MIN_HELD_OUT), "too few rows are said beforehand"


@given(PARAMETERS, st.integers(1, 400), st.integers(8, 900), st.integers(1, 4), st.sampled_from([64, 2048, 16_384]))
def test_a_warning_of_too_few_steps_works_when_followed(parameters, rows, mean, epochs, tokens):
    recipe, lengths = recipe_of(train__epochs=epochs, train__tokens_per_step=tokens), [mean] * rows
    size = size_of(recipe, lengths, parameters, rows)
    found = [line for line in advise(recipe, size).warnings if line.startswith("train.tokens_per_step: ")]
    assert not found or size.steps < MIN_STEPS
    for line in found:
        values = re.findall(r"train\.(\w+): (\d+)", line)
        changed = recipe_of(**{"train__epochs": epochs} | {f"train__{key}": int(value) for key, value in values})
        again = size_of(changed, lengths, parameters, rows)
        assert again.steps > size.steps
        assert not [one for one in advise(changed, again).warnings if "may learn little" in one]


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        ({}, {"steps": 2}, "train.tokens_per_step: a run of 2 steps is short and may learn little; write train.tokens_per_step: "),
        ({"train__rows_per_step": 64}, {"steps": 12}, "write expert.rows_per_step: 13"),
        ({"train__learning_rate": 3.0}, {}, "train.learning_rate: is 3; full fine-tuning of 1.7 billion parameters usually takes"),
        ({"train__learning_rate": 1e-7}, {}, "learns almost nothing; write train.learning_rate: 2e-05"),
        ({"train__epochs": 12}, {}, "memorizes the rows after 5"),
        ({}, {"held_out_rows": 3}, "data.validation: 3 rows are held out; the share of correct answers is then known to ± 57 points"),
        ({"data__validation": 0.0}, {"held_out_rows": 0}, "no row is held out; nothing shows"),
        ({"data__validation": "others.jsonl"}, {"held_out_rows": 5}, "add rows to others.jsonl"),
        ({}, {"over": {2048: 90, 4096: 4, 8192: 0}}, "write data.max_tokens: 4096"),
    ],
)  # fmt: skip
def test_each_fault_is_told_with_the_value_to_write(settings, size, words):
    usual = {"parameters": 1_720_000_000, "train_rows": 400, "epoch_tokens": 320_000, "held_out_rows": 45}
    usual |= {"rows_read": 445, "steps": 100, "replies": 445}
    assert not advise(recipe_of(), RunSize(**usual)).warnings
    [warning] = advise(recipe_of(**settings), RunSize(**usual | size)).warnings
    assert words in warning
    key, _, value = warning.rpartition("write ")[2].partition(": ")
    if value and key.startswith("train."):
        parse_yaml(f"{key}: {value.partition(',')[0]}")


LISTED = [{"name": "mine.jsonl"}, {"name": "general.jsonl", "share": 0.2, "max_tokens": 4096}]


@pytest.mark.parametrize(
    ("data", "key"), [({"name": "m", "replay": 0.3}, "data.validation"), (LISTED, "data.0.validation")]
)
def test_held_out_rows_are_advised_by_ones_own_rows_and_by_a_key_that_is_there(tmp_path, data, key):
    tree = {"model": {"name": "m"}, "data": data}
    size = RunSize(1_720_000_000, 900, 320_000, 12, 120, 100, own_rows=108)
    [warning] = advise(validate_recipe(tree, "here"), size).warnings
    assert warning.startswith(f"{key}: 12 rows are held out")
    assert warning.endswith(f"write {key}: {suit_validation(120):g}")
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    name, _, value = warning.rpartition("write ")[2].partition(": ")
    assert load_recipe(tmp_path / "r.yaml", [f"{name}={value}"]).data.validation == suit_validation(120)


def test_every_limit_of_a_list_that_is_to_be_raised_is_named():
    size = RunSize(1_720_000_000, 900, 320_000, 45, 445, 100, 445, {4096: 90, 8192: 0})
    [warning] = advise(validate_recipe({"model": {"name": "m"}, "data": LISTED}, "here"), size).warnings
    assert "write data.0.max_tokens: 8192 and data.1.max_tokens: 8192, which" in warning


def test_epochs_are_advised_by_ones_own_rows():
    recipe = recipe_of(train__epochs=12, data__replay=0.3)
    size = RunSize(1_720_000_000, 1100, 320_000, 45, 1145, 100, own_rows=800)
    [warning] = advise(recipe, size).warnings
    assert f"write train.epochs: {suit_epochs(1_720_000_000, 800)}, or" in warning
    assert suit_epochs(1_720_000_000, 800) != suit_epochs(1_720_000_000, 1100)


def test_more_than_the_rows_can_give_is_a_note_and_no_warning():
    few = RunSize(1_720_000_000, 7, 700, 3, 10, 21, 10)
    advice = advise(recipe_of(train__epochs=3, train__tokens_per_step=64, data__validation=0.3), few)
    assert not advice.warnings
    assert [note.partition(";")[2] for note in advice.notes] != []
    assert all("add rows" in note for note in advice.notes)


def test_overfitting_epochs_are_no_fault_where_the_run_stops_itself():
    size = RunSize(1_720_000_000, 400, 320_000, 45, 445, 600)
    assert advise(recipe_of(train__epochs=30), size).warnings
    assert not advise(recipe_of(train__epochs=30, train__stop_when_overfitting=2), size).warnings
    assert not advise(recipe_of(train__epochs=most_epochs(size.parameters)), size).warnings


def test_rates_fall_with_the_size_and_hold_those_that_are_known_to_work():
    known = {1_115_520: 2e-3, 135_000_000: 1e-4, 1_720_000_000: 1e-5, 8_000_000_000: 1e-5, 70_000_000_000: 2e-6}
    for parameters, rate in known.items():
        lowest, highest = usual_rates(parameters)
        assert lowest <= rate <= highest
    suited = [suit_learning_rate(parameters) for parameters in known]
    assert suited == sorted(suited, reverse=True)


def test_the_longest_row_fits_unless_a_few_are_far_longer_than_all_others():
    assert suit_max_tokens([300] * 99 + [1900], 40_960, 2048) == 2048
    assert suit_max_tokens([300] * 199 + [19_000], 40_960, 2048) == 512
    assert suit_max_tokens([6000] * 10, 40_960, 2048) == 6144
    assert suit_max_tokens([6000] * 10, 4096, 2048) == 4096


def test_time_and_cost_follow_from_tokens_and_speed():
    fewest, most = run_seconds(RunTokens(360_000, 0, 0.0), (100.0, 1000.0))
    assert (fewest, most) == (360, 3600)
    assert run_seconds(RunTokens(360_000, 0, 0.05), (100.0, 1000.0))[1] == pytest.approx(3600 / 0.95)
    assert run_seconds(RunTokens(300_000, 180_000, 0.0), (100.0, 1000.0))[0] == 360
    facts = time_as_dict((360, 3600), "x", parse_hourly_price("2.5CNY"))
    assert facts["cost"] == {"price_per_hour": 2.5, "currency": "CNY", "range": [0.25, 2.5]}
    assert (parse_hourly_price("$3").currency, parse_hourly_price("3").currency) == ("$", "")
    assert [spell_range(*ends) for ends in ((2, 8), (70, 200), (3600, 7300), (0.2, 0.4))] == [
        "2 to 8 s", "1.2 to 3.3 min", "1 to 2 h", "1 s",
    ]  # fmt: skip
