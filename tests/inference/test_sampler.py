"""Sampler: tokens cut by top-k or top-p are never sampled, probabilities are kept, and rows are independent."""

import pytest
import torch

from thinktune.inference.requests import SamplingParams
from thinktune.inference.sampling.sampler import NO_TOKEN, Sampler, draw

PROBABILITIES = torch.tensor([0.05, 0.5, 0.15, 0.3])
KEPT = [
    ({"temperature": 1.0, "top_k": 2}, {1, 3}),
    ({"temperature": 1.0, "top_p": 0.7}, {1, 3}),
    ({"temperature": 1.0, "top_p": 0.5}, {1}),
    ({"temperature": 1.0, "top_k": 3, "top_p": 0.9}, {1, 3, 2}),
    ({"temperature": 1.0, "top_k": 99}, {0, 1, 2, 3}),
    ({"temperature": 1.0}, {0, 1, 2, 3}),
    ({}, {1}),
]


@pytest.mark.parametrize(("settings", "kept"), KEPT)
def test_only_kept_tokens_are_sampled_each_with_its_probability(settings, kept):
    sampler, draws = Sampler(SamplingParams(1, **settings)), 4000
    tokens = torch.cat([draw(PROBABILITIES.log()[None], [sampler]).tokens for _ in range(draws)])
    counts = torch.bincount(tokens, minlength=4) / draws
    expected = torch.where(torch.tensor([token in kept for token in range(4)]), PROBABILITIES, 0.0)
    assert set(tokens.tolist()) == kept
    assert (counts - expected / expected.sum()).abs().max() < 0.04  # 5 standard deviations


def test_temperature_flattens_the_distribution():
    def share_of_likeliest(temperature):
        sampler = Sampler(SamplingParams(1, temperature=temperature))
        return sum(int(draw(PROBABILITIES.log()[None], [sampler]).tokens) == 1 for _ in range(1000)) / 1000

    assert share_of_likeliest(0.3) > 0.75 > share_of_likeliest(1.0) > 0.42 > share_of_likeliest(3.0)


def test_a_row_is_sampled_the_same_alone_and_in_a_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 200, generator=generator)
    settings = [SamplingParams(1, **given, seed=seed) for seed, (given, _) in enumerate(KEPT)]
    for _ in range(20):
        together = draw(logits, [Sampler(sampling) for sampling in settings]).tokens
        assert together.tolist() == [
            int(draw(logits[row, None], [Sampler(sampling)]).tokens) for row, sampling in enumerate(settings)
        ]
        logits = torch.randn(7, 200, generator=generator)


def test_different_seeds_sample_different_tokens():
    logits = torch.zeros(1, 1000)
    assert (
        len({int(draw(logits, [Sampler(SamplingParams(1, temperature=1.0, seed=seed))]).tokens) for seed in range(50)})
        > 40
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"stop": ("a", "")}, "empty string"),
        ({"max_reasoning_tokens": -1}, "reasoning_tokens is -1"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**{"max_new_tokens": 1} | wrong)


TINY = [1e-300, 5e-324, 1e-46, 1e-45, 1e-40, 1e-38, 1e-30, 1e-12, 1e-7]
EXTREMES = [
    *({"temperature": value} for value in TINY),
    *({"temperature": 1.0, "top_p": value} for value in TINY),
    *({"temperature": value, "top_p": value, "top_k": 3} for value in TINY),
    {"temperature": 1e-6},
    {"temperature": 1.0, "top_p": 1e-6},
]


@pytest.mark.parametrize("settings", EXTREMES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30, 3e38])
def test_the_smallest_temperatures_and_top_p_take_the_likeliest_token(settings, scale):
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(1, 500, generator=generator) * 2 - 1
    logits[0, 123] = 1.001
    for seed in range(5):
        assert draw(logits * scale, [Sampler(SamplingParams(1, **settings, seed=seed))]).tokens.tolist() == [123]


@pytest.mark.parametrize("temperature", [1e-5, 0.5, 1.0, 2.0, 1e30, 3e38])
@pytest.mark.parametrize("cut", [{}, {"top_k": 2}, {"top_p": 0.9}], ids=str)
def test_huge_logits_are_no_reason_for_an_unlikely_token(temperature, cut):
    logits = torch.tensor([[-3e38, 3e38, -3e38, 1e38, float("-inf")]])
    drawn = {
        int(draw(logits, [Sampler(SamplingParams(1, temperature=temperature, **cut, seed=seed))]).tokens)
        for seed in range(30)
    }
    assert 4 not in drawn
    assert temperature > 1e29 or drawn == {1}


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5, "top_k": 3}], ids=str
)
@pytest.mark.parametrize(
    "bad",
    [[float("nan")] * 4, [1.0, float("nan"), 0.0, 2.0], [float("inf"), 0.0, 1.0, 2.0], [float("-inf")] * 4],
    ids=str,
)
def test_logits_that_are_not_finite_give_no_token_and_leave_the_other_rows_alone(settings, bad):
    logits = torch.tensor([[0.0, 9.0, 0.0, float("-inf")], bad])
    tokens = draw(logits, [Sampler(SamplingParams(1, **settings)) for _ in range(2)]).tokens.tolist()
    assert tokens[1] == NO_TOKEN
    assert tokens[0] == int(draw(logits[:1], [Sampler(SamplingParams(1, **settings))]).tokens)
