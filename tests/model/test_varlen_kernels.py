"""Torch's packed kernel: what each release's function is asked, and the operations that the compiler counts."""

import pytest
import torch
from support.packed_attention import BOUNDARIES, GROUPS, HEADS, LONGEST, SCALE, SIZE, parts
from torch.nn.attention.varlen import varlen_attn
from torch.utils.flop_counter import FlopCounterMode

from thinktune.model.attention import wrap_varlen_attn
from thinktune.model.row_attention import rows_op


def test_torchs_own_function_is_called_as_its_signature_asks():
    """The installed torch's, on shapes alone: its kernel needs a card."""
    query, key, value = (part[0].transpose(0, 1).to("meta") for part in parts(torch.bfloat16, requires_grad=False))
    found = wrap_varlen_attn(torch.nn.attention.varlen.varlen_attn)(
        query, key, value, BOUNDARIES.to("meta"), LONGEST, SCALE
    )
    assert found.shape == (20, HEADS, SIZE)


def test_the_kernel_is_told_a_window_that_rows_reach_beyond():
    seen = []

    def kernel(*_, window_size=(-1, -1), scale=None):
        seen.append(window_size)

    call = wrap_varlen_attn(kernel)
    made = torch.zeros(4, HEADS, SIZE)
    for window in (3, 9, None):
        call(made, made, made, BOUNDARIES, 9, SCALE, window)
    assert seen == [(2, 0), (-1, 0), (-1, 0)]


def of_2_11(query, key, value, *_, window_size=(-1, -1), scale=None):
    return key.shape[1], {}


def of_2_14(query, key, value, *_, window_size=(-1, -1), scale=None, enable_gqa=False, num_splits=None):
    return key.shape[1], {"enable_gqa": enable_gqa, "num_splits": num_splits}


@pytest.mark.parametrize(
    ("kernel", "for_amd", "heads", "told"),
    [
        (of_2_11, False, GROUPS, {}),
        (of_2_11, True, HEADS, {}),  # whether its kernel there takes groups is not known
        (of_2_14, False, GROUPS, {"enable_gqa": True, "num_splits": 1}),
        (of_2_14, True, GROUPS, {"enable_gqa": True, "num_splits": None}),
    ],
)
def test_grouped_keys_are_repeated_only_where_a_kernel_may_not_take_them(kernel, for_amd, heads, told):
    query, key, value = torch.zeros(4, HEADS, SIZE), torch.zeros(4, GROUPS, SIZE), torch.zeros(4, GROUPS, SIZE)
    assert wrap_varlen_attn(kernel, for_amd=for_amd)(query, key, value, BOUNDARIES, 9, SCALE) == (heads, told)


def counted(function, *arguments):
    with FlopCounterMode(display=False) as mode:
        function(*arguments)
    return mode.get_total_flops()


def test_operations_of_attention_are_those_of_rows_as_long_as_the_longest():
    """On shapes alone: two products, and of each the half that is not after the query."""
    query, key, value = (torch.empty(64, heads, SIZE, device="meta") for heads in (HEADS, GROUPS, GROUPS))
    starts, call = BOUNDARIES.to("meta"), wrap_varlen_attn(varlen_attn)
    full = 2 * (2 * 64 * 32 * HEADS * SIZE) // 2
    assert counted(call, query, key, value, starts, 32, SCALE) == full
    assert counted(call, query, key, value, starts, 32, SCALE, 8) == full // 4
    rows = [part.transpose(0, 1)[None] for part in (query, key, value)]
    assert counted(rows_op, *rows, starts, SCALE) == 2 * full  # which is told no longest row
    assert counted(rows_op, *rows, starts, SCALE, 8) == full // 4
