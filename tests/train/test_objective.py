"""Objectives of a run: DFT and weights of parts are their plain formulas, however rows are packed, stopped and shown."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.prepared_rows import write
from support.runs import equal, quiet, settings, stop_after

from thinktune.commands.check import check_recipe
from thinktune.config.loading import load_recipe
from thinktune.config.schema import TrainConfig
from thinktune.data import prepare
from thinktune.data.packing import plan_steps
from thinktune.distributed.world import World
from thinktune.errors import UserError
from thinktune.model.batch import pack
from thinktune.model.forward import evaluate_loss
from thinktune.model.loading import load_model
from thinktune.model.loss import Objective
from thinktune.model.low_precision.float8 import apply_float8
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer
from thinktune.report.card_facts import settings_text
from thinktune.run import RunFolder, journal
from thinktune.tokenization import TokenKind
from thinktune.train import train
from thinktune.train.objective import make_objective, objective_lines
from thinktune.train.step import StepOptions, step

CPU = torch.device("cpu")
SETTINGS = TrainConfig(rows_per_step=1, learning_rate=1e-3, weight_decay=0.1)
DFT, WEIGHTS, BOTH = Objective(by_probability=True), Objective(0.5, 1.0), Objective(0.25, 1.0, by_probability=True)
REASONING_ALONE = Objective(1.0, 0.0)


def plain_objective(model, rows, objective):
    """Return the objective of some rows by transformers' own forward pass, one row at a time."""
    total, divisor = 0.0, 0.0
    for row in rows:
        ids = torch.from_numpy(row.ids.astype("int64"))
        logs = torch.log_softmax(model(ids[None]).logits[0, :-1].float(), -1).gather(1, ids[1:, None])[:, 0]
        for log, kind in zip(logs, row.kinds[1:].tolist(), strict=True):
            if kind == TokenKind.PROMPT:
                continue
            weight = objective.reasoning_weight if kind == TokenKind.REASONING else objective.answer_weight
            total = total - weight * (log.exp().detach() if objective.by_probability else 1) * log
            divisor += weight
    return total / divisor


def options_of(rows, objective, **changes):
    """Return the options of a step over these rows."""
    labels = sum(row.label_tokens for row in rows)
    reasoning = sum(int(np.count_nonzero(row.kinds == TokenKind.REASONING)) for row in rows)
    weight = objective.summed_weight(labels, reasoning)
    return StepOptions(labels, objective=objective, label_weight=weight, **changes)


@pytest.mark.parametrize("objective", [DFT, WEIGHTS, BOTH, REASONING_ALONE], ids=str)
def test_steps_are_those_of_the_plain_objective_however_rows_are_packed(model, rows, objective):
    """With torch's own clipping and AdamW; in one batch, in a batch a row, and in small chunks of logits."""
    by_hand, models = copy.deepcopy(model), [model, copy.deepcopy(model), copy.deepcopy(model)]
    packings = [pack(rows, 512), [batch for row in rows for batch in pack([row], 512)], pack(rows, 512)]
    chunks = [None, None, 3]
    updates = [Optimizer(each, SETTINGS) for each in models]
    decayed = [weight for weight in by_hand.parameters() if weight.ndim > 1]
    spared = [weight for weight in by_hand.parameters() if weight.ndim == 1]
    plain = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0}], foreach=False
    )
    for number in (1, 2):
        expected = evaluate_loss(by_hand, pack(rows, 512), CPU, torch.float32).mean_losses()
        by_hand.train()
        plain_objective(by_hand, rows, objective).backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), SETTINGS.clip_norm).item()
        for group in plain.param_groups:
            group["lr"] = 1e-3
        plain.step()
        plain.zero_grad()
        for each, update, batches, rows_of_logits in zip(models, updates, packings, chunks, strict=True):
            update.begin_step(number, 1e-3)
            asked = options_of(rows, objective, chunk_rows=rows_of_logits)
            made = step(each, batches, update, World(), torch.float32, asked)
            assert made.gradient_norm.item() == pytest.approx(norm, rel=1e-4)
            assert made.losses.mean_losses() == pytest.approx(expected, rel=1e-5), "shown without weights"
    for each in models:
        for mine, theirs in zip(each.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)


def test_a_step_in_which_nothing_weighs_anything_has_no_gradient(model, rows):
    silent = [
        replace(row, kinds=np.where(row.kinds == TokenKind.REASONING, TokenKind.PROMPT, row.kinds)) for row in rows
    ]
    update = Optimizer(model, TrainConfig(rows_per_step=1, learning_rate=1e-3))
    update.begin_step(1, 1e-3)
    before = [weight.clone() for weight in model.parameters()]
    made = step(model, pack(silent, 512), update, World(), torch.float32, options_of(silent, REASONING_ALONE))
    assert made.gradient_norm.item() == 0
    assert made.losses.mean_losses()["loss"] > 0
    assert all(weight.equal(former) for weight, former in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [({}, (1, 1)), ({"reasoning": 3, "answer": 3}, (1, 1)), ({"reasoning": 2, "answer": 4}, (0.5, 1))],
)
def test_only_the_ratio_of_weights_counts(weights, expected):
    for name in ("cross_entropy", "dft"):
        found = make_objective(TrainConfig(rows_per_step=1, loss=name, weights=weights))
        assert found == Objective(*expected, by_probability=name == "dft")


def test_equal_weights_are_the_run_without_any_to_the_bit(tree):
    equal(
        train(settings(tree, name="equal", train={"weights": {"reasoning": 2, "answer": 2}}), quiet),
        train(settings(tree), quiet),
    )


