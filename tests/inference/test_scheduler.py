"""Continuous batching: whatever joins and leaves, each reply is the one given alone, and nobody hangs."""

import threading
import time
from contextlib import closing

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.generation import QUESTIONS, alone, ask, decided

from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.errors import UserError
from thinktune.inference import engine as engine_module
from thinktune.inference import kv_cache
from thinktune.inference.engine import Engine
from thinktune.inference.replies import join_pieces
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.inference.streaming import EventQueue
from thinktune.tokenization import Turn

VARIED = [
    ask(question, 4 + 3 * number + 40 * (number == 3), **settings)
    for number, question in enumerate(QUESTIONS)
    for settings in ({}, {"temperature": 1.5, "seed": number}, {"stop": ("th",)})
]


@pytest.fixture
def engine(model, tokenizer):
    with closing(Engine(decided(model), tokenizer, max_sequences=4)) as engine:
        yield engine


@pytest.fixture(scope="module")
def expected(tokenizer):
    with closing(Engine(decided(make_model(tokenizer, ModelShape())), tokenizer)) as engine:
        return [alone(engine, request) for request in VARIED]


def wait_until_idle():
    limit = time.monotonic() + 30
    while any(thread.name == "thinktune-engine" for thread in threading.enumerate()):
        assert time.monotonic() < limit, "the engine's thread did not end"
        time.sleep(0.01)


def in_threads(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(len(VARIED))),
    cancelled=st.sets(st.integers(0, len(VARIED) - 1), max_size=4),
    together=st.integers(1, 6),
)
def test_each_reply_is_the_one_given_alone_whatever_joins_and_leaves(engine, expected, order, cancelled, together):
    found = {}

    def read(numbers):
        for number in numbers:
            with closing(engine.stream(VARIED[number])) as stream:
                pieces = []
                for piece in stream:
                    if number in cancelled and len(pieces) == 2:
                        break
                    pieces.append(piece)
                if number not in cancelled:
                    found[number] = pieces

    in_threads(*(lambda start=start: read(order[start::together]) for start in range(together)))
    assert set(found) == set(range(len(VARIED))) - cancelled
    for number, (*pieces, last) in found.items():
        assert last == expected[number]
        assert join_pieces(pieces) == (last.reasoning, last.answer)


