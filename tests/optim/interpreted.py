"""The fused update in Triton's interpreter: `test_fused_update.py` runs this file in a process with TRITON_INTERPRET=1.

The interpreter replaces Triton's own functions when Triton is imported, so these tests need a process of their own.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from support.optimizers import SmallModel, all_equal, all_tensors, settings, take_steps_in_backward
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from thinktune.optim import adamw, optimizer, update_kernels
from thinktune.optim.adamw import ParameterState, StepScalars, adamw_update
from thinktune.optim.fused_update import FusedUpdate, _codebooks
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer
from thinktune.optim.quantization import EIGHT_BIT, FOUR_BIT, BlockQuantized, random_keys, slice_moment, split_master

FUSED = [memory for memory in TIERS if memory != "fp32"]
CPU = torch.device("cpu")
NO_CLIP = 1e9  # the norm's last bit depends on the order of its sum, and with it the scale of clipped gradients
BAD_STEP = 3


class AlignedModel(torch.nn.Module):
    """Sizes that take wide loads, one of them more than two spans, and a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix = torch.nn.Parameter(torch.randn(72, 256))
        self.vector = torch.nn.Parameter(torch.ones(256))
        self.small_matrix = torch.nn.Parameter(torch.randn(3, 384) * 1e-3)


def make(model_class, memory, monkeypatch, *, fused, **changes):
    """Make a model and its optimizer, with the kernels or without."""
    with monkeypatch.context() as patch:
        patch.setattr(optimizer, "can_update_fused", lambda device: fused)
        model = model_class()
        made = Optimizer(model, settings(memory, clip_norm=NO_CLIP, **changes))
    assert (made._fused_update is not None) == fused
    return model, made


def take(model, made, steps, *, in_backward):
    """Take steps with gradients of many magnitudes, those of step 3 not finite."""
    norms = []
    for number in steps:
        made.begin_step(number, 1e-3)
        generator = torch.Generator().manual_seed(number)
        given = []
        for weight in model.parameters():
            spread = torch.rand(weight.shape, generator=generator) * -9 + 1
            given.append((torch.randn(weight.shape, generator=generator) * 10**spread).to(weight.dtype))
        if number == BAD_STEP:
            given[0].view(-1)[7] = float("nan")
        if in_backward:
            sum(
                (weight * gradient).sum() for weight, gradient in zip(model.parameters(), given, strict=True)
            ).backward()
        else:
            for weight, gradient in zip(model.parameters(), given, strict=True):
                weight.grad = gradient
        norms.append(made.finish_step())
        assert all(weight.grad is None for weight in model.parameters())
    return torch.stack(norms)


@pytest.mark.parametrize("model_class", [SmallModel, AlignedModel])
@pytest.mark.parametrize(
    ("memory", "in_backward"), [*((each, False) for each in FUSED), *((each, True) for each in TIERS)]
)
def test_the_kernels_give_the_bits_of_the_plain_update(model_class, memory, in_backward, monkeypatch):
    found, norms = [], []
    for fused in (False, True):
        model, made = make(model_class, memory, monkeypatch, fused=fused, update_in_backward=in_backward)
        norms.append(take(model, made, range(1, 6), in_backward=in_backward))
        made._last_norm.zero_()
        found.append(all_tensors(model, made))
    assert norms[0][BAD_STEP - 1].isnan()
    torch.testing.assert_close(*norms, rtol=1e-6, atol=0, equal_nan=True)
    assert all_equal(*found)
    counts = made.state_dict()["counts"]
    assert counts.tolist() == ([4, 5, 5] if in_backward and counts[1] == 5 else [4, 4, 4])


@pytest.mark.parametrize("memory", FUSED)
def test_gradients_are_divided_as_the_plain_update_does(memory, monkeypatch):
    """Both get the same scale, which is no power of two."""
    plain, fused = (make(AlignedModel, memory, monkeypatch, fused=fused)[1] for fused in (False, True))
    scale, bad = torch.tensor(1.7), torch.tensor(False)
    generator = torch.Generator().manual_seed(0)
    for number in range(1, 5):
        given = [torch.randn(weight.shape, generator=generator).bfloat16() for weight in plain.parameters.values()]
        for each in (plain, fused):
            each.begin_step(number, 1e-3)
        for index, ((name, weight), gradient) in enumerate(zip(plain.parameters.items(), given, strict=True)):
            weight.grad = gradient
            plain._update_parameter(index, name, weight, scale, bad)
        fused._fused_update.set_gradients(given)
        fused._fused_update.update_all(scale, bad)
    assert all_equal(*([*each.state_dict().values(), *each.parameters.values()] for each in (plain, fused)))


