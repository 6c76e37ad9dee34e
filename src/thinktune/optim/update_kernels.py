# pyright: basic, reportMissingImports=false
"""Triton kernels: AdamW over a table of addresses, sums of squares of gradients, and clipping inside the backward pass.

A line of the table is one parameter. Parameters are cut into spans of `SPAN_ELEMENTS`, a program each; a program finds
its parameter by a search in the running count of spans. Divisions and roots are rounded as IEEE 754 says, and products
and sums must not be contracted (`enable_fp_fusion=False`): with both, the results are those of `adamw` to the bit.
"""

import triton
import triton.language as tl

TILE_ELEMENTS = 1024  # that a program holds in registers at a time
SPAN_ELEMENTS = 8192  # that a program updates, so that its search and its start are a small part of it
COLUMNS = 9  # weight, remainder, first moment, its scales, second moment, its scales, elements, first element, place

_TILE: tl.constexpr = tl.constexpr(TILE_ELEMENTS)
_SPAN: tl.constexpr = tl.constexpr(SPAN_ELEMENTS)
_TILES: tl.constexpr = tl.constexpr(SPAN_ELEMENTS // TILE_ELEMENTS)
_COLUMNS: tl.constexpr = tl.constexpr(COLUMNS)


@triton.jit
def _pointer(address, start, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Return the pointer to element `start` from an address; loads and stores of aligned ones are 16 bytes wide."""
    pointer = address.to(tl.pointer_type(DTYPE)) + start
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _hash(values):
    """Hash uint32 as `quantization.random_bits` does."""
    values = (values ^ (values >> 16)) * 0x7FEB352D
    values = (values ^ (values >> 15)) * 0x846CA68B
    return values ^ (values >> 16)


@triton.jit
def _round_stochastically(values, bits):
    return ((values.to(tl.int32, bitcast=True) + (bits & 0xFFFF)) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def lower_level(share, codebooks, BITS: tl.constexpr, SIGNED: tl.constexpr):
    """Return the index of the level below each share of a block's scale, and the two levels around the share.

    Within a decade the levels of the 8-bit map are a line, so that the index follows from the share by arithmetic: it
    is the right one or one less (see `quantization.level_lines`), and the next level says which.
    """
    levels = codebooks if SIGNED else codebooks + 256
    if BITS == 4:
        index = (share >= tl.load(levels + 1)).to(tl.int32)
        for level in tl.static_range(2, 15):
            index += (share >= tl.load(levels + level)).to(tl.int32)
        below, above = tl.load(levels + index), tl.load(levels + index + 1)
    else:
        last: tl.constexpr = 255 if SIGNED else 254
        lines = codebooks + (512 if SIGNED else 544)
        size = tl.abs(share)
        decade = (size >= 1e-6).to(tl.int32) + (size >= 1e-5).to(tl.int32) + (size >= 1e-4).to(tl.int32)
        decade += (size >= 1e-3).to(tl.int32) + (size >= 1e-2).to(tl.int32) + (size >= 1e-1).to(tl.int32)
        line = decade + tl.where(share < 0, 7, 0)
        index = (share * tl.load(lines + line) + tl.load(lines + 16 + line)).to(tl.int32)
        index = tl.minimum(tl.maximum(index, 0), last - 1)
        below, above = tl.load(levels + index), tl.load(levels + index + 1)
        higher = tl.load(levels + tl.minimum(index + 2, last))
        one_more = (share >= above) & (index < last - 1)
        below, above = tl.where(one_more, above, below), tl.where(one_more, higher, above)
        index = tl.where(one_more, index + 1, index)
    return index, below, above


@triton.jit
def _dequantize(codes, scales, levels, columns, row_mask, BITS: tl.constexpr):
    rows = tl.arange(0, row_mask.shape[0])
    if BITS == 8:
        code = tl.load(codes + rows[:, None] * 256 + columns[None, :], mask=row_mask[:, None], other=0).to(tl.int32)
    else:  # the first half of a block has the low four bits of its bytes
        packed = tl.load(codes + rows[:, None] * 64 + (columns & 63)[None, :], mask=row_mask[:, None], other=0)
        code = (packed.to(tl.int32) >> ((columns >> 6) * 4)[None, :]) & 15
    return tl.load(levels + code) * tl.load(scales + rows, mask=row_mask, other=0.0)[:, None]


@triton.jit
def _quantize(values, bits, codes, scales, codebooks, write, BITS: tl.constexpr, SIGNED: tl.constexpr):
    """Quantize values (rows, block size) as `quantization.quantize` does, and store codes and scales where `write`."""
    rows = tl.arange(0, values.shape[0])
    scale = tl.max(values, 1)
    if SIGNED:
        bottom = tl.min(values, 1)
        scale = tl.where(scale >= -bottom, scale, bottom)
    share = tl.div_rn(values, tl.broadcast_to(tl.where(scale == 0, 1.0, scale)[:, None], values.shape))
    index, below, above = lower_level(share, codebooks, BITS, SIGNED)
    threshold = ((bits & 0xFFFF).to(tl.float32) + 0.5) * (1 / 65536)
    code = index + (tl.div_rn(share - below, above - below) > threshold).to(tl.int32)
    if BITS == 8:
        places = rows[:, None] * 256 + tl.arange(0, 256)[None, :]
        tl.store(codes + places, code.to(tl.uint8), mask=write[:, None])
    else:
        halves = tl.reshape(code, (values.shape[0], 2, 64)) << (tl.arange(0, 2) * 4)[None, :, None]
        places = rows[:, None] * 64 + tl.arange(0, 64)[None, :]
        tl.store(codes + places, tl.sum(halves, 1).to(tl.uint8), mask=write[:, None])
    tl.store(scales + rows, scale, mask=write)


@triton.jit
def _adamw(gradient, first, second, master, scalars, options):
    """Compute both moments and the master after an update, in the order of `adamw._update_chunk`."""
    grad_scale, step_size, second_root, decay = scalars
    one_less_beta1, beta2, one_less_beta2 = options
    gradient = tl.div_rn(gradient.to(tl.float32), grad_scale)
    first = first + (gradient - first) * one_less_beta1
    second = second * beta2 + gradient * gradient * one_less_beta2
    deviation = tl.div_rn(tl.sqrt_rn(second), second_root) + 1e-8
    return first, second, master * decay - tl.div_rn(first * step_size, deviation)


@triton.jit
def _random_bits(offsets, random):
    first_index, key = random
    indices = (first_index + offsets).to(tl.uint32, bitcast=True)
    return _hash(_hash(indices) ^ key).to(tl.int32, bitcast=True)


@triton.jit
def _update_tile(
    line, place, random, scalars, options, MOMENT_BITS: tl.constexpr, EXACT: tl.constexpr, ALIGNED: tl.constexpr
):
    """Update a tile of a parameter whose moments are fp32 or bf16.

    `EXACT` is 2 for an fp32 weight, 1 for a bf16 one with a remainder, 0 for a bf16 one that is rounded stochastically.
    """
    weight, remainder, first, _, second, _, gradient = line
    start, left, keep = place
    offsets = tl.arange(0, _TILE)
    mask = offsets < left
    write = mask & keep
    dtype: tl.constexpr = tl.float32 if EXACT == 2 else tl.bfloat16
    moment_dtype: tl.constexpr = tl.float32 if MOMENT_BITS == 32 else tl.bfloat16
    weight = _pointer(weight, start, dtype, ALIGNED) + offsets
    first = _pointer(first, start, moment_dtype, ALIGNED) + offsets
    second = _pointer(second, start, moment_dtype, ALIGNED) + offsets
    new_gradient = tl.load(_pointer(gradient, start, dtype, ALIGNED) + offsets, mask=mask, other=0.0)
    master = tl.load(weight, mask=mask, other=0.0)
    if EXACT == 1:
        remainder = _pointer(remainder, start, tl.int16, ALIGNED) + offsets
        rest = tl.load(remainder, mask=mask, other=0).to(tl.int32)
        master = ((master.to(tl.int16, bitcast=True).to(tl.int32) << 16) + rest).to(tl.float32, bitcast=True)
    new_first = tl.load(first, mask=mask, other=0.0).to(tl.float32)
    new_second = tl.load(second, mask=mask, other=0.0).to(tl.float32)
    new_first, new_second, master = _adamw(new_gradient, new_first, new_second, master.to(tl.float32), scalars, options)
    bits = _random_bits(offsets, random)
    if EXACT == 2:
        tl.store(weight, master, mask=write)
    elif EXACT == 1:
        whole = master.to(tl.int32, bitcast=True)
        upper = (whole + 0x8000) >> 16
        tl.store(weight, upper.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=write)
        tl.store(remainder, (whole - (upper << 16)).to(tl.int16), mask=write)
    else:
        tl.store(weight, _round_stochastically(master, bits), mask=write)
    if MOMENT_BITS == 32:
        tl.store(first, new_first, mask=write)
        tl.store(second, new_second, mask=write)
    else:
        tl.store(first, _round_stochastically(new_first, bits), mask=write)
        tl.store(second, _round_stochastically(new_second, bits >> 16), mask=write)


@triton.jit
def _update_block_tile(line, place, random, scalars, options, codebooks, BITS: tl.constexpr, ALIGNED: tl.constexpr):
    """Update a tile of a bf16 parameter whose moments are block-quantized."""
    weight, _, first, first_scales, second, second_scales, gradient = line
    start, left, keep = place
    first_levels, second_levels = codebooks, codebooks + 256
    BLOCK: tl.constexpr = 256 if BITS == 8 else 128
    rows, columns = tl.arange(0, _TILE // BLOCK), tl.arange(0, BLOCK)
    offsets = rows[:, None] * BLOCK + columns[None, :]
    mask, row_mask = offsets < left, rows * BLOCK < left
    weight = _pointer(weight, start, tl.bfloat16, ALIGNED) + offsets
    first = _pointer(first, start * BITS // 8, tl.uint8, ALIGNED)
    second = _pointer(second, start * BITS // 8, tl.uint8, ALIGNED)
    first_scales = _pointer(first_scales, start // BLOCK, tl.float32, ALIGNED)
    second_scales = _pointer(second_scales, start // BLOCK, tl.float32, ALIGNED)
    new_gradient = tl.load(_pointer(gradient, start, tl.bfloat16, ALIGNED) + offsets, mask=mask, other=0.0)
    new_first = _dequantize(first, first_scales, first_levels, columns, row_mask, BITS)
    new_second = _dequantize(second, second_scales, second_levels, columns, row_mask, BITS)
    master = tl.load(weight, mask=mask, other=0.0).to(tl.float32)
    new_first, new_second, master = _adamw(new_gradient, new_first, new_second, master, scalars, options)
    bits = _random_bits(offsets, random)
    tl.store(weight, _round_stochastically(master, bits), mask=mask & keep)
    new_first = tl.where(mask, new_first, 0.0)  # in the places of the last block that are not used
    new_second = tl.where(mask, new_second, 0.0)
    write = row_mask & keep
    _quantize(new_first, bits, first, first_scales, codebooks, write, BITS, True)
    _quantize(new_second, bits >> 16, second, second_scales, codebooks, write, BITS, False)


@triton.jit
def _read_line(table, starts, gradients, program, lines, SEARCH: tl.constexpr):
    """Return the line of a program's parameter, its gradient's address, and the program's first element in it."""
    low = program * 0
    high = low + lines
    for _ in tl.static_range(SEARCH):  # the last line whose first program is not beyond this one
        middle = (low + high) // 2
        reached = (middle < high) & (tl.load(starts + middle) <= program)
        low = tl.where(reached, middle + 1, low)
        high = tl.where(reached, high, middle)
    line = low - 1
    return table + line * _COLUMNS, tl.load(gradients + line), (program - tl.load(starts + line)) * _SPAN


@triton.jit(
    do_not_specialize=["lines", "first_program", "gradient", "first", "first_scales", "second", "second_scales"]
)
def update_spans(
    table, starts, gradients, counts, keys, factors, grad_scale, found_inf, codebooks, one_less_beta1, beta2,
    one_less_beta2, lines, first_program: tl.int64, gradient: tl.int64, first: tl.int64, first_scales: tl.int64,
    second: tl.int64, second_scales: tl.int64, SEARCH: tl.constexpr, BITS: tl.constexpr, MOMENT_BITS: tl.constexpr,
    EXACT: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Update one span of a parameter; a launch has a program for each span from `first_program` on.

    An address that is given, and is not 0, stands in place of the table's. A parameter whose gradient is at 0 has none.
    """
    program = tl.program_id(0) + first_program
    row, of_table, position = _read_line(table, starts, gradients, program, lines, SEARCH)
    gradient = tl.where(gradient == 0, of_table, gradient)
    size = tl.where(gradient == 0, 0, tl.load(row + 6))
    parameter = tl.load(row + 8)
    keep = tl.load(found_inf).to(tl.int8) == 0
    taken = keep & (position == 0) & (gradient != 0)
    tl.store(counts + parameter, tl.load(counts + parameter) + 1, mask=taken)
    first_scales = tl.where(first == 0, tl.load(row + 3), first_scales)
    second_scales = tl.where(first == 0, tl.load(row + 5), second_scales)
    second = tl.where(first == 0, tl.load(row + 4), second)
    first = tl.where(first == 0, tl.load(row + 2), first)
    line = (tl.load(row), tl.load(row + 1), first, first_scales, second, second_scales, gradient)
    factors += parameter * 3
    scalars = (tl.load(grad_scale), tl.load(factors), tl.load(factors + 1), tl.load(factors + 2))
    options = (one_less_beta1, beta2, one_less_beta2)
    key = tl.load(keys + parameter * 2 + 1).to(tl.uint32, bitcast=True)
    first_index = tl.load(row + 7).to(tl.int32) + tl.load(keys + parameter * 2)
    for tile in range(_TILES):
        start = position + tile * _TILE
        left = tl.minimum(size - start, _TILE).to(tl.int32)
        if ALIGNED:
            left = tl.multiple_of(left, 16)
        place, random = (start, left, keep), (first_index + start.to(tl.int32), key)
        if left > 0:
            if BITS == 0:
                _update_tile(line, place, random, scalars, options, MOMENT_BITS, EXACT, ALIGNED)
            elif first_scales != 0:
                _update_block_tile(line, place, random, scalars, options, codebooks, BITS, ALIGNED)
            else:  # norms and biases
                _update_tile(line, place, random, scalars, options, MOMENT_BITS, EXACT, ALIGNED)


@triton.jit(do_not_specialize=["lines", "first_program", "gradient"])
def sum_squares(
    table, starts, gradients, partial_sums, lines, first_program: tl.int64, gradient: tl.int64, SEARCH: tl.constexpr,
    EXACT: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Sum the squares of one span of a gradient in fp32, and store the sum in the program's place."""
    program = tl.program_id(0) + first_program
    row, of_table, position = _read_line(table, starts, gradients, program, lines, SEARCH)
    gradient = tl.where(gradient == 0, of_table, gradient)
    size = tl.where(gradient == 0, 0, tl.load(row + 6))
    offsets = tl.arange(0, _TILE)
    dtype: tl.constexpr = tl.float32 if EXACT == 2 else tl.bfloat16
    squares = tl.zeros((_TILE,), tl.float32)
    for tile in range(_TILES):
        start = position + tile * _TILE
        left = tl.minimum(size - start, _TILE).to(tl.int32)
        if ALIGNED:
            left = tl.multiple_of(left, 16)
        place = _pointer(gradient, start, dtype, ALIGNED) + offsets
        values = tl.load(place, mask=offsets < left, other=0.0).to(tl.float32)
        squares += values * values
    tl.store(partial_sums + tl.program_id(0), tl.sum(squares, 0))


@triton.jit(do_not_specialize=["count"])
def clip_in_backward(partial_sums, count, squared_norm, last_norm, clip_norm, grad_scale, found_inf):
    """Add the squares of one more gradient to those of the step so far, and derive the scale and whether it is bad."""
    offsets = tl.arange(0, _TILE)
    squares = tl.zeros((_TILE,), tl.float32)
    start = count * 0
    while start < count:
        squares += tl.load(partial_sums + start + offsets, mask=start + offsets < count, other=0.0)
        start += _TILE
    total = tl.load(squared_norm) + tl.sum(squares, 0)
    finite = total < float("inf")
    norm = tl.maximum(tl.sqrt_rn(total), tl.load(last_norm))
    tl.store(squared_norm, total)
    tl.store(grad_scale, tl.where(finite, tl.maximum(tl.div_rn(norm, clip_norm), 1.0), 1.0))
    tl.store(found_inf, finite == 0)
