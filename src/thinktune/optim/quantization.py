"""Number formats of weights and moments: bf16 with a remainder, stochastic rounding, 8-bit and 4-bit blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

SCALE_BYTES = 4  # of a block's fp32 scale


# Multipliers and shifts of a 32-bit hash, as signed numbers (lowbias32: Wellons, hash-prospector, 2018).
HASH_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)


HASH_SHIFTS = (16, 15, 16)


class BlockQuantized(NamedTuple):
    """Block-wise quantized values: codes into a codebook, and one scale per block.

    `codes` (blocks, bytes) is uint8, with two codes per byte where `bits` is 4. `scales` (blocks,) is fp32. `codebook`
    (levels,) is fp32 and rises from -1 or 0 to 1.
    """

    codes: Tensor
    scales: Tensor
    codebook: Tensor
    bits: int

    @property
    def block_size(self) -> int:
        """Values that share a scale."""
        return self.codes.shape[1] * (2 if self.bits == 4 else 1)


Moment = Tensor | BlockQuantized


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """A block-wise number format: bits per code (8 or 4), values per scale, and its codebook, signed or unsigned."""

    bits: int
    block_size: int
    make_codebook: Callable[[bool], Tensor]

    def shapes(self, size: int) -> tuple[tuple[int, int], tuple[int]]:
        """Return the shapes of codes and scales for `size` values; the last block may be partly used."""
        blocks = -(-size // self.block_size)
        return (blocks, self.block_size * self.bits // 8), (blocks,)

    def zeros(self, size: int, device: torch.device, *, signed: bool) -> BlockQuantized:
        """Make blocks for `size` values, all zero."""
        codes, scales = self.shapes(size)
        return BlockQuantized(
            torch.zeros(codes, dtype=torch.uint8, device=device),
            torch.zeros(scales, device=device),
            self.make_codebook(signed).to(device),
            self.bits,
        )


MomentFormat = torch.dtype | BlockFormat  # a dtype means plain numbers


def moment_bytes(moment_format: MomentFormat, size: int) -> tuple[int, ...]:
    """Count the bytes of each tensor of a moment of `size` values: the numbers, or codes and scales."""
    if isinstance(moment_format, torch.dtype):
        return (size * moment_format.itemsize,)
    (blocks, bytes_per_block), _ = moment_format.shapes(size)
    return blocks * bytes_per_block, blocks * SCALE_BYTES


def split_master(master: Tensor) -> tuple[Tensor, Tensor]:
    """Split an fp32 tensor into its nearest bf16 (ties away from zero) and an int16 remainder, exact to the bit.

    Every pattern comes back, including denormals, infinities and numbers that round up to the next power of two. What
    rounds beyond the largest bf16 number shows as infinity, and still comes back.
    """
    bits = master.view(torch.int32)
    upper = (bits + 0x8000) >> 16
    return upper.to(torch.int16).view(torch.bfloat16), (bits - (upper << 16)).to(torch.int16)


def join_master(weight: Tensor, remainder: Tensor) -> Tensor:
    """Join a bf16 weight and its int16 remainder: the fp32 tensor that `split_master` was given."""
    upper = weight.view(torch.int16).to(torch.int32)
    return ((upper << 16) + remainder.to(torch.int32)).view(torch.float32)


def random_keys(seed: int, step: int, count: int, device: torch.device) -> Tensor:
    """Make the random keys (count, 2) int32 of a step, two for each of `count` parameters, on the device."""
    halves: list[Tensor] = []
    for half in (1, 2):
        start = _hash_number(_hash_number(_hash_number(half) ^ seed) ^ step)
        halves.append(_hash_int32(torch.arange(count, dtype=torch.int32, device=device) ^ start))
    return torch.stack(halves, 1)


def random_bits(random_key: Tensor, start: int, count: int) -> Tensor:
    """Make 32 random bits (count,) int32 for each element from `start` on, by a hash of its index and the key (2,).

    An element's bits depend on nothing else: not on how a tensor is cut, and not on the state of any generator.
    """
    indices = torch.arange(count, dtype=torch.int32, device=random_key.device) + (random_key[0] + start)
    return _hash_int32(_hash_int32(indices) ^ random_key[1])


def stochastic_round_to_bf16(values: Tensor, bits: Tensor) -> Tensor:
    """Round fp32 stochastically to one of its two bf16 neighbours, so that the mean is the value itself.

    Only the low 16 of `bits` (int32, of the shape of `values`) are used. A number that bf16 can represent is kept.
    """
    rounded = values.view(torch.int32) + (bits & 0xFFFF)
    return (rounded >> 16).to(torch.int16).view(torch.bfloat16)


def slice_moment(moment: Moment, start: int, stop: int) -> Moment:
    """Slice a flat moment from `start`, which must begin a block, to `stop`, as a view."""
    if isinstance(moment, Tensor):
        return moment[start:stop]
    rows = slice(start // moment.block_size, -(-stop // moment.block_size))
    return moment._replace(codes=moment.codes[rows], scales=moment.scales[rows])


def dequantize(moment: Moment, size: int) -> Tensor:
    """Return the fp32 values (size,) of a moment."""
    if isinstance(moment, Tensor):
        return moment.float()
    codes = moment.codes
    if moment.bits == 4:
        codes = torch.cat([codes & 15, codes >> 4], 1)
    values = moment.codebook.index_select(0, codes.flatten().int()).view(codes.shape)
    return (values * moment.scales[:, None]).flatten()[:size]


def quantize(values: Tensor, like: Moment, bits: Tensor | None) -> Moment:
    """Quantize fp32 `values` (n,) to the format of `like`, rounded stochastically by the low 16 of `bits` (n,) int32.

    Only fp32 needs no `bits`.
    """
    if isinstance(like, Tensor) and like.dtype == torch.float32:
        return values
    assert bits is not None
    if isinstance(like, Tensor):
        return stochastic_round_to_bf16(values, bits)
    missing = -len(values) % like.block_size
    # The padding of a chunk has no random bits of its own and needs none: it is zero, and never read.
    rows = pad(values, (0, missing)).view(-1, like.block_size)
    thresholds = (pad(bits, (0, missing)).view(-1, like.block_size) & 0xFFFF).float().add_(0.5).div_(2**16)
    top, bottom = rows.amax(1), rows.amin(1)
    # The scale keeps its sign: the largest value is exactly 1, and codebooks have fewer negative levels than positive.
    scales = torch.where(top >= -bottom, top, bottom)
    safe = torch.where(scales == 0, 1.0, scales)
    codes = _round_to_codebook(rows / safe[:, None], like.codebook, thresholds)
    if like.bits == 4:
        half = like.block_size // 2
        codes = codes[:, :half] | (codes[:, half:] << 4)
    return BlockQuantized(codes, scales, like.codebook, like.bits)


def _round_to_codebook(scaled: Tensor, codebook: Tensor, thresholds: Tensor) -> Tensor:
    """Round scaled values to one of the two levels around each: up where its likelihood exceeds the threshold."""
    lower = torch.bucketize(scaled, codebook[1:-1], right=True, out_int32=True)
    flat = lower.flatten()
    below = codebook.index_select(0, flat).view(scaled.shape)
    above = codebook.index_select(0, flat + 1).view(scaled.shape)
    return (lower + ((scaled - below) / (above - below) > thresholds)).to(torch.uint8)


def eight_bit_codebook(signed: bool) -> Tensor:
    """Make the dynamic tree map, seven decades (Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022).

    The unsigned one leaves out zero: a zero second moment under a first moment that is not zero would be a giant step.
    """
    magnitudes: list[Tensor] = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1, dtype=torch.float64)
        magnitudes.append(10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2)
    levels = torch.cat([*magnitudes, torch.ones(1, dtype=torch.float64)])
    if signed:
        levels = torch.cat([-levels[:-1], torch.zeros(1, dtype=torch.float64), levels])
    return levels.sort().values.float()


def level_lines(signed: bool) -> Tensor:
    """Make slope and intercept (2, 16) fp32 of the lines that `eight_bit_codebook` follows, one for each decade.

    `share * slope + intercept` is between the index of the level below a share and that index less a little: rounded
    down it is the index or one less. Lines 0 to 6 are of shares from 0 up, by decade; 7 to 13 of negative ones.
    """
    made = torch.zeros(2, 16, dtype=torch.float64)
    for decade in range(7):
        count = 2 ** (decade if signed else decade + 1)
        spacing = 10.0 ** (decade - 6) * 0.9 / count
        position = (10.0 ** (decade - 7) + spacing / 2) / spacing - (count - (1 if signed else 2))
        made[:, decade] = torch.tensor([1 / spacing, (128 if signed else 0) - position])
        made[:, decade + 7] = torch.tensor([1 / spacing, 126 + position])
    made[1] -= 1 / 64  # more than the rounding of both numbers and of their use
    return made.float()


def four_bit_codebook(signed: bool) -> Tensor:
    """Make a map of 4-bit moments (Li, Chen and Zhu, Memory Efficient Optimizers with 4-bit States, 2023).

    The signed one is the dynamic exponent map; the unsigned one has 16 equal steps of the root, and no zero.
    """
    if not signed:
        return (torch.arange(1, 17) / 16) ** 2
    positive = [0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875]
    return torch.tensor([*(-level for level in reversed(positive)), 0.0, *positive, 1.0])


EIGHT_BIT, FOUR_BIT = BlockFormat(8, 256, eight_bit_codebook), BlockFormat(4, 128, four_bit_codebook)


def _hash_int32(values: Tensor) -> Tensor:
    for shift, factor in zip(HASH_SHIFTS, (*HASH_MULTIPLIERS, None), strict=True):
        values = values ^ ((values >> shift) & ((1 << (32 - shift)) - 1))  # int32 shifts extend the sign
        values = values if factor is None else values * factor
    return values


def _hash_number(value: int) -> int:
    """Hash a number of up to 128 bits as `_hash_int32` does, to a signed 32-bit number."""
    state, rest = 0, value & (2**128 - 1)
    while True:
        state = (state ^ rest) & 0xFFFFFFFF
        for shift, factor in zip(HASH_SHIFTS, (*HASH_MULTIPLIERS, 1), strict=True):
            state = ((state ^ (state >> shift)) * factor) & 0xFFFFFFFF
        rest >>= 32
        if not rest:
            return state - 2**32 if state >= 2**31 else state