def test_clipping_inside_the_backward_pass_is_that_of_the_plain_update(monkeypatch):
    """The norms of its gradients are sums in another order, so the used ones are near and not equal."""
    found = []
    for fused in (False, True):
        model = SmallModel()
        monkeypatch.setattr(optimizer, "can_update_fused", lambda device, fused=fused: fused)
        made = Optimizer(model, settings("exact", update_in_backward=True, betas=(0.0, 0.0)))
        norms = take_steps_in_backward(model, made, range(4, 7))
        found.append([value for name, value in made.state_dict().items() if name.endswith("/second")])
        assert norms[1] > 9 * norms[2] > 9  # the last step is clipped by the norm of the one before it
    torch.testing.assert_close(*found, rtol=1e-5, atol=0)


@pytest.mark.parametrize("in_backward", [False, True])
def test_offloaded_states_equal_resident_ones(in_backward, monkeypatch):
    monkeypatch.setattr(adamw, "CPU_CHUNK_ELEMENTS", update_kernels.SPAN_ELEMENTS)  # three chunks for the matrix
    found = []
    for memory in ("8bit", "8bit-streamed"):
        model, made = make(AlignedModel, memory, monkeypatch, fused=True, update_in_backward=in_backward)
        take(model, made, range(2, 5), in_backward=in_backward)
        made.state_dict()
        found.append(all_tensors(model, made))
    assert all_equal(*found)


def make_state(memory, rows, columns):
    """Make the state of a matrix, zero moments."""
    tier = TIERS[memory]
    torch.manual_seed(1)
    weight, remainder = split_master(torch.randn(rows * columns))
    moments = [
        torch.zeros(rows * columns, dtype=tier.moments)
        if isinstance(tier.moments, torch.dtype)
        else tier.moments.zeros(rows * columns, CPU, signed=signed)
        for signed in (True, False)
    ]
    return ParameterState(weight, remainder if tier.remainder else None, *moments)


def shard_of(state, start, stop):
    """Copy the elements from `start` to `stop` as a shard has them."""
    moments = [slice_moment(moment, start, stop) for moment in (state.first, state.second)]
    moments = [
        moment._replace(codes=moment.codes.clone(), scales=moment.scales.clone())
        if isinstance(moment, BlockQuantized)
        else moment.clone()
        for moment in moments
    ]
    remainder = None if state.remainder is None else state.remainder[start:stop].clone()
    return ParameterState(state.weight[start:stop].clone(), remainder, *moments, element_offset=start)


def moment_parts(state):
    return [
        part
        for moment in (state.first, state.second)
        for part in ([moment] if isinstance(moment, torch.Tensor) else moment[:2])
    ]


@pytest.mark.parametrize("memory", ["exact", "exact-bf16", "8bit", "4bit"])
@pytest.mark.parametrize("cut", [(0, 16, 32, 40, 40), (0, 24, 40)])
def test_shards_equal_the_whole(memory, cut):
    """Ranks with rows of a matrix, the last one with none of them, give what one rank with all of it gives."""
    columns, betas = 256, (0.9, 0.999)
    whole, key = make_state(memory, cut[-1], columns), random_keys(0, 1, 1, CPU)
    gradient = torch.randn(cut[-1] * columns).bfloat16()
    bounds = [(some * columns, other * columns) for some, other in pairwise(cut)]
    shards = [shard_of(whole, *bound) for bound in bounds]
    rate, scale, bad = torch.tensor(1e-3, dtype=torch.float64), torch.tensor(1.3), torch.tensor(False)
    for shard, bound in zip(shards, bounds, strict=True):
        counts = torch.zeros(1, dtype=torch.float64)
        fused = FusedUpdate([shard], [0.1], betas, counts)
        fused.begin_step(rate, key)
        fused.set_gradients([gradient[slice(*bound)]])
        fused.update_all(scale, bad)
        assert counts == 1  # also where a rank has no rows
    adamw_update(
        whole, gradient, StepScalars(rate, torch.zeros((), dtype=torch.float64), scale, bad, betas, 0.1), key[0]
    )
    assert torch.cat([shard.weight for shard in shards]).equal(whole.weight)
    for parts, part in zip(zip(*map(moment_parts, shards), strict=True), moment_parts(whole), strict=True):
        assert torch.cat(parts).equal(part)


