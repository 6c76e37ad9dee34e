"""The API as clients use it: the openai package, and plain requests, against a server on loopback."""

import json

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving

from thinktune.data.types import Turn
from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.requests import SamplingParams

REASONING, ANSWER = "It is so.\nQuite.", "Because **so**."
REPLIES = {
    "tagged": f"<think>\n{REASONING}\n</think>\n\n{ANSWER}",
    "opening-missing": f"{REASONING}\n</think>\n\n{ANSWER}",
    "no-reasoning": ANSWER,
    "cut": f"<think>\n{REASONING}",
}


@pytest.fixture(scope="module")
def backends():
    return {name: ScriptedBackend(text, finish="length" if name == "cut" else "end") for name, text in REPLIES.items()}


@pytest.fixture(scope="module")
def address(backends):
    defaults = ChatDefaults("Be kind.", SamplingParams(64, temperature=0.6, top_p=0.95, top_k=20))
    with serving([scripted_model(backend, name, defaults) for name, backend in backends.items()]) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def streamed(client, model, **options):
    """Join a stream's deltas: reasoning under both names, content, finish reason, usage."""
    found = {"reasoning_content": "", "reasoning": "", "content": "", "finish": None, "usage": None}
    stream = client.chat.completions.create(model=model, messages=QUESTION, stream=True, **options)
    for chunk in stream:
        found["usage"] = chunk.usage or found["usage"]
        for choice in chunk.choices:
            for name in ("reasoning_content", "reasoning", "content"):
                found[name] += getattr(choice.delta, name, None) or ""
            found["finish"] = choice.finish_reason or found["finish"]
    return found


@pytest.mark.parametrize(
    ("model", "reasoning", "content", "finish"),
    [
        ("tagged", REASONING, ANSWER, "stop"),
        ("opening-missing", REASONING, ANSWER, "stop"),
        ("no-reasoning", "", ANSWER, "stop"),
        ("cut", REASONING, "", "length"),
    ],
)
def test_reasoning_and_answer_are_separate_streamed_and_whole(client, model, reasoning, content, finish):
    found = streamed(client, model, stream_options={"include_usage": True})
    assert (found["reasoning_content"], found["reasoning"], found["content"]) == (reasoning, reasoning, content)
    assert found["finish"] == finish
    whole = client.chat.completions.create(model=model, messages=QUESTION)
    [choice] = whole.choices
    assert (choice.message.reasoning_content or "", choice.message.content) == (reasoning, content)
    assert choice.message.reasoning == choice.message.reasoning_content
    assert choice.finish_reason == finish
    for usage in (found["usage"], whole.usage):
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (11, 20, 31)
        assert usage.completion_tokens_details.reasoning_tokens == 8


def test_a_stream_holds_usage_only_on_request(client):
    assert streamed(client, "tagged")["usage"] is None


def test_a_client_that_allows_it_gets_text_at_once_that_may_be_taken_back(address):
    body = {"model": "opening-missing", "messages": QUESTION, "stream": True, "stream_options": {"allow_moved": True}}
    lines = httpx.post(f"{address}/v1/chat/completions", json=body).text.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines[:-2]]
    moved = deltas.index({"moved": True})
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas[:moved]) == REASONING
    assert "".join(delta.get("content", "") for delta in deltas[moved:]) == ANSWER


def test_every_option_reaches_the_engine(client, backends):
    client.chat.completions.create(
        model="tagged",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "?"}]},
            {"role": "assistant", "content": REPLIES["tagged"]},
            {"role": "user", "content": "Two?"},
            {"role": "assistant", "content": "2.", "reasoning": "1 + 1"},
            {"role": "user", "content": "Three?"},
        ],
        temperature=0.25,
        top_p=0.5,
        seed=7,
        max_completion_tokens=9,
        stop=["\n", "END"],
        user="me",
        extra_body={"top_k": 3, "reasoning_budget": 5, "chat_template_kwargs": {"enable_thinking": False}},
    )
    request = backends["tagged"].requests[-1]
    assert request.sampling == SamplingParams(9, 0.25, 0.5, 3, 7, ("\n", "END"), 5)
    assert request.thinking is False
    assert request.turns == (
        Turn("system", "Be brief."),
        Turn("user", "One?"),
        Turn("assistant", ANSWER, REASONING),
        Turn("user", "Two?"),
        Turn("assistant", "2.", "1 + 1"),
        Turn("user", "Three?"),
    )


