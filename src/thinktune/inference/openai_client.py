"""Client of OpenAI-compatible servers, with the same interface as the engine in this process."""

import asyncio
import codecs
import os
import random
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from thinktune.errors import UpstreamError, UserError
from thinktune.inference.openai_errors import (
    API_KEY_VARIABLES,
    BrokenReplyError,
    TemporaryError,
    clean,
    error_text,
    failed_request,
    status_of,
)
from thinktune.inference.replies import DEFAULT_TAGS, Piece, ReplyParser
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.inference.sampling.answer_tokens import SMALLEST_LOGPROB, TokenLogprob
from thinktune.inference.sampling.grammar import find_mismatch, grammar_fields
from thinktune.inference.streaming import EventQueue, Stream, as_completed
from thinktune.tokenization.tags import Tags

if TYPE_CHECKING:  # `openai` is imported late: it takes most of a second
    from openai import AsyncStream

BUDGET_SLACK_TOKENS = 64  # how far a server may overrun the reasoning budget: its closing words are its own
MAX_ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.5  # before a broken reply is requested again; doubled each time
CONNECT_TIMEOUT_SECONDS = 10.0
MAX_REPLY_SECONDS = 3600.0  # a server that only keeps the connection alive would else be waited for without end

Deliver = Callable[[list[Piece]], None]


# Read with our own models: `openai` does not validate, and its types lack the reasoning fields.
class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Token(BaseModel):
    token: str
    logprob: float
    bytes: "list[Annotated[int, Field(ge=0, le=255)]] | None" = None
    top_logprobs: "list[_Token]" = []


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None  # of a raw reply
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _TokenDetails(BaseModel):
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_details: _TokenDetails | None = None


class _Chunk(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_Model]


def request_body(request: Request, model: str, dropped: set[str]) -> dict[str, object]:
    """Return the JSON body of a request, without the `dropped` fields.

    Earlier reasoning is not sent, because chat templates leave it out of later turns. Stop texts are not sent either:
    servers look for them in the reasoning too, so the answer is watched here. An open turn is sent as vLLM and SGLang
    take it, with its reasoning; raises UserError where that is open itself, for which they have no form.
    """
    sampling, open_turn = request.sampling, request.open_turn
    messages = [{"role": turn.role, "content": turn.content} for turn in request.turns]
    max_tokens = "max_completion_tokens" if "max_tokens" in dropped else "max_tokens"
    fields: dict[str, object] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        max_tokens: sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "chat_template_kwargs": {"enable_thinking": request.thinking},
    }
    if request.effort is not None and request.thinking:  # at the top, where most servers read it
        fields["reasoning_effort"] = request.effort
    if request.raw:
        del fields["messages"], fields["chat_template_kwargs"]
        content = request.raw.content
        fields["prompt"] = content if isinstance(content, str) else list(content)
        if not request.raw.adds_special_tokens:  # vLLM's name
            fields["add_special_tokens"] = False
    if open_turn:
        if open_turn.part == "reasoning":
            raise UserError("messages: the last reply's reasoning is open; another server cannot continue it; close it")
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
        if reasoning := request.turns[-1].reasoning:
            messages[-1] |= dict.fromkeys(("reasoning_content", "reasoning"), reasoning)
    if request.grammar:
        fields |= grammar_fields(request.grammar)
    fields |= _rarer_fields(sampling)
    if sampling.max_reasoning_tokens is not None:  # vLLM's name, and ours
        fields |= dict.fromkeys(("thinking_token_budget", "reasoning_budget"), sampling.max_reasoning_tokens)
    return {name: value for name, value in fields.items() if name not in dropped}


def _rarer_fields(sampling: SamplingParams) -> dict[str, object]:
    """Return the fields of a body that are sent only where they ask for something; not every server knows them."""
    fields: dict[str, object] = {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repetition_penalty": None if sampling.repetition_penalty == 1 else sampling.repetition_penalty,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias},
        "logprobs": sampling.top_logprobs is not None,
        "top_logprobs": sampling.top_logprobs,
    }
    return {name: value for name, value in fields.items() if value}


def droppable_fields(message: str, request: Request) -> set[str]:
    """Return the fields that a server's refusal names and that the request can do without."""
    optional = {
        "stream_options",
        "max_tokens",
        "reasoning_effort",
        *(["chat_template_kwargs"] if request.thinking else []),
    }
    return {name for name in optional if name in message}


