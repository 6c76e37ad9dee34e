"""Metrics of runs: losses row by row, the diagnosis of real runs, samples within their time."""

import json
import math
import random
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.runs import quiet, settings

from thinktune.checkpoint import store
from thinktune.data.pipeline import prepare
from thinktune.distributed.world import World
from thinktune.files import read_json
from thinktune.model.batch import pack
from thinktune.model.forward import evaluate_row_losses
from thinktune.model.loading import load_model
from thinktune.report import run_page
from thinktune.report.comparison_page import write_comparison
from thinktune.run import RunFolder, journal
from thinktune.run.diagnosis import diagnose_run, eval_losses, memorized_rows, rows_by_loss, train_losses
from thinktune.tokenization import read_tokenizer
from thinktune.train import evaluation_interval_steps, metrics, train
from thinktune.train.samples import affordable_tokens, repetition_rate, sampling_modes

COLOURS = ("red", "green", "blue", "grey", "black", "white")
THINGS = ("lamp", "door", "cup", "ship", "hat", "book", "chair", "ring", "flag", "coat", "ball", "drum")
OVERFIT = {"epochs": 40, "rows_per_step": 8, "learning_rate": 1e-2, "evaluate_every_steps": 12, "log_every_steps": 12}


def rows(folder, name, things, answer, places=("here", "there")):
    """Write rows that ask for the colour of things; `answer` returns the colour of a thing."""
    path = folder / f"{name}.jsonl"
    made = [
        {
            "question": f"{thing} {place}?",
            "think": f"{thing}: {answer(thing, place)}.",
            "answer": f"It is {answer(thing, place)}.",
        }
        for thing in things
        for place in places
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return str(path)


def random_colours(thing, place):
    return " ".join(random.Random(thing + place).choices(COLOURS, k=4))


def constant_colour(_thing, _place):
    return "blue"


@pytest.fixture
def colour_recipe(tree, tmp_path):
    """Return a recipe whose held-out colours cannot be learned from the training rows, or always can."""

    def make(answer, **changes):
        data = {"name": rows(tmp_path, "train", THINGS, answer), "faults": {"near_duplicate": "keep", "leak": "keep"}}
        held_out = ("kite", "vase", "rug", "pen", "fork", "sock", "bell", "desk", "rope", "sail")
        data["validation"] = rows(tmp_path, "held-out", held_out, answer, ("here", "there", "above", "below"))
        changes = {
            "train": OVERFIT | changes.pop("train", {}),
            "generate": {"sample_questions": 0},
        } | changes
        return settings(tree, data=data, **changes)

    return make


def test_a_run_that_overfits_is_diagnosed_and_keeps_its_best(colour_recipe):
    said = []
    folder = train(colour_recipe(random_colours), said.append)
    diagnosis = diagnose_run(folder)
    losses = eval_losses(journal.read_metrics(folder))
    assert diagnosis.state == "overfitting"
    assert (
        diagnosis.best_step
        == min((step for step in losses if step), key=lambda step: losses[step])
        <= diagnosis.plateau_end_step
    )
    assert store.find_checkpoint(folder, "best").step == diagnosis.best_step < max(losses)
    assert read_json(folder / "final" / store.TRAINER_STATE_FILE)["step"] == diagnosis.best_step
    assert any(f"overfitting since step {diagnosis.plateau_end_step}" in line for line in said)
    assert sum("press Ctrl-C, then run the same command with --finish" in line for line in said) == 1
    assert sum("eval loss" in line and "overfitting since" in line for line in said) > 2
    assert any("Next time, write train.epochs=" in line for line in said)
    assert said[-1].endswith(f"(step {diagnosis.best_step}, the best of those evaluated)")
    assert f"Overfitting since step {diagnosis.plateau_end_step}" in (folder / "report.html").read_text(
        encoding="utf-8"
    )


def test_a_run_whose_held_out_rows_follow_the_same_rule_does_not_overfit(colour_recipe):
    folder = train(colour_recipe(constant_colour, train={"epochs": 12, "learning_rate": 3e-3}), quiet)
    diagnosis = diagnose_run(folder)
    assert diagnosis.state in ("learning", "best")
    assert diagnosis.improved is True


def test_a_run_stops_when_overfitting_if_asked_and_stays_stopped(colour_recipe):
    said = []
    recipe = colour_recipe(random_colours, train={"stop_when_overfitting": 2})
    folder = train(recipe, said.append)
    losses = eval_losses(journal.read_metrics(folder))
    diagnosis = diagnose_run(folder)
    assert [step for step in losses if step > diagnosis.plateau_end_step] == sorted(losses)[-2:]
    last = max(losses)
    assert f"stopped after step {last} of 120 because of train.stop_when_overfitting: 2" in said
    assert "stopped early, finished" in (folder / "report.html").read_text(encoding="utf-8")
    before = RunFolder(folder).metrics.read_bytes()
    train(recipe, quiet)
    assert RunFolder(folder).metrics.read_bytes() == before


def test_each_rows_loss_is_its_own_and_together_they_are_the_eval_loss(tree):
    folder = train(settings(tree, data={"validation": 0.5}), quiet)
    kept, losses = journal.read_row_losses(folder), eval_losses(journal.read_metrics(folder))
    assert kept.keys() == losses.keys()
    for step, found in kept.items():
        total, tokens = sum(loss * count for loss, count in found.values()), sum(count for _, count in found.values())
        assert total / tokens == pytest.approx(losses[step], abs=2e-6)
    best = store.find_checkpoint(folder, "last")
    model, tokenizer = load_model(best.folder, torch.device("cpu")), read_tokenizer(best.folder)
    held_out = prepare(settings(tree, data={"validation": 0.5}), tokenizer).validation.replies()
    assert len(held_out) == len(kept[best.step]) > 2
    for reply in held_out:  # each alone, as if it were the only one
        _, alone = evaluate_row_losses(model, pack([reply], len(reply)), torch.device("cpu"), torch.float32)
        assert alone[reply.source] == (pytest.approx(kept[best.step][reply.source][0], abs=1e-5), reply.label_tokens)


def test_rows_are_listed_from_the_hardest_and_memorized_ones_from_the_surest(tmp_path):
    found = {"a:1": [2.0, 5], "a:2": [0.05, 9], "a:3": [0.01, 4], "a:4": [0.2, 4]}
    journal.append(RunFolder(tmp_path).row_losses, [{"step": 0, "rows": {"a:1": [4.0, 5]}}, {"step": 8, "rows": found}])
    listed = rows_by_loss(tmp_path, 8)
    assert [row.source for row in listed] == ["a:1", "a:4", "a:2", "a:3"]
    assert (listed[0].base_loss, listed[1].base_loss) == (4.0, None)
    assert [row.source for row in memorized_rows(listed)] == ["a:3", "a:2"]
    assert rows_by_loss(tmp_path, 9) == []


def test_train_loss_at_an_evaluation_is_that_of_the_steps_since_the_last_one():
    records = [
        {"kind": "eval", "step": 0, "loss": 9.0},
        {"kind": "train", "step": 1, "loss": 4.0, "learned_tokens": 30},
        {"kind": "train", "step": 2, "loss": 2.0, "learned_tokens": 10},
        {"kind": "eval", "step": 2, "loss": 3.0},
        {"kind": "train", "step": 3, "loss": 1.0, "learned_tokens": 10},
        {"kind": "eval", "step": 3, "loss": 3.0},
    ]
    assert train_losses(records) == {2: 3.5, 3: 1.0}


def test_a_line_of_metrics_is_plain_and_each_figure_has_its_name(tree):
    said = []
    train(settings(tree), said.append)
    line = next(line for line in said if line.startswith("step 2/"))
    shape = r"step 2/9 22% loss \d+\.\d{4} [\d,]+ tokens/s memory \d+\.\d GiB left \d+:\d\d"
    assert re.fullmatch(shape, line), line
    assert len(line) < 80
    at_three = [line for line in said if line.startswith("step 3/")]
    assert len(at_three) == 1, "an evaluation has one line; a save that is quick has none"
    assert "eval loss" in at_three[0]
    assert not [line for line in said if "\x1b" in line or "\r" in line]


def test_mfu_is_reported_for_a_card_whose_peak_is_known(tree, monkeypatch):
    context = SimpleNamespace(
        device=SimpleNamespace(type="cuda"),
        world=World(),
        prepared=SimpleNamespace(train=SimpleNamespace(lengths=[100, 200])),
        model=load_model(Path(tree["model"]["name"]), torch.device("cpu")),
    )
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda: 3 * 2**30)
    for name, known in (("NVIDIA H100 80GB HBM3", True), ("a card of tomorrow", False)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device, name=name: name)
        facts = metrics._device_metrics(context, 1e9)
        assert facts["memory_gib"] == 3.0
        assert ("mfu" in facts) == known