def test_options_left_out_are_the_runs(client, backends):
    client.chat.completions.create(model="tagged", messages=QUESTION)
    request = backends["tagged"].requests[-1]
    assert request.turns == (Turn("system", "Be kind."), Turn("user", "Why?"))
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (0.6, 0.95, 20)
    assert (request.sampling.max_new_tokens, request.thinking) == (64, True)
    client.chat.completions.create(model="tagged", messages=[{"role": "system", "content": ""}, *QUESTION], stop="x")
    assert backends["tagged"].requests[-1].turns == (Turn("user", "Why?"),)
    assert backends["tagged"].requests[-1].sampling.stop == ("x",)
    seeds = {request.sampling.seed for request in backends["tagged"].requests}
    assert len(seeds) == len(backends["tagged"].requests)  # a new one for every request that names none


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"logprobs": True},
        {"frequency_penalty": 0.5},
        {"temperature": 3},
        {"max_tokens": 0},
        {"max_tokens": 1, "max_completion_tokens": 2},
        {"extra_body": {"unknown_option": 1}},
        {"extra_body": {"chat_template_kwargs": {"add_generation_prompt": False}}},
    ],
)
def test_an_unsupported_option_is_refused_by_name(client, options):
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model="tagged", messages=QUESTION, **options)
    [name] = (options.get("extra_body") or {next(iter(options)): None}).keys()
    assert name in refused.value.body["message"]
    assert refused.value.body["type"] == "invalid_request_error"
    assert refused.value.body["param"].startswith(name)


def test_neutral_values_of_unsupported_options_are_accepted(client):
    client.chat.completions.create(
        model="tagged", messages=QUESTION, n=1, tools=[], logprobs=False, presence_penalty=0.0, tool_choice="none"
    )


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "assistant", "content": "?"}], [{"role": "tool", "content": "?", "tool_call_id": "1"}]],
)
def test_conversations_that_no_reply_can_follow_are_refused(client, messages):
    with pytest.raises(BadRequestError, match="messages"):
        client.chat.completions.create(model="tagged", messages=messages)


def test_an_image_is_refused_and_not_left_out(client):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    with pytest.raises(BadRequestError, match=r"messages\.0\.content"):
        client.chat.completions.create(model="tagged", messages=[{"role": "user", "content": [picture]}])


def test_models_are_listed_with_their_defaults(client):
    assert [model.id for model in client.models.list()] == list(REPLIES)
    defaults = client.models.retrieve("cut").thinktune
    assert defaults == {
        "system": "Be kind.", "notice": None, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_tokens": 64
    }  # fmt: skip
    for call in (client.models.retrieve, lambda name: client.chat.completions.create(model=name, messages=QUESTION)):
        with pytest.raises(NotFoundError) as refused:
            call("nobody")
        assert refused.value.code == "model_not_found"


def test_a_conversation_may_be_as_a_client_sends_it_back(client):
    reply = client.chat.completions.create(model="tagged", messages=QUESTION).choices[0].message
    again = client.chat.completions.create(model="tagged", messages=[*QUESTION, reply, *QUESTION])
    assert again.choices[0].message.content == ANSWER
    dumped = client.chat.completions.create(model="tagged", messages=[*QUESTION, reply.model_dump(), *QUESTION])
    assert dumped.choices[0].message.content == ANSWER
