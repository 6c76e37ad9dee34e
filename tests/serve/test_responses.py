"""Responses over HTTP: the openai package's own accumulation of the events is the response, and both are the chat's."""

import json

import httpx
import pytest
import torch
from openai import BadRequestError, OpenAI
from openai.types.responses import Response
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving, typed_events

from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.engine import Engine
from thinktune.inference.replies import Piece
from thinktune.inference.requests import GenerationError, SamplingParams
from thinktune.serve import ServedModel
from thinktune.serve.openai_schema import ApiError, parse_request
from thinktune.serve.surfaces.kept_items import ITEM_CHARACTERS, KeptItems
from thinktune.serve.surfaces.responses_schema import parse_responses
from thinktune.tokenization import Turn

PATH = "/v1/responses"
HTTP = httpx.Client(timeout=60)  # one for all: each would read the certificates of the machine
REASONING, ANSWER = "It is so.\nQuite.", "Because **so**."
TAGGED = f"<think>\n{REASONING}\n</think>\n\n{ANSWER}"
REPLIES = {  # name: (text, finish, reasoning, answer)
    "tagged": (TAGGED, "end", REASONING, ANSWER),
    "opening-missing": (TAGGED.removeprefix("<think>\n"), "end", REASONING, ANSWER),
    "no-reasoning": (ANSWER, "end", "", ANSWER),
    "cut-thought": (f"<think>\n{REASONING}", "length", REASONING, ""),
    "cut-answer": (TAGGED[:-3], "length", REASONING, ANSWER[:-3]),
    "no-answer": (f"<think>\n{REASONING}\n</think>\n\n", "end", REASONING, ""),
    "nothing": ("", "end", "", ""),
}


@pytest.fixture(scope="module")
def backends():
    return {name: ScriptedBackend(text, finish=finish) for name, (text, finish, *_) in REPLIES.items()}


@pytest.fixture(scope="module")
def address(backends):
    defaults = ChatDefaults("Be kind.", SamplingParams(64, temperature=0.6, top_p=0.95, top_k=20))
    with serving([scripted_model(backend, name, defaults) for name, backend in backends.items()]) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(address, **body):
    return HTTP.post(f"{address}{PATH}", json={"model": "tagged", "input": "Why?"} | body)


def texts_of(response):
    """Join the reasoning and the answer of a response's items."""
    found = {"reasoning": "", "message": ""}
    for item in response["output"]:
        found[item["type"]] += "".join(part["text"] for part in item["content"])
    return found["reasoning"], found["message"]


def without_ids(response):
    items = [{name: value for name, value in item.items() if name != "id"} for item in response["output"]]
    return response | {"id": None, "created_at": None, "output": items}


@pytest.mark.parametrize("name", REPLIES)
def test_reasoning_and_answer_are_items_streamed_and_whole(client, address, name):
    _, finish, reasoning, answer = REPLIES[name]
    whole = post(address, model=name).json()
    assert texts_of(whole) == (reasoning, answer)
    assert whole["status"] == ("incomplete" if finish == "length" else "completed")
    assert whole["incomplete_details"] == ({"reason": "max_output_tokens"} if finish == "length" else None)
    assert whole["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 8},
        "total_tokens": 31,
    }
    last = whole["output"][-1]["status"]
    assert last == whole["status"]
    assert [item["status"] for item in whole["output"][:-1]] == ["completed"] * (len(whole["output"]) - 1)
    parsed = client.responses.create(model=name, input="Why?")
    Response.model_validate(parsed.model_dump(), strict=True)  # the package itself does not validate
    assert parsed.output_text == answer
    *_, final = typed_events(post(address, model=name, stream=True))
    assert final["type"] == f"response.{whole['status']}"
    assert without_ids(final["response"]) == without_ids(whole)