def test_a_gradient_at_any_address_gives_the_same():
    """A gradient that does not begin at a multiple of 16 bytes, as a shard's may, is read by narrow loads."""
    found = []
    for shift in (0, 1):
        state, counts = make_state("exact", 8, 256), torch.zeros(1, dtype=torch.float64)
        torch.manual_seed(2)
        gradient = torch.cat([torch.zeros(shift), torch.randn(2048)]).bfloat16()[shift:]
        fused = FusedUpdate([state], [0.1], (0.9, 0.999), counts)
        fused.begin_step(torch.tensor(1e-3, dtype=torch.float64), random_keys(0, 1, 1, CPU))
        fused.set_gradients([gradient])
        assert fused._gradients_aligned == (not shift)
        fused.update_all(torch.tensor(1.0), torch.tensor(False))
        found.append([state.weight, state.remainder, state.first, state.second])
    assert all_equal(*found)


def test_a_parameter_without_a_gradient_stays(monkeypatch):
    model, made = make(AlignedModel, "8bit", monkeypatch, fused=True)
    before = [tensor.clone() for tensor in (model.vector, *moment_parts(made._states["vector"]))]
    made.begin_step(1, 1e-3)
    model.matrix.grad = torch.ones_like(model.matrix)
    made.finish_step()
    assert all_equal(before, [model.vector, *moment_parts(made._states["vector"])])
    assert made.state_dict()["counts"].tolist() == [1, 0, 0]


@triton.jit
def find_levels(shares, codebooks, found, below, above, count: tl.constexpr, bits: tl.constexpr, signed: tl.constexpr):
    places = tl.arange(0, count)
    index, lower, upper = update_kernels.lower_level(tl.load(shares + places), codebooks, bits, signed)
    tl.store(found + places, index)
    tl.store(below + places, lower)
    tl.store(above + places, upper)


def neighbours(values, count=3):
    """Return fp32 values with the next `count` numbers to either side."""
    bits = values.float().abs().view(torch.int32)
    near = (bits[:, None] + torch.arange(-count, count + 1, dtype=torch.int32)).clamp(min=0).view(torch.float32)
    return torch.where(values.float()[:, None] < 0, -near, near).flatten()


@pytest.mark.parametrize("block_format", [EIGHT_BIT, FOUR_BIT])
@pytest.mark.parametrize("signed", [True, False])
def test_the_level_found_by_arithmetic_is_the_one_found_by_a_search(block_format, signed):
    """A proof: between two of these numbers neither the level nor the decade changes, and the estimate only rises.

    So does all between them what its ends do. Every bf16 number is there as well.
    """
    state = make_state("8bit" if block_format is EIGHT_BIT else "4bit", 2, 256)
    codebooks, book = _codebooks([state], CPU), block_format.make_codebook(signed)
    powers = torch.tensor([10.0**power for power in range(-9, 1)])
    every_bf16 = torch.arange(0, 0x3F81, dtype=torch.int16).view(torch.bfloat16).float()
    shares = torch.cat([neighbours(book), neighbours(powers), neighbours(-powers), every_bf16, -every_bf16])
    shares = shares[(shares <= 1) & (shares >= (-1 if signed else 0))]
    expected = torch.bucketize(shares, book[1:-1], right=True, out_int32=True)
    count = 2 ** len(shares).bit_length()
    padded = torch.zeros(count)
    padded[: len(shares)] = shares
    found, below, above = torch.zeros(count, dtype=torch.int32), torch.zeros(count), torch.zeros(count)
    find_levels[(1,)](padded, codebooks, found, below, above, count, block_format.bits, signed)
    assert found[: len(shares)].equal(expected)
    assert below[: len(shares)].equal(book[expected])
    assert above[: len(shares)].equal(book[expected + 1])