def test_samples_are_greedy_and_with_the_models_own_settings_and_carry_their_flags(tree, start, tmp_path):
    model, own = tmp_path / "own", {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
    load = load_model(start, torch.device("cpu"))
    load.generation_config.update(**own)
    load.save_pretrained(model)
    read_tokenizer(start).save_pretrained(model)
    folder = train(settings(tree, model={"name": str(model)}, generate={"sample_questions": 2}), quiet)
    found = journal.read_samples(folder)
    assert [(one["step"], one["sampling"]) for one in found[:4]] == [
        (3, "greedy"),
        (3, "greedy"),
        (3, "own"),
        (3, "own"),
    ]
    assert {one["step"] for one in found} == {3, 6, 9}
    for one in found:
        assert {"tokens", "finish", "reasoning_closed", "limit_tokens", "reference_reasoning"} <= one.keys()
        assert 0 <= one["repetition"] <= 1
        assert one["tokens"] <= 12


def test_a_models_own_sampling_is_left_out_where_it_has_none(model):
    assert sampling_modes(model.generation_config, 9).keys() == {"greedy"}


def test_repetition_is_the_share_of_ngrams_that_occurred_before():
    assert repetition_rate([1, 2, 3, 4, 5, 6]) == 0
    assert repetition_rate([1, 2]) == 0
    assert repetition_rate([7] * 103) == pytest.approx(0.99)
    assert repetition_rate([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


@given(st.floats(0.001, 0.9), st.floats(0, 1e5), st.floats(0, 1e4), st.floats(0.1, 1e4))
def test_what_is_affordable_stays_within_the_share(share, elapsed, spent, speed):
    tokens = affordable_tokens(share, elapsed, spent, speed)
    assert tokens >= 0
    if tokens:
        cost = tokens / speed
        assert spent + cost <= share * (elapsed + cost) * (1 + 1e-9)
        assert spent + (tokens + 1) / speed > share * (elapsed + (tokens + 1) / speed) * (1 - 1e-9)


def test_samples_that_would_take_too_long_are_left_out_with_a_message(tree):
    said, started_at = [], time.monotonic()
    folder = train(settings(tree, generate={"max_new_tokens": 400, "sample_share": 1e-6}), said.append)
    assert math.isfinite(time.monotonic() - started_at)
    assert journal.read_samples(folder) == []
    assert sum("no example replies yet, to save time (expert.sample_share: 1e-06 of it)" in line for line in said) == 1


def test_a_comparison_page_shows_what_differs_between_runs(tree):
    one = train(settings(tree, name="one"), quiet)
    other = train(settings(tree, name="other", train={"learning_rate": 2e-3}), quiet)
    page = write_comparison([one, other])
    assert page == one.resolve().parent / "one-beside-other.html"
    html = page.read_text(encoding="utf-8")
    assert re.search(r"train.learning_rate</th><td>0.001</td><td>0.002</td>", html)
    assert "data.max_tokens" not in html
    assert html.count('class="marker run0"') >= 4
    assert html.count('class="marker run1"') >= 4
    assert run_page.read_run(one).diagnosis.best_loss != run_page.read_run(other).diagnosis.best_loss


@pytest.mark.parametrize(
    ("steps", "epochs", "set_steps", "interval"),
    [(100, 2, None, 13), (60, 20, None, 2), (4000, 60, None, 100), (3, 2, None, 1), (0, 1, None, 1), (4000, 60, 7, 7)],
)
def test_many_short_epochs_do_not_mean_many_evaluations(steps, epochs, set_steps, interval):
    recipe = SimpleNamespace(train=SimpleNamespace(epochs=epochs, evaluate_every_steps=set_steps))
    assert evaluation_interval_steps(recipe, [()] * steps) == interval
