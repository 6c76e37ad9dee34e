"""The surface `/v1/chat/completions`: OpenAI's chat completions, whole and in chunks."""

from collections.abc import AsyncGenerator, Sequence

from thinktune.inference import Completion, Piece, Request
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_conversion import DeltaStream, ResponseBuilder, may_be_reasoning, to_engine_request
from thinktune.serve.openai_schema import ApiError, Json, ParsedRequest
from thinktune.serve.reply_response import DATA_EVENTS, Replies


class ChatSurface:
    """One chat request, and the completion or the chunks that answer it."""

    framing = DATA_EVENTS

    def __init__(self, served_model: ServedModel, parsed: ParsedRequest) -> None:
        self._served_model, self._parsed, self._chat_request = served_model, parsed, parsed.chat
        self.stream, self.warnings = bool(parsed.chat.stream), parsed.warnings

    def requests(self) -> list[Request]:
        """Return the one request."""
        served = self._served_model
        return [to_engine_request(self._parsed, served.defaults, served.effort_use, served.tags)]

    async def bodies(self, requests: Sequence[Request], replies: Replies) -> AsyncGenerator[Json]:
        """Yield the events of a stream, or the one body of a whole reply."""
        stream, options = self.stream, self._chat_request.stream_options
        [request], parsed = requests, self._parsed
        response = ResponseBuilder(self._served_model.name, parsed.warnings, parsed.controls.is_hidden)
        allow_moved = bool(options and options.allow_moved)
        may_move = may_be_reasoning(request, may_reason=self._served_model.may_reason)
        deltas = DeltaStream(hold_answer=may_move and not allow_moved)
        started = not stream
        async for _, piece in replies:
            if not started:
                yield response.first_chunk()
                started = True
            match piece:
                case Completion() if not stream:
                    yield response.completion(piece)
                case Completion():
                    for body in response.final_chunks(piece, deltas.flush(), options):
                        yield body
                case Piece() if stream:
                    for body in response.chunks(deltas.feed(piece)):
                        yield body
                case Piece():
                    pass

    def refusal(self, error: ApiError) -> ApiError:
        """Return the error as it is: its fields are this API's."""
        return error

    def failure(self, error: ApiError) -> list[Json]:
        """Return the error as an event."""
        return [error.body]
