"""What an OpenAI-compatible server is sent, and how what it sends back is read: reasoning and answer apart."""

from typing import Any

from pydantic import BaseModel, ValidationError

from thinktune.errors import UserError
from thinktune.render import CLOSING, OPENING
from thinktune.reply import Draft, Piece
from thinktune.request import Completion, Request

BUDGET_SLACK_TOKENS = 64  # how far a server may overrun the reasoning's budget: its closing words are its own


class PassingError(Exception):
    """What may have passed when it is tried again; `after` is the server's Retry-After."""

    def __init__(self, told: str, after: str | None = None) -> None:
        super().__init__(told)
        self.after = after


class _Text(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(BaseModel):
    delta: _Text | None = None
    message: _Text | None = None
    finish_reason: str | None = None


class _Details(BaseModel):
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_details: _Details | None = None


class _Part(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def body(request: Request, model: str, left_out: set[str]) -> dict[str, Any]:
    """A request as JSON. Earlier reasoning is not sent: templates leave it out of a conversation that goes on.

    Stop texts are not sent either: servers look for them in the reasoning too, so the answer is watched here.
    """
    sampling = request.sampling
    most = "max_completion_tokens" if "max_tokens" in left_out else "max_tokens"
    fields: dict[str, Any] = {
        "model": model,
        "messages": [{"role": turn.role, "content": turn.content} for turn in request.turns],
        "stream": True,
        "stream_options": {"include_usage": True},
        most: sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "chat_template_kwargs": {"enable_thinking": request.thinking},
    }
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.reasoning_tokens is not None:  # vLLM's name, and ours
        fields |= dict.fromkeys(("thinking_token_budget", "reasoning_budget"), sampling.reasoning_tokens)
    return {name: value for name, value in fields.items() if name not in left_out}


def spared(told: str, request: Request) -> set[str]:
    """The fields that a server's refusal names and that a request can do without."""
    needless = {"stream_options", "max_tokens", *(["chat_template_kwargs"] if request.thinking else [])}
    return {name for name in needless if name in told}


class Answer:
    """A reply as it is read; `over` once all of it is there, `given` once any of it was handed on."""

    def __init__(self, request: Request) -> None:
        self.over = self.given = False
        self._sampling = request.sampling
        self._draft = Draft(request.sampling.stop)
        self._usage = _Usage()
        self._finish: str | None = None
        self._fields = False  # the reasoning comes in a field of its own, and its last part was not the answer's
        self._parts = self._reasoning_parts = 0

    def line(self, line: bytes) -> list[Piece]:
        """The pieces that one line of the event stream brings."""
        name, _, data = line.partition(b":")
        if name != b"data":
            if name.strip() in (b"", b"event", b"id", b"retry"):
                return []
            raise PassingError(f"sends what is no event stream: {line[:80]!r}")
        if data.strip() == b"[DONE]":
            self._finish = self._finish or "stop"
            self.over = True
            return []
        return self._take(data.strip())

    def whole(self, text: bytes) -> list[Piece]:
        """The pieces of a reply that came as one JSON object."""
        return self._take(text)

    def end(self) -> list[Piece]:
        """What was held back, once no more will come; raises PassingError where the reply's end is missing."""
        if not self._finish and not self._draft.stopped:
            raise PassingError("breaks off in the middle of a reply")
        return self._draft.finish()

    def completion(self) -> Completion:
        """The reply, taken apart, after its end; raises UserError where its reasoning's budget was not kept."""
        reply, usage = self._draft.reply(), self._usage
        told = usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None
        spent = self._reasoning_parts if told is None else told
        budget = self._sampling.reasoning_tokens
        if budget is not None and spent > budget + BUDGET_SLACK_TOKENS:
            raise UserError(
                f"reasoning_tokens: is {budget}, but this server let the model reason for {spent} tokens; "
                "leave it out, or serve the model with `thinktune serve`"
            )
        tokens = self._parts if usage.completion_tokens is None else usage.completion_tokens
        finish = "stop" if self._draft.stopped else "length" if self._finish == "length" else "end"
        return Completion(reply.reasoning, reply.answer, tokens, spent, finish, reply.closed, usage.prompt_tokens or 0)

    def _take(self, text: bytes) -> list[Piece]:
        try:
            part = _Part.model_validate_json(text)
        except ValidationError:
            raise PassingError(f"sends what is no part of a chat completion: {text[:80]!r}") from None
        if part.error:
            raise PassingError(f"reports an error: {part.error}")
        self._usage = part.usage or self._usage
        pieces: list[Piece] = []
        for choice in part.choices[:1]:
            self._finish = choice.finish_reason or self._finish
            if self._finish in ("abort", "error"):
                raise PassingError(f"gave the reply up ({self._finish})")
            pieces += self._text(choice.delta or choice.message or _Text())
        self.given = self.given or bool(pieces)
        return pieces

    def _text(self, new: _Text) -> list[Piece]:
        """Reasoning in a field of its own is read as if it stood between tags, so that one parser takes it apart."""
        if self._draft.stopped:
            return []
        pieces: list[Piece] = []
        reasoning = new.reasoning_content or new.reasoning
        self._parts += bool(reasoning or new.content)
        if reasoning:
            pieces += self._draft.feed(reasoning if self._fields else OPENING + reasoning)
            self._fields = True
        if new.content and self._draft.closed and not self._draft.stopped:
            pieces += self._draft.feed(new.content)
        elif new.content:
            pieces += self._draft.feed(CLOSING + new.content if self._fields else new.content)
        self._reasoning_parts += self._draft.open
        self.over = self._draft.stopped
        return pieces


def error_text(text: bytes) -> str:
    """What an error says, in whatever form."""
    try:
        error = _Part.model_validate_json(text).error
    except ValidationError:
        return text.decode(errors="replace")
    if isinstance(error, dict) and "message" in error:
        return str(error["message"])
    return str(error) if error else text.decode(errors="replace")


def model_names(text: bytes) -> list[str]:
    """The names in a list of models."""
    try:
        return [model.id for model in _Models.model_validate_json(text).data]
    except ValidationError:
        raise PassingError("sends no list of models") from None
