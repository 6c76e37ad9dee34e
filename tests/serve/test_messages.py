"""Anthropic's form of the API over real HTTP: messages, events in their order, errors, keys, and its own client."""

import httpx
import pytest
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving, typed_events
from support.chat_server import refuse
from support.chat_server import serving as upstream_serving

from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.engine import Engine
from thinktune.inference.requests import SamplingParams
from thinktune.serve import ServedModel
from thinktune.serve.models import find_endpoint_models
from thinktune.tokenization import Turn
from thinktune.tokenization.chat_template import render_prompt

REASONING, ANSWER = "It is so.\nQuite.", "Because **so**."
REPLIES = {
    "tagged": f"<think>\n{REASONING}\n</think>\n\n{ANSWER}",
    "opening-missing": f"{REASONING}\n</think>\n\n{ANSWER}",
    "no-reasoning": ANSWER,
    "cut": f"<think>\n{REASONING}",
}
TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]
NO_TOOLS = "tools: tool calls are not supported here; turn tools off in your client, or leave them out"


@pytest.fixture(scope="module")
def backends():
    return {name: ScriptedBackend(text, finish="length" if name == "cut" else "end") for name, text in REPLIES.items()}


@pytest.fixture(scope="module")
def address(backends):
    defaults = ChatDefaults("Be kind.", SamplingParams(64, temperature=0.6))
    with serving([scripted_model(backend, name, defaults) for name, backend in backends.items()]) as address:
        yield address


def post(address, path="/v1/messages", headers=None, **body):
    body = {"model": "tagged", "max_tokens": 50, "messages": QUESTION} | body
    return httpx.post(f"{address}{path}", json=body, headers=headers, timeout=60)


def message_of(events):
    """Build the message from its events, as a client does; asserts their order."""
    first, *middle, delta, last = events
    assert (first["type"], delta["type"], last) == ("message_start", "message_delta", {"type": "message_stop"})
    message, is_open = first["message"], False
    for event in middle:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(message["content"]) - 1
                block, change = message["content"][-1], dict(event["delta"])
                kind = change.pop("type").removesuffix("_delta")
                assert block["type"] == kind or (block["type"], kind) == ("thinking", "signature")
                block[kind] += change[kind]
            case "content_block_stop":
                assert event["index"] == len(message["content"]) - 1
                is_open = False
    assert not is_open
    return message | delta["delta"] | {"usage": delta["usage"]}


@pytest.mark.parametrize(
    ("model", "reasoning", "answer", "reason"),
    [
        ("tagged", REASONING, ANSWER, "end_turn"),
        ("opening-missing", REASONING, ANSWER, "end_turn"),
        ("no-reasoning", "", ANSWER, "end_turn"),
        ("cut", REASONING, "", "max_tokens"),
    ],
)
def test_a_message_is_the_same_whole_and_streamed(address, model, reasoning, answer, reason):
    whole = post(address, model=model).json()
    blocks = [{"type": "thinking", "thinking": reasoning, "signature": "unsigned"}] if reasoning else []
    blocks += [{"type": "text", "text": answer}] if answer else []
    assert (whole["content"], whole["stop_reason"], whole["stop_sequence"]) == (blocks, reason, None)
    assert (whole["type"], whole["role"], whole["model"]) == ("message", "assistant", model)
    assert whole["usage"] == {
        "input_tokens": 11,
        "output_tokens": 20,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 8},
    }
    streamed = post(address, model=model, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    ours = message_of(typed_events(streamed))
    assert {name: ours[name] for name in whole if name not in ("id", "warnings")} == {
        name: whole[name] for name in whole if name not in ("id", "warnings")
    }


def test_every_option_reaches_the_engine(address, backends):
    answered = post(
        address,
        system=[{"type": "text", "text": "Be "}, {"type": "text", "text": "brief.", "cache_control": {"type": "x"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "1", "signature": "unsigned"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "One.", "citations": None},
                ],
            },
            {"role": "user", "content": "Two?"},
        ],
        temperature=0.25,
        top_p=0.5,
        top_k=3,
        stop_sequences=["END", "\n"],
        metadata={"user_id": "me"},
        service_tier="auto",
        thinking={"type": "enabled", "budget_tokens": 9},
        tools=TOOLS,
        tool_choice={"type": "none"},
        anthropic_version="v",
    )
    assert (answered.status_code, answered.json()["warnings"]) == (200, []), answered.text
    request = backends["tagged"].requests[-1]
    sampling = request.sampling
    assert sampling == SamplingParams(50, 0.25, 0.5, 3, sampling.seed, ("END", "\n"), 9)
    assert request.turns == (
        Turn("system", "Be brief."),
        Turn("user", "One?"),
        Turn("assistant", "One.", "1"),
        Turn("user", "Two?"),
    )


