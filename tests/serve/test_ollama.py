"""Ollama's form of the API over real HTTP: lines, thoughts, options, what is served, and its own client."""

import json
from datetime import datetime

import httpx
import pytest
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving
from support.chat_server import part, reply
from support.chat_server import serving as upstream_serving

from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.requests import OpenTurn, SamplingParams
from thinktune.serve.models import find_endpoint_models
from thinktune.tokenization import Turn

REASONING, ANSWER = "It is so.\nQuite.", "Because **so**."


@pytest.fixture(scope="module")
def backend():
    return ScriptedBackend(f"<think>\n{REASONING}\n</think>\n\n{ANSWER}")


@pytest.fixture(scope="module")
def address(backend):
    defaults = ChatDefaults("Be kind.", SamplingParams(64, temperature=0.6, top_k=20))
    models = [scripted_model(backend, "tuned", defaults), scripted_model(ScriptedBackend(ANSWER), "base", defaults)]
    with serving(models) as address:
        yield address


def post(address, path="/api/chat", **body):
    asked = {"prompt": "Why?"} if path == "/api/generate" else {"messages": QUESTION}
    return httpx.post(f"{address}{path}", json={"model": "tuned"} | asked | body)


def lines_of(answered):
    assert answered.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answered.text.splitlines()]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_reply_is_the_same_in_lines_and_whole(address, path):
    def texts(body):
        holder = body["message"] if path == "/api/chat" else body
        return holder.get("thinking", ""), holder["content" if path == "/api/chat" else "response"]

    *lines, last = lines_of(post(address, path))  # a stream by default
    assert all(not line["done"] for line in lines)
    whole = post(address, path, stream=False).json()
    assert ("".join(parts) for parts in zip(*map(texts, lines), strict=True)) is not None
    assert tuple("".join(parts) for parts in zip(*map(texts, lines), strict=True)) == (REASONING, ANSWER)
    assert texts(whole) == (REASONING, ANSWER)
    for body in (last, whole):
        assert (body["done"], body["done_reason"], body["model"]) == (True, "stop", "tuned")
        assert (body["prompt_eval_count"], body["eval_count"]) == (11, 20)
        assert body["total_duration"] >= body["prompt_eval_duration"] + body["eval_duration"] > 0
        assert datetime.fromisoformat(body["created_at"]).tzinfo


def test_every_option_reaches_the_engine(address, backend):
    answered = post(
        address,
        model="tuned:latest",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One?", "images": []},
            {"role": "assistant", "content": "1.", "thinking": "one"},
            {"role": "user", "content": "Two?"},
        ],
        options={
            "num_predict": 9,
            "temperature": 0.25,
            "top_p": 0.5,
            "top_k": 3,
            "seed": 7,
            "stop": ["END"],
            "num_ctx": 2048,
            "num_thread": 4,
            "repeat_penalty": 1.0,
            "min_p": 0.0,
        },
        think=False,
        keep_alive="5m",
        format="",
        tools=[],
    )
    assert answered.status_code == 200
    request = backend.requests[-1]
    assert request.sampling == SamplingParams(9, 0.25, 0.5, 3, 7, ("END",))
    assert request.thinking is False
    assert request.turns == (
        Turn("system", "Be brief."),
        Turn("user", "One?"),
        Turn("assistant", "1.", "one"),
        Turn("user", "Two?"),
    )
    assert "warnings" not in lines_of(answered)[-1]


def test_a_question_has_its_own_system_prompt_or_the_runs(address, backend):
    post(address, "/api/generate", system="Be brief.", options={"num_predict": -2}, think=True)
    request = backend.requests[-1]
    assert request.turns == (Turn("system", "Be brief."), Turn("user", "Why?"))
    assert (request.sampling.max_new_tokens, request.sampling.top_k, request.thinking) == (64, 20, True)
    post(address, "/api/generate")
    assert backend.requests[-1].turns == (Turn("system", "Be kind."), Turn("user", "Why?"))


