"""What `check` shows of the plan, and what a run takes from it and keeps when it goes on."""

import io
import json

import pytest
import torch
from rich.console import Console
from runs import quiet, settings, stop_after

from thinktune.budget import layers
from thinktune.check import check, show
from thinktune.files import read_json, write_json
from thinktune.run import open_run
from thinktune.trace import NOWHERE
from thinktune.train import train

BF16 = torch.bfloat16


def shown(facts):
    console = Console(file=io.StringIO(), width=140)
    show(facts, console)
    return console.file.getvalue()


def test_check_shows_the_table_of_a_named_card_and_marks_one_line(tree):
    _, facts = check(settings({**tree, "plan": {"card": "24GiB"}}), quiet)
    options = json.loads(json.dumps(facts["plan"]))["options"]
    [chosen] = [option for option in options if option["chosen"]]
    assert chosen["memory"] == "exact"
    assert {option["memory"] for option in options} == {"exact", "exact-bf16", "8bit", "8bit-streamed", "4bit"}
    text = shown(facts)
    marked = [line for line in text.splitlines() if line.startswith("→")]
    assert [line.split()[1] for line in marked] == ["exact"]
    assert "Predicted for 24GiB (24.0 GiB)" in text
    assert f"plan: {facts['plan']['why']}" in text
    small = shown(check(settings({**tree, "plan": {"card": "0.1GiB"}}), quiet)[1])
    assert "nothing fits 0.1GiB" in small
    assert "→" not in small


def test_check_on_the_cpu_says_what_is_usual_there(tree):
    _, facts = check(settings(tree), quiet)
    assert "plan: on the CPU: memory tier fp32, activation budget 1, batches of 1,024 tokens" in shown(facts)
    assert facts["plan"]["options"] == []


def test_a_run_writes_its_setting_down_and_goes_on_with_it(tree):
    """Also where the plan, drawn anew, would be another one: what a run began with decides."""
    recipe = settings(tree)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, stop_after(3))
    facts = read_json(recipe.run_folder / "environment.json")
    names = ("memory", "update_in_backward", "activation_budget", "batch_tokens")
    assert [facts[name] for name in names] == ["fp32", False, 1.0, 1024]
    write_json(recipe.run_folder / "environment.json", facts | {"activation_budget": 0.0, "batch_tokens": 1152})
    run = open_run(recipe, quiet, ("test",))
    assert (run.done, run.setting.activation_budget, run.capacity) == (3, 0.0, 1152)
    assert all(layer.gradient_checkpointing for layer in run.model.model.layers)


def test_layers_are_traced_once_and_read_from_the_disk_after(model, monkeypatch):
    first = layers(model.config, BF16, NOWHERE, compiled=False)
    monkeypatch.setattr("thinktune.budget.layer", None)
    assert layers(model.config, BF16, NOWHERE, compiled=False) == first
    with pytest.raises(TypeError):
        layers(model.config, model.dtype, NOWHERE, compiled=False)


@pytest.mark.slow
def test_a_compiled_layer_keeps_less_and_works_more_as_its_budget_falls(model):
    found = layers(model.config, BF16, NOWHERE, compiled=True)
    kept = [found[budget].kept.a_token for budget in sorted(found)]
    operations = [found[budget].operations for budget in sorted(found, reverse=True)]
    assert kept == sorted(kept)
    assert kept[0] == 0 < kept[-1]
    assert operations == sorted(operations)
    assert operations[0] == 1 < operations[-1] < 1.34
