"""Constrained decoding in the engine: rows with a grammar beside rows without one, in plain and in static passes."""

import copy
import json
from contextlib import closing
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch
from support.generation import QUESTIONS, alone, ask, decided, run_batch, sequences_of
from support.recorded_graph import record_graph

from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.errors import UserError
from thinktune.inference.decode_runner import DecodeRunner
from thinktune.inference.engine import Engine
from thinktune.inference.requests import SamplingParams
from thinktune.inference.sampling import constraint
from thinktune.inference.sampling.grammar import Grammar, json_grammar
from thinktune.inference.sampling.masks import mask_logits, mask_rows
from thinktune.inference.sampling.sampler import NO_TOKEN, Sampler, SamplingGroup, draw, sample_slots
from thinktune.tokenization.chat_template import reasoning_end_ids

SCHEMA = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "why": {"type": "string", "maxLength": 6}},
    "required": ["sure", "why"],
    "additionalProperties": False,
}
GRAMMARS = [None, json_grammar(SCHEMA), None, Grammar("regex", "[a-z]{3,9}"), Grammar("choice", '["yes", "no"]')]
SAMPLED = [{"temperature": 1.5}, {"temperature": 1.0, "top_k": 9, "top_p": 0.9}]
REQUESTS = [
    replace(
        ask(question, 60, seed=number, max_reasoning_tokens=5, **settings), grammar=grammar, thinking=number % 2 == 0
    )
    for number, (question, grammar) in enumerate(zip(QUESTIONS, GRAMMARS, strict=True))
    for settings in SAMPLED
]


@pytest.fixture
def model(model):
    return decided(model)


@pytest.fixture(scope="module")
def expected(tokenizer):
    """Return the ids of each reply alone, the plain ones from an engine that has never seen a grammar."""
    model, found = decided(make_model(tokenizer, ModelShape())), {}
    for has_grammar in (False, True):
        with closing(Engine(model, tokenizer, decode="plain")) as engine:
            for index, request in enumerate(REQUESTS):
                if bool(request.grammar) == has_grammar:
                    [found[index]] = engine.complete_ids([request])
    return [found[index] for index in range(len(REQUESTS))]


def test_rows_with_and_without_a_grammar_share_passes_and_get_what_they_get_alone(model, tokenizer, expected):
    for decode in ("plain", "static"):
        with closing(Engine(model, tokenizer, max_sequences=4, decode=decode)) as engine:
            assert engine.complete_ids(REQUESTS) == expected, decode


def test_a_graph_repeats_a_pass_with_the_masks_of_its_own_token(model, tokenizer, expected):
    captured = []

    def capture(step):
        captured.append(replay := record_graph(step))
        return replay

    runner = DecodeRunner(model.eval(), is_static=True, capture=capture)
    assert run_batch(model, runner, sequences_of(model, tokenizer, REQUESTS), 4) == expected
    assert runner.is_static
    assert captured
    assert any(mask_bytes for *_, mask_bytes in runner._graphs)


def test_every_answer_has_the_form_that_was_asked_for(model, tokenizer):
    with closing(Engine(model, tokenizer)) as engine:
        replies = engine.complete_all(REQUESTS)
    for request, reply in zip(REQUESTS, replies, strict=True):
        if request.grammar and reply.finish == "end":
            match request.grammar.kind:
                case "json":
                    jsonschema.validate(json.loads(reply.answer), SCHEMA)
                case "regex":
                    assert reply.answer.isascii()
                    assert reply.answer.islower()
                case "choice":
                    assert reply.answer in ("yes", "no")
    assert (
        sum(bool(request.grammar) and reply.finish == "end" for request, reply in zip(REQUESTS, replies, strict=True))
        > 5
    )


def test_the_reasoning_is_drawn_as_without_a_grammar(model, tokenizer):
    """The prompt opens it here, so that the first token is the reasoning's."""
    plain = ask("q?", 40, temperature=1.5, seed=4, max_reasoning_tokens=12)
    with closing(Engine(model, _opening(tokenizer))) as engine:
        free = engine.complete_ids([plain])[0]
        held = engine.complete_ids([replace(plain, grammar=json_grammar(SCHEMA))])[0]
        reply = alone(engine, replace(plain, grammar=json_grammar(SCHEMA)))
    assert held[:12] == free[:12]
    assert held != free
    assert reply.closed
    assert reply.reasoning_tokens <= 12 + len(reasoning_end_ids(tokenizer))
    assert reply.answer.startswith("{")


