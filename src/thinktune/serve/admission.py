"""Admission of requests: how many are parsed, rendered and answered at once, so that no client holds up the others."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread

from thinktune.inference import Request
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_schema import ApiError, ParsedRequest, parse_request
from thinktune.serve.security import Limits

SHORT_PROMPT_CHARACTERS = 20_000
SHORT_PROMPTS_AT_ONCE, LONG_PROMPTS_AT_ONCE, BODIES_AT_ONCE = 4, 1, 2


class AdmissionQueue:
    """Limit of concurrent replies; further requests wait in order of arrival, and a full queue refuses with 429.

    Bodies are parsed and prompts rendered in threads: a long one takes seconds, and the event loop must answer others
    meanwhile. Long ones go one at a time, and short ones do not wait for them. A client that leaves before its turn
    costs nothing.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._slots, self._admitted = limits, asyncio.Semaphore(limits.max_running), 0
        self._bodies = CapacityLimiter(BODIES_AT_ONCE)
        self._short_prompts = CapacityLimiter(SHORT_PROMPTS_AT_ONCE)
        self._long_prompts = CapacityLimiter(LONG_PROMPTS_AT_ONCE)

    async def parse(self, body: bytes) -> ParsedRequest:
        """Parse a request's body; raises ApiError (400) that names its faults."""
        if len(body) <= SHORT_PROMPT_CHARACTERS:
            return parse_request(body)
        return await to_thread.run_sync(parse_request, body, limiter=self._bodies)

    @asynccontextmanager
    async def place(self, replies: int = 1) -> AsyncGenerator[None]:
        """Take the places of a request's replies among those that are written or wait.

        Raises ApiError, 429 if there are too few places, 400 if there never were enough.
        """
        places = self._limits.max_running + self._limits.max_waiting
        if replies > places:
            raise ApiError(400, f"n: is {replies}, and this server takes {places} replies at once", param="n")
        if self._admitted + replies > places:
            waiting = max(0, self._admitted - self._limits.max_running)
            raise ApiError(429, f"{waiting} requests are already waiting; try again later", code="rate_limit_exceeded")
        self._admitted += replies
        try:
            yield
        finally:
            self._admitted -= replies

    async def render(self, served_model: ServedModel, request: Request) -> Request:
        """Render and tokenize a request in its turn; raises what `ServedModel.render` raises."""
        characters = sum(len(turn.content) + len(turn.reasoning) for turn in request.turns)
        limiter = self._short_prompts if characters <= SHORT_PROMPT_CHARACTERS else self._long_prompts
        return await to_thread.run_sync(served_model.render, request, limiter=limiter)

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Wait for one of the replies that may run, and hold its slot."""
        async with self._slots:
            yield
