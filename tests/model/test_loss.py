"""The loss over scaled and capped logits: values and gradients are autograd's own."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from thinktune.model.loss import LogitChunks, LogitTransform, linear_cross_entropy

TOKENS, WIDTH, VOCABULARY = 23, 16, 50
CASES = [LogitTransform(), LogitTransform(0.25), LogitTransform(8.0), LogitTransform(cap=3.0), LogitTransform(0.5, 2.0)]


@pytest.mark.parametrize("transform", CASES, ids=str)
@pytest.mark.parametrize("chunk_rows", [None, 7, 1])
def test_logits_of_a_scale_and_a_cap_have_the_loss_and_the_gradients_of_autograd(transform, chunk_rows):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    labels = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    products = transform.scale * (hidden @ weight.T)
    logits = products if transform.cap is None else transform.cap * torch.tanh(products / transform.cap)
    torch.testing.assert_close(transform(hidden @ weight.T), logits)
    losses = cross_entropy(logits, labels, reduction="none")
    (losses.sum() / TOKENS).backward()
    wanted = [hidden.grad.clone(), weight.grad.clone()]
    hidden.grad = weight.grad = None

    loss, each = linear_cross_entropy(
        hidden,
        weight,
        labels,
        scale=1 / TOKENS,
        dtype=torch.float32,
        chunks=LogitChunks(chunk_rows),
        transform=transform,
    )
    loss.backward()
    torch.testing.assert_close(each, losses.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss.detach(), losses.detach().mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close([hidden.grad, weight.grad], wanted, atol=1e-6, rtol=1e-4)