def _opening(tokenizer):
    made = copy.deepcopy(tokenizer)
    made.chat_template = (
        "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}{%- if m.reasoning_content -%}"
        "{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' -}}{%- endif -%}{{- m.content + '<|im_end|>\\n' -}}"
        "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}"
    )
    return made


def test_a_streamed_answer_is_the_whole_one(model, tokenizer):
    request = REQUESTS[2]
    with closing(Engine(model, tokenizer)) as engine:
        *pieces, last = engine.stream(request)
        assert "".join(piece.text for piece in pieces if piece.kind == "answer") == last.answer
        assert last == alone(engine, request)


def test_a_grammar_with_a_fault_is_an_error_of_its_own_request_alone(model, tokenizer):
    with closing(Engine(model, tokenizer)) as engine:
        with pytest.raises(UserError, match="response_format: cannot be enforced"):
            alone(engine, replace(REQUESTS[0], grammar=json_grammar({"type": "strin"})))
        assert alone(engine, REQUESTS[0]).tokens > 0


def test_a_reply_whose_grammar_gets_stuck_fails_and_its_neighbours_go_on(model, tokenizer, monkeypatch):
    monkeypatch.setattr(constraint, "MAX_LEXER_STATES", 60)
    stuck = replace(ask("a", 90, temperature=1.0), grammar=Grammar("regex", "(.*a.{30}){2,}z"), thinking=False)
    with closing(Engine(model, tokenizer)) as engine:
        expected = alone(engine, REQUESTS[0])
        neighbour = engine.stream(REQUESTS[0])
        with pytest.raises(UserError, match="too complex"):
            alone(engine, stuck)
        *_, last = neighbour
    assert last == expected


@pytest.mark.parametrize("tokens", [64, 70])
def test_a_mask_forbids_what_it_does_not_set_and_changes_nothing_else(tokens):
    chance = np.random.default_rng(0)
    logits = torch.randn(3, 68)
    flags = chance.random((2, tokens)) < 0.3
    masks = [np.packbits(flags[0], bitorder="little"), None, np.packbits(flags[1], bitorder="little")]
    found = mask_rows(logits, masks)
    for row, allowed in ((0, flags[0]), (2, flags[1])):
        for token in range(68):
            assert found[row, token] == (logits[row, token] if token < tokens and allowed[token] else float("-inf"))
    assert found[1].equal(logits[1])
    assert mask_rows(logits, [None] * 3) is logits


def test_a_broken_model_is_no_less_broken_under_a_mask():
    sampler = Sampler(SamplingParams(9))
    sampler.mask = np.array([1], np.uint8)
    assert draw(torch.tensor([[1.0, float("nan")]]), [sampler]).tokens.tolist() == [NO_TOKEN]
    assert draw(torch.tensor([[1.0, 9.0]]), [sampler]).tokens.tolist() == [0]


def test_a_token_of_no_probability_is_not_drawn_where_a_sum_is_rounded():
    """The largest random number times a sum is the sum itself in fp32: the search then hits the last column."""
    logits = torch.full((1, 5), float("-inf"))
    logits[0, :3] = torch.tensor([0.1, 0.2, 0.3])
    for uniform in (1.0, 0.0):
        numbers = [torch.tensor([value]) for value in (1.0, 1.0, 0.0, uniform)]
        token = sample_slots(logits, [SamplingGroup(0, False, False)], torch.tensor([1]), numbers)
        assert token.item() < 3


def test_a_masked_row_is_what_logits_of_minus_infinity_are():
    logits = torch.randn(1, 16)
    masked = mask_logits(logits, torch.tensor([[0b10110, 0]], dtype=torch.uint8))
    assert masked[0].isfinite().nonzero().flatten().tolist() == [1, 2, 4]
