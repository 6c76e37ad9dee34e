"""The surface `/v1/responses`: OpenAI's responses, whole and as typed events that are numbered in order."""

import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence

from thinktune.http import ApiError
from thinktune.inference import Completion, Request
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_conversion import DeltaStream, may_be_reasoning, to_engine_request
from thinktune.serve.openai_schema import Json
from thinktune.serve.reply_response import TYPED_EVENTS, Replies
from thinktune.serve.surfaces.kept_items import KeptItems, Kind
from thinktune.serve.surfaces.responses_schema import (
    AnswerPart,
    IncompleteDetails,
    ItemStatus,
    MessageOutput,
    OutputTokensDetails,
    ParsedResponses,
    ReasoningOutput,
    ReasoningPart,
    ResponseBody,
    ResponseFault,
    ResponsesUsage,
    in_our_names,
)

TEXT_EVENTS: dict[Kind, str] = {"reasoning": "response.reasoning_text", "message": "response.output_text"}


class ResponsesSurface:
    """One request for a response, and the response or the events that answer it."""

    framing = TYPED_EVENTS

    def __init__(self, served_model: ServedModel, parsed: ParsedResponses, kept: KeptItems) -> None:
        self._served_model, self._parsed, self._kept = served_model, parsed, kept
        self.stream, self.warnings = bool(parsed.body.stream), parsed.chat.warnings
        self._id, self._created = f"resp_{uuid.uuid4().hex}", int(time.time())
        self._request: Request | None = None
        self._events = EventBuilder()

    def requests(self) -> list[Request]:
        """Return the one request."""
        self._request = to_engine_request(self._parsed.chat, self._served_model)
        return [self._request]

    async def bodies(self, requests: Sequence[Request], replies: Replies) -> AsyncGenerator[Json]:
        """Yield the events of a stream, or the one body of a whole response."""
        [request], events = requests, self._events
        hidden = self._parsed.chat.controls.is_hidden
        deltas = DeltaStream(hold_answer=may_be_reasoning(request, self._served_model))
        started = False
        async for _, piece in replies:
            if isinstance(piece, Completion) and self._parsed.body.store is not False:
                self._keep(piece)
            if not self.stream:
                if isinstance(piece, Completion):
                    yield self._body(reply=piece)
                continue
            if not started:
                for name in ("response.created", "response.in_progress"):
                    yield events.event(name, response=self._body())
                started = True
            for delta in deltas.flush() if isinstance(piece, Completion) else deltas.feed(piece):
                for event in events.delta(delta, hidden=hidden):
                    yield event
            if isinstance(piece, Completion):
                for event in events.finish(cut=piece.finish == "length"):
                    yield event
                body = self._body(reply=piece)
                yield events.event(f"response.{body['status']}", response=body)

    def refusal(self, error: ApiError) -> ApiError:
        """Say an error of a chat request in the names of this API's fields."""
        return in_our_names(error)

    def failure(self, error: ApiError) -> list[Json]:
        """Return the event of a response that has failed."""
        return [self._events.event("response.failed", response=self._body(error=error))]

    def _body(self, reply: Completion | None = None, error: ApiError | None = None) -> Json:
        """Return the response: in progress, as a reply has made it, or failed."""
        assert self._request
        body, controls, sampling = self._parsed.body, self._parsed.chat.controls, self._request.sampling
        cut = reply is not None and reply.finish == "length"
        effort = controls.effort if controls.thinking else "none"
        return ResponseBody(
            id=self._id,
            created_at=self._created,
            status="failed" if error else "incomplete" if cut else "completed" if reply else "in_progress",
            error=ResponseFault(code=error.code or "server_error", message=str(error)) if error else None,
            incomplete_details=IncompleteDetails() if cut else None,
            instructions=body.instructions,
            max_output_tokens=self._parsed.chat.chat.token_limit,
            metadata=body.metadata if isinstance(body.metadata, dict) else {},
            model=self._served_model.name,
            output=self._output(reply) if reply else [],
            reasoning={"effort": effort, "summary": None},
            temperature=sampling.temperature,
            text={"format": (body.text and body.text.format) or {"type": "text"}},
            top_p=sampling.top_p,
            usage=_usage(reply) if reply else None,
            warnings=[*self.warnings],
        ).model_dump()

    def _output(self, reply: Completion) -> list[ReasoningOutput | MessageOutput]:
        """Return a reply's items, with the ids that the stream's have; one cut within its reasoning has no message."""
        cut, hidden = reply.finish == "length", self._parsed.chat.controls.is_hidden
        items: list[ReasoningOutput | MessageOutput] = []
        has_message = bool(reply.answer) or not cut
        if reply.reasoning and not hidden:
            status: ItemStatus = "completed" if has_message else "incomplete"
            content = [ReasoningPart(text=reply.reasoning)]
            items.append(ReasoningOutput(id=self._events.ids["reasoning"], status=status, content=content))
        if has_message:
            status = "incomplete" if cut else "completed"
            items.append(
                MessageOutput(id=self._events.ids["message"], status=status, content=[AnswerPart(text=reply.answer)])
            )
        return items

    def _keep(self, reply: Completion) -> None:
        """Keep a reply's items under the ids that the client was sent; text that has moved is what it proved to be."""
        for item in self._output(reply):
            self._kept.keep(item.id, item.type, "".join(part.text for part in item.content))
        for moved in self._events.moved_ids:
            self._kept.keep(moved, "reasoning", reply.reasoning)


