"""The API as clients use it: the openai package, and plain requests, against a server on loopback."""

import json
from dataclasses import replace

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving

from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.requests import SamplingParams
from thinktune.tokenization import Turn

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
        frequency_penalty=0.5,
        presence_penalty=-0.25,
        logit_bias={"17": -100, "4": 2.5},
        logprobs=True,
        top_logprobs=4,
        extra_body={
            "top_k": 3,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "reasoning_budget": 5,
            "chat_template_kwargs": {"enable_thinking": False},
        },
    )
    request = backends["tagged"].requests[-1]
    plain = SamplingParams(9, 0.25, 0.5, 3, 7, ("\n", "END"), 5)
    changed = {"frequency_penalty": 0.5, "presence_penalty": -0.25, "repetition_penalty": 1.1, "min_p": 0.05}
    assert request.sampling == replace(plain, **changed, logit_bias=((17, -100.0), (4, 2.5)), top_logprobs=4)
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
        {"response_format": {"type": "grammar"}},
        {"extra_body": {"guided_grammar": "root ::= 'a'"}},
        {"n": 0},
        {"n": 129},
        {"temperature": 3},
        {"max_tokens": -2},
        {"top_logprobs": 3},
        {"top_logprobs": 21, "logprobs": True},
        {"frequency_penalty": 2.5},
        {"presence_penalty": -3},
        {"logit_bias": {"17": 101}},
        {"logit_bias": {"x": 1}},
        {"extra_body": {"repetition_penalty": 0}},
        {"extra_body": {"min_p": 1.5}},
        {"extra_body": {"min_p": False}},
        {"functions": [{"name": "f", "parameters": {}}]},
        {"tool_choice": "required"},
        {"modalities": ["text", "audio"]},
        {"max_tokens": 1, "max_completion_tokens": 2},
        {"reasoning_effort": "huge"},
        {"extra_body": {"thinking_budget": -2}},
        {"extra_body": {"enable_thinking": "yes"}},
    ],
)
def test_what_would_give_the_response_another_form_is_refused_by_name(client, options):
    assert_refused(client, options)


NOT_SUPPORTED = [
    {"extra_body": {"minP": 0.1}},
    {"extra_body": {"repeat_penalty": 1.1}},
    {"extra_body": {"typical_p": False}},
    {"prediction": {"type": "content", "content": "so"}},
    {"extra_body": {"unknown_option": 1}},
    {"extra_body": {"chat_template_kwargs": {"add_generation_prompt": False}}},
]


@pytest.mark.parametrize("options", NOT_SUPPORTED)
def test_an_option_that_is_not_supported_is_left_out_with_a_warning_or_refused_if_that_is_asked(
    client, backends, options
):
    plain = {"model": "tagged", "messages": QUESTION, "seed": 1}
    client.chat.completions.create(**plain)
    expected = backends["tagged"].requests[-1]
    raw = client.chat.completions.with_raw_response.create(**plain, **options)
    assert backends["tagged"].requests[-1] == expected
    [name] = (options.get("extra_body") or {next(iter(options)): None}).keys()
    [warning] = raw.parse().warnings
    assert warning.startswith(name)
    assert warning.endswith("is not supported here and was left out")
    assert raw.headers["x-thinktune-warnings"] == warning
    assert_refused(client, {**options, "extra_body": {"strict": True, **options.get("extra_body", {})}}, name)
    with client.chat.completions.with_streaming_response.create(**plain, **options, stream=True) as streamed:
        assert streamed.headers["x-thinktune-warnings"] == warning
        chunks = [json.loads(line[6:]) for line in streamed.iter_lines() if line.startswith("data: {")]
    assert [chunk.get("warnings") for chunk in chunks] == [[warning], *[None] * (len(chunks) - 1)]