@pytest.mark.parametrize(
    ("options", "thinking", "budget"),
    [
        ({}, True, None),
        ({"thinking": {"type": "disabled"}}, False, None),
        ({"thinking": {"type": "adaptive"}}, True, None),
        ({"thinking": {"type": "between_tools"}}, True, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, True, 2000),
        ({"output_config": {"effort": "high"}}, True, None),
        ({"enable_thinking": False}, False, None),
    ],
)
def test_thinking_is_the_same_two_knobs(address, backends, options, thinking, budget):
    assert post(address, **options).status_code == 200
    request = backends["tagged"].requests[-1]
    assert (request.thinking, request.sampling.max_reasoning_tokens) == (thinking, budget)
    assert request.turns == (Turn("system", "Be kind."), Turn("user", "Why?"))
    assert request.sampling.temperature == 0.6


def test_an_answer_has_a_block_of_its_own_where_text_before_it_proves_to_be_reasoning(address):
    streamed = post(address, model="opening-missing", thinking={"type": "disabled"}, stream=True)
    texts = [block["text"] for block in message_of(typed_events(streamed))["content"]]
    assert texts == [REASONING, ANSWER]


def test_thoughts_may_be_left_out(address):
    for body in ({"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}},):
        whole, streamed = post(address, **body).json(), post(address, stream=True, **body)
        assert whole["content"] == [{"type": "text", "text": ANSWER}]
        assert message_of(typed_events(streamed))["content"] == whole["content"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"tools": TOOLS}, NO_TOOLS),
        ({"tools": TOOLS, "tool_choice": {"type": "auto"}}, NO_TOOLS),
        ({"tool_choice": {"type": "any"}}, NO_TOOLS.replace("tools:", "tool_choice:")),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}]},
            NO_TOOLS.replace("tools:", "messages.0.content.0.type:"),
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages.0.content.0.type: "),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "user"}]}, "messages.0.content: "),
        ({"max_tokens": "9"}, "max_tokens: "),
        ({"system": [{}]}, "system.0.type: "),
        ({"stop_sequences": "x"}, "stop_sequences: "),
        ({"temperature": 3}, "temperature: "),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort: "),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers: "),
        ({"logprobs": True}, "logprobs: is only supported in /v1/chat/completions"),
        ({"top_logprobs": 1}, "top_logprobs: is only supported in /v1/chat/completions"),
        ({"n": 2}, "n: is only supported in /v1/chat/completions"),
        ({"strict": True, "context_management": {"edits": [1]}}, "context_management: "),
    ],
)
def test_refusals_are_in_anthropics_form_and_names(address, body, sentence):
    refused = post(address, **body)
    assert refused.status_code == 400
    error = refused.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert error["error"]["message"].startswith(sentence)


def test_what_is_not_offered_is_left_out_with_a_warning(address):
    body = {"context_management": {"edits": [1]}, "output_config": {"effort": None, "task_budget": {"total": 9}}}
    whole, streamed = post(address, **body), post(address, stream=True, **body)
    assert whole.json()["warnings"] == [
        "context_management: is not supported here and was left out",
        "output_config: is not supported here and was left out",
    ]
    assert "context_management" in whole.headers["x-thinktune-warnings"]
    assert typed_events(streamed)[0]["message"]["warnings"] == whole.json()["warnings"]