class Traffic:
    """Addresses that the interpreter's loads and stores touch, each counted once."""

    def __init__(self, monkeypatch):
        self.loaded, self.stored = [], []
        builder = type(interpreter.interpreter_builder)
        load, store = builder.create_masked_load, builder.create_masked_store
        monkeypatch.setattr(builder, "create_masked_load", self._note(load, self.loaded, mask_at=1))
        monkeypatch.setattr(builder, "create_masked_store", self._note(store, self.stored, mask_at=2))

    def _note(self, real, addresses, mask_at):
        def noting(builder, pointers, *rest):
            size = pointers.get_element_ty().primitive_bitwidth // 8
            addresses.append((size, np.asarray(pointers.data)[np.asarray(rest[mask_at - 1].data, dtype=bool)]))
            return real(builder, pointers, *rest)

        return noting

    def bytes(self):
        moved = 0
        for touched in (self.loaded, self.stored):
            for size in {size for size, _ in touched}:
                addresses = [each.ravel() for other, each in touched if other == size]
                moved += size * len(np.unique(np.concatenate(addresses)))
        return moved


@pytest.mark.parametrize(("memory", "most"), [("exact", 26), ("exact-bf16", 18), ("8bit", 10.2), ("4bit", 8.2)])
def test_an_update_moves_each_number_once(memory, most, monkeypatch):
    """Bytes a parameter without the norm, which reads 2 more; levels and tables are a part that does not grow."""
    state, counts = make_state(memory, 128, 256), torch.zeros(1, dtype=torch.float64)
    fused = FusedUpdate([state], [0.1], (0.9, 0.999), counts)
    fused.begin_step(torch.tensor(1e-3, dtype=torch.float64), random_keys(0, 1, 1, CPU))
    gradient = torch.randn(128 * 256).bfloat16()
    fused.set_gradients([gradient])
    with monkeypatch.context() as patch:
        traffic = Traffic(patch)
        fused.update_all(torch.tensor(1.0), torch.tensor(False))
    tables = 4 * (2 * 256 + 2 * 32) + 300
    moved = traffic.bytes()
    assert most - 0.2 < moved / (128 * 256) <= most + tables / (128 * 256)


class Operations(TorchDispatchMode):
    """The operations of a block that a device would launch; views launch nothing."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if not operation.is_view:
            self.names.append(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("memory", ["exact", "8bit"])
def test_launches_do_not_grow_with_the_number_of_parameters(memory, monkeypatch):
    counted = []
    for parameters in (2, 20):
        model = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(2, 256)) for _ in range(parameters)])
        made = Optimizer(model, settings(memory))
        launches = []
        for kernel in ("update_spans", "sum_squares"):
            real = getattr(update_kernels, kernel)
            monkeypatch.setattr(update_kernels, kernel, NotedOnly(real, launches))
        with Operations() as operations:
            made.begin_step(1, 1e-3)
            for weight in model:
                weight.grad = torch.ones_like(weight)
            operations.names.clear()
            made.finish_step()
        counted.append((len(operations.names), launches))
        monkeypatch.undo()
    assert counted[0] == counted[1]
    assert counted[0][0] <= 12
    assert counted[0][1] == ["sum_squares", "update_spans"]


class NotedOnly:
    """A kernel whose launches are noted and do nothing, for the interpreter's own operations are not a card's."""

    def __init__(self, real, launches):
        self.real, self.launches = real, launches

    def __getitem__(self, grid):
        self.launches.append(self.real.fn.__name__)
        return lambda *arguments, **options: None


def test_moments_on_the_host_are_not_in_the_table(monkeypatch):
    _, made = make(AlignedModel, "8bit-streamed", monkeypatch, fused=True)
    table = made._fused_update._table
    assert table[:, 8].tolist() == [1, 0, 2]  # the norm, whose states are on the device, comes first
    assert table[1:, 2:6].count_nonzero() == 0