def assert_refused(client, options, name=None):
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model="tagged", messages=QUESTION, **options)
    [name] = [name] if name else (options.get("extra_body") or {next(iter(options)): None}).keys()
    assert name in refused.value.body["message"]
    assert refused.value.body["type"] == "invalid_request_error"
    assert refused.value.body["param"].startswith(name)


def test_a_request_without_any_of_it_has_no_warning(address):
    answered = post(address)
    assert answered.json()["warnings"] == []
    assert "x-thinktune-warnings" not in answered.headers


def test_tools_are_refused_with_what_to_switch_off_unless_they_must_not_be_called(address):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    refused = post(address, tools=tools, tool_choice="auto")
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        "tools: tool calls are not supported here; turn tools off in your client, or leave them out"
    )
    assert post(address, tools=tools, tool_choice="none").status_code == 200
    assert post(address, functions=tools, function_call="none").status_code == 200
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    refused = post(address, messages=[*QUESTION, called, *QUESTION])
    assert refused.json()["error"]["param"] == "messages.1.tool_calls"


def test_every_unknown_field_is_named_wherever_it_is_and_many_are_not_all(address):
    refusal = post(address, strict=True, length_penalty=0.7, top_a=0.05, topK=3).json()["error"]["message"]
    assert refusal == (
        "length_penalty: only 1 is supported here; leave it out; top_a: only 0 is supported here; leave it out; "
        "topK: is not supported here; leave it out"
    )
    nested = [{"role": "user", "content": [{"type": "text", "text": "Why?", "fontSize": 3}], "mood": "好", "a\nb": 1}]
    answered = post(address, messages=nested, topK=3, **{"messages.0": 1})
    left_out = "is not supported here and was left out"
    assert sorted(answered.json()["warnings"]) == [
        f"messages.0.a\nb: {left_out}",
        f"messages.0.content.0.fontSize: {left_out}",
        f"messages.0.mood: {left_out}",
        f"messages.0: {left_out}",
        f"topK: {left_out}",
    ]
    assert "messages.0.a b" in answered.headers["x-thinktune-warnings"]
    many = post(address, **{f"option_{number}": 1 for number in range(90)}).json()["warnings"]
    assert (len(many), many[-1]) == (21, "and 70 more such fields")
    for length in range(80, 110):  # wherever the header is cut, it ends in no space
        long = {f"option {'x' * length} {number}": 1 for number in range(20)}
        assert len(post(address, **long).json()["warnings"]) == 20
    twice = post(address, messages=[{"role": "user", "content": "Why?", "mood": 1}] * 2).json()["warnings"]
    assert twice == [f"messages.0.mood: {left_out}", "and 1 more such fields"]
    faulty = [{"role": "user", "content": "Why?", "mood": 1}, {"role": "nobody", "content": "?"}]
    assert post(address, messages=faulty).json()["error"]["param"] == "messages.1.role"
    called = [{"role": "user", "content": "Why?", "mood": 1}, {"role": "user", "content": "?", "tool_calls": [1]}]
    assert post(address, messages=called).json()["error"]["param"] == "messages.1.tool_calls"
    refused = post(address, messages=[{"role": "user", "content": "Why?", "images": ["x.png"]}])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages.0.images")


def post(address, **body):
    body = {"model": "tagged", "messages": QUESTION} | body
    return httpx.post(f"{address}/v1/chat/completions", json=body)


EVERYTHING_NULL = dict.fromkeys([
    "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "stop", "reasoning_budget", "n", "tools", "tool_choice", "functions", "function_call", "response_format", "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "min_p", "repetition_penalty", "best_of", "echo", "suffix", "modalities", "audio", "prediction", "reasoning_effort", "reasoning", "enable_thinking", "thinking", "thinking_budget", "chat_template_kwargs", "web_search_options", "parallel_tool_calls", "store", "metadata", "service_tier", "user", "verbosity", "guided_json", "extra_option",
])  # fmt: skip


