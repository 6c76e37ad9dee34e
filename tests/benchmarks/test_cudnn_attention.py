"""CuDNN's packed attention: its operators' arguments as torch declares them, and the layers that it is not for."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.packed_attention import BOUNDARIES, LONGEST, SCALE, alone, packed_kernel, parts

from thinktune.model import attention

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import cudnn_attention


def cudnn_forward(
    query,
    key,
    value,
    bias,
    starts_q,
    starts_k,
    max_q,
    max_k,
    with_sums,
    dropout=0.0,
    causal=False,
    *_,
    scale=None,
    **__,
):
    assert bias is None
    assert starts_q.equal(starts_k)
    assert (max_q, max_k, with_sums, dropout, causal) == (LONGEST, LONGEST, True, 0.0, True)
    assert key.shape == query.shape == value.shape
    sums, number = query.new_zeros(*query.shape[:2], 1, dtype=torch.float32), torch.zeros(())
    return (
        packed_kernel(query, key, value, starts_q, max_q, scale).contiguous(),
        sums,
        starts_q,
        starts_k,
        9,
        9,
        number,
        number,
        sums,
    )


def cudnn_backward(
    gradient, query, key, value, output, sums, seed, offset, bias, starts_q, starts_k, max_q, max_k, dropout, causal,
    *, scale=None,
):  # fmt: skip
    assert starts_q.equal(BOUNDARIES)
    assert starts_k.equal(BOUNDARIES)
    assert (max_q, max_k, dropout, causal) == (LONGEST, LONGEST, 0.0, True)
    assert sums.shape == (*query.shape[:2], 1)

    def compute():
        inputs = [part.detach().requires_grad_() for part in (query, key, value)]
        found = packed_kernel(*inputs, starts_q, max_q, scale)
        assert found.equal(output)
        return torch.autograd.grad(found, inputs, gradient)

    with ThreadPoolExecutor(1) as other:  # within an operator nothing has gradients; a new thread is within none
        return other.submit(compute).result()


@pytest.fixture
def cudnn():
    """Torch's own operators of cuDNN, whose arguments torch checks, with kernels for the CPU."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_cudnn_attention_forward", cudnn_forward, "CPU")
    library.impl("_cudnn_attention_backward", cudnn_backward, "CPU")
    yield
    library._destroy()


def attend(made, **options):
    return attention.varlen_attention(
        torch.nn.Module(), *made, None, cu_seqlens=BOUNDARIES, max_seqlen=LONGEST, scaling=SCALE, **options
    )[0]


def test_cudnn_is_called_as_torchs_operators_ask_forward_and_backward(cudnn, monkeypatch):
    monkeypatch.setattr(attention, "_varlen", None)  # not called
    cudnn_attention.use_cudnn()
    mine, theirs = parts(torch.float32), parts(torch.float32)
    found, expected = attend(mine), alone(*theirs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(expected.shape)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)
    same = mine[0][0].transpose(0, 1)
    torch.library.opcheck(
        cudnn_attention.attend_cudnn,
        (same, same, same, BOUNDARIES, LONGEST, SCALE),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@pytest.mark.parametrize(("window", "by_cudnn"), [(None, True), (3, False), (LONGEST, True)])
def test_layers_with_a_window_that_rows_reach_beyond_stay_with_flash_attention(window, by_cudnn, cudnn, monkeypatch):
    flash = []
    monkeypatch.setattr(attention, "_varlen", lambda query, *_: (flash.append(True), query)[1])
    cudnn_attention.use_cudnn()
    attend(parts(torch.float32, requires_grad=False), sliding_window=window)
    assert bool(flash) is not by_cudnn