def test_a_message_that_was_begun_goes_on(address, backend):
    assert post(address, messages=[*QUESTION, {"role": "assistant", "content": "It"}]).status_code == 200
    assert backend.requests[-1].open_turn == OpenTurn("answer")


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/api/chat", {"tools": [{"type": "function"}]}, "tools: tool calls are not supported here; turn tools off"),
        (
            "/api/chat",
            {"messages": [{"role": "tool", "content": "4"}]},
            "messages.0.role: tool calls are not supported",
        ),
        ("/api/chat", {"messages": [{"role": "user", "content": "?", "images": ["eA=="]}]}, "messages.0.images: "),
        ("/api/chat", {"format": "yaml"}, "format: "),
        ("/api/chat", {"options": {"temperature": "hot"}}, "temperature: "),
        ("/api/chat", {"options": {"num_predict": "9"}}, "options.num_predict: "),
        ("/api/chat", {"options": [1]}, "options: "),
        ("/api/chat", {"think": "hugely"}, "think: "),
        ("/api/chat", {"logprobs": True}, "logprobs: "),
        ("/api/chat", {"strict": True, "options": {"mirostat": 2}}, "mirostat: "),
        ("/api/generate", {"raw": True}, "raw: "),
        ("/api/generate", {"suffix": "end"}, "suffix: "),
        ("/api/generate", {"images": ["eA=="]}, "images: "),
    ],
)
def test_refusals_are_in_ollamas_form_and_names(address, path, body, sentence):
    refused = post(address, path, **body)
    assert refused.status_code == 400
    assert list(refused.json()) == ["error"]
    assert refused.json()["error"].startswith(sentence)


def test_what_is_not_offered_is_left_out_with_a_warning(address):
    answered = post(address, options={"mirostat": 2})
    warning = "mirostat: is not supported here and was left out"
    assert lines_of(answered)[-1]["warnings"] == [warning]
    assert answered.headers["x-thinktune-warnings"] == warning


def test_a_stream_that_breaks_off_ends_with_the_error(monkeypatch):
    monkeypatch.setattr("thinktune.inference.openai_client.MAX_ATTEMPTS", 1)
    upstream = upstream_serving(lambda _: reply(part(reasoning="So")))
    with upstream as (url, _), serving(find_endpoint_models(url, None)) as address:
        *lines, last = lines_of(post(address))
        events = httpx.post(f"{address}/v1/messages", json={"messages": QUESTION, "stream": True}).text
    assert [line["message"]["thinking"] for line in lines] == ["So"]
    assert list(last) == ["error"]
    assert "broke off in the middle of a reply" in last["error"]
    *_, error, rest = events.split("\n\n")
    assert (error.split("\n")[0], rest) == ("event: error", "")
    assert json.loads(error.split("data: ")[1])["error"]["type"] == "api_error"


def test_a_request_without_a_question_loads_the_model(address, backend):
    asked = len(backend.requests)
    for path, empty in (("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})):
        [line] = lines_of(post(address, path, **empty))
        assert (line["done"], line["done_reason"]) == (True, "load")
        assert post(address, path, stream=False, **empty).headers["content-type"] == "application/json"
    assert len(backend.requests) == asked


def test_what_is_served_is_listed_and_described(address):
    models = httpx.get(f"{address}/api/tags").json()["models"]
    assert [(model["name"], model["model"]) for model in models] == [("tuned", "tuned"), ("base", "base")]
    assert len({model["digest"] for model in models}) == 2
    shown = httpx.post(f"{address}/api/show", json={"model": "tuned:latest"}).json()
    assert shown["capabilities"] == ["completion", "thinking"]
    assert shown["system"] == "Be kind."
    assert "temperature                    0.6" in shown["parameters"].splitlines()
    assert httpx.post(f"{address}/api/show", json={"name": "base"}).status_code == 200
    assert httpx.get(f"{address}/api/version").json()["version"].count(".") == 2
    missing = httpx.post(f"{address}/api/show", json={"model": "nobody"})
    assert (missing.status_code, list(missing.json())) == (404, ["error"])


def test_the_key_is_asked_for_as_elsewhere():
    with serving([scripted_model(ScriptedBackend(ANSWER))], key="k") as address:
        assert post(address).json() == {"error": "the API key is missing or wrong; send Authorization: Bearer KEY"}
        assert httpx.get(f"{address}/api/tags").status_code == 401
        assert httpx.get(f"{address}/api/tags", headers={"authorization": "Bearer k"}).status_code == 200


@pytest.mark.slow
def test_ollamas_own_client(address):
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=address)
    whole = client.chat("tuned", messages=QUESTION, think=True, options={"num_predict": 40}, keep_alive="5m")
    assert (whole.message.thinking, whole.message.content, whole.done_reason) == (REASONING, ANSWER, "stop")
    parts = list(client.chat("tuned", messages=[*QUESTION, whole.message, *QUESTION], stream=True))
    assert "".join(part.message.content or "" for part in parts) == ANSWER
    assert client.generate("tuned", "Why?").response == ANSWER
    assert [model.model for model in client.list().models] == ["tuned", "base"]
    assert client.show("tuned").capabilities == ["completion", "thinking"]
    with pytest.raises(ollama.ResponseError, match="tool calls are not supported here"):
        client.chat("tuned", messages=QUESTION, tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(ollama.ResponseError):
        client.chat("nobody", messages=QUESTION)
