"""Conversations as they are trained: turns, and examples of them."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
Mode = Literal["thinking", "silent"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; only the assistant's has reasoning, and one that is not `trained` is only history.

    `mode` is what the row itself asks for, by a switch or a column; None where it says nothing.
    """

    role: Role
    content: str
    reasoning: str = ""
    trained: bool = True
    mode: Mode | None = None

    @property
    def has_reasoning(self) -> bool:
        """True unless the reasoning is blank."""
        return bool(self.reasoning.strip())

    @property
    def is_trained_reply(self) -> bool:
        """True for an assistant's turn that is learned."""
        return self.role == "assistant" and self.trained

    @property
    def thinks(self) -> bool:
        """True if the chat template writes the turn in its mode with thinking: by its `mode`, else by its reasoning."""
        return self.has_reasoning if self.mode is None else self.mode == "thinking"


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation, its `file:line`, and, if the row gives one, the key point of a right answer."""

    turns: tuple[Turn, ...]
    source: str
    keypoint: str | None = None

    @property
    def question(self) -> str:
        """The content of the last user turn."""
        return next(turn.content for turn in reversed(self.turns) if turn.role == "user")
