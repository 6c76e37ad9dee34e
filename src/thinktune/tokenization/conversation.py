"""Conversations as they are trained: turns, and examples of them."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; only the assistant's has reasoning, and one that is not `trained` is only history."""

    role: Role
    content: str
    reasoning: str = ""
    trained: bool = True

    @property
    def has_reasoning(self) -> bool:
        """True unless the reasoning is blank; it decides in which mode the chat template writes the turn."""
        return bool(self.reasoning.strip())


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