class EventBuilder:
    """The events of one stream, numbered in order, and the item that is being written."""

    def __init__(self) -> None:
        self.ids: dict[Kind, str] = {"reasoning": _new_id("reasoning"), "message": _new_id("message")}
        self.moved_ids: list[str] = []  # of messages that proved to be reasoning after they were sent
        self._number = 0
        self._index = -1  # of the latest item in the output
        self._open: Kind | None = None
        self._text = ""
        self._has_message = False

    def event(self, name: str, **fields: object) -> Json:
        """Return the next event."""
        number, self._number = self._number, self._number + 1
        return {"type": name, "sequence_number": number, **fields}

    def delta(self, delta: Json, *, hidden: bool) -> Iterator[Json]:
        """Yield the events of a delta, as `DeltaStream` gives them; hidden reasoning has none.

        Text that proves to be reasoning only after it was sent, where none was asked for, stays an item of its own:
        what is sent cannot be unsent. The response at the end has it where it belongs.
        """
        if "moved" in delta:
            yield from self._close("incomplete")
            self.moved_ids.append(self.ids["message"])
            self.ids["message"], self._has_message = _new_id("message"), False
        elif "content" in delta:
            yield from self._add("message", delta["content"])
        elif not hidden:
            yield from self._add("reasoning", delta["reasoning"])

    def finish(self, *, cut: bool) -> Iterator[Json]:
        """Yield the events that end the last item; a whole reply without an answer has an empty message."""
        if not cut and not self._has_message:
            yield from self._add("message", "")
        yield from self._close("incomplete" if cut else "completed")

    def _add(self, kind: Kind, text: str) -> Iterator[Json]:
        if self._open != kind:
            yield from self._close("completed")
            self._open, self._text, self._index = kind, "", self._index + 1
            self._has_message = self._has_message or kind == "message"
            yield self.event(
                "response.output_item.added", output_index=self._index, item=self._item("in_progress", empty=True)
            )
            yield self.event("response.content_part.added", **self._place, part=self._part())
        if text:
            self._text += text
            more = {"logprobs": []} if kind == "message" else {}
            yield self.event(f"{TEXT_EVENTS[kind]}.delta", **self._place, delta=text, **more)

    def _close(self, status: ItemStatus) -> Iterator[Json]:
        if self._open is None:
            return
        more = {"logprobs": []} if self._open == "message" else {}
        yield self.event(f"{TEXT_EVENTS[self._open]}.done", **self._place, text=self._text, **more)
        yield self.event("response.content_part.done", **self._place, part=self._part())
        yield self.event("response.output_item.done", output_index=self._index, item=self._item(status))
        self._open = None

    @property
    def _place(self) -> Json:
        assert self._open
        return {"item_id": self.ids[self._open], "output_index": self._index, "content_index": 0}

    def _part(self) -> Json:
        part = ReasoningPart(text=self._text) if self._open == "reasoning" else AnswerPart(text=self._text)
        return part.model_dump()

    def _item(self, status: ItemStatus, *, empty: bool = False) -> Json:
        if self._open == "reasoning":
            thought = [] if empty else [ReasoningPart(text=self._text)]
            return ReasoningOutput(id=self.ids["reasoning"], status=status, content=thought).model_dump()
        answer = [] if empty else [AnswerPart(text=self._text)]
        return MessageOutput(id=self.ids["message"], status=status, content=answer).model_dump()


def _new_id(kind: Kind) -> str:
    return f"{'rs' if kind == 'reasoning' else 'msg'}_{uuid.uuid4().hex}"


def _usage(reply: Completion) -> ResponsesUsage:
    return ResponsesUsage(
        input_tokens=reply.prompt_tokens,
        output_tokens=reply.tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=reply.reasoning_tokens),
        total_tokens=reply.prompt_tokens + reply.tokens,
    )
