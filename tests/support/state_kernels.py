"""Stand-ins for packages of kernels for layers with a state, which need a card: the same signatures, on any device."""

from pathlib import Path

# The definitions, token by token: Yang et al., "Gated Delta Networks" (2025), and a causal depthwise convolution.
DELTA_RULE = """
import os
import torch

def chunk_gated_delta_rule(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False,
                           use_qk_l2norm_in_kernel=False, cu_seqlens=None, **rest):
    times = v.shape[2] // k.shape[2]
    q, k = q.repeat_interleave(times, 2).float(), k.repeat_interleave(times, 2).float()
    if use_qk_l2norm_in_kernel:
        q, k = (each * torch.rsqrt(each.square().sum(-1, keepdim=True) + 1e-6) for each in (q, k))
    q = q * q.shape[-1] ** -0.5
    starts = set() if cu_seqlens is None or os.environ.get("LEAKS") else set(cu_seqlens.tolist())
    first = torch.zeros(len(q), v.shape[2], k.shape[-1], v.shape[-1])
    state, out = first if initial_state is None else initial_state, []
    for at in range(q.shape[1]):
        state = (first if at in starts else state) * g[:, at, :, None, None].exp()
        change = (v[:, at] - torch.einsum("bhkv,bhk->bhv", state, k[:, at])) * beta[:, at, :, None]
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, at], change)
        out.append(torch.einsum("bhkv,bhk->bhv", state, q[:, at]))
    return torch.stack(out, 1).to(v.dtype), state if output_final_state else None
"""

CONVOLUTION = """
import torch

def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
                     final_states_out=None, activation=None):
    numbers = torch.zeros(len(x), x.shape[-1]) if seq_idx is None else seq_idx
    out = torch.zeros_like(x)
    for back in range(weight.shape[1]):
        earlier = torch.nn.functional.pad(x, (back, 0))[..., : x.shape[-1]]
        same = torch.nn.functional.pad(numbers.float(), (back, 0), value=-1)[..., : x.shape[-1]] == numbers
        out = out + earlier * same[:, None] * weight[:, -1 - back, None]
    out = out if bias is None else out + bias[:, None]
    return torch.nn.functional.silu(out) if activation else out
"""


def write_state_kernels(folder: Path) -> Path:
    """Write both packages into a folder, for a process that has it on its path."""
    files = {
        "fla/__init__.py": "",
        "fla/ops/__init__.py": "",
        "fla/ops/gated_delta_rule.py": DELTA_RULE,
        "causal_conv1d.py": CONVOLUTION,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
