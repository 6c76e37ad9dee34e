"""Bad numbers: no weight takes one, the rows are named, the policy is followed, and loss spikes are flagged."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.model_folders import make_folder, weights
from support.runs import quiet, settings
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError

from thinktune.checkpoint import store
from thinktune.config import loading as recipe
from thinktune.errors import UserError
from thinktune.inference import decode_runner, kv_cache
from thinktune.model.batch import pack
from thinktune.planner.hardware import GIB, Card
from thinktune.planner.memory import Setting, memory_peaks
from thinktune.run import journal
from thinktune.run.resume import lock_run
from thinktune.train import dry_run, samples, train
from thinktune.train.anomalies import MIN_WINDOW_STEPS, is_spike
from thinktune.train.samples import SampleBudget
from thinktune.train.setup import open_run


@pytest.fixture
def bad_row(monkeypatch):
    """Make the hidden states of one row NaN, as broken memory would."""
    from thinktune.model import forward

    real = forward.hidden_states

    def hidden_states(model, batch):
        states = real(model, batch)
        for row, start, end in zip(batch.row_sources, batch.cu_seqlens, batch.cu_seqlens[1:], strict=False):
            if row.endswith(":5"):
                states = states.index_fill(0, torch.arange(int(start), int(end)), math.nan)
        return states

    monkeypatch.setattr(forward, "hidden_states", hidden_states)


def events(recipe):
    return [record for record in journal.read_metrics(recipe.run_folder) if record["kind"] == "event"]


@pytest.mark.parametrize(
    ("memory", "inside", "loss"),
    [
        *(("fp32", False, "cross_entropy"), ("exact", False, "cross_entropy"), ("8bit", True, "cross_entropy")),
        ("fp32", False, "dft"),
    ],
)
def test_a_bad_row_is_refused_and_named(tree, bad_row, tried, memory, inside, loss):
    changes = {"memory": memory, "update_in_backward": inside, "loss": loss}
    recipe = settings(tree, data={"validation": 0.0}, train=changes)
    folder = train(recipe, quiet)
    texts = [record["text"] for record in events(recipe)]
    assert len(texts) == 3, "one step an epoch holds the row"
    assert all(text.startswith("loss not finite") and text.endswith("rows.jsonl:5") for text in texts)
    from safetensors.torch import load_file

    kept = store.find_checkpoint(folder, "last").folder
    for file in ("model.safetensors", "state/state.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(kept / file).values() if tensor.is_floating_point())
    tried(f"a row whose loss is not finite, memory {memory}", "its steps, refused")


def test_the_policy_stop_saves_and_stops_and_the_run_can_resume(tree, bad_row):
    recipe = settings(tree, data={"validation": 0.0}, train={"bad_numbers": "stop", "log_every_steps": 1})
    with pytest.raises(UserError, match=r"expert\.bad_numbers: is stop, and step \d+ was refused.*rows named above"):
        train(recipe, quiet)
    [event, ending] = events(recipe)
    assert ending["ending"] == "died"
    assert ending["reason"].startswith("expert.bad_numbers: is stop")
    assert store.find_checkpoint(recipe.run_folder, "last").step == event["step"]
    folder = train(settings(tree, data={"validation": 0.0}, train={"log_every_steps": 1}), quiet)
    assert store.find_checkpoint(folder, "last").step == 12
    assert "resumed with a change: expert.bad_numbers (was 'stop', is 'skip')" in [
        record["text"] for record in events(recipe)
    ]


def test_a_loss_that_jumps_is_flagged_with_its_rows(tree, monkeypatch, tried):
    from thinktune.model import forward

    real, calls = forward.linear_cross_entropy, []

    def jumping(*given, **options):
        scaled, each = real(*given, **options)
        calls.append(1)
        return scaled, each + 50 if len(calls) == 20 else each

    monkeypatch.setattr(forward, "linear_cross_entropy", jumping)
    recipe = settings(tree, data={"validation": 0.0}, train={"epochs": 6, "evaluate_every_steps": 100})
    train(recipe, quiet)
    [event] = events(recipe)
    assert (event["step"], event["text"].startswith("loss ")) == (20, True)
    assert "is a spike; rows: " in event["text"]
    assert event["text"].count("rows.jsonl:") == 2
    tried("a loss that jumps", "nothing; it is flagged with its rows")


@given(st.lists(st.floats(0.5, 0.6), min_size=MIN_WINDOW_STEPS, max_size=90))
def test_noise_is_no_spike_and_a_doubled_loss_is(losses):
    assert not is_spike(losses[-1], losses)
    assert is_spike(1.3, losses)
    assert not is_spike(1.3, losses[: MIN_WINDOW_STEPS - 1])


def open_context(recipe):
    with lock_run(recipe.run_folder):
        return open_run(recipe, quiet, ("here",)).context


@pytest.mark.parametrize("memory", ["fp32", "exact", "4bit"])
def test_a_dry_run_takes_the_largest_shapes_and_changes_nothing(tree, memory):
    context = open_context(settings(tree, train={"memory": memory, "batch_tokens": 200, "rows_per_step": 6}))
    before = [weight.clone() for weight in context.model.parameters()]
    state = {name: tensor.clone() for name, tensor in context.optimizer.state_dict().items()}
    batches = dry_run.largest_batches(context)
    dry_run.dry_run(context)
    assert all(weight.equal(kept) for weight, kept in zip(context.model.parameters(), before, strict=True))
    assert all(weight.grad is None for weight in context.model.parameters())
    after = context.optimizer.state_dict()
    assert all(after[name].equal(tensor) for name, tensor in state.items())
    assert not any(tensor.any() for name, tensor in after.items() if name not in state), "fresh states hold something"
    every = [
        batch
        for planned in context.steps
        for batch in pack(context.prepared.train.replies(planned.rows), context.capacity)
    ]
    assert len(batches) > 1, "a step of several batches keeps gradients"
    assert max(len(batch.labels) for batch in every) <= max(len(batch.labels) for batch in batches)


def test_deterministic_operations_are_asked_for_run_by_run(tree):
    for chosen in (True, False):
        open_context(settings(tree, name=f"run-{chosen}", train={"deterministic": chosen}))
        assert torch.are_deterministic_algorithms_enabled() == chosen


@pytest.mark.parametrize("compiling", [False, True])
def test_out_of_memory_in_the_dry_run_suggests_what_would_fit(tree, monkeypatch, compiling):
    def full(*_):
        error = torch.OutOfMemoryError("tried to allocate 9 GiB")
        raise InductorError(error, None) from None if compiling else error  # as torch's compiler raises it

    monkeypatch.setattr(dry_run, "dry_train_step", full)
    context = open_context(settings(tree))
    with pytest.raises(
        UserError, match=r"dry run.*expert\.batch_tokens=512, in a new run train\.memory=exact-bf16 \(0\.00 GiB"
    ):
        dry_run.dry_run(context)


def test_only_a_full_memory_is_found_in_an_error():
    full = torch.OutOfMemoryError("tried to allocate 9 GiB")
    wrapped = RuntimeError("tuning")
    wrapped.__cause__ = BackendCompilerFailed(lambda: None, InductorError(full, None), None)
    told = UserError("expert.batch_tokens: is 9, and the memory is full")
    told.__cause__ = full
    assert dry_run.find_out_of_memory(full) is dry_run.find_out_of_memory(wrapped) is full
    for other in (told, ValueError("9"), InductorError(ValueError("9"), None)):
        assert dry_run.find_out_of_memory(other) is None


def test_the_setting_that_would_fit_is_given_as_overrides(tree, monkeypatch, tmp_path):
    """First a setting that the run can resume with, which it then does; on a smaller card one for a new run."""
    monkeypatch.setattr("thinktune.planner.plan.CONTEXT_BYTES", 0)  # it is larger than this model with all its states
    context = open_context(settings(tree, train={"memory": "exact", "rows_per_step": 6, "batch_tokens": 512}))
    said = dry_run.suggest_plan(context, Card("a card", 24 * GIB))
    assert said.startswith("this fits (0.0")
    given = tmp_path / "mine.yaml"
    given.write_text(recipe.dump_recipe(context.recipe), encoding="utf-8")
    changed = recipe.load_recipe(given, said.partition(": ")[2].split())
    assert (changed.train.activation_budget, changed.train.batch_tokens) != (None, 512)
    assert open_context(changed).capacity == changed.train.batch_tokens < 512
    workload = replace(
        dry_run.make_workload(context.plan_inputs),
        compiled=False,
    )
    said = dry_run.suggest_plan(
        context, Card("a card for less", memory_peaks(workload, Setting("exact", False, 0.0, 256)).train)
    )
    assert said.startswith("no smaller setting of this tier fits; this does (")
    changed = recipe.load_recipe(given, said.partition("): ")[2].split())
    assert (changed.name, changed.run_folder.exists()) == (f"{context.folder.name}-2", False)
    assert changed.train.memory in ("exact-bf16", "8bit", "8bit-streamed", "4bit")


def test_a_dry_run_decodes_the_longest_possible_samples(tree, monkeypatch):
    """No cache of a run's samples is larger than that of its dry run; half as many replies where memory is full."""
    context = open_context(settings(tree, generate={"max_new_tokens": 60, "sample_questions": 3}))
    monkeypatch.setattr(kv_cache, "GROW_COLUMNS", 16)  # so that a reply of this length grows it several times
    real, made, full = kv_cache._grown, [], []

    def larger(buffer, needed, like):
        if needed[0] > (full or [needed[0]])[0]:
            raise torch.OutOfMemoryError
        made.append(real(buffer, needed, like))
        return made[-1]

    monkeypatch.setattr(kv_cache, "_grown", larger)
    questions = len(context.prepared.validation.examples(3))
    assert questions > 1
    assert dry_run.replies_that_fit(context) == questions
    largest = max(buffer.numel() for buffer in made)
    made.clear()
    budget = SampleBudget()
    samples.write_samples(context, budget, 1)
    assert 0 < max(buffer.numel() for buffer in made) <= largest
    full.append(1)
    budget.limit_batch(dry_run.replies_that_fit(context))
    assert budget.batch_rows == 1
    samples.write_samples(context, budget, 1)
    assert len(journal.read_samples(context.folder)) == 2 * questions, "all are written, one after another"
    full[0] = 0
    with pytest.raises(torch.OutOfMemoryError):
        dry_run.replies_that_fit(context)