@pytest.mark.parametrize(
    "neutral",
    [
        EVERYTHING_NULL,
        {"top_logprobs": 0, "logprobs": False, "n": 1, "best_of": 1, "echo": False},
        {"min_p": 0, "repetition_penalty": 1, "presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}},
        {"n": 1.0, "top_logprobs": 0.0, "min_p": "", "logit_bias": [], "logprobs": "", "presence_penalty": {}},
        {"min_p": 0.0, "repetition_penalty": 1.0, "length_penalty": 1, "ignore_eos": False},
        {"typical_p": 1, "tfs_z": 1.0, "mirostat": 0, "mirostat_tau": 5, "repeat_penalty": 1, "repeat_last_n": 64},
        {"tools": [], "functions": [], "tool_choice": "auto", "function_call": "auto", "parallel_tool_calls": True},
        {"tool_choice": "none", "tools": None, "stop": "", "stop_token_ids": [], "bad_words": []},
        {"modalities": ["text"], "response_format": {"type": "text"}, "prediction": None, "verbosity": "medium"},
        {"user": 7, "store": True, "metadata": {"a": 1, "b": [2]}, "service_tier": "auto", "prompt_cache_key": "k"},
        {
            "safety_identifier": "s",
            "prompt_cache_retention": "24h",
            "cache_prompt": True,
            "keep_alive": "5m",
            "id_slot": -1,
        },
        {"stream_options": {}, "chat_template_kwargs": {"enable_thinking": True, "thinking": True, "other": None}},
        {"enable_thinking": True, "thinking": {"type": "enabled"}, "include_reasoning": True, "web_search_options": {}},
        {"max_tokens": -1, "model": ""},
        {"max_tokens": 0, "max_completion_tokens": None, "stop": [""]},
    ],
)
def test_null_neutral_and_identity_fields_change_nothing(address, backends, neutral):
    post(address, seed=1)
    plain = backends["tagged"].requests[-1]
    answered = post(address, **({"seed": 1} | {name: value for name, value in neutral.items() if name != "seed"}))
    assert answered.status_code == 200, answered.text
    assert backends["tagged"].requests[-1] == plain


def test_a_limit_of_minus_one_is_none_and_the_other_name_counts(address, backends):
    assert post(address, max_tokens=-1, max_completion_tokens=9).status_code == 200
    assert backends["tagged"].requests[-1].sampling.max_new_tokens == 9
    assert post(address, max_tokens=7, max_completion_tokens=0).status_code == 200
    assert backends["tagged"].requests[-1].sampling.max_new_tokens == 7


@pytest.mark.parametrize(
    "kept",
    [
        {
            "id": "m-1",
            "object": "x",
            "timestamp": 1_700_000_000,
            "createdAt": "2026",
            "model": "m",
            "metadata": {"a": 1},
        },
        {"cache_control": {"type": "ephemeral"}, "name": None, "images": [], "files": [], "status": "done"},
        {"provider_specific_fields": {"refusal": None, "reasoning": "r"}, "tool_calls": None, "function_call": None},
        {"reasoning_details": [], "thinking_blocks": None, "reasoning_signature": "s"},
        {
            "refusal": None,
            "annotations": [{"type": "url_citation"}],
            "audio": None,
            "tool_calls": [],
            "usage": {"n": 1},
        },
        {"finish_reason": "stop", "index": 0, "logprobs": None, "anything": None},
    ],
)
def test_a_message_may_carry_what_its_keeper_has_stored_with_it(address, backends, kept):
    messages = [*QUESTION, {"role": "assistant", "content": "So."}, *QUESTION]
    assert post(address, messages=messages).status_code == 200
    plain = backends["tagged"].requests[-1].turns
    answered = post(address, messages=[message | kept for message in messages])
    assert answered.status_code == 200, answered.text
    assert backends["tagged"].requests[-1].turns == plain
    parts = [{"type": "text", "text": "Why?", "cache_control": {"type": "ephemeral"}, "annotations": None}]
    assert post(address, messages=[{"role": "user", "content": parts}]).status_code == 200


NO_TOOLS = "tool calls are not supported here; turn tools off in your client, or leave them out"
BUDGETS = {"LobeChat thinking switch (qwen)": 1024, "Cherry Studio, thinking toggled (qwen model id)": 4000}
WARNED = {"Open WebUI repeat_penalty/min_p in params": "repeat_penalty: is not supported here and was left out"}
WITH_TOOLS = {
    "Open WebUI builtin tools on", "Dify agent (function calling)", "FastGPT tool call", "Continue agent", "Cline/Roo"
}  # fmt: skip


def said_by(answered):
    """Return a reply's reasoning, answer and warnings, of a stream or a whole body."""
    if not answered.headers["content-type"].startswith("text/event-stream"):
        message = answered.json()["choices"][0]["message"]
        return message["reasoning_content"], message["content"], answered.json()["warnings"]
    events = [json.loads(event[6:]) for event in answered.text.split("\n\n") if event.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    parts = ("".join(delta.get(name) or "" for delta in deltas) for name in ("reasoning_content", "content"))
    return *parts, [warning for event in events for warning in event.get("warnings", [])]


def turns_of(body):
    """Return the conversation of a body, with the model's own system prompt where it has none."""
    texts = [message["content"] for message in body["messages"]]
    texts = [text if isinstance(text, str) else "".join(part["text"] for part in text) for text in texts]
    turns = [Turn(message["role"], text) for message, text in zip(body["messages"], texts, strict=True)]
    return tuple(turns if turns[0].role == "system" else [Turn("system", "Be kind."), *turns])


@pytest.mark.real
def test_recorded_bodies_of_clients_are_answered_but_for_tools(address, backends, real):
    recorded = json.loads((real / "clients" / "chat-completions.json").read_text(encoding="utf-8"))
    assert len(recorded) == 31
    for client, body in ((one["client"], one["body"]) for one in recorded):
        answered = post(address, **(body | {"model": "tagged"}))
        if client in WITH_TOOLS:
            assert answered.status_code == 400, client
            for sentence in answered.json()["error"]["message"].split("; tool"):  # of `tools`, and of `tool_choice`
                assert sentence.partition(": ")[2] == NO_TOOLS, client
            continue
        assert answered.status_code == 200, (client, answered.text)
        assert said_by(answered) == (REASONING, ANSWER, [WARNED[client]] if client in WARNED else []), client
        request = backends["tagged"].requests[-1]
        assert request.turns == turns_of(body), client
        assert (request.thinking, request.sampling.max_reasoning_tokens) == (True, BUDGETS.get(client)), client
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 64
        asked = limit, body.get("temperature", 0.6), body.get("top_p", 0.95), body.get("frequency_penalty", 0)
        sampling = request.sampling
        found = sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.frequency_penalty
        assert found == asked, client


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "?"}],
        [{"role": "user", "content": "?"}, {"role": "system", "content": "?"}],
        [{"role": "tool", "content": "?", "tool_call_id": "1"}],
    ],
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
        "system": "Be kind.", "notice": None, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_tokens": 64,
    }  # fmt: skip
    for call in (
        client.models.retrieve,
        lambda name: client.chat.completions.create(model=name, messages=QUESTION),
    ):  # of several
        with pytest.raises(NotFoundError) as refused:
            call("nobody")
        assert refused.value.code == "model_not_found"


def test_a_conversation_may_be_as_a_client_sends_it_back(client):
    reply = client.chat.completions.create(model="tagged", messages=QUESTION).choices[0].message
    again = client.chat.completions.create(model="tagged", messages=[*QUESTION, reply, *QUESTION])
    assert again.choices[0].message.content == ANSWER
    dumped = client.chat.completions.create(model="tagged", messages=[*QUESTION, reply.model_dump(), *QUESTION])
    assert dumped.choices[0].message.content == ANSWER