class ReplyAccumulator:
    """Builds a completion from chunks, and delivers its pieces; `finished` once a stop text has ended it."""

    def __init__(self, request: Request, deliver: Deliver | None, tags: Tags = DEFAULT_TAGS) -> None:
        self.finished = self.delivered = False
        self._sampling, self._deliver_to, self._grammar = request.sampling, deliver, request.grammar
        self._parser, self._tags = ReplyParser(request.sampling.stop, tags, open_turn=request.start), tags
        self._usage = _Usage()
        self._finish_reason: str | None = None
        self._goes_on = request.open_turn is not None  # a server may take what follows an answer for reasoning
        self._in_reasoning_field = False  # the reasoning comes in a field of its own, and the answer has not started
        self._chunks = self._reasoning_chunks = 0
        self._has_logprobs = False
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # tokens may end within a character

    def add(self, data: object) -> None:
        """Take one chunk, or the whole reply; raises BrokenReplyError where it is none or the server gave up."""
        try:
            chunk = _Chunk.model_validate(data)
        except ValidationError:
            raise BrokenReplyError(f"sent something other than a chat completion: {str(data)[:80]!r}") from None
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            if self._finish_reason in ("abort", "error"):
                raise BrokenReplyError(f"gave up on the reply ({self._finish_reason})")
            ranked = (choice.logprobs and choice.logprobs.content) or []
            self._deliver(self._parse(choice.delta or choice.message or _Message(content=choice.text), ranked))

    def completion(self) -> Completion:
        """Return the parsed reply at the end of the stream.

        Raises BrokenReplyError where the reply has no end, UserError where the server overran the reasoning budget or
        left out log probabilities, or the answer has not the form that was asked for.
        """
        if not self._finish_reason and not self._parser.stopped:
            raise BrokenReplyError("broke off in the middle of a reply")
        self._deliver(self._parser.flush())
        reply, usage, details = self._parser.reply(), self._usage, self._usage.completion_tokens_details
        counted = details.reasoning_tokens if details else None
        reasoning_tokens = self._reasoning_chunks if counted is None else counted
        budget = self._sampling.max_reasoning_tokens
        if budget is not None and reasoning_tokens > budget + BUDGET_SLACK_TOKENS:
            raise UserError(
                f"reasoning_tokens: is {budget}, but this server let the model reason for {reasoning_tokens} tokens; "
                "leave it out, or serve the model with `thinktune serve`"
            )
        if self._sampling.top_logprobs is not None and reply.answer and not self._has_logprobs:
            raise UserError("logprobs: this server sends none; leave it out, or serve the model with `thinktune serve`")
        tokens = self._chunks if usage.completion_tokens is None else usage.completion_tokens
        finish = "stop" if self._parser.stopped else "length" if self._finish_reason == "length" else "end"
        if self._grammar and finish == "end" and (problem := find_mismatch(self._grammar, reply.answer)):
            raise UserError(
                f"{self._grammar.field}: this server's answer has another form ({problem}); leave it out, or serve the "
                "model with `thinktune serve`"
            )
        return Completion(
            reply.reasoning,
            reply.answer,
            tokens,
            reasoning_tokens,
            finish,
            reply.closed,
            usage.prompt_tokens or 0,
            self._parser.stop_string,
        )

    def _deliver(self, pieces: list[Piece]) -> None:
        if self._deliver_to and pieces:
            self._deliver_to(pieces)
            self.delivered = True

    def _parse(self, message: _Message, ranked: Sequence[_Token]) -> list[Piece]:
        """Feed the parser; reasoning in a field of its own is put between tags, so that there is only one parser."""
        if self._parser.stopped:
            return []
        pieces: list[Piece] = []
        reasoning = message.reasoning_content or message.reasoning
        self._chunks += bool(reasoning or message.content)
        if reasoning:
            is_open = self._in_reasoning_field or self._goes_on
            pieces += self._parser.feed(reasoning if is_open else self._tags.opening + reasoning)
            self._in_reasoning_field = True
        content = message.content or ""
        is_open = self._in_reasoning_field and not self._parser.closed
        if (content or (ranked and not is_open)) and not self._parser.stopped:  # a token may end within a character
            closing = self._tags.closing if is_open else ""
            pieces += self._parser.feed(closing + content, self._tokens_of(content, ranked))
        self._reasoning_chunks += self._parser.in_reasoning
        self.finished = self._parser.stopped
        return pieces

    def _tokens_of(self, content: str, ranked: Sequence[_Token]) -> list[tuple[int, TokenLogprob]]:
        """Return the tokens of a text, each with the characters that it completes.

        Servers may list the tokens of the reasoning before them, and the end token after them.
        """
        self._has_logprobs |= bool(ranked)
        texts = [self._decode(bytes(token.bytes)) if token.bytes else token.token for token in ranked]
        joined = "".join(texts)
        start = 0 if joined.startswith(content) else max(0, len(joined) - len(content))
        found: list[tuple[int, TokenLogprob]] = []
        place = -start
        for token, text in zip(ranked, texts, strict=True):
            if 0 <= place < len(content) or (place == len(content) and not text):
                found.append((len(text), _token_logprob(token)))
            place += len(text)
        return found


