"""Account of `think`: what was asked, kept and spent, and why each other try was not kept."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thinktune.progress import SECONDS_BETWEEN_LINES, Say, format_duration
from thinktune.synthesis.ledger import Ledger
from thinktune.synthesis.rounds import round_lines

EXAMPLES = 3  # of each reason
NOT_NEEDED = ("nearly the same as another", "more than asked for")  # reasons that no try is blamed for


class AskingProgress:
    """Reporter of replies, time left and spendings every few seconds."""

    def __init__(self, say: Say, total: int, known: int, ledger: Ledger) -> None:
        self._say, self._total, self._known, self._ledger = say, total, known, ledger
        self._started_at = self._reported_at = time.monotonic()

    def update(self, done: int) -> None:
        """Report that so many replies are there, if it is time."""
        now = time.monotonic()
        if now - self._reported_at < SECONDS_BETWEEN_LINES or done <= self._known:
            return
        self._reported_at = now
        speed = (done - self._known) / (now - self._started_at)
        left = format_duration((self._total - done) / speed)
        self._say(f"{done:,} of {self._total:,} replies, {speed:.2g}/s, left {left}; spent {spending(self._ledger)}")


def spending(ledger: Ledger) -> str:
    """Describe what was spent, with its bounds."""
    tokens = f"{ledger.spent.total:,}" + (f" of {ledger.max_tokens:,}" if ledger.max_tokens else "") + " tokens"
    if ledger.price is None or ledger.cost is None:
        return tokens
    bound = f" of {ledger.max_cost:,.2f}" if ledger.max_cost is not None else ""
    return f"{tokens}, {ledger.price.currency} {ledger.cost:,.4f}{bound}"


def spending_record(ledger: Ledger) -> dict[str, Any]:
    """Return what was spent as plain values."""
    spent = ledger.spent
    record: dict[str, Any] = {
        "tokens": {"prompt": spent.prompt_tokens, "reply": spent.reply_tokens, "bound": ledger.max_tokens},
        "money": None,
        "budget_spent": ledger.is_spent,
    }
    if ledger.price is not None and ledger.cost is not None:
        money = {"currency": ledger.price.currency, "spent": round(ledger.cost, 6), "bound": ledger.max_cost}
        record["money"] = money | {"per_million": [ledger.price.prompt, ledger.price.reply]}
    return record


def reasons(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Count why tries were not kept, the commonest reason first, with some examples."""
    refused = [verdict for verdict in verdicts if not verdict["kept"]]
    examples: dict[str, list[str]] = {}
    for verdict in refused:
        shown = examples.setdefault(verdict["why"], [])
        if len(shown) < EXAMPLES:
            detail = f": {verdict['detail']}" if verdict["detail"] else ""
            shown.append(f"{verdict['row']}, try {verdict['try'] + 1}{detail}")
    counted = Counter(verdict["why"] for verdict in refused)
    return [{"why": why, "count": count, "examples": examples[why]} for why, count in counted.most_common()]


def account_lines(account: Mapping[str, Any]) -> Iterator[str]:
    """Yield the account in sentences."""
    rows = account["rows"]
    yield (
        f"{rows['read']:,} rows read: {rows['asked']:,} without {account['lacking']}, {rows['passed']:,} passed on "
        f"unchanged, {rows['left_out']:,} left out for a fault"
    )
    for fault in account["faults"]:
        yield f"  {fault['fault']}: {fault['count']:,}, as in {fault['examples'][0]}"
    yield (
        f"{account['questions']:,} questions, {account['replies']:,} replies of {account['teacher']}: "
        f"{account['kept_replies']:,} kept, for {account['kept_questions']:,} questions"
    )
    for reason in account["why_not"]:
        right = "correct, but " if reason["why"] in NOT_NEEDED else "not kept: "
        yield f"  {right}{reason['why']}: {reason['count']:,}, as in {reason['examples'][0]}"
    for why, count in account["failures"].items():
        yield f"  {why}: {count:,}"
    yield from round_lines(account["rounds"])
    yield from account["notes"]
    yield f"spent: {account['spent_in_words']}"
    yield f"{account['file']}: {account['written_rows']:,} rows"
