"""Ledger of a bounded budget: tokens and money are reserved before a request is sent, and settled after its reply."""

import re
import threading
from dataclasses import dataclass

from thinktune.errors import UserError

TOKENS_PER_PRICE = 1_000_000  # prices are quoted per million tokens
_PRICE = re.compile(
    r"(?P<before>[A-Za-z]{3}|[$¥￥])?\s*(?P<prompt>\d+(?:\.\d+)?)\s*[/:,]\s*(?P<reply>\d+(?:\.\d+)?)\s*(?P<after>[A-Za-z]{3}|[$¥￥])?"
)
_CURRENCIES = {"$": "USD", "¥": "CNY", "￥": "CNY"}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request: its prompt, and its reply."""

    prompt_tokens: int = 0
    reply_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt_tokens + other.prompt_tokens, self.reply_tokens + other.reply_tokens)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt_tokens - other.prompt_tokens, self.reply_tokens - other.reply_tokens)

    @property
    def total(self) -> int:
        """All tokens."""
        return self.prompt_tokens + self.reply_tokens


@dataclass(frozen=True, slots=True)
class Price:
    """Price of a million tokens in prompts and in replies, in one currency (ISO 4217)."""

    prompt: float
    reply: float
    currency: str = "USD"

    def cost(self, usage: Usage) -> float:
        """Return what the tokens cost."""
        return (usage.prompt_tokens * self.prompt + usage.reply_tokens * self.reply) / TOKENS_PER_PRICE


def parse_price(text: str) -> Price:
    """Parse a price as in 2/8, `2/8 CNY` or `$0.5/2`; raises UserError for any other text."""
    found = _PRICE.fullmatch(text.strip())
    if found is None or (found["before"] and found["after"]):
        raise UserError(
            f"--price: is {text!r}; write what a million tokens cost in prompts and in replies, as in 2/8 or 2/8CNY"
        )
    named = (found["before"] or found["after"] or "USD").upper()
    return Price(float(found["prompt"]), float(found["reply"]), _CURRENCIES.get(named, named))


class Ledger:
    """What is spent and what is reserved; together they never exceed the bounds. Methods may be called by many threads.

    A server that writes more than it was allowed to, or reads more than it was sent, makes all later reservations
    larger: replies by the same factor, prompts by as many tokens.
    """

    def __init__(
        self, max_tokens: int | None = None, price: Price | None = None, max_cost: float | None = None
    ) -> None:
        self.max_tokens, self.price, self.max_cost = max_tokens, price, max_cost
        self.spent = Usage()
        self.is_spent = False  # a reservation was refused
        self._reserved = Usage()
        self._overrun = 1.0  # of replies
        self._hidden_prompt_tokens = 0  # as a system prompt of the server's own
        self._closed = False
        self._changed = threading.Condition()

    @property
    def cost(self) -> float | None:
        """What was spent, in the price's currency; None without a price."""
        return None if self.price is None else self.price.cost(self.spent)

    def charge(self, usage: Usage) -> None:
        """Add what was spent before, by an earlier process."""
        with self._changed:
            self.spent += usage

    def reserve(self, usage: Usage) -> Usage | None:
        """Reserve what a request can cost at most; None if the budget has no room for it.

        While other reservations may still free enough, it waits for them.
        """
        with self._changed:
            while True:
                prompt_tokens = usage.prompt_tokens + self._hidden_prompt_tokens
                wanted = Usage(prompt_tokens, round(usage.reply_tokens * self._overrun))
                if not self._closed and self._fits(self.spent + self._reserved + wanted):
                    self._reserved += wanted
                    return wanted
                if self._closed:
                    return None
                if not self._reserved.total or not self._fits(self.spent + wanted):
                    self.is_spent = True
                    return None
                self._changed.wait()

    def settle(self, reserved: Usage, used: Usage) -> None:
        """Replace a reservation by what was used in its place: nothing, where the request was never accepted."""
        with self._changed:
            self._reserved -= reserved
            self.spent += used
            self._hidden_prompt_tokens += max(0, used.prompt_tokens - reserved.prompt_tokens)
            if used.reply_tokens > reserved.reply_tokens > 0:
                self._overrun *= used.reply_tokens / reserved.reply_tokens
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse all reservations from now on, those that wait included."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, usage: Usage) -> bool:
        if self.max_tokens is not None and usage.total > self.max_tokens:
            return False
        return self.price is None or self.max_cost is None or self.price.cost(usage) <= self.max_cost
