"""How long a run takes, and what that costs: from the predicted speed of a card, or from what this CPU multiplies."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from thinktune.errors import UserError
from thinktune.model import ModelConfig
from thinktune.planner.flops import flops_per_token

FORWARD_SHARE = 1 / 3  # of a training step's time, which an evaluation of as many tokens takes
CPU_SHARES = (0.25, 0.9)  # of the rate of a matrix product that a CPU reaches in a run
PRODUCT_SIZE = 1024
PRODUCT_REPEATS = 3
ALWAYS_LEFT_OUT = ("starting", "saving")  # of the time of a run
_PRICE = re.compile(r"([$€¥£])?\s*([0-9]+(?:\.[0-9]+)?)\s*([^\s\d.]{1,4})?")


@dataclass(frozen=True, slots=True)
class RunTokens:
    """Tokens that a run trains on and evaluates, over all its steps, and the share of its time for samples."""

    trained: int
    evaluated: int
    sample_share: float


@dataclass(frozen=True, slots=True)
class HourlyPrice:
    """Price of an hour, and the currency as the user wrote it; it may be empty."""

    amount: float
    currency: str


def run_seconds(tokens: RunTokens, speeds: tuple[float, float]) -> tuple[float, float]:
    """Return the fewest and the most seconds of a run at its lowest and highest speed, in tokens per second."""
    slow, fast = speeds
    counted = tokens.trained + FORWARD_SHARE * tokens.evaluated
    return counted / fast, counted / slow / (1 - min(0.9, tokens.sample_share))


def cpu_speeds(config: ModelConfig, row_lengths: Any) -> tuple[float, float] | None:
    """Time a matrix product on this CPU, and return the lowest and highest tokens per second that follow from it.

    None for a class whose operations cannot be counted. Takes some hundredths of a second.
    """
    operations = flops_per_token(config, row_lengths)
    if not operations:
        return None
    rate = _product_rate()
    low, high = (rate * share / operations for share in CPU_SHARES)
    return low, high


@cache
def _product_rate() -> float:
    """Time a matrix product on this CPU, once in a process, and return its operations a second."""
    matrix = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE)
    seconds: list[float] = []
    for _ in range(PRODUCT_REPEATS):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - started)
    return 2 * PRODUCT_SIZE**3 / max(1e-9, min(seconds))


def parse_hourly_price(text: str) -> HourlyPrice:
    """Parse the price of an hour, as in 2.5, 2.5CNY or $2.5; raises UserError for any other text."""
    found = _PRICE.fullmatch(text.strip())
    if found is None or (found[1] and found[3]):
        raise UserError(f"--price: is {text!r}; write what an hour of the machine costs, as in 2.5 or 2.5CNY")
    return HourlyPrice(float(found[2]), found[1] or found[3] or "")


def time_as_dict(
    seconds: tuple[float, float], basis: str, price: HourlyPrice | None, left_out: Sequence[str] = ALWAYS_LEFT_OUT
) -> dict[str, Any]:
    """Return a run's time, and what it costs, as JSON values; `left_out` names what is not in them."""
    time_facts: dict[str, Any] = {"seconds": [round(each, 1) for each in seconds], "basis": basis}
    time_facts["left_out"] = list(left_out)
    if price is None:
        return {"time": time_facts}
    cost = [round(each / 3600 * price.amount, 4) for each in seconds]
    return {"time": time_facts, "cost": {"price_per_hour": price.amount, "currency": price.currency, "range": cost}}


def describe_time(facts: dict[str, Any]) -> list[str]:
    """Describe what `time_as_dict` returned in a line or two."""
    if "time" not in facts:
        return []
    shortest, longest = facts["time"]["seconds"]
    lines = [
        f"time: {spell_range(shortest, longest)} with its evaluations, {facts['time']['basis']}; "
        f"{', '.join(facts['time']['left_out'][:-1])} and {facts['time']['left_out'][-1]} are not included"
    ]
    if cost := facts.get("cost"):
        low, high = (f"{each:.2f}" for each in cost["range"])
        amount = low if low == high else f"{low} to {high}"
        currency = f" {cost['currency']}" if cost["currency"] else ""
        more = " without the parts left out" if len(facts["time"]["left_out"]) > len(ALWAYS_LEFT_OUT) else ""
        lines.append(f"cost: {amount}{currency}{more} at {cost['price_per_hour']:g}{currency} an hour")
    return lines


def spell_range(shortest: float, longest: float) -> str:
    """Spell a range of seconds in the unit that suits its longer end, as in 3 to 5 min."""
    for unit, seconds in (("h", 3600), ("min", 60)):
        if longest >= 2 * seconds:
            ends = [
                f"{each / seconds:.2g}" if each < 100 * seconds else f"{each / seconds:,.0f}"
                for each in (shortest, longest)
            ]
            return f"{' to '.join(dict.fromkeys(ends))} {unit}"
    ends = [f"{max(1, round(each))}" for each in (shortest, longest)]
    return f"{' to '.join(dict.fromkeys(ends))} s"