@pytest.mark.parametrize("name", REPLIES)
def test_events_are_numbered_nested_and_add_up_to_the_response(address, name):
    events = typed_events(post(address, model=name, stream=True))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert {event["response"]["status"] for event in events[:2]} == {"in_progress"}
    final = events[-1]["response"]
    done, item, text = [], None, ""
    for event in events[2:-1]:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert item is None
            item, text = event["item"], ""
            assert (item["status"], item["content"], event["output_index"]) == ("in_progress", [], len(done))
            continue
        assert event["output_index"] == len(done)
        if kind == "output_item.done":
            assert event["item"]["id"] == item["id"]
            assert "".join(part["text"] for part in event["item"]["content"]) == text
            done, item = [*done, event["item"]], None
            continue
        assert (event["item_id"], event["content_index"]) == (item["id"], 0)
        prefix = {"reasoning": "reasoning_text", "message": "output_text"}[item["type"]]
        if kind == f"{prefix}.delta":
            text += event["delta"]
        else:
            assert kind in ("content_part.added", f"{prefix}.done", "content_part.done")
            assert (event["part"]["text"] if "part" in event else event["text"]) == text
    assert item is None
    assert done == final["output"]


@pytest.mark.parametrize("name", REPLIES)
def test_the_openai_package_accumulates_the_stream(client, name):
    _, finish, reasoning, answer = REPLIES[name]
    found = {"reasoning": "", "answer": ""}
    with client.responses.stream(model=name, input="Why?") as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                found["answer"] += event.delta
                assert event.snapshot == found["answer"]
            if event.type == "response.reasoning_text.delta":
                found["reasoning"] += event.delta
        if finish == "end":
            final = stream.get_final_response()
            assert final.output_text == answer
    assert (found["reasoning"], found["answer"]) == (reasoning, answer)


def test_a_conversation_is_the_same_as_in_chat(address, backends, client):
    first = client.responses.create(model="tagged", input="One?")
    client.responses.create(
        model="tagged",
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "In English."},
            {"role": "user", "content": [{"type": "input_text", "text": "One"}, {"type": "input_text", "text": "?"}]},
            *first.output,
            {"type": "message", "role": "user", "content": "Two?"},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "1 + 1"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "2.", "annotations": []}], "phase": None},
            {"role": "user", "content": "Three?"},
            {"type": "reasoning", "id": "rs_2", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
            {"role": "user", "content": "Well?"},
        ],
        temperature=0.25,
        top_p=0.5,
        max_output_tokens=9,
        store=True,
        metadata={"a": "b"},
        user="me",
        prompt_cache_key="k",
        truncation="auto",
        reasoning={"effort": "none", "summary": "auto"},
        extra_body={"top_k": 3, "seed": 7, "stop": ["END"]},
    )
    request = backends["tagged"].requests[-1]
    assert request.turns == (
        Turn("system", "Be brief.\n\nIn English."),
        Turn("user", "One?"),
        Turn("assistant", ANSWER, REASONING),
        Turn("user", "Two?"),
        Turn("assistant", "2.", "1 + 1"),
        Turn("user", "Three?"),
        Turn("assistant", "", "Hm"),
        Turn("user", "Well?"),
    )
    assert request.sampling == SamplingParams(9, 0.25, 0.5, 3, 7, ("END",))
    assert request.thinking is False


def test_what_is_left_out_is_the_runs_and_what_is_given_is_sent_back(address, backends):
    body = post(address).json()
    request = backends["tagged"].requests[-1]
    assert request.turns == (Turn("system", "Be kind."), Turn("user", "Why?"))
    assert (request.sampling.max_new_tokens, request.sampling.top_k, request.thinking) == (64, 20, True)
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.6, 0.95, None)
    assert body["warnings"] == []
    post(address, instructions="")
    assert backends["tagged"].requests[-1].turns == (Turn("user", "Why?"),)
    body = post(address, instructions="Be brief.", metadata={"a": "b"}, max_output_tokens=9, temperature=0).json()
    assert (body["instructions"], body["metadata"], body["max_output_tokens"]) == ("Be brief.", {"a": "b"}, 9)
    assert body["temperature"] == 0


