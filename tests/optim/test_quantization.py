"""Fewer bytes: what is exact comes back bit for bit, what is rounded is right on average and depends on its place only."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinktune.optim.quantization import (
    EIGHT_BIT,
    FOUR_BIT,
    BlockQuantized,
    dequantize,
    eight_bit_codebook,
    join_master,
    quantize,
    random_bits,
    random_keys,
    split_master,
    stochastic_round_to_bf16,
)

CPU = torch.device("cpu")
FORMATS = {"8bit": (EIGHT_BIT, 256), "4bit": (FOUR_BIT, 16)}


def from_bits(*patterns: int):
    return torch.from_numpy(np.array(patterns, dtype=np.uint32).view(np.int32)).view(torch.float32)


def bits_for(size, step=1):
    return random_bits(random_keys(0, step, 1, CPU)[0], 0, size)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=64))
def test_any_pattern_of_fp32_comes_back(patterns):
    master = from_bits(*patterns)
    assert torch.equal(join_master(*split_master(master)).view(torch.int32), master.view(torch.int32))


def test_every_corner_comes_back_and_the_weight_is_the_nearest_bf16():
    edges = [upper << 16 | lower for upper in range(2**16) for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    master = from_bits(*edges)
    weight, remainder = split_master(master)
    assert (weight.dtype, remainder.dtype) == (torch.bfloat16, torch.int16)
    assert torch.equal(join_master(weight, remainder).view(torch.int32), master.view(torch.int32))
    usual = master.isfinite() & (torch.tensor(edges) & 0xFFFF != 0x8000)  # a tie goes away from zero, not to even
    assert torch.equal(weight[usual], master[usual].bfloat16())


@pytest.mark.parametrize("value", [1.0, 1.001, -1.001, 3.3e-39, -2.7e4, 1e-20])
def test_stochastic_rounding_is_right_on_average_and_takes_neighbours_only(value):
    values = torch.full((200_000,), value)
    rounded = stochastic_round_to_bf16(values, bits_for(len(values))).double()
    spacing = rounded.max() - rounded.min()
    assert len(rounded.unique()) == (1 if value == 1.0 else 2)
    assert abs(rounded.mean().item() - values[0].item()) <= 5 * spacing / (2 * len(values) ** 0.5)


def test_noise_is_fair_from_bit_to_bit_step_to_step_and_place_to_place():
    first, second = bits_for(100_000), bits_for(100_000, step=2)
    for shift in range(32):
        own = (first >> shift & 1).double()
        for other in (first[1:] >> shift & 1, second[:-1] >> shift & 1, first[:-1] >> (shift + 7) % 32 & 1):
            assert abs((own[:-1] == other).double().mean() - 0.5) < 0.01
        assert abs(own.mean() - 0.5) < 0.01


def test_noise_depends_on_seed_step_parameter_and_place_and_on_nothing_else():
    key = random_keys(7, 3, 5, CPU)
    whole = random_bits(key[4], 0, 1000)
    torch.manual_seed(1)
    assert whole.equal(torch.cat([random_bits(key[4], 0, 333), random_bits(key[4], 333, 667)]))
    assert random_keys(7, 3, 9, CPU)[:5].equal(key)  # more parameters behind it change nothing
    others = [
        random_bits(random_keys(*names, 5, CPU)[place], 0, 1000)
        for names, place in [((8, 3), 4), ((7, 4), 4), ((7, 3), 3)]
    ]
    assert all((whole == other).sum() < 3 for other in others)
    assert random_keys(2**40 + 1, 3, 1, CPU).ne(random_keys(1, 3, 1, CPU)).all()  # all of a long seed counts


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_right_on_average_and_near(kind, signed):
    block_format, most = FORMATS[kind]
    like = block_format.zeros(300, CPU, signed=signed)
    levels = like.codebook
    assert len(levels) <= most
    torch.manual_seed(0)
    values = torch.randn(300) * torch.logspace(-3, 0, 300)
    values = values if signed else values.square()
    rounds = [dequantize(quantize(values, like, bits_for(300, step)), 300) for step in range(400)]
    mean = torch.stack(rounds).mean(0)
    scales = values.split(like.block_size)
    for start, part in zip(range(0, 300, like.block_size), scales, strict=False):
        top = part[part.abs().argmax()]  # its sign is the scale's
        within = slice(start, start + len(part))
        inside = (values[within] / top).clamp(levels[0], 1) * top
        # the lowest levels bound what is below them; the widest step of the table bounds the noise of a mean
        assert (mean[within] - inside).abs().max() <= 5 * levels.diff().max() * top.abs() / (2 * 400**0.5)
        assert rounds[0][within][part.abs().argmax()] == top


def test_blocks_of_zeros_stay_zeros_and_what_a_level_says_stays():
    like = EIGHT_BIT.zeros(512, CPU, signed=True)
    assert dequantize(like, 512).eq(0).all()
    assert dequantize(quantize(torch.zeros(512), like, bits_for(512)), 512).eq(0).all()
    exact = eight_bit_codebook(signed=True).repeat(2) * 0.5
    assert dequantize(quantize(exact, like, bits_for(512)), 512).equal(exact)


def test_four_bits_take_half_a_byte():
    made = quantize(torch.randn(1000), FOUR_BIT.zeros(1000, CPU, signed=True), bits_for(1000))
    assert isinstance(made, BlockQuantized)
    assert made.codes.shape == (8, 64)
