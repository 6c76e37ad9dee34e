"""The verb think: its bounds as they are typed, and the account as lines."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thinktune.config import Recipe
from thinktune.errors import UserError
from thinktune.progress import Say
from thinktune.run.environment import shell_command
from thinktune.synthesis import ThinkOptions, account_lines, parse_price, think
from thinktune.synthesis.teacher import Patience


def think_about_rows(
    recipe: Recipe,
    options: ThinkOptions,
    bounds: Sequence[str | None],
    concurrency: int,
    say: Say,
) -> dict[str, Any]:
    """Think about a recipe's rows and return the account; `bounds` are the price and the length of the reasoning."""
    price, length = bounds
    faults: list[str] = []
    try:
        options = replace(options, price=parse_price(price) if price else None)
    except UserError as error:
        faults += error.faults
    try:
        options = replace(options, reasoning_tokens=parse_length(length))
    except UserError as error:
        faults += error.faults
    if faults:
        raise UserError(faults)
    return think(recipe, options, say, Patience(max_concurrency=concurrency))


def parse_length(text: str | None) -> tuple[int, int | None]:
    """Parse the shortest and the longest reasoning in tokens, as in 50:1500, 50: or :1500."""
    found = re.fullmatch(r"(\d*):(\d*)", (text or ":").strip())
    if found is None:
        raise UserError(f"--length: is {text!r}; write the fewest and the most tokens of reasoning, as in 50:1500")
    return int(found[1] or 1), int(found[2]) if found[2] else None


def print_account(account: dict[str, Any], say: Say) -> None:
    """Print what was asked, kept and spent, and what to type next."""
    for line in account_lines(account):
        say(line)
    if account["written_rows"]:
        say(f"next: {shell_command('check', Path(account['recipe']))}")
