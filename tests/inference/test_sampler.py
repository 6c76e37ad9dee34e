"""Choosing tokens: what top-k and top-p cut never comes, shares are what they were, and a row is its own."""

import pytest
import torch

from thinktune.inference.requests import SamplingParams
from thinktune.inference.sampler import Sampler, sample_tokens

SHARES = torch.tensor([0.05, 0.5, 0.15, 0.3])
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
def test_only_the_likeliest_come_each_as_often_as_its_share(settings, kept):
    chooser, draws = Sampler(SamplingParams(1, **settings)), 4000
    chosen = torch.cat([sample_tokens(SHARES.log()[None], [chooser]) for _ in range(draws)])
    counts = torch.bincount(chosen, minlength=4) / draws
    expected = torch.where(torch.tensor([token in kept for token in range(4)]), SHARES, 0.0)
    assert set(chosen.tolist()) == kept
    assert (counts - expected / expected.sum()).abs().max() < 0.04  # 5 standard deviations


def test_temperature_flattens():
    def share(temperature):
        chooser = Sampler(SamplingParams(1, temperature=temperature))
        return sum(int(sample_tokens(SHARES.log()[None], [chooser])) == 1 for _ in range(1000)) / 1000

    assert share(0.3) > 0.75 > share(1.0) > 0.42 > share(3.0)


def test_a_row_draws_the_same_whoever_stands_beside_it():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 200, generator=generator)
    settings = [SamplingParams(1, **given, seed=seed) for seed, (given, _) in enumerate(KEPT)]
    for _ in range(20):
        together = sample_tokens(logits, [Sampler(sampling) for sampling in settings])
        assert together.tolist() == [
            int(sample_tokens(logits[row, None], [Sampler(sampling)])) for row, sampling in enumerate(settings)
        ]
        logits = torch.randn(7, 200, generator=generator)


def test_seeds_differ():
    logits = torch.zeros(1, 1000)
    assert (
        len(
            {int(sample_tokens(logits, [Sampler(SamplingParams(1, temperature=1.0, seed=seed))])) for seed in range(50)}
        )
        > 40
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"stop": ("a", "")}, "empty string"),
        ({"max_reasoning_tokens": -1}, "reasoning_tokens is -1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        SamplingParams(**{"max_new_tokens": 1} | wrong)