def test_as_many_samples_fit_as_their_graphs_leave_room_for(tree, monkeypatch):
    """A dry run captures as the run does; where graphs of all do not fit, half as many replies are written at a time."""
    context, captured = open_context(settings(tree, generate={"max_new_tokens": 20, "sample_questions": 3})), []

    def capture(step):
        captured.append(len(step()))
        if len(captured) == 1:
            raise torch.OutOfMemoryError("planted")
        return step

    assert dry_run.replies_that_fit(context) == len(context.prepared.validation.examples(3))
    monkeypatch.setattr(dry_run, "decodes_statically", partial(decode_runner.decodes_statically, mode="static"))
    monkeypatch.setattr(dry_run, "DecodeRunner", partial(decode_runner.DecodeRunner, capture=capture))
    with pytest.warns(UserWarning, match="could not be captured"):
        assert dry_run.replies_that_fit(context) == 1
    assert captured[0] > captured[1] == 1


def test_a_run_without_samples_decodes_none_in_its_dry_run(tree):
    assert dry_run.replies_that_fit(open_context(settings(tree, generate={"sample_questions": 0}))) is None
    assert dry_run.replies_that_fit(open_context(settings(tree, name="all", data={"validation": 0.0}))) is None


@pytest.fixture
def overflowing(tree, start, tmp_path):
    """Make a model whose weights are finite and whose losses are not."""
    change = weights(lambda stored: stored["model.norm.weight"].fill_(3e38))
    return {**tree, "model": {"name": str(make_folder(start, tmp_path / "overflowing", change))}}


def test_a_first_evaluation_that_is_not_finite_stops_the_run_at_each_start(overflowing, tried):
    recipe = settings(overflowing)
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"^model\.name: the eval loss of .* before anything is trained \(rows: .*:\d"
        ):
            train(recipe, quiet)
    assert not (recipe.run_folder / "final").exists()
    assert not [record for record in journal.read_metrics(recipe.run_folder) if record["kind"] == "train"]
    tried("a base model whose loss is not finite")


def test_a_run_that_could_not_train_one_step_writes_no_final_model(overflowing):
    recipe = settings(overflowing, data={"validation": 0.0}, train={"epochs": 1})
    for _ in range(2):
        with pytest.raises(UserError, match=r"^model\.name: none of the 4 steps had a finite gradient"):
            train(recipe, quiet)
    assert not (recipe.run_folder / "final").exists()
