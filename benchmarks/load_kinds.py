"""The kinds of requests of the load test: each API of the server, its body, and how its replies are read."""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "grade": {"enum": ["low", "high"]}},
    "required": ["sure", "grade"],
    "additionalProperties": False,
}


@dataclass(slots=True)
class Reply:
    """What has come of a reply: the text of each part by its name and the choice's number, however it was cut."""

    parts: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    finish: str = ""
    is_whole: bool = False

    def add(self, part: str, text: str | None, choice: int = 0) -> None:
        """Append text to a part."""
        if text:
            name = f"{part} {choice}"
            self.parts[name] = self.parts.get(name, "") + text

    @property
    def text(self) -> str:
        """All parts as one text, to be compared."""
        return json.dumps(self.parts, ensure_ascii=False, sort_keys=True)


def _read_chat(event: Json, reply: Reply) -> None:
    reply.tokens = (event.get("usage") or {}).get("completion_tokens", reply.tokens)
    for choice in event["choices"]:
        said, number = choice.get("delta") or choice.get("message") or {}, choice["index"]
        if said.get("moved"):  # what was sent as the answer was reasoning
            reply.add("reasoning", reply.parts.pop(f"answer {number}", ""), number)
        reply.add("reasoning", said.get("reasoning"), number)
        reply.add("answer", said.get("content"), number)
        reply.finish = choice.get("finish_reason") or reply.finish
    reply.is_whole = bool(reply.finish and reply.tokens)


def _read_completion(event: Json, reply: Reply) -> None:
    reply.tokens = (event.get("usage") or {}).get("completion_tokens", reply.tokens)
    for choice in event["choices"]:
        reply.add("raw", choice["text"], choice["index"])
        reply.finish = choice.get("finish_reason") or reply.finish
    reply.is_whole = bool(reply.finish and reply.tokens)


def _read_response(event: Json, reply: Reply) -> None:
    kind = event["type"]
    if kind == "response.reasoning_text.delta":
        reply.add("reasoning", event["delta"])
    elif kind == "response.output_text.delta":
        reply.add("answer", event["delta"])
    elif kind in ("response.completed", "response.incomplete"):
        reply.tokens, reply.finish, reply.is_whole = event["response"]["usage"]["output_tokens"], kind, True
    elif kind == "response.failed":
        raise RuntimeError(str(event["response"]["error"]))


def _read_message(event: Json, reply: Reply) -> None:
    match event["type"]:
        case "content_block_delta":
            reply.add("reasoning", event["delta"].get("thinking"))
            reply.add("answer", event["delta"].get("text"))
        case "message_delta":
            reply.tokens, reply.finish = event["usage"]["output_tokens"], event["delta"]["stop_reason"]
        case "message_stop":
            reply.is_whole = bool(reply.finish)
        case "error":
            raise RuntimeError(str(event["error"]))
        case _:
            pass


def _read_ollama(event: Json, reply: Reply) -> None:
    if "error" in event:
        raise RuntimeError(str(event["error"]))
    reply.add("reasoning", event["message"].get("thinking"))
    reply.add("answer", event["message"].get("content"))
    if event["done"]:
        reply.tokens, reply.finish, reply.is_whole = event["eval_count"], event["done_reason"], True


def _chat_body(question: str, tokens: int, **more: Any) -> Json:
    return {**_asked(question, tokens), "max_tokens": tokens, **more}


def _asked(question: str, tokens: int) -> Json:
    """Return what most bodies share: greedy, and with the reasoning closed, so that there is an answer."""
    message = {"role": "user", "content": question}
    return {"messages": [message], "temperature": 0, "reasoning_budget": tokens // 4}


def _streamed_chat(question: str, tokens: int, **more: Any) -> Json:
    options = {"include_usage": True, "allow_moved": True}
    return _chat_body(question, tokens, stream=True, stream_options=options, **more)


def _completion_body(question: str, tokens: int) -> Json:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return {"prompt": [question, f"{question} It"], "temperature": 0, "max_tokens": tokens, **options}


def _response_body(question: str, tokens: int) -> Json:
    body = {**_asked(question, tokens), "max_output_tokens": tokens, "stream": True}
    return {**body, "input": body.pop("messages")}


def _message_body(question: str, tokens: int) -> Json:
    return _chat_body(question, tokens, stream=True)


def _ollama_body(question: str, tokens: int) -> Json:
    body = _asked(question, tokens)
    return {**body, "options": {"num_predict": tokens, "temperature": body.pop("temperature")}}


def _form_body(question: str, tokens: int) -> Json:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}
    return _chat_body(question, tokens, response_format=form)


def _choices_body(question: str, tokens: int) -> Json:
    return _streamed_chat(question, tokens, n=2)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request; clients leave only streams in the middle."""

    name: str
    path: str
    body: Callable[[str, int], Json]
    read: Callable[[Json, Reply], None]
    is_stream: bool = True


KINDS = [
    Kind("chat stream", CHAT, _streamed_chat, _read_chat),
    Kind("chat", CHAT, _chat_body, _read_chat, is_stream=False),
    Kind("completions of two prompts", "/v1/completions", _completion_body, _read_completion),
    Kind("responses", "/v1/responses", _response_body, _read_response),
    Kind("messages", "/v1/messages", _message_body, _read_message),
    Kind("ollama", "/api/chat", _ollama_body, _read_ollama),
    Kind("two choices", CHAT, _choices_body, _read_chat),
    Kind("schema", CHAT, _form_body, _read_chat, is_stream=False),
]
SAME_REPLY = ("chat stream", "chat", "responses", "messages", "ollama")  # to one question, whatever the API


def kinds_here() -> list[Kind]:
    """Return the kinds that this environment can serve: schemas need llguidance."""
    has_grammars = importlib.util.find_spec("llguidance") is not None
    return [kind for kind in KINDS if kind.name != "schema" or has_grammars]


def events_of(lines: Iterable[str]) -> Iterator[Json]:
    """Yield the JSON objects of a body: lines of NDJSON, server-sent events, or one whole object."""
    for line in lines:
        data = line.removeprefix("data: ")
        if data.startswith("{"):
            yield json.loads(data)


def check_form(reply: Reply) -> None:
    """Raise ValueError where a whole answer has not the form that was asked for."""
    if reply.finish == "stop":
        answer = json.loads(reply.parts.get("answer 0", ""))
        if (
            answer.keys() != {"sure", "grade"}
            or type(answer["sure"]) is not bool
            or answer["grade"] not in ("low", "high")
        ):
            raise ValueError(f"the answer is not of its schema: {answer}")
