"""Replies: the same alone and side by side, the same as transformers', streamed as they are in the end."""

import pytest
import torch

from thinktune.engine import Completion, Engine, Sampling, choose

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [20], list(range(30, 60))]


@pytest.fixture
def engine(model, tokenizer):
    torch.manual_seed(3)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # decided enough that rounding does not choose the token
    return Engine(model, tokenizer)


def new_tokens(engine, prompts, sampling):
    replies = [[] for _ in prompts]
    for row, token in engine._tokens(prompts, sampling):
        replies[row].append(token)
    return replies


def test_greedy_side_by_side_is_greedy_alone_and_transformers_own(engine):
    together = new_tokens(engine, PROMPTS, Sampling(20))
    for prompt, reply in zip(PROMPTS, together, strict=True):
        assert new_tokens(engine, [prompt], Sampling(20)) == [reply]
        theirs = engine.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20, do_sample=False
        )
        assert theirs[0, len(prompt) :].tolist() == reply


def test_a_row_that_has_ended_leaves_the_others_as_they_are(engine):
    free = new_tokens(engine, PROMPTS, Sampling(20))
    stop = free[0][4]  # make what one row says in fifth place an end token
    engine.model.generation_config.eos_token_id = stop
    stopped = new_tokens(engine, PROMPTS, Sampling(20))
    for before, after in zip(free, stopped, strict=True):
        assert after == (before[: before.index(stop) + 1] if stop in before else before)
    assert len(stopped[0]) < 20


def test_completions_come_in_the_order_of_the_prompts(engine):
    one_by_one = [engine.complete([prompt], Sampling(8), 1)[0] for prompt in PROMPTS]
    heard = []
    assert engine.complete(PROMPTS, Sampling(8), 2, heard.append) == one_by_one
    assert heard == [2, 4]


def test_a_stream_ends_as_the_completion_says(engine):
    *pieces, last = engine.stream(PROMPTS[1], Sampling(30))
    assert isinstance(last, Completion)
    assert last == engine.complete([PROMPTS[1]], Sampling(30), 1)[0]
    assert "".join(piece.text for piece in pieces if piece.place == "answer").strip("\ufffd") in last.answer


def test_sampling_is_the_seeds(engine):
    def draw(seed):
        return new_tokens(engine, PROMPTS, Sampling(12, temperature=1.5, seed=seed))

    assert draw(1) == draw(1) != draw(2)


def test_top_k_and_top_p_leave_only_the_likeliest():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(400, 1)
    generator = torch.Generator().manual_seed(0)
    for sampling, kept in (
        (Sampling(1, temperature=1.0, top_k=2), {0, 1}),
        (Sampling(1, temperature=1.0, top_p=0.7), {0, 1}),
        (Sampling(1, temperature=1.0, top_p=0.5), {0}),
        (Sampling(1, temperature=1.0), {0, 1, 2, 3}),
        (Sampling(1), {0}),
    ):
        assert set(choose(logits, sampling, generator)[:, 0].tolist()) == kept
