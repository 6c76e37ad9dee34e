"""A whole run through compiled layers, as on a card: warm-up, dry run, steps, a refused one, evaluations, samples."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.compiled_layers import fresh_compiler
from support.runs import quiet, settings, without_times, write_rows
from torch._dynamo.utils import counters

from thinktune.checkpoint import find_checkpoint
from thinktune.model.batch import make_padding
from thinktune.model.transforms import compile_layers
from thinktune.progress import Printer
from thinktune.run import journal
from thinktune.train.dry_run import dry_run
from thinktune.train.interrupt import StopRequest
from thinktune.train.loop import _compile, _train
from thinktune.train.setup import open_run

# The graphs of a run: Qwen3's layer and the norm after the last one, each to learn and to evaluate.
GRAPHS = 4
PARTS = ("arm", "leg", "toe", "hand", "foot", "knee", "nose", "tongue")


@pytest.fixture(autouse=True)
def fresh():
    with fresh_compiler():
        yield


@pytest.fixture
def many_lengths(tree, tmp_path):
    """Return a recipe's tree whose rows have more lengths than torch's own limit of graphs."""
    facts = {part * (1 + number % 3): "it is. " * number for number, part in enumerate(PARTS, 1)}
    facts |= {f"{part} of the left side": "so " * number for number, part in enumerate(PARTS, 1)}
    facts |= {f"{part} of the right side": "as well " * number for number, part in enumerate(PARTS, 2)}
    write_rows(tmp_path / "rows.jsonl", facts)
    train = {"tokens_per_step": None, "rows_per_step": 10, "epochs": 2, "evaluate_every_steps": 2, "log_every_steps": 1}
    return {**tree, "train": tree["train"] | train, "generate": tree["generate"] | {"sample_questions": 2}}


def open_padded(tree, name, say=quiet, **changes):
    """Open a run on the CPU with the padded batches of a card."""
    run = open_run(settings({**tree, "name": name}, **changes), say, ("test",))
    context = run.context
    lengths = np.concatenate([context.prepared.train.lengths, context.prepared.validation.lengths])
    assert len(set(lengths.tolist())) > 8
    pad = make_padding(context.tokenizer.pad_token_id or 0, lengths, context.capacity)
    return replace(run, context=replace(context, pad=pad))


def train_padded(tree, name, *, compiled):
    """Train with one row whose states are damaged; return the run's folder and that row's place."""
    run = open_padded(tree, name)
    context = run.context
    bad = context.prepared.train.replies(context.steps[0].rows)[3]

    def damage(_module, given, states):
        """Make the states of one row NaN whenever it is there, as broken memory would."""
        ids = torch.from_numpy(bad.ids.astype(np.int64))
        windows = given[0][0].unfold(0, len(ids), 1) if given[0].shape[1] >= len(ids) else ids.new_zeros(0, len(ids))
        for start in (windows == ids).all(1).nonzero()[:, 0].tolist():
            states = states.index_fill(1, torch.arange(start, start + len(ids)), math.nan)
        return states

    context.model.model.embed_tokens.register_forward_hook(damage)
    if compiled:
        compile_layers(context.model, "aot_eager")
        _compile(run)
    dry_run(run.context)
    _train(run, StopRequest(None), Printer(quiet))
    return context.folder, bad.source


def test_a_run_compiles_its_layers_twice_whatever_happens_in_it(many_lengths):
    folder, bad = train_padded(many_lengths, "compiled", compiled=True)
    assert counters["stats"]["unique_graphs"] == GRAPHS
    assert not counters["graph_break"]
    plain, _ = train_padded(many_lengths, "plain", compiled=False)
    assert counters["stats"]["unique_graphs"] == GRAPHS
    events = [record["text"] for record in journal.read_metrics(folder) if record["kind"] == "event"]
    refused = [text for text in events if "not finite" in text]
    assert len(refused) == 2, "one step of each epoch has the row"
    assert all(text.endswith(f"rows whose own loss is not finite: {bad}") for text in refused)
    mine, theirs = (without_times(journal.read_metrics(each)) for each in (folder, plain))
    assert [record["kind"] for record in mine] == [record["kind"] for record in theirs]
    for one, other in zip(mine, theirs, strict=True):
        if "loss" in one and math.isfinite(one["loss"]):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert [s["answer"] for s in journal.read_samples(folder)] == [s["answer"] for s in journal.read_samples(plain)]
    assert find_checkpoint(folder, "last").step == find_checkpoint(plain, "last").step > 2


def test_layers_that_the_compiler_refuses_run_as_they_are_and_the_run_says_so(many_lengths):
    """As a card's run does where a class breaks the graph in a release of transformers that says it does not."""
    said = []
    run = open_padded(many_lengths, "refused", said.append, train={"activation_budget": 0.5})
    plain = open_padded(many_lengths, "plain", train={"activation_budget": 0.5})
    context = run.context
    for each in (run, plain):
        for layer in each.context.model.model.layers:
            layer.mlp.register_forward_hook(lambda _module, _given, states: states * (1 if states.sum().item() else 2))
    for layer in context.model.model.layers:
        layer.gradient_checkpointing = False  # as with layers that the compiler recomputes
    names = list(context.model.state_dict())
    compile_layers(context.model, "aot_eager")
    _compile(run)
    [line] = [line for line in said if "compiled" in line]
    assert line.startswith("the layers of Qwen3ForCausalLM are not compiled (")
    assert list(context.model.state_dict()) == names
    assert [layer.gradient_checkpointing for layer in context.model.model.layers] == [True, False]
    for each in (run, plain):
        _train(each, StopRequest(None), Printer(quiet))
    mine, theirs = (without_times(journal.read_metrics(each.context.folder)) for each in (run, plain))
    assert mine == theirs
    assert not counters["stats"]["unique_graphs"]
