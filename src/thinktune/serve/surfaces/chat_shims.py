"""What the surfaces share that are chat requests in other words: bodies read, renamed, and answered piece by piece."""

import json
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from pydantic import ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator

from thinktune.inference import Completion
from thinktune.serve.admission import AdmissionQueue
from thinktune.serve.chat_messages import Message
from thinktune.serve.models import ServedModel
from thinktune.serve.neutral_fields import ClientModel
from thinktune.serve.openai_conversion import DeltaStream
from thinktune.serve.openai_schema import ApiError, Json, ParsedRequest, parse_request, refusal_of
from thinktune.serve.reply_response import Replies
from thinktune.tokenization.open_turn import OpenPart

COUNTS, OTHER_FORMS = ("n", "best_of"), ("logprobs", "top_logprobs", "prompt_logprobs", "echo")  # of a response


class ShimRequest(ClientModel):
    """Base of bodies that become chat requests; a field that is not named goes on as it is, and is judged there."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_asks_for_nothing(cls, data: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return data

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> Json:
        return handler(core_schema)


Shim = TypeVar("Shim", bound=ShimRequest)


def parse_shim(model: type[Shim], body: bytes) -> Shim:
    """Parse a body; raises ApiError (400) that names every fault."""
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise refusal_of(error.errors(include_url=False, include_input=False, include_context=False), model) from None


def as_chat(fields: Json, names: Mapping[str, str], system: str | None = None) -> ParsedRequest:
    """Parse the fields of a chat request; `names` says how this surface calls those that are renamed.

    A system prompt that stands apart is put before the messages, whose numbers stay as the client knows them. Raises
    ApiError (400), also for what would give the response a form that this surface has not.
    """
    for name in (*COUNTS, *OTHER_FORMS):
        value = fields.get(name)
        if value and not (name in COUNTS and value == 1):
            raise ApiError(400, f"{name}: is only supported in /v1/chat/completions; leave it out", param=name)
    try:
        parsed = parse_request(json.dumps(fields).encode())
        if system is not None:
            messages = [Message(role="system", content=system), *parsed.chat.messages]
            parsed = replace(parsed, chat=parsed.chat.model_copy(update={"messages": messages}))
    except ApiError as error:
        raise rename_fields(error, names) from None
    return replace(parsed, warnings=tuple(_rename(warning, names) for warning in parsed.warnings))


async def check_form(
    queue: AdmissionQueue, served_model: ServedModel, parsed: ParsedRequest, names: Mapping[str, str]
) -> ParsedRequest:
    """Check the form that is asked of an answer as `AdmissionQueue.check_grammar` does, in a surface's own names."""
    try:
        checked = await queue.check_grammar(served_model, parsed)
    except ApiError as error:
        raise rename_fields(error, names) from None
    return replace(checked, warnings=tuple(_rename(warning, names) for warning in checked.warnings))


def rename_fields(error: ApiError, names: Mapping[str, str]) -> ApiError:
    """Say an error in a surface's own names of the fields."""
    param = None if error.param is None else _rename(error.param, names)
    return ApiError(error.status, _rename(str(error), names), code=error.code, param=param)


def _rename(text: str, names: Mapping[str, str]) -> str:
    for chats, own in names.items():
        text = re.sub(rf"(^|; ){chats}(?=[:.]|$)", lambda found, own=own: found[1] + own, text)
    return text


class ReplyWriter(Protocol):
    """The bodies of one response: a whole one, or those of a stream in their order."""

    def whole(self, reply: Completion) -> Json:
        """Return the body that answers a request without a stream."""
        ...

    def start(self) -> Iterable[Json]:
        """Return the first bodies of a stream."""
        ...

    def part(self, part: OpenPart, text: str) -> Iterable[Json]:
        """Return the bodies for some new text of a part."""
        ...

    def moved(self) -> Iterable[Json]:
        """Return the bodies where the text that was sent has proved to be reasoning, and the answer begins."""
        ...

    def end(self, reply: Completion) -> Iterable[Json]:
        """Return the last bodies of a stream."""
        ...


async def write_reply(
    writer: ReplyWriter, deltas: DeltaStream, replies: Replies, *, stream: bool, hide: bool
) -> AsyncGenerator[Json]:
    """Yield the bodies of a response as the reply comes; hidden reasoning is left out of a stream."""
    started = False
    async for _, piece in replies:
        if not stream:
            if isinstance(piece, Completion):
                yield writer.whole(piece)
            continue
        bodies = [] if started else list(writer.start())
        started = True
        for delta in deltas.flush() if isinstance(piece, Completion) else deltas.feed(piece):
            if delta.get("moved"):
                bodies += writer.moved()
            if reasoning := None if hide else delta.get("reasoning"):
                bodies += writer.part("reasoning", reasoning)
            if content := delta.get("content"):
                bodies += writer.part("answer", content)
        if isinstance(piece, Completion):
            bodies += writer.end(piece)
        for body in bodies:
            yield body
