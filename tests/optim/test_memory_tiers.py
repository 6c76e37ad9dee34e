"""Memory tiers: exact equals fp32 to the bit; chunks, restarts and bad numbers change nothing; bytes match the table."""

import pytest
import torch
from support.optimizers import (
    RATE,
    Reads,
    SmallModel,
    all_equal,
    all_tensors,
    gradients,
    settings,
    take_steps,
    take_steps_in_backward,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from thinktune.config.schema import TrainConfig
from thinktune.distributed.world import World
from thinktune.model.batch import pack
from thinktune.model.loading import load_model
from thinktune.optim import adamw
from thinktune.optim.memory_tiers import TIERS, pick_memory_tier
from thinktune.optim.optimizer import Optimizer
from thinktune.planner.trace import LiveBytes
from thinktune.tokenization import Example, Turn
from thinktune.tokenization.chat_template import render
from thinktune.train.step import step

NOT_FP32 = [memory for memory in TIERS if memory != "fp32"]
CPU = torch.device("cpu")


def test_exact_is_fp32_bit_for_bit(monkeypatch):
    """Compare master and both moments after 50 steps with the same arithmetic over fp32 weights."""
    plain, exact = SmallModel(), SmallModel()
    monkeypatch.setattr("thinktune.optim.optimizer._make_fused_adamw", lambda *_: None)
    first, second = Optimizer(plain, settings("fp32")), Optimizer(exact, settings("exact"))
    take_steps(plain, first, range(1, 51))
    take_steps(exact, second, range(1, 51))
    assert {weight.dtype for weight in exact.parameters()} == {torch.bfloat16}
    for weight, master in zip(plain.parameters(), second.master_weights().values(), strict=True):
        assert weight.equal(master)
    for name, kept in first.state_dict().items():
        assert name == "last_norm" or kept.equal(second.state_dict()[name])


@pytest.mark.parametrize("foreach", [False, True])
def test_exact_is_torchs_own_adamw(foreach):
    plain, exact = SmallModel(), SmallModel()
    optimizer = Optimizer(exact, settings("exact"))
    matrices, others = [plain.matrix, plain.small_matrix], [plain.vector]
    theirs = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=RATE, foreach=foreach
    )
    for number in range(1, 51):
        take_steps(exact, optimizer, [number])
        for weight, gradient in zip(plain.parameters(), gradients(number), strict=True):
            weight.grad = gradient.bfloat16().float()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        theirs.step()
    for weight, master in zip(plain.parameters(), optimizer.master_weights().values(), strict=True):
        torch.testing.assert_close(master, weight, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("memory", NOT_FP32)
def test_chunk_size_does_not_change_results(monkeypatch, memory):
    found = []
    for chunk in (2**20, 1024, 256):
        monkeypatch.setattr(adamw, "CPU_CHUNK_ELEMENTS", chunk)
        model = SmallModel()
        optimizer = Optimizer(model, settings(memory))
        take_steps(model, optimizer, range(1, 6))
        found.append(all_tensors(model, optimizer))
    assert all_equal(found[0], found[1])
    assert all_equal(found[0], found[2])


@pytest.mark.parametrize("memory", NOT_FP32)
def test_rounding_noise_depends_on_seed_and_step_only(memory):
    """The same seed and step give the same weights, whatever state torch's generator is in; another seed does not."""
    found = []
    for seed in (1, 1, 2):
        model = SmallModel()
        optimizer = Optimizer(model, settings(memory, seed=seed))
        torch.rand(seed + len(found))
        take_steps(model, optimizer, range(1, 4))
        found.append(all_tensors(model, optimizer))
    assert all_equal(found[0], found[1])
    assert all_equal(found[0], found[2]) == (memory == "exact")


@pytest.mark.parametrize("memory", TIERS)
@pytest.mark.parametrize("in_backward", [False, True])
def test_a_restored_optimizer_continues_bit_for_bit(memory, in_backward):
    model = SmallModel()
    optimizer = Optimizer(model, settings(memory, update_in_backward=in_backward))
    drive = take_steps_in_backward if in_backward else take_steps
    drive(
        model, optimizer, range(1, 6)
    )  # the last of these has the largest norm, by which the next is clipped inside the backward pass
    other = SmallModel()
    masters = optimizer.master_weights() or {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for name, weight in other.named_parameters():
        weight.data = masters[name]
    restored = Optimizer(other, settings(memory, update_in_backward=in_backward))
    for name, kept in restored.state_dict().items():
        kept.copy_(optimizer.state_dict()[name])
    drive(model, optimizer, range(6, 9))
    drive(other, restored, range(6, 9))
    assert all_equal(all_tensors(model, optimizer), all_tensors(other, restored))


@pytest.mark.parametrize("memory", TIERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(memory, bad):
    model = SmallModel()
    optimizer = Optimizer(model, settings(memory))
    take_steps(model, optimizer, range(1, 4))
    before = all_tensors(model, optimizer)
    [norm] = take_steps(model, optimizer, [4], lambda gradient: gradient.index_fill(0, torch.tensor([1]), bad))
    assert not norm.isfinite()
    assert all_equal(before, all_tensors(model, optimizer))
    take_steps(model, optimizer, [5])
    assert not all_equal(before, all_tensors(model, optimizer))


@pytest.mark.parametrize("memory", TIERS)
def test_inside_the_backward_pass_is_after_it_where_nothing_is_clipped(memory, monkeypatch):
    monkeypatch.setattr("thinktune.optim.optimizer._make_fused_adamw", lambda *_: None)
    found = []
    for in_backward, drive in ((False, take_steps), (True, take_steps_in_backward)):
        model = SmallModel()
        optimizer = Optimizer(model, settings(memory, update_in_backward=in_backward, clip_norm=1e9))
        norms = drive(model, optimizer, range(1, 6))
        optimizer._last_norm.zero_()
        found.append((all_tensors(model, optimizer), norms))
    assert all_equal(found[0][0], found[1][0])
    torch.testing.assert_close(torch.stack(found[0][1]), torch.stack(found[1][1]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("memory", TIERS)
def test_inside_the_backward_pass_a_bad_gradient_stops_the_rest_of_its_step_only(memory):
    model = SmallModel()
    optimizer = Optimizer(model, settings(memory, update_in_backward=True))
    take_steps_in_backward(model, optimizer, range(1, 3))
    before = all_tensors(model, optimizer)
    [norm] = take_steps_in_backward(model, optimizer, [3], lambda gradient: gradient * float("nan"))
    assert norm.isnan()
    assert all_equal(before, all_tensors(model, optimizer))
    [norm] = take_steps_in_backward(model, optimizer, [4])
    assert norm.isfinite()
    assert not all_equal(before, all_tensors(model, optimizer))


def test_inside_the_backward_pass_no_gradient_is_used_larger_than_the_last_norm_allows():
    """A second moment of beta 0 is the square of the gradient that the optimizer used."""
    model = SmallModel()
    optimizer = Optimizer(model, settings("exact", update_in_backward=True, betas=(0.0, 0.0)))
    [first, second] = take_steps_in_backward(model, optimizer, [1, 2])
    used = sum(value.sum() for name, value in optimizer.state_dict().items() if name.endswith("/second")).sqrt()
    torch.testing.assert_close(used, second / torch.maximum(first, second).clamp(min=1), rtol=0.05, atol=0)


@pytest.mark.parametrize("memory", TIERS)
def test_bytes_are_those_of_the_table(memory):
    model = torch.nn.Linear(512, 256, bias=False)
    optimizer = Optimizer(model, settings(memory))
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.begin_step(1, RATE)
    optimizer.finish_step()
    kept = {"weight": model.weight, **{name: tensor for name, tensor in optimizer.state_dict().items() if "/" in name}}
    if memory.startswith("exact"):
        kept["remainder"] = optimizer._states["weight"].remainder
    counted = sum(tensor.numel() * tensor.element_size() for name, tensor in kept.items() if not name.endswith("/step"))
    assert counted / model.weight.numel() == TIERS[memory].bytes_per_parameter
    assert [TIERS[name].bytes_per_parameter for name in TIERS] == [12, 12, 8, 4.03125, 4.03125, 3.0625]


def test_masters_are_joined_where_no_card_needs_room_for_it(monkeypatch):
    monkeypatch.setattr("thinktune.optim.optimizer.can_update_fused", lambda device: False)
    with FakeTensorMode(), LiveBytes(torch.device("cuda")) as live:
        model = torch.nn.ParameterList([torch.empty(256, 256, device="cuda")])
        made = Optimizer(model, settings("exact"))
        before = live.reset_peak()
        masters = made.master_weights()
        assert before > 0
        assert live.peak_bytes == before
    assert masters["0"].device == CPU
    assert masters["0"].dtype == torch.float32


def test_auto_is_exact_on_an_accelerator_only():
    train = TrainConfig(rows_per_step=1)
    assert pick_memory_tier(train, CPU) == "fp32"
    assert pick_memory_tier(train, torch.device("cuda")) == "exact"
    assert pick_memory_tier(TrainConfig(rows_per_step=1, precision="fp32"), torch.device("cuda")) == "fp32"
    assert pick_memory_tier(TrainConfig(rows_per_step=1, memory="4bit"), CPU) == "4bit"


@pytest.mark.parametrize("memory", NOT_FP32)
@pytest.mark.parametrize("in_backward", [False, True])
def test_a_real_step_in_bf16_is_near_that_of_fp32(start, tokenizer, memory, in_backward):
    """Compare the losses of five steps with those of fp32 weights, on a model with tied embeddings."""
    turns = (Turn("user", "2+2?"), Turn("assistant", "4", "two and two"))
    batches = pack([render(Example(turns, "r:1"), tokenizer)[0]], 512)
    losses = []
    for train in (settings(), settings(memory, update_in_backward=in_backward)):
        model = load_model(start, CPU, TIERS[train.memory].load_dtype)
        optimizer = Optimizer(model, train)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        made = []
        for number in range(1, 6):
            optimizer.begin_step(number, RATE)
            precision = torch.float32 if train.memory == "fp32" else torch.bfloat16
            made.append(step(model, batches, optimizer, World(), precision).losses.mean_losses()["loss"])
        losses.append(made)
    assert losses[0][-1] < losses[0][0] - 0.5
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_bf16_weights_compute_without_casts(start, tokenizer):
    model = load_model(start, CPU)
    optimizer = Optimizer(model, settings("exact"))
    turns = (Turn("user", "2+2?"), Turn("assistant", "4", "two and two"))
    [batch] = pack([render(Example(turns, "r:1"), tokenizer)[0]], 512)
    seen = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    optimizer.begin_step(1, RATE)
    step(model, [batch], optimizer, World(), torch.bfloat16)
    assert seen == [False]


@pytest.mark.parametrize("memory", NOT_FP32)
@pytest.mark.parametrize("in_backward", [False, True])
def test_the_host_reads_nothing_in_an_update(memory, in_backward):
    model = SmallModel()
    optimizer = Optimizer(model, settings(memory, update_in_backward=in_backward))
    with Reads() as reads:
        (take_steps_in_backward if in_backward else take_steps)(model, optimizer, [1, 2])
    assert not reads.found
    with Reads() as reads:
        assert torch.ones(3).sum().item() == 3
    assert reads.found == ["_local_scalar_dense"]  # or nothing was counted
