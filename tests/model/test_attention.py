"""Packed attention: which path runs where, and that each path gives every row what it gets alone."""

import pytest
import torch
from support.packed_attention import BOUNDARIES, GROUPS, HEADS, LONGEST, SCALE, SIZE, alone, packed_kernel, parts

from thinktune.errors import UserError
from thinktune.model import attention
from thinktune.model.attention import boundaries_as_mask, pick_attention, pick_flash_kernel, wrap_varlen_attn
from thinktune.model.row_attention import rows_op


@pytest.mark.parametrize(
    ("device", "precision", "capability", "path"),
    [
        ("cuda", torch.bfloat16, (9, 0), "thinktune_varlen"),
        ("cuda", torch.float16, (8, 0), "thinktune_varlen"),
        ("cuda", torch.bfloat16, (12, 0), "thinktune_varlen"),
        ("cuda", torch.float32, (9, 0), "thinktune_rows"),  # the kernel has no fp32
        ("cuda", torch.bfloat16, (7, 5), "thinktune_rows"),  # the kernel does not run there
        ("npu", torch.bfloat16, None, "thinktune_ascend"),
        ("npu", torch.float32, None, "thinktune_rows"),
        ("mps", torch.bfloat16, None, "thinktune_rows"),
        ("cpu", torch.bfloat16, None, "thinktune_rows"),
        ("cpu", torch.float32, None, "thinktune_rows"),
    ],
)
def test_the_path_follows_device_precision_and_card(device, precision, capability, path):
    assert pick_attention(device, precision, capability) == path


def test_newer_kernels_are_taken_where_their_package_is_and_the_card_is_theirs():
    everything, nothing = (lambda _: True), (lambda _: False)
    assert pick_flash_kernel((9, 0), everything) == "FA3"
    assert pick_flash_kernel((10, 0), everything) == "FA4"
    assert pick_flash_kernel((8, 6), everything) is None
    assert pick_flash_kernel((9, 0), nothing) is None
    assert not attention._is_installed("no_such_package.inner")


def varlen_of_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    assert window_size == (-1, 0), "not causal"
    assert key.shape[1] == GROUPS, "repeated for nothing"
    assert max_q == max_k
    assert cu_seq_q is cu_seq_k
    return packed_kernel(query, key, value, cu_seq_q, max_q, scale)


def varlen_of_2_13(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
):  # fmt: skip
    assert window_size == (-1, 0), "not causal"
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert num_splits == 1, "a row would depend on its neighbours"
    assert key.shape[1] == GROUPS, "repeated for nothing"
    return packed_kernel(query, key, value, cu_seq_q, max_q, scale)


def fused_of_ascend(
    query,
    key,
    value,
    head_num,
    *,
    input_layout,
    atten_mask,
    actual_seq_qlen,
    actual_seq_kvlen,
    scale,
    keep_prob,
    sparse_mode,
    **_,
):
    assert (head_num, input_layout, keep_prob, sparse_mode) == (HEADS, "TND", 1.0, 3)
    assert atten_mask.equal(torch.ones(2048, 2048, dtype=torch.bool).triu(1))
    assert actual_seq_qlen == actual_seq_kvlen == (5, 6, 13, 20)  # where rows end; empty ones are not named
    starts = torch.tensor([0, *actual_seq_qlen], dtype=torch.int32)
    return (packed_kernel(query, key, value, starts, LONGEST, scale),)


@pytest.fixture(params=["rows", "varlen 2.11", "varlen 2.13", "ascend"])
def path(request, monkeypatch):
    if request.param == "ascend":
        place = "transformers.integrations.npu_flash_attention.npu_fusion_attention"
        monkeypatch.setattr(place, fused_of_ascend, raising=False)
        return attention.ascend_attention
    if request.param == "rows":
        return attention.rows_attention
    kernel = varlen_of_2_11 if request.param == "varlen 2.11" else varlen_of_2_13
    monkeypatch.setattr(attention, "_varlen", wrap_varlen_attn(kernel))
    return attention.varlen_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_path_gives_a_row_what_it_gets_alone(path, dtype):
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.03}
    mine, theirs = parts(dtype), parts(torch.float32)
    found, rest = path(torch.nn.Module(), *mine, None, cu_seqlens=BOUNDARIES, max_seqlen=LONGEST, scaling=SCALE)
    expected = alone(*theirs)
    assert rest is None
    assert found.shape == (1, 20, HEADS, SIZE)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, **close)
    weights = torch.randn(expected.shape)
    (found.float() * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_path_has_the_same_gradients(dtype):
    """`rows_op`, which stands in for a kernel of the card where compiled code runs elsewhere."""
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.03}
    mine, theirs = parts(dtype), parts(torch.float32)
    found, expected = rows_op(*mine, BOUNDARIES, SCALE), alone(*theirs)
    torch.testing.assert_close(found.float(), expected, **close)
    weights = torch.randn(expected.shape)
    (found.float() * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, **close)
    torch.library.opcheck(rows_op, (*parts(dtype), BOUNDARIES, SCALE))


def test_queries_that_a_norm_made_fp32_follow_the_values(monkeypatch):
    """As under autocast over fp32 weights: the kernel takes one type, and only half precision."""
    monkeypatch.setattr(
        attention, "_varlen", lambda query, key, value, *_: (seen.extend([query, key, value]), value)[1]
    )
    seen = []
    query, key, value = parts(torch.float32)
    attention.varlen_attention(
        torch.nn.Module(), query, key, value.bfloat16(), None, cu_seqlens=BOUNDARIES, max_seqlen=9
    )
    assert {part.dtype for part in seen} == {torch.bfloat16}