@pytest.fixture
def mixed(tree, tmp_path):
    """Return a function that makes a recipe of two sources, by DFT and with weights."""
    general = [{"question": f"Count {n}", "answer": f"{n} of them"} for n in ("one", "two", "three", "four")]
    other = {"name": str(write(tmp_path / "general.jsonl", general)), "validation": 0, "share": 0.3}
    other |= {"faults": {"no_reasoning": "silent"}}
    chosen = {"loss": "dft", "weights": {"reasoning": 0.5}, "log_every_steps": 1}

    def recipe(name, **changes):
        sources = [tree["data"], other]
        return settings({**tree, "name": name, "data": sources}, train={**chosen, **changes})

    return recipe


def test_a_run_by_dft_resumes_to_the_bit_and_shows_plain_losses(mixed, tokenizer, start):
    said = []
    whole = train(mixed("whole"), said.append)
    with pytest.raises(KeyboardInterrupt):
        train(mixed("cut"), stop_after(3))
    equal(train(mixed("cut"), quiet), whole)
    assert any(line.startswith("loss: dft") for line in said)
    assert "losses are shown as cross entropy, with all tokens equal" in said

    recipe = mixed("whole")
    prepared = prepare(recipe, tokenizer)
    first = next(each for each in journal.read_metrics(whole) if each["kind"] == "train")
    base = load_model(start, CPU, torch.float32)
    chosen = prepared.train.replies(plan_steps(recipe, prepared)[0].rows)
    base.set_attn_implementation("thinktune_rows")
    plain = evaluate_loss(base, pack(chosen, 512), CPU, torch.float32).mean_losses()
    assert {name: first[name] for name in plain} == pytest.approx(plain, rel=1e-5)
    assert first["source_losses"]
    plain_objective(base.train(), chosen, make_objective(recipe.train)).backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in base.parameters()]).item()
    assert first["gradient_norm"] == pytest.approx(norm, rel=1e-4), "what is minimized is not plain"

    kept = load_recipe(RunFolder(whole).recipe)
    assert kept == recipe
    assert "loss: dft" in settings_text(kept)
    assert "reasoning: 0.5" in settings_text(kept)
    for changes, told in (
        ({"loss": "cross_entropy"}, r"train\.loss \(was 'dft', is 'cross_entropy'\)"),
        ({"weights": {"reasoning": 0.25}}, r"train\.weights\.reasoning \(was 0\.5, is 0\.25\)"),
    ):
        with pytest.raises(UserError, match=told):
            train(mixed("whole", **changes), quiet)


def test_weights_by_which_nothing_is_learned_are_refused_before_the_run(tree, tmp_path):
    rows = [{"question": f"{number}?", "answer": f"It is {number}."} for number in range(8)]
    data = {"name": str(write(tmp_path / "silent.jsonl", rows)), "columns": {}, "faults": {"no_reasoning": "silent"}}
    recipe = settings(tree, data=data, train={"weights": {"answer": 0}})
    told = "train.weights: answer is 0, and no training row has reasoning, so nothing would be learned; give answer a"
    facts = check_recipe(recipe, quiet)[1]
    assert facts["verdict"] == "not ready"
    assert any(stop.startswith(told) for stop in facts["stops"])
    with pytest.raises(UserError, match=told):
        train(recipe, quiet)
    assert not recipe.run_folder.exists()


def test_check_says_what_weights_make_of_the_rows(tree, tokenizer):
    recipe = settings(tree, train={"weights": {"reasoning": 0.5, "answer": 2}})
    rows = prepare(recipe, tokenizer).train
    labels, reasoning = int(rows.label_tokens.sum()), rows.reasoning_tokens()
    kinds = np.concatenate([row.kinds for row in rows.replies()])
    assert reasoning == np.count_nonzero(kinds == TokenKind.REASONING)
    assert reasoning == sum(rows.reasoning_tokens([index]) for index in range(len(rows.lengths)))
    share = 0.25 * reasoning / (0.25 * reasoning + labels - reasoning)
    line, shown = check_recipe(recipe, quiet)[1]["objective"]
    assert line == (
        "weights: reasoning 0.5, answer and end token 2; reasoning is "
        f"{reasoning / labels:.0%} of the learned tokens and {share:.0%} of their weight"
    )
    assert shown == "losses are shown as cross entropy, with all tokens equal"
    assert objective_lines(settings(tree).train, rows) == []


@pytest.mark.slow
@pytest.mark.parametrize("memory", TIERS)
def test_every_tier_learns_by_dft_with_weights(tree, memory):
    changes = {"rows_per_step": 8, "epochs": 40, "learning_rate": 5e-3, "evaluate_every_steps": 40, "memory": memory}
    chosen = changes | {"loss": "dft", "weights": {"reasoning": 0.5}}
    folder = train(settings(tree, data={"validation": 0.0}, train=chosen), quiet)
    losses = [record["loss"] for record in journal.read_metrics(folder) if record["kind"] == "train"]
    assert losses[-1] < losses[0] - 1


@pytest.mark.slow
@pytest.mark.parametrize("scaling", ["tensor", "row"])
def test_8_bit_products_are_near_those_of_bf16_by_dft_too(model, rows, scaling):
    model.to(torch.bfloat16)
    eight = copy.deepcopy(model)
    apply_float8(eight, scaling, hold=True)
    norms = []
    for each in (model, eight):
        update = Optimizer(each, TrainConfig(rows_per_step=1, memory="exact"))
        update.begin_step(1, 1e-3)
        made = step(each, pack(rows, 512), update, World(), torch.bfloat16, options_of(rows, BOTH))
        norms.append(made.gradient_norm.item())
    assert norms[1] == pytest.approx(norms[0], rel=0.1)
