"""Comparison of two records of `same_results.py`: equal ones pass, and every kind of difference is printed."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import same_results

METRICS = {"metrics": [{"step": 1, "loss": 2.5, "flag": True}], "tensors": {"weight": "ab12"}}


@pytest.fixture
def records(tmp_path):
    """Make two equal records of losses and of a help text."""
    for name in ("before", "after"):
        same_results.write(tmp_path / name / "losses" / "fp32.json", METRICS)
        same_results.write(tmp_path / name / "help" / "train.txt", "Train.\nOptions\n")
    return tmp_path / "before", tmp_path / "after"


def compare(records, *parts):
    return same_results.compare(*records, parts or ("losses", "help"))


def test_equal_records_have_no_difference(records, capsys):
    assert compare(records) == 0
    assert capsys.readouterr().out == "2 files compared, 0 differ\n"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"loss": 2.5 + 2**-50}, ".metrics.0.loss: 2.5 -> 2.500000000000001 (+8.88e-16)"),
        ({"flag": 1}, ".metrics.0.flag: True -> 1 (+0)"),
        ({"step": 1.0}, ".metrics.0.step: 1 -> 1.0 (+0)"),
        ({"more": None}, ".metrics.0.more: only after"),
    ],
)
def test_a_changed_value_is_printed_with_its_place(records, capsys, changed, line):
    metrics = [METRICS["metrics"][0] | changed]
    same_results.write(records[1] / "losses" / "fp32.json", METRICS | {"metrics": metrics})
    assert compare(records) == 1
    assert capsys.readouterr().out == f"--- losses/fp32.json\n{line}\n2 files compared, 1 differ\n"
    assert compare(records, "help") == 0


def test_values_are_compared_to_the_bit():
    assert not list(same_results.differences(json.loads("[NaN, 0.0]"), json.loads("[NaN, 0.0]")))
    assert list(same_results.differences([0.0], [-0.0])) == [".0: 0.0 -> -0.0 (-0)"]
    assert list(same_results.differences([1, 2], [1])) == [".1: only before"]


def test_changed_texts_and_missing_files_are_differences(records, capsys):
    same_results.write(records[1] / "help" / "train.txt", "Train.\nSettings\n")
    (records[0] / "losses" / "fp32.json").unlink()
    same_results.write(records[1] / "help" / "empty.txt", "")
    assert compare(records) == 1
    out = capsys.readouterr().out
    assert "-Options\n+Settings\n" in out
    assert "--- losses/fp32.json\nonly after\n" in out
    assert "--- help/empty.txt\nonly after\n" in out
    assert "3 files compared, 3 differ" in out


def test_a_part_that_neither_record_has_is_an_error(records):
    with pytest.raises(SystemExit, match="contain nothing of api"):
        compare(records, "losses", "api")


def test_long_lists_of_differences_are_cut(records, capsys):
    numbers = range(same_results.SHOWN_LINES + 5)
    same_results.write(records[0] / "losses" / "fp32.json", [*numbers])
    same_results.write(records[1] / "losses" / "fp32.json", [number + 1 for number in numbers])
    assert compare(records, "losses") == 1
    assert capsys.readouterr().out.count("\n") == same_results.SHOWN_LINES + 3


def test_times_versions_and_paths_are_masked(tmp_path):
    bench = same_results.Bench(tmp_path / "src", tmp_path / "work")
    text = f"{tmp_path}/work/runs: 12.5 s, torch 2.13.0 at 2026-11-25 10:20; loss 2.5"
    assert bench.mask([text, {"seconds": 3, "loss": 2.5}]) == [
        "<work>/runs: <time> s, torch <version> at <date>; loss 2.5",
        {"seconds": "<masked>", "loss": 2.5},
    ]
