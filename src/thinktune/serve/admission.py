"""Admission of requests: how many are parsed, rendered and answered at once, so that no client holds up the others."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from thinktune.errors import UserError
from thinktune.inference import Request
from thinktune.inference.sampling.grammar import check_grammar
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_schema import ApiError, ParsedRequest
from thinktune.serve.security import Limits

SHORT_PROMPT_CHARACTERS = 20_000
SHORT_PROMPTS_AT_ONCE, LONG_PROMPTS_AT_ONCE, BODIES_AT_ONCE = 4, 1, 2

Parsed = TypeVar("Parsed")


class AdmissionQueue:
    """Limit of concurrent replies; further requests wait in order of arrival, and a full queue refuses with 429.

    Bodies are parsed and prompts rendered in threads: a long one takes seconds, and the event loop must answer others
    meanwhile. Long ones go one at a time, and short ones do not wait for them. A client that leaves before its turn
    costs nothing.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self._slots, self._admitted = limits, asyncio.Semaphore(limits.max_running), 0
        self.running = 0
        """Replies that hold a slot."""
        self._bodies = CapacityLimiter(BODIES_AT_ONCE)
        self._short_prompts = CapacityLimiter(SHORT_PROMPTS_AT_ONCE)
        self._long_prompts = CapacityLimiter(LONG_PROMPTS_AT_ONCE)

    @property
    def waiting(self) -> int:
        """Replies that have a place and no slot yet."""
        return self._admitted - self.running

    async def parse(self, parse: Callable[[bytes], Parsed], body: bytes) -> Parsed:
        """Parse a request's body; raises ApiError (400) that names its faults."""
        if len(body) <= SHORT_PROMPT_CHARACTERS:
            return parse(body)
        return await to_thread.run_sync(parse, body, limiter=self._bodies)

    async def convert(self, convert: Callable[[], list[Request]]) -> list[Request]:
        """Make the engine's requests of a parsed one, in a thread: a long conversation takes a while."""
        return await to_thread.run_sync(convert, limiter=self._bodies)

    async def check_grammar(self, served_model: ServedModel, parsed: ParsedRequest) -> ParsedRequest:
        """Check the form that is asked of an answer, where the engine here will hold the answer to it.

        Returns the request with the warnings of what cannot be enforced; raises ApiError (400) for a fault.
        """
        grammar = parsed.grammar
        if grammar is None or not served_model.is_here:
            return parsed
        try:
            warnings = await to_thread.run_sync(check_grammar, grammar, limiter=self._bodies)
        except UserError as error:
            raise ApiError(400, str(error), param=grammar.field) from None
        return replace(parsed, warnings=(*parsed.warnings, *warnings))

    @asynccontextmanager
    async def places(self, replies: int) -> AsyncGenerator[None]:
        """Take places among the replies that are written or wait.

        Raises ApiError: 429 if so many are not free, 400 if there never are so many.
        """
        places = self.limits.max_running + self.limits.max_waiting
        if replies > places:
            raise ApiError(400, f"the request asks for {replies:,} replies; the limit is {places}")
        if self._admitted + replies > places:
            waiting = max(0, self._admitted - self.limits.max_running)
            raise ApiError(429, f"{waiting} requests are already waiting; try again later", code="rate_limit_exceeded")
        self._admitted += replies
        try:
            yield
        finally:
            self._admitted -= replies

    async def render(self, served_model: ServedModel, request: Request) -> Request:
        """Render and tokenize a request in its turn; raises what `ServedModel.render` raises."""
        characters = sum(len(turn.content) + len(turn.reasoning) for turn in request.turns)
        characters += len(request.raw.content) if request.raw else 0
        limiter = self._short_prompts if characters <= SHORT_PROMPT_CHARACTERS else self._long_prompts
        return await to_thread.run_sync(served_model.render, request, limiter=limiter)

    async def render_all(self, served_model: ServedModel, requests: Sequence[Request]) -> list[Request]:
        """Render requests as `render` does, those of one prompt once."""
        rendered: list[Request] = []
        of_prompt: dict[tuple[object, ...], Request] = {}
        for request in requests:
            prompt = (request.turns, request.raw, request.open_turn, request.thinking, request.effort)
            if prompt not in of_prompt:
                of_prompt[prompt] = await self.render(served_model, request)
            first = of_prompt[prompt]
            sampling = replace(request.sampling, max_new_tokens=first.sampling.max_new_tokens)
            rendered.append(replace(request, sampling=sampling, prompt_ids=first.prompt_ids))
        return rendered

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Wait for one of the replies that may run, and hold its slot."""
        async with self._slots:
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
