"""What `check` prints of the plan, and what a run takes from it and keeps when it resumes."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.plans import shown
from support.runs import quiet, settings, stop_after
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from thinktune.checkpoint import find_checkpoint
from thinktune.commands.check import check_recipe
from thinktune.data.packing import plan_steps
from thinktune.files import read_json, write_json
from thinktune.hub import locate_model
from thinktune.model.admission import admit
from thinktune.planner import PlanInputs, Setting, disk_space, resolve_setting
from thinktune.planner.activation_budgets import trace_layers
from thinktune.planner.layer_calls import META
from thinktune.train.dry_run import dry_run
from thinktune.train.loop import train
from thinktune.train.setup import open_run

BF16 = torch.bfloat16


def test_check_shows_the_table_of_a_named_card_and_marks_one_line(tree):
    _, facts = check_recipe(settings({**tree, "plan": {"card": "24GiB"}}), quiet)
    options = json.loads(json.dumps(facts["plan"]))["options"]
    [chosen] = [option for option in options if option["chosen"]]
    assert chosen["memory"] == "exact"
    assert {option["memory"] for option in options} == {"exact", "exact-bf16", "8bit", "8bit-streamed", "4bit"}
    text = shown(facts)
    assert "TF32" not in text
    marked = [line for line in text.splitlines() if line.startswith("→")]
    assert [line.split()[1] for line in marked] == ["exact"]
    assert "Predicted for 24GiB (24.0 GiB)" in text
    assert f"plan: {facts['plan']['why']}" in text


def test_a_recipe_is_not_ready_for_a_card_on_which_nothing_fits(tree):
    _, facts = check_recipe(settings({**tree, "plan": {"card": "0.1GiB"}}), quiet)
    [stop] = facts["stops"]
    assert stop.startswith("train.memory: nothing fits 0.1GiB")
    assert facts["verdict"] == "not ready"
    assert "→" not in shown(facts)
    needed = re.findall(r"needs a card of ([\d.]+) GiB", stop)
    _, larger = check_recipe(settings({**tree, "plan": {"card": f"{needed[0]}GiB"}}), quiet)
    assert larger["stops"] == []


def test_check_says_that_fp32_is_slow_on_a_card(tree):
    card = {**tree, "plan": {"card": "24GiB"}}
    slow = shown(check_recipe(settings(card, train={"precision": "fp32"}), quiet)[1])
    assert "expert.precision: is fp32 without TF32 rounding" in slow
    on_the_cpu = settings(tree, train={"precision": "fp32"})
    assert "TF32" not in shown(check_recipe(on_the_cpu, quiet)[1])


def test_check_on_the_cpu_prints_the_defaults(tree):
    _, facts = check_recipe(settings(tree), quiet)
    assert "plan: on the CPU: memory tier fp32, activation budget 1, at most 1,024 tokens in a batch" in shown(facts)
    assert facts["plan"]["options"] == []


def test_a_run_records_its_setting_and_resumes_with_it(tree):
    """Even if a new plan would differ: the setting that a run started with decides."""
    recipe = settings(tree)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, stop_after(3))
    facts = read_json(recipe.run_folder / "environment.json")
    names = ("memory", "update_in_backward", "activation_budget", "batch_tokens")
    assert [facts[name] for name in names] == ["fp32", False, 1.0, 1024]
    write_json(recipe.run_folder / "environment.json", facts | {"activation_budget": 0.0, "batch_tokens": 1152})
    run = open_run(recipe, quiet, ("test",))
    context = run.context
    assert (run.state.step, context.setting.activation_budget, context.capacity) == (3, 0.0, 1152)
    assert all(layer.gradient_checkpointing for layer in context.model.model.layers)


def test_all_passes_of_a_run_use_the_plans_chunk_rows(tree, monkeypatch):
    from thinktune.model import forward

    real, taken = forward.linear_cross_entropy, []

    def spy(*given, **options):
        taken.append((torch.is_grad_enabled(), options["chunks"].rows))
        return real(*given, **options)

    monkeypatch.setattr(forward, "linear_cross_entropy", spy)
    recipe = settings(tree)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, stop_after(3))
    assert set(taken) == {(True, None), (False, None)}, "on the CPU the loss decides"
    facts = recipe.run_folder / "environment.json"
    write_json(facts, read_json(facts) | {"chunk_rows": 7})
    taken.clear()
    dry_run(open_run(recipe, quiet, ("test",)).context)
    train(recipe, quiet)
    assert set(taken) == {(True, 7), (False, 7)}


def test_layers_are_traced_once_and_then_read_from_the_disk(model, monkeypatch):
    first = trace_layers(model.config, BF16, META, compiled=False)
    monkeypatch.setattr("thinktune.planner.activation_budgets.TracedModel", None)
    assert trace_layers(model.config, BF16, META, compiled=False) == first
    with pytest.raises(TypeError):
        trace_layers(model.config, model.dtype, META, compiled=False)


@pytest.mark.slow
def test_a_compiled_layer_keeps_less_and_works_more_as_its_budget_falls(model):
    found = trace_layers(model.config, BF16, META, compiled=True)
    kept = [found[budget].saved.per_token for budget in sorted(found)]
    operations = [found[budget].recompute_factor for budget in sorted(found, reverse=True)]
    assert kept == sorted(kept)
    assert kept[0] == 0 < kept[-1]
    assert operations == sorted(operations)
    assert operations[0] == 1 < operations[-1] < 1.34


def tensor_bytes(file):
    """Bytes of all tensors but the RNG states, without the file's header: both matter only for so small a model."""
    kept = load_file(file).items()
    return sum(each.numel() * each.element_size() for name, each in kept if not name.startswith("random/"))