def test_errors_of_every_kind_have_their_type_and_other_addresses_keep_theirs(monkeypatch):
    monkeypatch.setattr("thinktune.inference.openai_client.MAX_ATTEMPTS", 1)
    models = [scripted_model(ScriptedBackend(ANSWER), name) for name in ("tagged", "other")]
    with serving(models, key="k") as address:
        key = {"x-api-key": "k"}
        found = {
            "no key": post(address),
            "wrong key": post(address, headers={"x-api-key": "K"}),
            "no model": post(address, headers=key, model="nobody"),
            "no address": post(address, "/v1/messages/batches", headers=key),
            "method": httpx.get(f"{address}/v1/messages", headers=key),
            "type": httpx.post(f"{address}/v1/messages", headers=key, content=b"{}"),
            "origin": post(address, headers=key | {"origin": "https://a.example"}),
        }
        assert post(address, headers=key).status_code == 200
        assert post(address, headers={"authorization": "Bearer k"}).status_code == 200
        chat = httpx.post(f"{address}/v1/chat/completions", json={"messages": QUESTION}, headers=key)
        assert chat.status_code == 200
        assert "type" not in httpx.post(f"{address}/v1/chat/completions", json={}).json()
    with upstream_serving(lambda _: refuse(500)) as (url, _), serving(find_endpoint_models(url, None)) as address:
        found["upstream"] = post(address)
        streamed = post(address, stream=True)
        assert (streamed.status_code, streamed.json()["error"]["type"]) == (502, "api_error")
    kinds = {name: (answer.status_code, answer.json()["error"]["type"]) for name, answer in found.items()}
    assert kinds == {
        "no key": (401, "authentication_error"),
        "wrong key": (401, "authentication_error"),
        "no model": (404, "not_found_error"),
        "no address": (404, "not_found_error"),
        "method": (405, "invalid_request_error"),
        "type": (415, "invalid_request_error"),
        "origin": (403, "permission_error"),
        "upstream": (502, "api_error"),
    }


@pytest.fixture
def real_address(model, tokenizer):
    from support.generation import decided

    served = ServedModel(
        "tuned",
        "small",
        ChatDefaults(sampling=SamplingParams(24)),
        lambda: Engine(decided(model), tokenizer),
        tokenizer,
        200,
    )
    with serving([served]) as address:
        yield address


def test_a_real_model_counts_stops_and_goes_on(real_address, tokenizer):
    whole = post(real_address, max_tokens=20).json()
    prompt = len(render_prompt([Turn("user", "Why?")], tokenizer))
    assert (whole["usage"]["input_tokens"], whole["usage"]["output_tokens"]) == (prompt, 20)
    assert post(real_address, "/v1/messages/count_tokens").json() == {"input_tokens": prompt}
    events = typed_events(post(real_address, max_tokens=20, stream=True))
    assert events[0]["message"]["usage"]["input_tokens"] == prompt
    assert message_of(events)["content"] == whole["content"]
    begun = [*QUESTION, {"role": "assistant", "content": "It"}]
    text = post(real_address, messages=begun, max_tokens=20).json()["content"][0]["text"]
    stop = text[9:12]
    stopped = post(real_address, messages=begun, max_tokens=20, stop_sequences=[stop, "no such text"]).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", stop)
    assert stopped["content"] == [{"type": "text", "text": text.partition(stop)[0]}]
    stream = post(real_address, messages=begun, max_tokens=20, stop_sequences=[stop], stream=True)
    assert message_of(typed_events(stream))["stop_sequence"] == stop
    long = [{"role": "user", "content": "word " * 300}]
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        refused = post(real_address, path, messages=long)
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.slow
def test_anthropics_own_client(address):
    anthropic = pytest.importorskip("anthropic")
    with anthropic.Anthropic(base_url=address, api_key="none", max_retries=0) as client:
        asked = {"model": "tagged", "max_tokens": 50, "messages": QUESTION, "system": "Be brief."}
        whole = client.messages.create(**asked, thinking={"type": "enabled", "budget_tokens": 1024})
        assert [(block.type, getattr(block, block.type)) for block in whole.content] == [
            ("thinking", REASONING),
            ("text", ANSWER),
        ]
        with client.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == ANSWER
            final = stream.get_final_message()
        assert [block.type for block in final.content] == ["thinking", "text"]
        assert (final.content[0], final.usage) == (whole.content[0], whole.usage)
        again = [*QUESTION, {"role": "assistant", "content": whole.content}, *QUESTION]
        assert client.messages.create(**(asked | {"messages": again})).stop_reason == "end_turn"
        with pytest.raises(anthropic.BadRequestError, match="tool calls are not supported here"):
            client.messages.create(**asked, tools=TOOLS)
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**(asked | {"model": "nobody"}))
