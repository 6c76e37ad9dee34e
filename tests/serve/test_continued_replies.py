"""Replies that go on from the assistant's last message: they hold only what is new, and are what was cut off."""

from contextlib import closing

import httpx
import pytest
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving
from support.chat_server import part, reply
from support.chat_server import serving as upstream_serving
from support.generation import decided

from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.engine import Engine
from thinktune.inference.replies import ReplyParser, join_pieces
from thinktune.inference.requests import OpenTurn, Request, SamplingParams
from thinktune.serve import ServedModel
from thinktune.serve.models import find_endpoint_models
from thinktune.tokenization import Turn
from thinktune.tokenization.open_turn import render_open_turn

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def backend():
    return ScriptedBackend("new text")


@pytest.fixture(scope="module")
def address(backend):
    with serving([scripted_model(backend)]) as address:
        yield address


def post(address, *messages, **options):
    return httpx.post(f"{address}{CHAT}", json={"messages": [*QUESTION, *messages], **options}, timeout=60)


def begun(content="It", **fields):
    return {"role": "assistant", "content": content, **fields}


@pytest.mark.parametrize(
    ("message", "options", "turn", "open_turn"),
    [
        (begun(), {}, Turn("assistant", "It"), OpenTurn("answer")),
        (begun("It ", prefix=True), {}, Turn("assistant", "It "), OpenTurn("answer")),
        (begun(partial=True), {}, Turn("assistant", "It"), OpenTurn("answer")),
        (begun(), {"continue_final_message": True, "add_generation_prompt": False}, Turn("assistant", "It"), OpenTurn("answer")),
        (begun(reasoning_content="So"), {}, Turn("assistant", "It", "So"), OpenTurn("answer")),
        (begun("<think>\nSo\n</think>\n\nIt"), {}, Turn("assistant", "It", "So"), OpenTurn("answer")),
        (begun("<think>\nSo\n</think>\n\n"), {}, Turn("assistant", "", "So"), OpenTurn("answer", has_text=False)),
        (begun("<think>\nSo it "), {}, Turn("assistant", "", "So it "), OpenTurn("reasoning")),
        (begun("<think>"), {}, Turn("assistant", ""), OpenTurn("reasoning", has_text=False)),
        (begun("", reasoning_content="So "), {}, Turn("assistant", "", "So "), OpenTurn("reasoning")),
        (begun(None, reasoning="So"), {"enable_thinking": True}, Turn("assistant", "", "So"), OpenTurn("reasoning")),
    ],
)  # fmt: skip
def test_the_last_message_says_where_the_reply_goes_on(address, backend, message, options, turn, open_turn):
    answered = post(address, message, **options)
    assert (answered.status_code, answered.json()["warnings"]) == (200, []), answered.text
    request = backend.requests[-1]
    assert (request.turns, request.open_turn) == ((Turn("user", "Why?"), turn), open_turn)
    assert request.thinking == (bool(turn.reasoning) or open_turn.part == "reasoning")


def test_an_empty_last_message_asks_for_a_reply(address, backend):
    assert post(address, begun("")).status_code == 200
    assert (backend.requests[-1].turns, backend.requests[-1].open_turn) == ((Turn("user", "Why?"),), None)


@pytest.mark.parametrize(
    ("messages", "options", "param"),
    [
        ([], {"continue_final_message": True}, "continue_final_message"),
        ([begun(), {"role": "user", "content": "?", "prefix": True}], {}, "messages.2.prefix"),
        ([begun()], {"continue_final_message": False, "strict": True}, "continue_final_message"),
        ([], {"add_generation_prompt": False, "strict": True}, "add_generation_prompt"),
        ([begun("hi"), begun("")], {}, "messages"),
        ([begun("<think>abc")], {"enable_thinking": False, "strict": True}, "enable_thinking"),
    ],
)
def test_what_cannot_go_on_is_refused_by_name(address, messages, options, param):
    refused = post(address, *messages, **options)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_options_that_contradict_the_last_message_are_left_out_with_a_warning(address):
    [warning] = post(address, begun(), continue_final_message=False).json()["warnings"]
    assert warning.startswith("continue_final_message: is false, but")
    [warning] = post(address, add_generation_prompt=False).json()["warnings"]
    assert warning.startswith("add_generation_prompt: ")
    [warning] = post(address, begun("<think>abc"), enable_thinking=False).json()["warnings"]
    assert warning.startswith("enable_thinking: thinking is on, as in the last message")
    [warning] = post(address, begun("abc"), reasoning_effort="high").json()["warnings"]
    assert warning.startswith("reasoning_effort: thinking is off, as in the last message")
    assert post(address, begun("abc"), enable_thinking=False).json()["warnings"] == []


