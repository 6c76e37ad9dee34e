"""What is asked of a model and what it says: the nouns of generation, the same in process and at an endpoint."""

from dataclasses import dataclass
from typing import Any, Literal

from thinktune.data import Example, Turn

FinishReason = Literal["end", "length", "stop"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a reply is written: how its next token is chosen, and where it ends.

    `temperature` 0 takes the likeliest token. `top_k` 0 and `top_p` 1 leave every token in. `stop` holds texts that
    end the answer and are left out of it. `max_reasoning_tokens` is a budget: once it is spent and the reasoning is still
    open, it is closed for the model, in the words of its own template. Raises ValueError for a value out of range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    max_reasoning_tokens: int | None = None

    def __post_init__(self) -> None:
        wrong = [
            sentence
            for holds, sentence in (
                (self.max_new_tokens >= 1, f"max_new_tokens is {self.max_new_tokens}; it must be at least 1"),
                (self.temperature >= 0, f"temperature is {self.temperature:g}; it must be 0 or more"),
                (0 < self.top_p <= 1, f"top_p is {self.top_p:g}; it lies above 0 and at most at 1"),
                (self.top_k >= 0, f"top_k is {self.top_k}; it must be 0 (all tokens) or more"),
                (all(self.stop), "stop holds an empty text; leave it out"),
                (
                    (self.max_reasoning_tokens or 0) >= 0,
                    f"reasoning_tokens is {self.max_reasoning_tokens}; it must be 0 or more",
                ),
            )
            if not holds
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True, slots=True)
class Request:
    """A conversation up to where the assistant speaks next, and how the reply shall be written."""

    turns: tuple[Turn, ...]
    sampling: SamplingParams
    thinking: bool = True


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply taken apart.

    `tokens` counts all that were written, `reasoning_tokens` those before the answer (tags included). `finish` says
    whether the model ended the reply, its budget did, or a stop text; `closed`, whether the reasoning was opened (or
    implied) and closed. `prompt_tokens` is what the question took.
    """

    reasoning: str
    answer: str
    tokens: int
    reasoning_tokens: int
    finish: FinishReason
    closed: bool
    prompt_tokens: int = 0


def completion_record(example: Example, reply: Completion) -> dict[str, Any]:
    """A reply beside what was asked and expected, as samples and evaluations keep it."""
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
