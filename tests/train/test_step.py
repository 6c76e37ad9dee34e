"""The step: packed rows equal single ones, many batches equal one, and bad numbers change nothing."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from thinktune.config.schema import TrainConfig
from thinktune.data.batch_shapes import BatchShapes
from thinktune.distributed.world import World
from thinktune.model.batch import Padding, pack
from thinktune.model.device import pick_device
from thinktune.model.forward import evaluate_loss, hidden_states
from thinktune.model.loss import LogitChunks, linear_cross_entropy, pick_chunk_rows
from thinktune.optim.optimizer import Optimizer
from thinktune.tokenization import TokenKind
from thinktune.train.step import step

SETTINGS = TrainConfig(rows_per_step=1, learning_rate=1e-3, weight_decay=0.1)
CPU = torch.device("cpu")


def plain_losses(model, row):
    """Return the loss of each learned token by transformers' own forward pass, one row alone."""
    logits = model(torch.from_numpy(row.ids.astype("int64"))[None]).logits[0, :-1].float()
    learned = torch.from_numpy(row.kinds[1:] > 0)
    return cross_entropy(logits[learned], torch.from_numpy(row.ids[1:].astype("int64"))[learned], reduction="none")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pad", [None, Padding(0, BatchShapes((512,), (12,), 60))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_row_attends_only_to_itself(model, rows, attention, pad, dtype):
    """Hidden states and the gradients of all weights, against transformers' own attention, row by row."""
    model.to(dtype)
    alone = copy.deepcopy(model)
    alone.set_attn_implementation(attention)
    [batch] = pack(rows, 512, pad=pad)
    packed = hidden_states(model, batch)[: batch.unpadded_tokens]
    order = sorted(rows, key=lambda row: batch.row_sources.index(row.source))
    each = torch.cat(
        [alone.model(torch.from_numpy(row.ids.astype("int64"))[None]).last_hidden_state[0] for row in order]
    )
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(packed, each, **close)
    packed.float().square().mean().backward()
    each.float().square().mean().backward()
    for (name, mine), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, **close, msg=lambda text, name=name: f"{name}: {text}")


def test_the_loss_equals_that_of_transformers(model, rows):
    plain = torch.cat([plain_losses(model, row) for row in rows])
    parts = torch.cat([torch.from_numpy(row.kinds[row.kinds > 0]) for row in rows])
    found = evaluate_loss(model, pack(rows, 512), CPU, torch.float32).mean_losses()
    assert found["loss"] == pytest.approx(plain.mean().item(), rel=1e-6)
    for part, name in (
        (TokenKind.REASONING, "reasoning_loss"),
        (TokenKind.ANSWER, "answer_loss"),
        (TokenKind.END, "end_loss"),
    ):
        assert found[name] == pytest.approx(plain[parts == part].mean().item(), rel=1e-5)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 100])
def test_the_loss_in_chunks_has_the_plain_losses_gradients(tokens):
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    targets = torch.randint(50, (tokens,))
    scaled, each = linear_cross_entropy(
        hidden, weight, targets, scale=0.25, dtype=torch.float32, chunks=LogitChunks(16)
    )
    scaled.backward()
    mine = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    plain = cross_entropy(hidden @ weight.T, targets, reduction="none")
    (0.25 * plain.sum()).backward()
    torch.testing.assert_close(each, plain.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine[0], hidden.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine[1], weight.grad, rtol=1e-5, atol=1e-6)


def test_bf16_losses_are_within_the_rounding_of_bf16():
    """Compare with the plain loss of the same bf16 numbers; the noise is that of rounding logits and gradients."""
    torch.manual_seed(0)
    mine = [(torch.randn(*size) / 2).bfloat16().requires_grad_() for size in ((100, 32), (400, 32))]
    plain = [part.detach().float().requires_grad_() for part in mine]
    targets = torch.randint(400, (100,))
    scaled, each = linear_cross_entropy(*mine, targets, scale=0.01, dtype=torch.bfloat16, chunks=LogitChunks(32))
    scaled.backward()
    expected = cross_entropy(plain[0] @ plain[1].T, targets, reduction="none")
    (0.01 * expected.sum()).backward()
    torch.testing.assert_close(
        each, expected.detach(), rtol=0, atol=2**-8 * 8
    )  # half a step of bf16 at the logits' size
    for one, other in zip(mine, plain, strict=True):
        assert (one.grad.float() - other.grad).norm() < 2**-7 * other.grad.norm()


