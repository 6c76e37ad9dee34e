"""Numbers in fewer bytes: fp32 as bf16 and a remainder, rounding by counted noise, blocks of 8-bit and 4-bit codes."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

# What one 32-bit mixing round multiplies with, as signed numbers (lowbias32: Wellons, hash-prospector, 2018).
HASH_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)


HASH_SHIFTS = (16, 15, 16)


EIGHT_BIT_BLOCK_SIZE, FOUR_BIT_BLOCK_SIZE = 256, 128  # elements that share a scale


class BlockQuantized(NamedTuple):
    """Values as codes of a table, each block scaled by its largest value.

    `codes` (blocks, bytes) is uint8, two codes a byte where the table has at most 16 levels; `scales` (blocks,) is
    fp32; `codebook` rise from -1 or 0 to 1.
    """

    codes: Tensor
    scales: Tensor
    codebook: Tensor

    @property
    def block_size(self) -> int:
        """Elements that share a scale."""
        return self.codes.shape[1] * (1 if len(self.codebook) > 16 else 2)


Moment = Tensor | BlockQuantized


def split_master(master: Tensor) -> tuple[Tensor, Tensor]:
    """An fp32 tensor as its nearest bf16 (ties away from zero) and an int16 remainder: together exact, bit for bit.

    Every pattern comes back, also denormals, infinities and numbers that round up into the next power of two; what
    rounds beyond bf16's largest number shows as infinity, and still comes back.
    """
    bits = master.view(torch.int32)
    upper = (bits + 0x8000) >> 16
    return upper.to(torch.int16).view(torch.bfloat16), (bits - (upper << 16)).to(torch.int16)


def join_master(weight: Tensor, remainder: Tensor) -> Tensor:
    """The fp32 tensor that `split_master` took apart."""
    upper = weight.view(torch.int16).to(torch.int32)
    return ((upper << 16) + remainder.to(torch.int32)).view(torch.float32)


def random_keys(seed: int, step: int, count: int, device: torch.device) -> Tensor:
    """Two 32-bit keys (count, 2) for the noise of each of `count` parameters in a step; made on the device."""
    halves: list[Tensor] = []
    for half in (1, 2):
        start = _hash_number(_hash_number(_hash_number(half) ^ seed) ^ step)
        halves.append(_hash_int32(torch.arange(count, dtype=torch.int32, device=device) ^ start))
    return torch.stack(halves, 1)


def random_bits(random_key: Tensor, start: int, count: int) -> Tensor:
    """32 random bits (count,) int32 for each of the elements from `start` on, by a hash of their place and the key.

    An element's bits depend on nothing else: not on how a tensor is cut, and not on any generator's state.
    """
    places = torch.arange(count, dtype=torch.int32, device=random_key.device) + (random_key[0] + start)
    return _hash_int32(_hash_int32(places) ^ random_key[1])


def stochastic_round_to_bf16(values: Tensor, bits: Tensor) -> Tensor:
    """Fp32 as one of the two bf16 neighbours, the nearer one the likelier, so that the mean is the value itself.

    Stochastic rounding by the low 16 bits of `bits`. A number that is a bf16 already stays.
    """
    rounded = values.view(torch.int32) + (bits & 0xFFFF)
    return (rounded >> 16).to(torch.int16).view(torch.bfloat16)


def zero_blocks(size: int, codebook: Tensor) -> BlockQuantized:
    """Blocks for `size` values, all zero."""
    eight = len(codebook) > 16
    block = EIGHT_BIT_BLOCK_SIZE if eight else FOUR_BIT_BLOCK_SIZE
    blocks = -(-size // block)
    codes = torch.zeros(blocks, block if eight else block // 2, dtype=torch.uint8, device=codebook.device)
    return BlockQuantized(codes, torch.zeros(blocks, device=codebook.device), codebook)


def slice_moment(moment: Moment, start: int, stop: int) -> Moment:
    """The part of a flat state from `start`, the beginning of a block, to `stop`, as a view."""
    if isinstance(moment, Tensor):
        return moment[start:stop]
    rows = slice(start // moment.block_size, -(-stop // moment.block_size))
    return BlockQuantized(moment.codes[rows], moment.scales[rows], moment.codebook)


def dequantize(moment: Moment, size: int) -> Tensor:
    """The fp32 values (size,) that a state stands for."""
    if isinstance(moment, Tensor):
        return moment.float()
    codes = moment.codes
    if len(moment.codebook) <= 16:
        codes = torch.cat([codes & 15, codes >> 4], 1)
    values = moment.codebook.index_select(0, codes.flatten().int()).view(codes.shape)
    return (values * moment.scales[:, None]).flatten()[:size]


def quantize(values: Tensor, like: Moment, bits: Tensor | None) -> Moment:
    """Flat fp32 values in the form of `like`, rounded stochastically by the low 16 of `bits`; fp32 needs none."""
    if isinstance(like, Tensor) and like.dtype == torch.float32:
        return values
    assert bits is not None
    if isinstance(like, Tensor):
        return stochastic_round_to_bf16(values, bits)
    short = -len(values) % like.block_size
    # A padded chunk's last values have no noise of their own and need none: they are zero, and never read.
    rows = pad(values, (0, short)).view(-1, like.block_size)
    chances = (pad(bits, (0, short)).view(-1, like.block_size) & 0xFFFF).float().add_(0.5).div_(2**16)
    top, bottom = rows.amax(1), rows.amin(1)
    # The scale keeps its sign: the largest value is exactly 1, though tables have fewer levels below zero than above.
    scales = torch.where(top >= -bottom, top, bottom)
    safe = torch.where(scales == 0, 1.0, scales)
    codes = _round_to_codebook(rows / safe[:, None], like.codebook, chances)
    if len(like.codebook) <= 16:
        half = like.block_size // 2
        codes = codes[:, :half] | (codes[:, half:] << 4)
    return BlockQuantized(codes, scales, like.codebook)


def _round_to_codebook(scaled: Tensor, codebook: Tensor, thresholds: Tensor) -> Tensor:
    """Codes of one of the two levels around each share: the upper one where its likelihood exceeds the chance."""
    lower = torch.bucketize(scaled, codebook[1:-1], right=True, out_int32=True)
    flat = lower.flatten()
    below = codebook.index_select(0, flat).view(scaled.shape)
    above = codebook.index_select(0, flat + 1).view(scaled.shape)
    return (lower + ((scaled - below) / (above - below) > thresholds)).to(torch.uint8)


def eight_bit_codebook(*, signed: bool) -> Tensor:
    """The dynamic tree map (Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022): seven decades.

    Without a sign it leaves out zero: a second moment of zero below a first one that is not would be a giant step.
    """
    magnitudes: list[Tensor] = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1, dtype=torch.float64)
        magnitudes.append(10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2)
    all_of_them = torch.cat([*magnitudes, torch.ones(1, dtype=torch.float64)])
    if signed:
        all_of_them = torch.cat([-all_of_them[:-1], torch.zeros(1, dtype=torch.float64), all_of_them])
    return all_of_them.sort().values.float()


def four_bit_codebook(*, signed: bool) -> Tensor:
    """The maps of 4-bit states (Li, Chen and Zhu, Memory Efficient Optimizers with 4-bit States, 2023).

    With a sign the dynamic exponent map; without, 16 equal steps of the root and no zero.
    """
    if not signed:
        return (torch.arange(1, 17) / 16) ** 2
    positive = [0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875]
    return torch.tensor([*(-level for level in reversed(positive)), 0.0, *positive, 1.0])


def _hash_int32(values: Tensor) -> Tensor:
    for shift, factor in zip(HASH_SHIFTS, (*HASH_MULTIPLIERS, None), strict=True):
        values = values ^ ((values >> shift) & ((1 << (32 - shift)) - 1))  # int32 shifts carry the sign along
        values = values if factor is None else values * factor
    return values


def _hash_number(value: int) -> int:
    """`_hash_int32` of one number, and of all of a longer one's bits, as a signed 32-bit number."""
    state, rest = 0, value & (2**128 - 1)
    while True:
        state = (state ^ rest) & 0xFFFFFFFF
        for shift, factor in zip(HASH_SHIFTS, (*HASH_MULTIPLIERS, 1), strict=True):
            state = ((state ^ (state >> shift)) * factor) & 0xFFFFFFFF
        rest >>= 32
        if not rest:
            return state - 2**32 if state >= 2**31 else state