@pytest.mark.parametrize("memory", ["fp32", "exact-bf16", "4bit"])
def test_check_predicts_what_the_run_will_write(tree, memory):
    """Each figure against the files of a finished run; the base is fp32, so `final_bytes` is, too."""
    recipe = settings(tree, train={"memory": memory, "epochs": 1})
    _, facts = check_recipe(recipe, quiet)
    needs = json.loads(json.dumps(facts["disk"]))
    folder = train(recipe, quiet)
    last = find_checkpoint(folder, "last").folder
    weights, state = (tensor_bytes(last / file) for file in ("model.safetensors", "state/state.safetensors"))
    assert needs["best_weights_bytes"] == pytest.approx(weights, rel=0.05)
    assert needs["checkpoint_bytes"] == pytest.approx(weights + state, rel=0.05)
    assert needs["final_bytes"] == pytest.approx(tensor_bytes(folder / "final" / "model.safetensors"), rel=0.05)
    second = max(needs["checkpoint_bytes"], needs["final_bytes"])
    assert (
        needs["most_bytes"] - disk_space.OTHER_FILES_BYTES
        == needs["checkpoint_bytes"] + needs["best_weights_bytes"] + second
    )
    assert (needs["fits"], needs["held_bytes"]) == (True, 0)
    parts = [float(size) for size in re.findall(r"([0-9.]+) MiB", line_of_disk(facts).partition("; ")[0])]
    assert parts[0] == pytest.approx(2 * parts[1] + sum(parts[2:]), abs=0.3), "the parts make up the whole"
    line = line_of_disk(facts)
    assert line.startswith(
        f"disk: at most {needs['most_bytes'] / 2**20:.1f} MiB at a time in {folder} (two checkpoints"
    )
    assert re.search(r"; [0-9.,]+ GiB are free$", line)
    assert check_recipe(recipe, quiet)[1]["disk"]["held_bytes"] > weights, "what a run holds counts as its room"


def line_of_disk(facts):
    [line] = [line for line in shown(facts).splitlines() if line.startswith("disk: ")]
    return line


def test_a_disk_that_is_too_small_stops_a_run_on_this_machine(tree, monkeypatch):
    monkeypatch.setattr(disk_space, "disk_space", lambda _: disk_space.DiskSpace(free_bytes=2**20, run_folder_bytes=0))
    _, facts = check_recipe(settings(tree), quiet)
    assert (facts["verdict"], facts["disk"]["fits"]) == ("not ready", False)
    [stop] = facts["stops"]
    assert "the disk has 1.0 MiB free" in stop
    assert "runs_folder=" in stop
    assert stop in shown(facts)
    elsewhere = check_recipe(settings({**tree, "plan": {"card": "24GiB"}}), quiet)[1]
    assert (elsewhere["verdict"], elsewhere["disk"]["fits"]) == ("ready", False), "it is planned for another machine"


def test_a_class_that_cannot_be_traced_needs_two_settings_and_no_traceback(tree, monkeypatch):
    """A layer that asks for its values has none on a card that is not there; the remedy works when followed."""
    plain = Qwen3MLP.forward

    def asked(x):
        return 1 if not torch.is_grad_enabled() or x.sum().item() else 2

    monkeypatch.setattr(Qwen3MLP, "forward", lambda layer, x: plain(layer, x) * asked(x))
    monkeypatch.setattr("thinktune.planner.activation_budgets.cache_folder", lambda: Path("nowhere/x"))  # none is kept
    card = {**tree, "plan": {"card": "24GiB"}}
    _, facts = check_recipe(settings(card), quiet)
    [stop] = facts["stops"]
    assert stop.startswith("train.memory: the memory of a model of type qwen3 cannot be predicted (")
    assert "set train.memory (exact, or 8bit to use less) and expert.batch_tokens (200 or more)" in stop
    assert facts["verdict"] == "not ready"
    stated = {**card, "train": {**card["train"], "memory": "8bit", "batch_tokens": 4096}}
    recipe = settings(stated)
    prepared, facts = check_recipe(recipe, quiet)
    assert facts["verdict"] == "ready"
    assert "using the recipe's settings: memory tier 8bit" in facts["plan"]["why"]
    assert "memory tier 8bit" in shown(facts)
    admitted = admit(locate_model(recipe))
    inputs = PlanInputs(recipe, prepared, plan_steps(recipe, prepared), admitted.config, admitted.traits, META)
    assert resolve_setting(inputs, quiet) == Setting("8bit", False, 1.0, 4096)
