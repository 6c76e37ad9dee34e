"""Engine: replies are the same alone and batched, the same as transformers' own, and the same streamed."""

from contextlib import closing

import pytest
import torch
from support.generation import QUESTIONS, alone, ask, decided

from thinktune.inference.engine import Engine
from thinktune.inference.replies import join_pieces
from thinktune.inference.requests import Completion, ContextLengthError, GenerationError, render_request
from thinktune.tokenization import Turn
from thinktune.tokenization.chat_template import render_prompt


@pytest.fixture
def engine(model, tokenizer):
    with closing(Engine(decided(model), tokenizer)) as engine:
        yield engine


def test_a_greedy_reply_is_that_of_transformers_generate(engine, tokenizer):
    for question in QUESTIONS:
        prompt = render_prompt([Turn("user", question)], tokenizer)
        expected = engine.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20, do_sample=False
        )[0, len(prompt) :].tolist()
        ended = expected[-1] in engine.model.generation_config.eos_token_id
        reply = alone(engine, ask(question))
        assert (reply.tokens, reply.finish) == (len(expected), "end" if ended else "length")
        written = tokenizer.backend_tokenizer.decode(expected[:-1] if ended else expected)
        assert (reply.reasoning + reply.answer).strip() in written
        assert reply.prompt_tokens == len(prompt)
        assert engine.complete_ids([ask(question)])[0] == expected


def test_batched_replies_are_those_given_alone(engine):
    requests = [ask(question, 8 + 5 * number) for number, question in enumerate(QUESTIONS)]
    batched = list(engine.complete(requests, max_concurrency=3))
    assert sorted(index for index, _ in batched) == list(range(len(requests)))
    for index, reply in batched:
        assert reply == alone(engine, requests[index])


def test_a_reply_that_ends_does_not_change_the_others(engine, tokenizer):
    free = dict(engine.complete([ask(question) for question in QUESTIONS]))
    first = tokenizer.encode(free[0].answer, add_special_tokens=False)[3]
    engine.model.generation_config.eos_token_id = first  # a token of one reply becomes an end token
    with closing(Engine(engine.model, tokenizer)) as other:
        stopped = dict(other.complete([ask(question) for question in QUESTIONS]))
    assert stopped[0].finish == "end"
    assert stopped[0].tokens < free[0].tokens
    for index, reply in stopped.items():
        assert free[index].answer.startswith(reply.answer.rstrip("\ufffd"))
        assert reply.finish == "end" or reply.answer == free[index].answer


def test_a_stream_ends_with_the_completion_of_its_pieces(engine):
    *pieces, last = engine.stream(ask(QUESTIONS[1], 30))
    assert isinstance(last, Completion)
    assert last == alone(engine, ask(QUESTIONS[1], 30))
    assert join_pieces(pieces) == (last.reasoning, last.answer)
    assert len(pieces) > 1


def test_each_request_samples_by_its_own_seed(engine):
    def sampled(seed):
        return ask(QUESTIONS[1], 12, temperature=1.5, top_p=0.9, seed=seed)

    batched = dict(engine.complete([sampled(1), sampled(2), sampled(1), ask("q?")]))
    assert batched[0] == batched[2] == alone(engine, sampled(1))
    assert batched[1] == alone(engine, sampled(2)) != batched[0]
    assert batched[3] == alone(engine, ask("q?"))


def test_a_stop_string_ends_the_reply_and_is_left_out(engine):
    free = alone(engine, ask("q?", 30))
    stop = free.answer[6:9]
    reply = alone(engine, ask("q?", 30, stop=(stop,)))
    assert reply.finish == "stop"
    assert reply.answer == free.answer[: free.answer.index(stop)]
    assert reply.tokens < free.tokens


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bf16_arithmetic_generates_in_batches_too(model, tokenizer, weights):
    dtypes = set()
    with closing(Engine(decided(model).to(weights), tokenizer, torch.bfloat16)) as engine:
        hook = engine.model.model.layers[0].self_attn.o_proj.register_forward_hook(
            lambda _, __, output: dtypes.add(output.dtype)
        )
        requests = [ask(question, 6) for question in QUESTIONS]
        assert all(reply.tokens for _, reply in engine.complete(requests))
        hook.remove()
    assert dtypes == {torch.bfloat16}


def test_a_request_is_rendered_once(engine, tokenizer):
    request = render_request(ask("q?"), tokenizer, 4096)
    assert list(request.prompt_ids) == render_prompt(request.turns, tokenizer)
    assert render_request(request, None, 0) is request
    assert alone(engine, request) == alone(engine, ask("q?"))


def test_a_reply_is_capped_at_the_rest_of_the_context(tokenizer):
    prompt_tokens = len(render_prompt(ask("q?").turns, tokenizer))
    assert render_request(ask("q?", 20), tokenizer, prompt_tokens + 7).sampling.max_new_tokens == 7
    assert render_request(ask("q?", 20), tokenizer, prompt_tokens + 70).sampling.max_new_tokens == 20
    with pytest.raises(ContextLengthError, match=f"takes {prompt_tokens} tokens"):
        render_request(ask("q?"), tokenizer, prompt_tokens)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}])
def test_a_model_whose_logits_are_not_finite_is_an_error_and_no_reply(model, tokenizer, sampling):
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    with closing(Engine(model, tokenizer)) as engine:
        with pytest.raises(
            GenerationError, match=r"no finite logits .* at token 1 of a reply; its weights are damaged"
        ):
            list(engine.complete([ask(question, **sampling) for question in QUESTIONS]))
        with pytest.raises(GenerationError, match="no finite logits"):
            list(engine.stream(ask("q?", **sampling)))