def test_a_loss_that_is_multiplied_after_its_gradients_are_made_is_refused():
    hidden, weight = torch.randn(2, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    loss, _ = linear_cross_entropy(hidden, weight, torch.tensor([0, 8]), scale=1.0, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="its scale is given, not multiplied"):
        (2 * loss).backward()


@pytest.mark.parametrize(("weights", "why"), [(1e30, "logits overflow"), (-1e30, "the target has no share")])
def test_a_row_whose_loss_is_not_finite_has_no_finite_gradient_and_leaves_no_head_without(weights, why):
    """One row's loss is infinite, or no number; the other two rows are as they would be alone."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(3, 4), torch.randn(9, 4)
    hidden[1], weight[5] = weights, 1e30
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    loss, each = linear_cross_entropy(hidden, weight, torch.tensor([0, 5, 2]), scale=1.0, dtype=torch.float32)
    loss.backward()
    assert each.isfinite().tolist() == [True, False, True], why
    assert hidden.grad.isfinite().all(1).tolist() == [True, False, True], why
    assert not weight.grad.isfinite().any(), why


def test_huge_logits_do_not_overflow():
    hidden, weight = torch.full((2, 4), 100.0, requires_grad=True), torch.full((9, 4), 50.0, requires_grad=True)
    loss, _ = linear_cross_entropy(hidden, weight, torch.tensor([0, 8]), scale=1.0, dtype=torch.float32)
    loss.backward()
    assert loss.isfinite()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(("gib", "rows"), [(6, 662), (8, 883), (24, 1325), (140, 7729)])
def test_chunks_of_logits_are_a_small_part_of_any_card_and_enough_work_on_a_small_one(gib, rows):
    made = pick_chunk_rows(torch.device("cuda"), 151_936, torch.bfloat16, gib * 2**30, fused=True)
    assert made == rows
    assert made * 151_936 * 2 <= gib * 2**30 / 32


def test_evaluation_computes_no_gradient():
    hidden, weight, targets = torch.randn(6, 8), torch.randn(50, 8, requires_grad=True), torch.randint(50, (6,))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        linear_cross_entropy(hidden, weight, targets, scale=1.0, dtype=torch.float32)
    assert counter.get_total_flops() == 2 * 6 * 8 * 50  # the logits alone


@pytest.mark.parametrize("tied", [True, False])
def test_many_batches_equal_one(model, rows, tied):
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    other = copy.deepcopy(model)
    one = step(model, pack(rows, 512), Optimizer(model, SETTINGS), World(), torch.float32)
    many = step(
        other, [batch for row in rows for batch in pack([row], 512)], Optimizer(other, SETTINGS), World(), torch.float32
    )
    assert one.losses.mean_losses() == pytest.approx(many.losses.mean_losses(), rel=1e-6)
    assert one.gradient_norm.item() == pytest.approx(many.gradient_norm.item(), rel=1e-5)
    assert one.label_tokens == many.label_tokens
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_the_step_is_adamw_clipped_with_norms_not_decayed(model, rows):
    """Compare with torch's own loss, clipping and unfused AdamW."""
    other = copy.deepcopy(model)
    decayed = [weight for weight in other.parameters() if weight.ndim > 1]
    spared = [weight for weight in other.parameters() if weight.ndim == 1]
    plain = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0}], foreach=False
    )
    update = Optimizer(model, SETTINGS)
    for number in range(1, 4):
        update.begin_step(number, 1e-3)
        made = step(model, pack(rows, 512), update, World(), torch.float32)
        torch.cat([plain_losses(other, row) for row in rows]).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(other.parameters(), SETTINGS.clip_norm)
        plain.step()
        plain.zero_grad()
        assert made.gradient_norm.item() == pytest.approx(norm.item(), rel=1e-4)
    assert norm > SETTINGS.clip_norm  # otherwise clipping was not tested
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(model, rows, bad):
    update = Optimizer(model, SETTINGS)
    update.begin_step(1, 1e-3)
    step(model, pack(rows, 512), update, World(), torch.float32)
    before = [tensor.clone() for tensor in (*model.parameters(), *update.state_dict().values())]
    handle = model.model.norm.register_forward_hook(lambda *_: _[-1] * bad)
    made = step(model, pack(rows, 512), update, World(), torch.float32)
    handle.remove()
    assert not made.gradient_norm.isfinite()
    for old, new in zip(before, (*model.parameters(), *update.state_dict().values()), strict=True):
        assert old.equal(new)


def test_bf16_arithmetic_keeps_fp32_weights_and_is_near(model, rows):
    exact = evaluate_loss(model, pack(rows, 512), CPU, torch.float32).mean_losses()["loss"]
    rounded = evaluate_loss(model, pack(rows, 512), CPU, torch.bfloat16).mean_losses()["loss"]
    assert rounded == pytest.approx(exact, rel=0.01)
    step(model, pack(rows, 512), Optimizer(model, SETTINGS), World(), torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_build_for_an_accelerator_without_one_uses_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert pick_device() == CPU
