"""Requests, sampling parameters and completions: the same for the engine in this process and for a server."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from thinktune.errors import UserError
from thinktune.inference.sampling.grammar import Grammar
from thinktune.tokenization import ChatTokenizer, Example, Turn
from thinktune.tokenization.chat_template import TooLongError, render_prompt
from thinktune.tokenization.open_turn import OpenPart, render_open_turn
from thinktune.tokenization.tokenizer import exceeds_tokens

FinishReason = Literal["end", "length", "stop"]

# A temperature or top-p below this leaves only the likeliest token. In fp32 the smallest ones would be 0, and divide by
# it, or cut every token.
GREEDY_BELOW = 1e-6

FIRST_SAVED = 7  # parameters that have always been in what identifies a saved reply
MAX_PENALTY, MAX_LOGIT_BIAS, MAX_TOP_LOGPROBS = 2.0, 100.0, 20  # OpenAI's limits


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters: how the next token is drawn, and where a reply ends.

    `temperature` 0 is greedy, and so is any `temperature` or `top_p` below `GREEDY_BELOW`. `top_k` 0 and `top_p` 1 keep
    every token. `stop` holds strings that end the answer and are left out of it. `max_reasoning_tokens` is a budget:
    once it is spent and the reasoning is still open, the engine closes it in the words of the model's own chat
    template.

    Logits are changed in vLLM's order: `logit_bias`, pairs of a token and what is added to its logit; then
    `repetition_penalty`, by which a positive logit of a token of prompt or reply is divided, and a negative one
    multiplied; then `frequency_penalty`, subtracted as often as the token is in the reply, and `presence_penalty`,
    subtracted if it is. After the temperature `min_p` keeps the tokens that are at least so likely as this share of the
    likeliest, and top-k and top-p cut what it has kept.

    `top_logprobs` asks for the log probability of each token of the answer, and of so many of the likeliest in its
    place: those of the model itself, before any of the above. None asks for none.

    Raises ValueError for a value out of range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    max_reasoning_tokens: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        wrong = [
            sentence
            for holds, sentence in (
                *self._checks_of_logits(),
                (self.max_new_tokens >= 1, f"max_new_tokens is {self.max_new_tokens}; it must be at least 1"),
                (0 <= self.temperature < math.inf, f"temperature is {self.temperature:g}; it must be 0 or more"),
                (0 < self.top_p <= 1, f"top_p is {self.top_p:g}; it must be above 0 and at most 1"),
                (self.top_k >= 0, f"top_k is {self.top_k}; it must be 0 (all tokens) or more"),
                (all(self.stop), "stop has an empty string; leave it out"),
                (
                    (self.max_reasoning_tokens or 0) >= 0,
                    f"reasoning_tokens is {self.max_reasoning_tokens}; it must be 0 or more",
                ),
            )
            if not holds
        ]
        if wrong:
            raise ValueError("; ".join(wrong))

    def _checks_of_logits(self) -> Iterator[tuple[bool, str]]:
        """Yield whether each parameter that changes or reports logits is in its range, and the sentence if not."""
        for name in ("frequency_penalty", "presence_penalty"):
            value: float = getattr(self, name)
            sentence = f"{name} is {value:g}; it must be from -{MAX_PENALTY:g} to {MAX_PENALTY:g}"
            yield -MAX_PENALTY <= value <= MAX_PENALTY, sentence
        sentence = f"repetition_penalty is {self.repetition_penalty:g}; it must be above 0 and finite"
        yield 0 < self.repetition_penalty < math.inf, sentence
        yield 0 <= self.min_p <= 1, f"min_p is {self.min_p:g}; it must be from 0 to 1"
        tokens = {token for token, _ in self.logit_bias}
        yield len(tokens) == len(self.logit_bias), "logit_bias names a token twice"
        for token, bias in self.logit_bias:
            yield token >= 0, f"logit_bias has the token {token}; it must be 0 or more"
            sentence = f"logit_bias of token {token} is {bias:g}; it must be from -100 to 100"
            yield -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS, sentence
        sentence = f"top_logprobs is {self.top_logprobs}; it must be from 0 to {MAX_TOP_LOGPROBS}"
        yield 0 <= (self.top_logprobs or 0) <= MAX_TOP_LOGPROBS, sentence

    @property
    def is_greedy(self) -> bool:
        """True if the likeliest token is always taken."""
        return self.temperature < GREEDY_BELOW or self.top_p < GREEDY_BELOW

    @property
    def has_penalties(self) -> bool:
        """True if what a logit becomes depends on the tokens so far."""
        return (self.frequency_penalty, self.presence_penalty, self.repetition_penalty) != (0, 0, 1)

    def record(self) -> dict[str, Any]:
        """Return the parameters as what identifies a saved reply.

        Those that came after the first replies were saved are in it only where they ask for something, so that what was
        saved without them is found again.
        """
        values, later = asdict(self), fields(self)[FIRST_SAVED:]
        for each in later:
            if values[each.name] == each.default:
                del values[each.name]
        return values


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """Text or token ids that a reply goes on from as they are, without a chat template.

    Control tokens that the text spells are control tokens. `adds_special_tokens` is whether those that the tokenizer
    puts around a text (a start token, as a rule) are added.
    """

    content: str | tuple[int, ...]
    adds_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """The part in which the assistant's last turn is open, and whether text of that part is given.

    The reply goes on from there, and holds only what is new.
    """

    part: OpenPart
    has_text: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """A conversation up to the assistant's next turn, and how to sample the reply.

    `effort` is a level of effort, for chat templates that have levels of their own. `prompt_ids` are the tokens of the
    conversation, None until `render_request` has rendered it. With `raw`, there is no conversation, and all text of the
    reply is its answer, think tags included. With `open_turn` the last turn is the assistant's, and the reply goes on
    from it. The answer follows `grammar`, if there is one.
    """

    turns: tuple[Turn, ...]
    sampling: SamplingParams
    thinking: bool = True
    prompt_ids: tuple[int, ...] | None = None
    effort: str | None = None
    raw: RawPrompt | None = None
    open_turn: OpenTurn | None = None
    grammar: Grammar | None = None

    @property
    def start(self) -> OpenTurn | None:
        """The part in which the reply begins, where that is known: of a raw prompt all of it is answer."""
        return OpenTurn("answer") if self.raw else self.open_turn


class GenerationError(UserError):
    """Failure of the model or of its library to make a reply, through no fault of the request."""


class ContextLengthError(UserError):
    """A conversation that leaves no room for a reply in the model's context."""


