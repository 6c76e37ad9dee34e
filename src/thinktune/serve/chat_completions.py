"""The surface `/v1/chat/completions`: OpenAI's chat completions, whole and in chunks."""

from collections.abc import AsyncGenerator, Sequence

from thinktune.http import ApiError
from thinktune.inference import Request
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_conversion import ChoiceReply, ResponseBuilder, choices, may_be_reasoning, to_engine_request
from thinktune.serve.openai_schema import Json, ParsedRequest
from thinktune.serve.reply_response import DATA_EVENTS, Replies


class ChatSurface:
    """One chat request, and the completion or the chunks that answer it."""

    framing = DATA_EVENTS

    def __init__(self, served_model: ServedModel, parsed: ParsedRequest) -> None:
        self._served_model, self._parsed, self._chat_request = served_model, parsed, parsed.chat
        self.stream, self.warnings = bool(parsed.chat.stream), parsed.warnings

    def requests(self) -> list[Request]:
        """Return a request for each choice."""
        request = to_engine_request(self._parsed, self._served_model)
        return choices(request, self._chat_request.n or 1)

    async def bodies(self, requests: Sequence[Request], replies: Replies) -> AsyncGenerator[Json]:
        """Yield the events of a stream, or the one body of a whole reply."""
        parsed, options, request = self._parsed, self._chat_request.stream_options, requests[0]
        response = ResponseBuilder(self._served_model.name, parsed.warnings, parsed.controls.is_hidden)
        allow_moved = bool(options and options.allow_moved)
        hold_answer = may_be_reasoning(request, self._served_model) and not allow_moved
        written = [ChoiceReply(response, index, hold_answer=hold_answer) for index in range(len(requests))]
        async for index, piece in replies:
            events = written[index].add(piece)
            for event in events if self.stream else ():
                yield event
        completions = [reply.completion for reply in written if reply.completion]
        if not self.stream:
            has_logprobs = request.sampling.top_logprobs is not None
            yield response.completion(completions, [reply.logprobs for reply in written] if has_logprobs else None)
        elif options and options.include_usage:
            yield response.usage_chunk(completions)

    def refusal(self, error: ApiError) -> ApiError:
        """Return the error as it is: its fields are this API's."""
        return error

    def failure(self, error: ApiError) -> list[Json]:
        """Return the error as an event."""
        return [error.body]