DIALECTS = [
    {"reasoning": {"effort": "none"}},
    {"reasoning": {"effort": "low"}},
    {"reasoning": {"max_tokens": 5}},
    {"enable_thinking": False},
    {"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": True},
    {"thinking": {"type": "disabled"}},
    {"thinking_budget": 5},
    {"think": False},
    {"include_reasoning": False},
    {"reasoning": {"exclude": True}},
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_thinking_is_asked_for_as_in_chat(dialect):
    chat = parse_request(json.dumps({"messages": QUESTION, **dialect}).encode())
    responses = parse_responses(json.dumps({"input": "Why?", **dialect}).encode())
    assert (responses.chat.controls, responses.chat.warnings) == (chat.controls, chat.warnings)


def test_reasoning_that_is_not_to_be_shown_is_not_sent(address):
    for options in ({"include_reasoning": False}, {"reasoning": {"exclude": True}}):
        body = post(address, **options).json()
        assert [item["type"] for item in body["output"]] == ["message"]
        assert body["usage"]["output_tokens_details"]["reasoning_tokens"] == 8
        streamed = post(address, stream=True, **options)
        assert "reasoning_text" not in streamed.text
        assert texts_of(typed_events(streamed)[-1]["response"]) == ("", ANSWER)
    [*_, final] = typed_events(post(address, model="cut-thought", stream=True, include_reasoning=False))
    assert final["response"]["output"] == []


def test_text_that_proves_to_be_reasoning_is_where_it_belongs_at_the_end(address):
    events = typed_events(post(address, model="opening-missing", stream=True, enable_thinking=False))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert ["".join(part["text"] for part in item["content"]) for item in done] == [REASONING, ANSWER]
    assert [item["status"] for item in done] == ["incomplete", "completed"]
    assert done[0]["id"] != done[1]["id"]
    assert texts_of(events[-1]["response"]) == (REASONING, ANSWER)
    assert events[-1]["response"]["output"][-1] == done[1]


@pytest.mark.parametrize(
    "neutral",
    [
        dict.fromkeys([
            "instructions", "max_output_tokens", "metadata", "model_", "parallel_tool_calls", "previous_response_id",
            "prompt", "conversation", "reasoning", "service_tier", "store", "temperature", "text", "tool_choice",
            "tools", "top_logprobs", "top_p", "truncation", "user", "include", "background", "stream_options",
            "max_tool_calls", "context_management", "n", "logprobs", "anything",
        ]),
        {"background": False, "store": True, "truncation": "disabled", "service_tier": "auto", "max_tool_calls": 3},
        {"include": [], "text": {"format": {"type": "text"}, "verbosity": "medium"}, "top_logprobs": 0},
        {"include": ["web_search_call.action.sources", "file_search_call.results"], "tools": [], "tool_choice": "auto"},
        {"metadata": {"a": 1}, "safety_identifier": "s", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "implicit"}},
        {"stream_options": {"include_obfuscation": False}, "conversation": "", "parallel_tool_calls": True},
    ],
)  # fmt: skip
def test_null_and_neutral_values_pass(address, backends, neutral):
    post(address, seed=1)
    plain = backends["tagged"].requests[-1]
    answered = post(address, seed=1, **neutral)
    assert answered.status_code == 200, answered.text
    assert backends["tagged"].requests[-1] == plain
    assert answered.json()["warnings"] == []


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"context_management": [{"type": "compaction"}]}, "context_management: is not supported here and was left out"),
        ({"text": {"verbosity": "low"}}, "text.verbosity: is not supported here and was left out"),
        ({"mood": "好"}, "mood: is not supported here and was left out"),
        (
            {"include": ["reasoning.encrypted_content"]},
            "include: reasoning.encrypted_content is not supported here; the reasoning is sent as it is",
        ),
        (
            {"think": False, "chat_template_kwargs": {"enable_thinking": True}},
            "think: contradicts chat_template_kwargs.enable_thinking, which takes precedence; thinking is on",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Why?", "font": 1}]}]},
            "input.0.content.0.font: is not supported here and was left out",
        ),
    ],
)  # fmt: skip
def test_what_is_left_out_is_named_and_refused_if_that_is_asked(address, options, warning):
    answered = post(address, **options)
    assert answered.json()["warnings"] == [warning]
    assert answered.headers["x-thinktune-warnings"] == warning
    created, *_, completed = typed_events(post(address, stream=True, **options))
    assert created["response"]["warnings"] == completed["response"]["warnings"] == [warning]
    refused = post(address, strict=True, **options)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == warning.partition(":")[0]


NO_TOOLS = "tool calls are not supported here; turn tools off in your client, or leave them out"
STORED = "nothing is stored here; send the whole conversation in input"


def named(items):
    return [{"type": "item_reference", "id": item["id"]} for item in items]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REPLIES)
