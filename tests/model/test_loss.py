"""The loss over scaled and capped logits, and its objectives: values and gradients are autograd's own."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from thinktune.model.loss import (
    CROSS_ENTROPY,
    LabelWeights,
    LogitChunks,
    LogitTransform,
    Objective,
    linear_cross_entropy,
)
from thinktune.tokenization import TokenKind

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


def objective_by_hand(products, labels, kinds, objective):
    """Return -w sg(p) log p of each label (without p for cross entropy), and the weights w, by torch's own softmax."""
    logs = torch.log_softmax(products, -1).gather(1, labels[:, None])[:, 0]
    is_reasoning = [kind == TokenKind.REASONING for kind in kinds.tolist()]
    weights = torch.tensor([objective.reasoning_weight if each else objective.answer_weight for each in is_reasoning])
    return -weights * (logs.detach().exp() if objective.by_probability else 1) * logs, weights


def drawn(tokens=TOKENS):
    """Return states, head, labels and kinds of labels, all three kinds among them."""
    generator = torch.Generator().manual_seed(1)
    hidden = (torch.randn(tokens, WIDTH, generator=generator) / 2).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    labels = torch.randint(VOCABULARY, (tokens,), generator=generator)
    return hidden, weight, labels, torch.arange(tokens) % 3 + 1


OBJECTIVES = [
    Objective(by_probability=True),
    Objective(reasoning_weight=0.5),
    Objective(answer_weight=0.0),
    Objective(0.25, 1.0, by_probability=True),
    Objective(0.0, 1.0, by_probability=True),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("chunk_rows", [None, 7, 1])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_an_objective_is_that_of_the_plain_formula_whatever_the_chunks(objective, chunk_rows, cap):
    hidden, weight, labels, kinds = drawn()
    products = hidden @ weight.T if cap is None else cap * torch.tanh(hidden @ weight.T / cap)
    expected, weights = objective_by_hand(products, labels, kinds, objective)
    reasoning_tokens = int((kinds == TokenKind.REASONING).sum())
    assert objective.summed_weight(TOKENS, reasoning_tokens) == pytest.approx(float(weights.sum()))
    scale = 1 / objective.summed_weight(TOKENS, reasoning_tokens)
    (expected.sum() * scale).backward()
    wanted = [hidden.grad.clone(), weight.grad.clone()]
    hidden.grad = weight.grad = None
    found, each = linear_cross_entropy(
        *(hidden, weight, labels),
        scale=scale,
        dtype=torch.float32,
        chunks=LogitChunks(chunk_rows),
        transform=LogitTransform(cap=cap),
        weights=objective.label_weights(kinds),
    )
    found.backward()
    torch.testing.assert_close(each, cross_entropy(products.detach(), labels, reduction="none"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.detach(), (expected.detach() * scale).sum(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close([hidden.grad, weight.grad], wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("chunk_rows", [None, 7])
def test_the_bits_of_plain_cross_entropy_are_those_from_before_there_were_objectives(chunk_rows):
    """Against the arithmetic as it was then, written out; weights of 1 by the weighted path give the same bits, too."""
    hidden, weight, labels, kinds = drawn()
    states, head, scale = hidden.detach(), weight.detach(), 1 / 7
    losses, states_gradient, head_gradient = [], [], torch.zeros_like(head)
    for start in range(0, TOKENS, chunk_rows or TOKENS):
        part = slice(start, start + (chunk_rows or TOKENS))
        logits, target = states[part] @ head.T, labels[part, None]
        top, chosen = logits.amax(-1, keepdim=True), logits.gather(1, target)
        total = logits.sub_(top).exp_().sum(-1, keepdim=True)
        losses.append((total.log() + top - chosen)[:, 0])
        factor = torch.full_like(losses[-1], scale)[:, None]
        logits.mul_(total.reciprocal() * factor).scatter_add_(1, target, -factor)
        states_gradient.append(logits @ head)
        head_gradient.addmm_(logits.T, states[part])
    former = torch.cat(losses), torch.cat(losses).sum() * scale, torch.cat(states_gradient), head_gradient
    plain, equal = CROSS_ENTROPY.label_weights(kinds), Objective(0.5, 0.5).label_weights(kinds)
    assert plain.are_equal
    assert equal.are_equal
    assert Objective(0.5, 0.5).summed_weight(10, 3) == 10
    for weights in (LabelWeights(), plain, equal, LabelWeights(torch.ones(TOKENS))):
        hidden.grad = weight.grad = None
        found, each = linear_cross_entropy(
            *(hidden, weight, labels),
            scale=scale,
            dtype=torch.float32,
            chunks=LogitChunks(chunk_rows),
            weights=weights,
        )
        found.backward()
        made = each, found, hidden.grad, weight.grad
        assert all(mine.equal(theirs) for mine, theirs in zip(made, former, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_a_label_whose_loss_is_not_finite_is_refused_whatever_it_weighs(objective):
    hidden, weight, _, kinds = drawn(3)
    with torch.no_grad():
        hidden[1], weight[5] = -1e30, 1e30
    weights = objective.label_weights(kinds)
    labels = torch.tensor([0, 5, 2])
    found, each = linear_cross_entropy(hidden, weight, labels, scale=1.0, dtype=torch.float32, weights=weights)
    found.backward()
    assert each.isfinite()[1].item() is False
    assert not hidden.grad[1].isfinite().any()
    assert not weight.grad.isfinite().any()


def test_bf16_objectives_are_within_the_rounding_of_bf16():
    hidden, weight, labels, kinds = drawn(100)
    mine = [part.detach().bfloat16().requires_grad_() for part in (hidden, weight)]
    plain = [part.detach().float().requires_grad_() for part in mine]
    objective = Objective(0.5, 1.0, by_probability=True)
    weights = objective.label_weights(kinds)
    linear_cross_entropy(*mine, labels, scale=0.01, dtype=torch.bfloat16, weights=weights)[0].backward()
    (0.01 * objective_by_hand(plain[0] @ plain[1].T, labels, kinds, objective)[0].sum()).backward()
    for one, other in zip(mine, plain, strict=True):
        assert (one.grad.float() - other.grad).norm() < 2**-6 * other.grad.norm()
