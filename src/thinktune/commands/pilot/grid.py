"""The grid of a pilot: learning rates and epochs as they are typed, what they are by default, and their order."""

import math
from collections.abc import Sequence

from thinktune.errors import UserError
from thinktune.run.pilot_folder import round_rate

RATE_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the recipe's own rate
MIN_STEPS = 100  # of the shortest run, from which the least share follows
MAX_CELLS = 100


def parse_rates(text: str | None, own: float) -> tuple[float, ...]:
    """Parse learning rates as in `5e-6,1e-5,2e-5`, ascending; by default a quarter to four times the recipe's."""
    if text is None:
        return tuple(round_rate(own * factor) for factor in RATE_FACTORS)
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise UserError(f"--rates: is {text!r}; write learning rates with commas between, as in 5e-6,1e-5,2e-5")
    return tuple(sorted({round_rate(rate) for rate in rates}))


def parse_epochs(text: str | None, own: int) -> tuple[int, ...]:
    """Parse epochs as in `1,2,4`, ascending; by default half of the recipe's and as many, or one and two."""
    if text is None:
        return (1, 2) if own == 1 else (-(-own // 2), own)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and 0 < int(part) <= 10_000 for part in parts):
        raise UserError(f"--epochs: is {text!r}; write whole numbers with commas between, as in 1,2,4")
    return tuple(sorted({int(part) for part in parts}))


def parse_share(share: float | None) -> float | None:
    """Refuse a share that is none."""
    if share is not None and not 0 < share <= 1:
        raise UserError(f"--share: is {share:g}; write a share of the training rows above 0, up to 1")
    return share


def parse_grid(
    rates: str | None, epochs: str | None, share: float | None, minutes: float, own: tuple[float, int]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Parse all options of a grid; `own` are the recipe's rate and epochs. Raises one UserError with every mistake."""
    faults: list[str] = []
    found: list[Sequence[float] | Sequence[int]] = []
    for parse, text, default in ((parse_rates, rates, own[0]), (parse_epochs, epochs, own[1])):
        try:
            found.append(parse(text, default))  # pyright: ignore[reportArgumentType]
        except UserError as error:
            faults += error.faults
    try:
        parse_share(share)
    except UserError as error:
        faults += error.faults
    if not 0 < minutes < 1e6:
        faults.append(f"--minutes: is {minutes:g}; write the most minutes that all runs may take together, as in 60")
    if not faults and len(found[0]) * len(found[1]) > MAX_CELLS:
        faults.append(f"--rates, --epochs: ask for more than {MAX_CELLS} runs; name fewer")
    if faults:
        raise UserError(faults)
    return tuple(found[0]), tuple(int(each) for each in found[1])


def least_share(epoch_steps: int, fewest_epochs: int) -> float:
    """Return the smallest share whose shortest run has MIN_STEPS steps; all rows where none has."""
    return min(1.0, max(0.01, math.ceil(100 * MIN_STEPS / max(1, epoch_steps * fewest_epochs)) / 100))


def from_the_middle(rates: Sequence[float], middle: float) -> list[float]:
    """Order rates by their ratio to the middle one, so that what time leaves out is far from it."""
    return sorted(rates, key=lambda rate: (max(rate / middle, middle / rate), rate))