def test_an_item_that_is_named_is_the_item_sent(address, backends, name, stream):
    answered = post(address, model=name, stream=stream, store=True)
    output = typed_events(answered)[-1]["response"]["output"] if stream else answered.json()["output"]
    question = {"role": "user", "content": "Why?"}
    turns = []
    for items in (output, named(output)):
        assert post(address, model=name, input=[question, *items, question]).status_code == 200
        turns.append(backends[name].requests[-1].turns)
    assert turns[0] == turns[1]
    _, _, reasoning, answer = REPLIES[name]
    said = [(turn.reasoning or "", turn.content) for turn in turns[1] if turn.role == "assistant"]
    assert said == [(reasoning, answer)]


@pytest.mark.parametrize(("name", "part"), [("cut-thought", "reasoning"), ("cut-answer", "answer")])
def test_a_reply_that_was_cut_goes_on(address, backends, name, part):
    output = post(address, model=name).json()["output"]
    assert post(address, input=[{"role": "user", "content": "Why?"}, *output]).status_code == 200
    request = backends["tagged"].requests[-1]
    assert request.open_turn.part == part
    _, _, reasoning, answer = REPLIES[name]
    assert ((request.turns[-1].reasoning or ""), request.turns[-1].content) == (reasoning, answer)


def test_text_that_proved_to_be_reasoning_is_named_as_such(address, backends):
    events = typed_events(post(address, model="opening-missing", stream=True, enable_thinking=False))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    question = {"role": "user", "content": "Why?"}
    assert post(address, input=[question, *named(done), question]).status_code == 200
    assert backends["tagged"].requests[-1].turns[2] == Turn("assistant", ANSWER, REASONING)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_to_be_stored_cannot_be_named(address, stream):
    answered = post(address, stream=stream, store=False)
    output = typed_events(answered)[-1]["response"]["output"] if stream else answered.json()["output"]
    refused = post(address, input=[*named(output), {"role": "user", "content": "?"}])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input.0")


def test_items_that_are_named_again_and_again_are_no_way_round_the_size_of_a_body():
    kept = KeptItems()
    kept.keep("msg_1", "message", "a" * 1_000_001)
    body = {"input": [*[{"type": "item_reference", "id": "msg_1"}] * 4, {"role": "user", "content": "?"}]}
    with pytest.raises(ApiError, match="4,000,000 characters together") as refused:
        parse_responses(json.dumps(body).encode(), kept=kept)
    assert refused.value.param == "input"


