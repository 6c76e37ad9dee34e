"""Packed queries, keys and values, and what attention makes of each row alone."""

import torch
from torch.nn.functional import scaled_dot_product_attention

HEADS, GROUPS, SIZE = 4, 2, 8
BOUNDARIES = torch.tensor([0, 5, 6, 13, 20, 20, 20], dtype=torch.int32)  # the last two rows hold nothing
LONGEST, SCALE = 9, 0.3


def parts(dtype, *, requires_grad=True):
    torch.manual_seed(0)
    made = [torch.randn(1, heads, 20, SIZE).to(dtype) for heads in (HEADS, GROUPS, GROUPS)]
    return [part.requires_grad_(requires_grad) for part in made]


def alone(query, key, value):
    """Each row by itself, keys and values repeated, by torch's plain mathematics."""
    rows = []
    for start, end in zip(BOUNDARIES[:-1].tolist(), BOUNDARIES[1:].tolist(), strict=True):
        q, k, v = query[:, :, start:end], key[:, :, start:end], value[:, :, start:end]
        k, v = (part.repeat_interleave(HEADS // GROUPS, 1) for part in (k, v))
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            rows.append(scaled_dot_product_attention(q, k, v, is_causal=True, scale=SCALE))
    return torch.cat(rows, 2).transpose(1, 2)


def packed_kernel(query, key, value, starts, longest, scale):
    """Compute what the packed kernels of cards do, by a mask over all tokens: (n, heads, head_dim) in and out."""
    assert query.shape[2] == key.shape[2] == value.shape[2]
    assert starts.dtype == torch.int32
    assert int(starts.diff().max()) <= longest
    assert query.shape[1:] == (HEADS, SIZE)
    rows = torch.searchsorted(starts, torch.arange(len(query), dtype=torch.int32), right=True)
    allowed = (rows[:, None] == rows) & torch.ones(len(query), len(query), dtype=torch.bool).tril()
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
    return scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale, enable_gqa=True)[0].transpose(0, 1)