def render_request(request: Request, tokenizer: ChatTokenizer, context_tokens: int) -> Request:
    """Render and tokenize the conversation or the raw prompt, and cap the reply at what is left of the model's context.

    A rendered request is returned as it is. Raises ContextLengthError where no token is left for the reply, UserError
    where the chat template refuses the conversation, or a raw prompt has no tokens or one that the model has not.
    """
    if request.prompt_ids is not None:
        return request
    field, name = ("prompt", "prompt") if request.raw else ("messages", "conversation")
    try:
        ids = _render(request, tokenizer, context_tokens)
    except TooLongError as error:
        raise ContextLengthError(f"{field}: {error}, which fills the model's context; shorten it") from None
    left = context_tokens - len(ids)
    if left < 1:
        raise ContextLengthError(
            f"{field}: the {name} takes {len(ids):,} tokens, and the model's context has {context_tokens:,}, with "
            "the reply; shorten it"
        )
    sampling = replace(request.sampling, max_new_tokens=min(left, request.sampling.max_new_tokens))
    return replace(request, sampling=sampling, prompt_ids=tuple(ids))


def _raw_ids(prompt: RawPrompt, tokenizer: ChatTokenizer, max_tokens: int) -> list[int]:
    content = prompt.content
    if not isinstance(content, str):
        ids = list(content)
        if strange := [number for number in ids if not 0 <= number < len(tokenizer)][:1]:
            raise UserError(f"prompt: holds the token {strange[0]}, and the model's are 0 to {len(tokenizer) - 1:,}")
    elif exceeds_tokens(content, max_tokens, tokenizer):
        raise TooLongError(
            f"the prompt has {len(content):,} characters, which is certainly more than {max_tokens:,} tokens"
        )
    else:
        backend = tokenizer.backend_tokenizer
        ids = list(backend.encode(content, add_special_tokens=prompt.adds_special_tokens).ids)
    if not ids:
        raise UserError("prompt: is empty; give at least one token")
    return ids


def _render(request: Request, tokenizer: ChatTokenizer, context_tokens: int) -> list[int]:
    turns, effort, open_turn = request.turns, request.effort, request.open_turn
    if request.raw:
        return _raw_ids(request.raw, tokenizer, context_tokens)
    if open_turn:
        return render_open_turn(turns, tokenizer, open_turn.part, effort=effort, max_tokens=context_tokens)
    return render_prompt(turns, tokenizer, thinking=request.thinking, effort=effort, max_tokens=context_tokens)


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply, parsed into reasoning and answer.

    `tokens` counts all tokens of the reply, `reasoning_tokens` those before the answer (tags included). `finish` is
    what ended the reply: the model ("end"), its token limit ("length") or a stop string ("stop"), which `stop_string`
    is. `closed` is true if the reasoning was opened (or implied) and closed.
    """

    reasoning: str
    answer: str
    tokens: int
    reasoning_tokens: int
    finish: FinishReason
    closed: bool
    prompt_tokens: int = 0
    stop_string: str | None = None


def completion_record(example: Example, reply: Completion) -> dict[str, Any]:
    """Return the JSON record of a reply with its question and reference, for samples and evaluations."""
    return {
        "row": example.source,
        "question": example.question,
        "reference_answer": example.turns[-1].content,
        "reasoning": reply.reasoning,
        "answer": reply.answer,
        "tokens": reply.tokens,
        "reasoning_tokens": reply.reasoning_tokens,
        "finish": reply.finish,
        "reasoning_closed": reply.closed,
    }