def test_items_make_room_for_new_ones_and_those_in_use_stay():
    kept = KeptItems(3 * (ITEM_CHARACTERS + 10))
    for name in "abc":
        kept.keep(name, "message", name * 10)
    assert kept.find("a") == ("message", "a" * 10)
    kept.keep("d", "reasoning", "d" * 10)
    assert [kept.find(name) is not None for name in "abcd"] == [True, False, True, True]
    kept.keep("long", "message", "e" * (ITEM_CHARACTERS + 20))  # as long as two of them
    assert [kept.find(name) is not None for name in ("a", "c", "d", "long")] == [False, False, True, True]
    kept.keep("longer", "message", "e" * (4 * ITEM_CHARACTERS))  # longer than all that may be kept
    assert kept.find("longer") is kept.find("long") is None
    kept.keep("a", "message", "")
    assert kept.find("a") == ("message", "")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"tools": [{"type": "web_search"}]}, f"tools: {NO_TOOLS}"),
        ({"tools": [{"type": "function", "name": "f"}], "tool_choice": "auto"}, f"tools: {NO_TOOLS}"),
        ({"tool_choice": "required"}, f"tool_choice: {NO_TOOLS}"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}]}, f"input.0: {NO_TOOLS}"),
        ({"input": [{"role": "user", "content": "?"}, {"type": "function_call_output", "call_id": "1", "output": ""}]}, f"input.1: {NO_TOOLS}"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0: no item with this id is stored here any more; send the item itself"),
        ({"input": [{"type": "item_reference"}]}, "input.0.id: Field required"),
        ({"previous_response_id": "resp_1"}, f"previous_response_id: {STORED}"),
        ({"conversation": {"id": "c"}}, f"conversation: {STORED}"),
        ({"prompt": {"id": "p"}}, f"prompt: {STORED}"),
        ({"background": True}, "background: only false is supported here; leave it out"),
        ({"n": True}, "n: only 1 is supported here; leave it out"),
        ({"n": 2}, "n: only 1 is supported here; leave it out"),
        ({"top_logprobs": 3}, "top_logprobs: only 0 is supported here; leave it out"),
        ({"include": ["message.output_text.logprobs"]}, "include: message.output_text.logprobs is not supported here; leave it out"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0.type: Input should be"),
        ({"input": [{"type": "image_generation", "id": "1"}]}, "input.0: only items of type message and reasoning are supported here"),
        ({"input": [{"role": "assistant", "content": "So"}]}, "input: at least one must be from the user"),
        ({"input": []}, "input: List should have at least 1 item"),
        ({"input": None}, "input: "),
        ({"input": [{"role": "user"}]}, "input.0.content: Field required"),
        ({"input": [1]}, "input.0: Input should be"),
        ({"input": "?", "max_output_tokens": -2}, "max_output_tokens: Input should be greater"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(body, message):
    with pytest.raises(ApiError) as refused:
        parse_responses(json.dumps({"input": "Why?"} | body).encode())
    assert str(refused.value).startswith(message)
    assert (refused.value.status, refused.value.param) == (400, message.partition(":")[0])


@pytest.mark.parametrize(
    "form", [{"type": "json_object"}, {"type": "json_schema", "name": "x", "schema": {}, "strict": True}]
)
def test_the_answers_form_is_chats_response_format(form):
    """What chat says of a form, and whether it takes it at all, holds here too."""
    options = {name: value for name, value in form.items() if name != "type"}
    same = {"type": form["type"], **({"json_schema": options} if options else {})}
    outcomes = []
    for parse, body in (
        (parse_request, {"messages": QUESTION, "response_format": same}),
        (parse_responses, {"input": "Why?", "text": {"format": form}}),
    ):
        try:
            parsed = parse(json.dumps(body).encode())
            outcomes.append((getattr(parsed, "chat", parsed), None))
        except ApiError as error:
            outcomes.append((None, str(error).replace("response_format", "text.format")))
    assert outcomes[0][1] == outcomes[1][1]


def test_a_model_that_is_not_there_and_a_refused_form_are_errors_of_the_package(client):
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model="tagged", input="Why?", tools=[{"type": "web_search"}])
    assert refused.value.body["param"] == "tools"


def test_a_conversation_that_is_too_long_is_said_of_the_input(model, tokenizer):
    torch.manual_seed(3)
    served = ServedModel(
        "tuned", "s", ChatDefaults(sampling=SamplingParams(24)), lambda: Engine(model, tokenizer), tokenizer, 60
    )
    with serving([served]) as address:
        for stream in (False, True):
            refused = HTTP.post(f"{address}{PATH}", json={"input": "word " * 100, "stream": stream})
            assert refused.status_code == 400
            error = refused.json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
            assert error["message"].startswith("input: the conversation ")
        chat = HTTP.post(f"{address}/v1/chat/completions", json={"messages": QUESTION, "max_tokens": 8}).json()
        reply = HTTP.post(f"{address}{PATH}", json={"input": "Why?", "max_output_tokens": 8}).json()
    message = chat["choices"][0]["message"]
    assert texts_of(reply) == (message["reasoning"] or "", message["content"])
    assert reply["usage"]["output_tokens"] == chat["usage"]["completion_tokens"]


class FailsLate(ScriptedBackend):
    """Backend that fails after the reasoning."""

    def _pieces(self, request):
        yield Piece("reasoning", "So")
        raise GenerationError("model: no finite logits")


def test_a_reply_that_fails_on_its_way_is_a_failed_response():
    with serving([scripted_model(FailsLate(""))]) as address:
        *_, failed = events = typed_events(HTTP.post(f"{address}{PATH}", json={"input": "Why?", "stream": True}))
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert failed["type"] == "response.failed"
        assert failed["response"]["status"] == "failed"
        assert failed["response"]["id"] == events[0]["response"]["id"]
        assert failed["response"]["error"] == {"code": "generation_failed", "message": "model: no finite logits"}
        assert HTTP.post(f"{address}{PATH}", json={"input": "Why?"}).status_code == 500


def test_a_key_is_asked_for():
    with serving([scripted_model(ScriptedBackend("so"))], key="secret") as address:
        assert HTTP.post(f"{address}{PATH}", json={"input": "Why?"}).status_code == 401