def test_long_prompts_are_prefilled_in_chunks_between_decode_steps(engine, expected, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_PREFILL_TOKENS", 16)  # most of the prompts are longer
    assert dict(engine.complete(VARIED)) == dict(enumerate(expected))


def test_a_short_prompt_does_not_wait_for_the_long_ones_before_it(engine, expected):
    long = [ask("word " * (700 + number), 2) for number in range(3)]
    assert next(engine.complete([*long, ask("Why?", 1)], max_concurrency=4))[0] == 3
    found = dict(engine.complete([long[0], VARIED[0], long[1], VARIED[1]], max_concurrency=4))
    assert [found[1], found[3]] == expected[:2]
    assert [found[0], found[2]] == [alone(engine, request) for request in long[:2]]


def test_a_long_prompt_does_not_wait_for_all_short_ones_behind_it(engine):
    requests = [ask("word " * 500, 1), *(ask(f"{'word ' * 80}{number}", 1) for number in range(12))]
    ended = [index for index, _ in engine.complete(requests, max_concurrency=len(requests))]
    assert sorted(ended) == list(range(13))
    assert ended.index(0) < 9  # of its six or so chunks, one goes after each pass of short ones


def test_a_cache_that_grows_and_shrinks_changes_no_reply(engine, expected, monkeypatch):
    monkeypatch.setattr(kv_cache, "GROW_COLUMNS", 8)
    monkeypatch.setattr(kv_cache, "GROW_ROWS", 1)
    assert dict(engine.complete(VARIED)) == dict(enumerate(expected))


def test_no_more_than_max_sequences_are_decoded_at_once(engine):
    rows = []
    hook = engine.model.model.register_forward_pre_hook(
        lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    assert len(list(engine.complete([ask("q?", 6) for _ in range(12)], max_concurrency=12))) == 12
    hook.remove()
    assert max(rows) == 4


def test_requests_are_served_first_come_first_served(model, tokenizer):
    with closing(Engine(decided(model), tokenizer, max_sequences=1)) as engine:
        order = [number for number, _ in engine.complete([ask("q?", 6) for _ in range(12)], max_concurrency=12)]
    assert order == list(range(12))


def test_a_closed_stream_frees_its_row_at_once(model, tokenizer):
    with closing(Engine(decided(model), tokenizer, max_sequences=1)) as engine:
        endless = engine.stream(ask("q?", 4000))
        next(endless)
        endless.close()
        assert alone(engine, ask("a", 3)).tokens <= 3
        assert list(endless) == []
        abandoned = engine.stream(ask("q?", 4000))
        next(abandoned)
        del abandoned  # forgotten, not closed
        assert alone(engine, ask("a", 3)).tokens <= 3
    wait_until_idle()


def test_a_stream_may_be_closed_while_another_thread_waits_for_it(engine):
    held, seen = threading.Event(), []
    hook = engine.model.model.register_forward_pre_hook(lambda *_: held.wait(30) and None)
    stream = engine.stream(ask("q?", 50))
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    stream.close()
    reader.join(30)
    assert not reader.is_alive()
    assert seen == []
    held.set()
    hook.remove()


def test_a_failed_pass_fails_all_requests_in_it_and_the_engine_goes_on(engine, expected):
    passes = []

    def fail(_, __, given):
        passes.append(given)
        if len(passes) == 5:
            raise ValueError("planted")

    hook = engine.model.model.register_forward_pre_hook(fail, with_kwargs=True)
    messages = []

    def read(number):
        try:
            list(engine.stream(ask(QUESTIONS[number], 40)))
        except ValueError as error:
            messages.append(str(error))

    in_threads(*(lambda number=number: read(number) for number in range(3)))
    assert set(messages) == {"planted"}
    hook.remove()
    assert dict(engine.complete(VARIED)) == dict(enumerate(expected))


def test_a_request_that_fails_does_not_fail_others(engine, expected, monkeypatch):
    refused = engine._make_sequence(ask("q?", 30), EventQueue(), 0, streamed=False)
    monkeypatch.setattr(refused.detokenizer, "append", None)  # not callable: its own reply fails
    engine._scheduler.submit(refused)
    assert dict(engine.complete(VARIED)) == dict(enumerate(expected))
    assert isinstance(refused._events.get()[1], TypeError)


def test_out_of_memory_preempts_replies_that_are_completed_later(engine, expected):
    def limit(_, __, given):
        if len(given["input_ids"]) > 2:
            raise torch.OutOfMemoryError("planted")

    hook = engine.model.model.register_forward_pre_hook(limit, with_kwargs=True)
    assert dict(engine.complete(VARIED)) == dict(enumerate(expected))
    hook.remove()


def test_closing_ends_every_request(model, tokenizer):
    engine = Engine(decided(model), tokenizer, max_sequences=2)
    messages = []

    def read():
        try:
            list(engine.stream(ask("q?", 4000)))
        except RuntimeError as error:
            messages.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    while engine._scheduler._thread is None:
        time.sleep(0.01)
    engine.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(messages) == 4
    assert all("closed" in text for text in messages)
    wait_until_idle()
    with pytest.raises(RuntimeError, match="closed"):
        engine.stream(ask("q?"))


def test_closing_the_iterator_cancels_the_rest(engine):
    for _, reply in engine.complete([ask("a", 3), *(ask("q?", 4000) for _ in range(9))]):
        assert isinstance(reply, Completion)
        break
    assert alone(engine, ask("a", 3)).tokens <= 3
    wait_until_idle()


def test_a_conversation_longer_than_the_context_is_refused(engine):
    with pytest.raises(UserError, match=r"takes 5,0\d\d tokens, and the model's context has 4,096"):
        engine.stream(Request((Turn("user", "\n\n" * 2500),), SamplingParams(5)))
    assert engine._make_sequence(
        Request((Turn("user", "\n\n" * 2030),), SamplingParams(500)), EventQueue(), 0, streamed=False
    )
