"""Replies in process: the same alone and side by side, the same as transformers', streamed as they are in the end."""

from contextlib import closing

import pytest
import torch
from support.generation import QUESTIONS, alone, ask, decided

from thinktune.data.chat_template import render_prompt
from thinktune.data.types import Turn
from thinktune.inference.engine import Engine
from thinktune.inference.replies import join_pieces
from thinktune.inference.requests import Completion


@pytest.fixture
def engine(model, tokenizer):
    with closing(Engine(decided(model), tokenizer)) as made:
        yield made


def test_greedy_alone_is_what_transformers_own_loop_writes(engine, tokenizer):
    for question in QUESTIONS:
        prompt = render_prompt([Turn("user", question)], tokenizer)
        theirs = engine.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20, do_sample=False
        )[0, len(prompt) :].tolist()
        ended = theirs[-1] in engine.model.generation_config.eos_token_id
        reply = alone(engine, ask(question))
        assert (reply.tokens, reply.finish) == (len(theirs), "end" if ended else "length")
        written = tokenizer.backend_tokenizer.decode(theirs[:-1] if ended else theirs)
        assert (reply.reasoning + reply.answer).strip() in written
        assert reply.prompt_tokens == len(prompt)


def test_side_by_side_is_alone(engine):
    requests = [ask(question, 8 + 5 * number) for number, question in enumerate(QUESTIONS)]
    together = list(engine.complete(requests, max_concurrency=3))
    assert sorted(index for index, _ in together) == list(range(len(requests)))
    for index, reply in together:
        assert reply == alone(engine, requests[index])


def test_a_reply_that_ends_leaves_the_others_as_they_are(engine, tokenizer):
    free = dict(engine.complete([ask(question) for question in QUESTIONS]))
    first = tokenizer.encode(free[0].answer, add_special_tokens=False)[3]
    engine.model.generation_config.eos_token_id = first  # what one reply says becomes an end token
    with closing(Engine(engine.model, tokenizer)) as other:
        stopped = dict(other.complete([ask(question) for question in QUESTIONS]))
    assert stopped[0].finish == "end"
    assert stopped[0].tokens < free[0].tokens
    for index, reply in stopped.items():
        assert free[index].answer.startswith(reply.answer.rstrip("\ufffd"))
        assert reply.finish == "end" or reply.answer == free[index].answer


def test_a_stream_ends_with_what_it_gave(engine):
    *pieces, last = engine.stream(ask(QUESTIONS[1], 30))
    assert isinstance(last, Completion)
    assert last == alone(engine, ask(QUESTIONS[1], 30))
    assert join_pieces(pieces) == (last.reasoning, last.answer)
    assert len(pieces) > 1


def test_each_request_samples_by_its_own_seed(engine):
    def drawn(seed):
        return ask(QUESTIONS[1], 12, temperature=1.5, top_p=0.9, seed=seed)

    together = dict(engine.complete([drawn(1), drawn(2), drawn(1), ask("q?")]))
    assert together[0] == together[2] == alone(engine, drawn(1))
    assert together[1] == alone(engine, drawn(2)) != together[0]
    assert together[3] == alone(engine, ask("q?"))


def test_a_stop_text_ends_the_reply_and_is_left_out(engine):
    free = alone(engine, ask("q?", 30))
    stop = free.answer[6:9]
    reply = alone(engine, ask("q?", 30, stop=(stop,)))
    assert reply.finish == "stop"
    assert reply.answer == free.answer[: free.answer.index(stop)]
    assert reply.tokens < free.tokens


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bf16_arithmetic_writes_side_by_side_too(model, tokenizer, weights):
    kinds = set()
    with closing(Engine(decided(model).to(weights), tokenizer, torch.bfloat16)) as engine:
        watch = engine.model.model.layers[0].self_attn.o_proj.register_forward_hook(
            lambda _, __, output: kinds.add(output.dtype)
        )
        requests = [ask(question, 6) for question in QUESTIONS]
        assert all(reply.tokens for _, reply in engine.complete(requests))
        watch.remove()
    assert kinds == {torch.bfloat16}