@pytest.mark.parametrize(
    ("open_turn", "text", "reasoning", "answer"),
    [
        (OpenTurn("answer"), "\n- a </think> b", "", "\n- a </think> b"),
        (OpenTurn("answer", has_text=False), "\n\na", "", "a"),
        (OpenTurn("answer"), "<think>\nx", "", "<think>\nx"),
        (OpenTurn("reasoning"), "\nmore\n</think>\n\nyes", "\nmore", "yes"),
        (OpenTurn("reasoning", has_text=False), "\nmore", "more", ""),
    ],
)
def test_the_rest_of_a_reply_belongs_to_the_part_that_is_open(open_turn, text, reasoning, answer):
    for length in (1, 3, len(text)):
        parser = ReplyParser(open_turn=open_turn)
        pieces = [
            piece for at in range(0, len(text), length) for piece in parser.feed(text[at : at + length])
        ] + parser.flush()
        assert join_pieces(pieces) == (reasoning, answer)


@pytest.mark.parametrize("part", ["reasoning", "answer"])
def test_a_reply_that_was_cut_goes_on_as_if_it_had_not_been(model, tokenizer, part):
    def turn(text):
        return Turn("assistant", "", text) if part == "reasoning" else Turn("assistant", text, "So.")

    asked = Turn("user", "Why?")
    engine = Engine(decided(model), tokenizer)

    def request(text, tokens):
        return Request((asked, turn(text)), SamplingParams(tokens), open_turn=OpenTurn(part))

    cuts = 0
    with closing(engine):
        for start in ("It", "So", "A", "The heart", "2+2", "word"):
            [whole], [ids] = engine.complete_all([request(start, 24)]), engine.complete_ids([request(start, 24)])
            text = whole.reasoning if part == "reasoning" else whole.answer
            assert whole.reasoning_tokens == (whole.tokens if part == "reasoning" else 0)
            prompt = render_open_turn([asked, turn(start)], tokenizer, part)
            for kept in range(1, len(ids)):
                written = tokenizer.backend_tokenizer.decode(ids[:kept])
                if render_open_turn([asked, turn(start + written)], tokenizer, part) != prompt + ids[:kept]:
                    continue  # cut inside a character, or where the text has other tokens
                cuts += 1
                [rest] = engine.complete_all([request(start + written, 24 - kept)])
                assert written + (rest.reasoning if part == "reasoning" else rest.answer) == text
                assert (rest.tokens, rest.prompt_tokens) == (whole.tokens - kept, len(prompt) + kept)
    assert cuts  # a random model's text is mostly written with other tokens than it came in


def test_only_what_is_new_is_sent_at_once_and_a_budget_closes_open_reasoning(model, tokenizer):
    defaults = ChatDefaults(sampling=SamplingParams(24))
    served = ServedModel("tuned", "small", defaults, lambda: Engine(decided(model), tokenizer), tokenizer, 300)
    with serving([served]) as address:
        whole = post(address, begun()).json()["choices"][0]["message"]
        assert whole["reasoning"] is None
        assert whole["content"]
        chunks = post(address, begun(), stream=True).text.split("\n\n")
        assert sum('"content": "' in chunk for chunk in chunks) > 3  # not held back, because it cannot be reasoning
        closed = post(address, begun("<think>\nSo"), reasoning_budget=2).json()
    assert closed["choices"][0]["message"]["content"]
    assert closed["usage"]["completion_tokens_details"]["reasoning_tokens"] < 10


def test_another_server_goes_on_as_well_but_not_with_open_reasoning():
    def script(_):
        return reply(part(reasoning=" is"), part(" so.", finish="stop"), b"data: [DONE]\n\n")

    with upstream_serving(script) as (url, asked), serving(find_endpoint_models(url, None)) as address:
        answered = post(address, begun("It", reasoning_content="So"))
        refused = post(address, begun("<think>\nSo"))
    assert answered.json()["choices"][0]["message"]["content"] == " is so."  # also what it took for reasoning
    assert asked[0]["continue_final_message"] is True
    assert asked[0]["add_generation_prompt"] is False
    assert asked[0]["messages"][-1] == begun("It", reasoning_content="So", reasoning="So")
    assert refused.status_code == 400
    assert "reasoning is open" in refused.json()["error"]["message"]
