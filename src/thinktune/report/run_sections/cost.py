"""Price of an hour of one card, as people write it."""

import re
from dataclasses import dataclass

from thinktune.errors import UserError

_PRICE = re.compile(r"(?P<before>[^\d\s.,+/-]{0,4})\s*(?P<amount>\d+(?:\.\d+)?)\s*(?P<after>[^\d\s.,+/-]{0,4})")


@dataclass(frozen=True, slots=True)
class Price:
    """Price of an hour of one card, in a currency that is written before the amount; "" where none is named."""

    per_hour: float
    currency: str


def parse_hourly_price(text: str) -> Price:
    """Parse a price as in 2.5, $2.5, `12 CNY` or ¥12; raises UserError for any other text."""
    found = _PRICE.fullmatch(text.strip())
    if not found or (found["before"] and found["after"]):
        raise UserError(f"--price: is {text!r}; write what an hour of one card costs, as in 2.5, $2.5 or 12CNY")
    return Price(float(found["amount"]), found["before"] or found["after"])