def test_without_boundaries_every_path_is_transformers_own():
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, HEADS // GROUPS
    made = [
        path(module, *parts(torch.float32), None, scaling=SCALE)[0]
        for path in (attention.rows_attention, attention.varlen_attention, attention.ascend_attention)
    ]
    assert made[0].equal(made[1])
    assert made[0].equal(made[2])


SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0])


def described(query, key, value, *, window, cap, sinks):
    """Each row by itself from the definition: scores, cap, window, softmax with the sinks' share, values."""
    rows = []
    for start, end in zip(BOUNDARIES[:-1].tolist(), BOUNDARIES[1:].tolist(), strict=True):
        q = query[:, :, start:end]
        k, v = (part[:, :, start:end].repeat_interleave(HEADS // GROUPS, 1) for part in (key, value))
        scores = q @ k.mT * SCALE
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        size = end - start
        distance = torch.arange(size)[:, None] - torch.arange(size)
        scores = scores.masked_fill((distance < 0) | (distance >= (window or size + 1)), -torch.inf)
        weights = scores.exp()
        total = weights.sum(-1, keepdim=True)
        total = total if sinks is None else total + sinks.view(1, HEADS, 1, 1).exp()
        rows.append(weights / total @ v)
    return torch.cat(rows, 2).transpose(1, 2)


@pytest.mark.parametrize("way", ["rows", "operator", "varlen"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_windows_caps_and_sinks_are_computed_as_described(way, window, cap, with_sinks, monkeypatch):
    mine, theirs = parts(torch.float32), parts(torch.float32)
    sinks, other_sinks = (SINKS.clone().requires_grad_() if with_sinks else None for _ in range(2))
    if way == "operator":
        found = rows_op(*mine, BOUNDARIES, SCALE, window, cap, sinks)
    else:
        monkeypatch.setattr(attention, "_varlen", lambda q, k, v, starts, longest, scale, seen: banded(q, k, v, seen))
        path = attention.rows_attention if way == "rows" else attention.varlen_attention
        options = {"sliding_window": window, "softcap": cap, "s_aux": sinks, "scaling": SCALE}
        found, _ = path(torch.nn.Module(), *mine, boundaries_as_mask(BOUNDARIES), **options)
    expected = described(*theirs, window=window, cap=cap, sinks=other_sinks)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(expected.shape)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip([*mine, sinks], [*theirs, other_sinks], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def banded(query, key, value, window):
    """Stand in for the kernel of a card: (n, heads, head_dim) in and out."""
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
    return described(q, k, v, window=window, cap=None, sinks=None)[0]


@pytest.mark.parametrize("path", [attention.rows_attention, attention.varlen_attention, attention.ascend_attention])
@pytest.mark.parametrize("packed", [True, False])
def test_an_option_that_is_not_known_is_refused_and_one_that_is_off_is_not(path, packed):
    given = {"cu_seqlens": BOUNDARIES} if packed else {}
    with pytest.raises(UserError, match="its attention needs block_indices, which is not supported"):
        path(torch.nn.Module(), *parts(torch.float32), None, block_indices=torch.ones(2), **given)
    with pytest.raises(UserError, match="sees what comes after"):
        path(torch.nn.Module(), *parts(torch.float32), None, is_causal=False, **given)
    off = {"block_indices": None, "output_attentions": False}
    attention.rows_attention(torch.nn.Module(), *parts(torch.float32), None, cu_seqlens=BOUNDARIES, **off)


def test_a_mask_that_a_layer_made_for_packed_rows_is_refused():
    mask = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    with pytest.raises(UserError, match="their own attention masks"):
        attention.rows_attention(torch.nn.Module(), *parts(torch.float32), mask, cu_seqlens=BOUNDARIES)


@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize(("cap", "sinks"), [(None, SINKS), (0.7, None), (0.7, SINKS)])
def test_one_row_an_entry_and_decoding_get_caps_and_sinks_too(with_mask, cap, sinks):
    query, key, value = (part[:, :, :6] for part in parts(torch.float32, requires_grad=False))
    whole = described_one(query, key, value, cap, sinks)
    options = {"softcap": cap, "s_aux": sinks, "scaling": SCALE}
    mask = torch.ones(6, 6, dtype=torch.bool).tril()[None, None] if with_mask else None
    found, _ = attention.rows_attention(torch.nn.Module(), query, key, value, mask, **options)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    last = None if mask is None else mask[:, :, -1:]
    found, _ = attention.rows_attention(torch.nn.Module(), query[:, :, -1:], key, value, last, **options)
    torch.testing.assert_close(found, whole[:, -1:], rtol=1e-5, atol=1e-5)


def described_one(query, key, value, cap, sinks):
    padded = [torch.nn.functional.pad(part, (0, 0, 0, 14)) for part in (query, key, value)]
    rows = torch.tensor([0, 6, 20], dtype=torch.int32)
    found, _ = attention.rows_attention(
        torch.nn.Module(), *padded, None, cu_seqlens=rows, softcap=cap, s_aux=sinks, scaling=SCALE
    )
    return found[:, :6]