def _token_logprob(token: _Token) -> TokenLogprob:
    spelled = None if token.bytes is None else bytes(token.bytes)
    likeliest = tuple(_token_logprob(each) for each in token.top_logprobs)
    return TokenLogprob(token.token, max(SMALLEST_LOGPROB, token.logprob), spelled, likeliest)


class Endpoint:
    """A model behind `/v1/chat/completions`, and `/v1/completions` for raw prompts; without a name, the only one there.

    Temporary failures (408, 409, 429, 5xx, a lost connection, `timeout_seconds` without a byte) are retried by the
    `openai` client, with growing waits or the server's Retry-After. A reply that breaks off is requested again here,
    unless a part of it was read: its reader cannot unread it. `max_attempts` (None: MAX_ATTEMPTS) counts both; the last
    one's failure raises TemporaryError. The user's faults (the key, the address, the request)
    raise UserError at once. The key comes from the environment where none is given, and is never shown. All methods may
    be called from many threads. A server whose model has other `tags` than the usual ones is asked for special tokens
    too, which would else be left out of the text, and the tags with them.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        key: str | None = None,
        timeout_seconds: float = 300.0,
        tags: Tags = DEFAULT_TAGS,
        max_attempts: int | None = None,
    ) -> None:
        import openai

        self._tags = tags
        self._max_attempts = max_attempts
        self.url, self.model = _base_url(url), model
        self._key = key or next((found for name in API_KEY_VARIABLES if (found := os.environ.get(name))), None)
        self._dropped_fields: set[str] = set()  # optional fields that this server refuses
        timeout = openai.Timeout(timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS, pool=None)
        is_local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")  # not reached through a proxy
        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self._key or "none",
            max_retries=(max_attempts or MAX_ATTEMPTS) - 1,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(timeout=timeout, trust_env=not is_local),
        )
        # Without a key nothing is sent: neither that "none" nor a key that `openai` finds in the environment.
        self._headers: dict[str, str | openai.Omit] = {} if self._key else {"Authorization": openai.Omit()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="thinktune-endpoint", daemon=True)
        self._thread.start()

    def complete(self, requests: Sequence[Request], max_concurrency: int = 32) -> Generator[tuple[int, Completion]]:
        """Yield each request's index and completion as replies end, in any order; closing cancels the rest."""
        return as_completed(
            requests,
            max_concurrency,
            lambda index, events: self._submit(requests[index], events, index, streamed=False),
        )

    def stream(self, request: Request) -> Stream:
        """Stream the pieces of one reply, and last its Completion. Closing the iterator hangs up."""
        events: EventQueue = SimpleQueue()
        return Stream(events, self._submit(request, events, 0, streamed=True).cancel)

    def models(self) -> list[str]:
        """Return the names of the server's models, none where it does not list them; raises UpstreamError."""
        return asyncio.run_coroutine_threadsafe(self._list_models(), self._loop).result()

    def close(self) -> None:
        """Hang up; whoever waits for a reply gets an error."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _submit(self, request: Request, events: EventQueue, index: int, *, streamed: bool) -> "Future[None]":
        if self._loop.is_closed():
            raise RuntimeError("the endpoint is closed")
        return asyncio.run_coroutine_threadsafe(self._run(request, events, index, streamed=streamed), self._loop)

    async def _cancel_all(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def _run(self, request: Request, events: EventQueue, index: int, *, streamed: bool) -> None:
        """Run one request, and put its completion or its error in the queue."""
        deliver: Deliver | None = (lambda pieces: events.put((index, pieces))) if streamed else None
        try:
            self.model = self.model or await self._find_only_model()
            events.put((index, await self._complete_with_retries(request, deliver)))
        except asyncio.CancelledError:
            events.put((index, RuntimeError("the request was cancelled before the reply was complete")))
            raise
        except Exception as error:
            events.put((index, error))

    async def _complete_with_retries(self, request: Request, deliver: Deliver | None) -> Completion:
        """Request a reply until it is complete; a failure to open it is final, because `openai` has retried it."""
        attempt = 1
        while True:
            reply = ReplyAccumulator(request, deliver, self._tags)
            try:
                await self._receive(request, reply)
                return reply.completion()
            except BrokenReplyError as error:
                if attempt == (self._max_attempts or MAX_ATTEMPTS) or reply.delivered:
                    kept = " (the text read until then is kept)" if reply.delivered else ""
                    tried = f" (tried {attempt} times)" if attempt > 1 else kept
                    raise TemporaryError(f"{self.url}: {clean(str(error), self._key)}{tried}") from None
            await asyncio.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            attempt += 1

    async def _receive(self, request: Request, reply: ReplyAccumulator) -> None:
        """Feed one attempt's chunks to the reply; raises BrokenReplyError where they do not come to an end in time."""
        stream = await self._open(request)
        try:
            async with asyncio.timeout(MAX_REPLY_SECONDS), aclosing(_chunks(stream)) as chunks:
                async for chunk in chunks:
                    reply.add(chunk)
                    if reply.finished:
                        break
        except TimeoutError:
            raise BrokenReplyError(f"sent no whole reply in {MAX_REPLY_SECONDS:,.0f} seconds") from None

    async def _open(self, request: Request) -> "AsyncStream[object]":
        """Send a request and return its stream once the reply starts, without the fields that the server refuses."""
        import openai

        body = request_body(request, self.model, self._dropped_fields)
        if self._tags != DEFAULT_TAGS:
            body["skip_special_tokens"] = False
        try:
            return await self._client.post(
                "/completions" if request.raw else "/chat/completions",
                body=body,
                options={"headers": self._headers},
                cast_to=object,
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
        except openai.APIError as error:
            refused = droppable_fields(error_text(error), request) if status_of(error) in (400, 422) else set[str]()
            if refused <= self._dropped_fields:
                raise failed_request(error, self.url, self.model, self._key) from None
            self._dropped_fields |= refused
        return await self._open(request)

    async def _list_models(self) -> list[str]:
        import openai

        try:
            text = await self._client.get("/models", cast_to=str, options={"headers": self._headers, "max_retries": 0})
            return [model.id for model in _ModelList.model_validate_json(text).data]
        except openai.APIStatusError:
            return []
        except openai.APIError as error:
            raise failed_request(error, self.url, self.model, self._key) from None
        except ValidationError:
            raise UpstreamError(f"{self.url}/models: sends no list of models; check the address") from None

    async def _find_only_model(self) -> str:
        names = await self._list_models()
        if len(names) != 1:
            found = f"it has {', '.join(names)}" if names else "it does not list its models"
            raise UpstreamError(f"{self.url}: name the model to use; {found}")
        return names[0]


def _base_url(url: str) -> str:
    """Return the address up to its version, whichever of the usual endings it has."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url}: is not an address; write one as in http://127.0.0.1:8000/v1")
    base = url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return base if urlsplit(base).path.strip("/") else f"{base}/v1"


async def _chunks(stream: "AsyncStream[object]") -> AsyncGenerator[object]:
    """Yield the JSON of each event, or of the one reply where the server does not stream; then close the connection."""
    try:
        async with stream:
            if "json" in stream.response.headers.get("content-type", ""):
                await stream.response.aread()
                yield stream.response.json()
            else:
                async for data in stream:
                    yield data
    except Exception as error:  # openai's kinds, and those of the transport and of JSON, which it lets through
        raise BrokenReplyError(error_text(error)) from None
