"""Settings that a page offers for a new run: those that the sentence beside them says to change, and no others."""

from dataclasses import replace
from typing import get_args

import pytest

from thinktune.eval.comparison import compare
from thinktune.report.diagnosis_text import advice_sentence
from thinktune.report.run_sections.advised_settings import advised_by_diagnosis, advised_by_evaluation
from thinktune.run import Diagnosis
from thinktune.run.diagnosis import DiagnosisState
from thinktune.run.status import RunState

RECIPE = {"train": {"epochs": 10, "learning_rate": 0.002}, "data": {"silent_share": 0.0}}
DIAGNOSIS = Diagnosis("learning", 20, 1.0, 30, 1.5, 25, True, 2.0)


@pytest.mark.parametrize("run_state", get_args(RunState))
@pytest.mark.parametrize("state", get_args(DiagnosisState))
def test_what_is_offered_is_what_the_sentence_says(state, run_state):
    diagnosis = replace(DIAGNOSIS, state=state)
    sentence = advice_sentence(diagnosis, run_state, 3.8).en
    offered = {one.key: one for one in advised_by_diagnosis(diagnosis, run_state, 3.8, RECIPE)}
    if run_state in ("running", "stopped", "died") and state not in ("worse", "diverging"):
        assert not offered, "such a run is gone on with"
    elif run_state != "running":
        assert set(offered) == {key for key in ("train.epochs", "train.learning_rate") if key in sentence}
    for key, one in offered.items():
        assert (
            "higher " if one.direction == "higher" else "lower "
        ) + key in sentence or f"{key}={one.value}" in sentence
    assert ("a tenth" in sentence and run_state != "running") == ("train.learning_rate" in offered and offered["train.learning_rate"].value == 0.0002)  # fmt: skip


def test_forgetting_and_a_lost_switch_are_answered_and_nothing_else():
    lost = [one for one in compare([{"right": 1.0}] * 60, [{"right": 0.0}] * 60) if one["measure"] == "right"]
    [obeyed] = [one for one in compare([{"obeyed": 1.0}] * 60, [{"obeyed": 0.0}] * 60) if one["measure"] == "obeyed"]
    sets = [{"name": "general", "measures": lost}]
    switches = [{"mode": "silent", **obeyed}, {"mode": "thinking", **obeyed}]
    offered = advised_by_evaluation({"sets": sets, "switches": switches}, RECIPE)
    assert [(one.key, one.direction, one.value) for one in offered] == [
        ("train.learning_rate", "lower", None),
        ("train.epochs", "lower", None),
        ("data.silent_share", "higher", None),
    ]
    assert advised_by_evaluation({"sets": [{"name": "held-out", "measures": lost}]}, RECIPE) == []
    assert advised_by_evaluation({"sets": sets}, {}) == []
