"""LLM judge: compares two answers in both orders, ties allowed; verdicts are saved and tokens counted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from thinktune.eval.completion_store import RecordWriter, read_records
from thinktune.inference import Completion, Request, SamplingParams
from thinktune.progress import ProgressReporter, Say
from thinktune.tokenization import Turn

ORDERS = ("base first", "tuned first")
MAX_TRIED_BRACES = 100  # from the end of a judge's reply, where its verdict stands
MAX_JUDGE_TOKENS = 2048  # of a verdict, with the reasoning before it
_LENIENT_JSON = json.JSONDecoder(strict=False)  # accepts line breaks inside the reason
_WINNERS = {"1": 0, "2": 1, "first": 0, "second": 1}

JUDGE_PROMPT = """\
You compare two answers to one question. Judge only whether they are right, complete and safe to follow; neither length
nor style nor order counts. Where both are equally right or equally wrong, say "tie".{reference}

[Question]
{question}

[Answer 1]
{first}

[Answer 2]
{second}

Reply with one JSON object and nothing else: {{"reason": "one or two sentences", "winner": "1", "2" or "tie"}}"""


class Completer(Protocol):
    """Source of completions: an endpoint, or a model in this process."""

    def complete(self, requests: Sequence[Request], max_concurrency: int = 32) -> Iterator[tuple[int, Completion]]:
        """Yield each request's index and completion, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to one question, and its reference ("" without one)."""

    question: str
    reference: str
    base: str
    tuned: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """Result of both orders for one pair, and its cost in tokens."""

    preferred: float | None  # 1 if the tuned answer wins, 0.5 for a tie, else 0; None if a verdict was unreadable
    agreed: bool  # both orders gave the same winner
    prompt_tokens: int
    tokens: int


def judge_pairs(
    pairs: Sequence[AnswerPair], model: str, completer: Completer, file: Path, say: Say, max_concurrency: int = 8
) -> None:
    """Ask the judge for each verdict that is not in the file yet, and append it there.

    Pairs of equal answers are ties without asking.
    """
    saved = read_records(file)
    wanted = {
        key: (pair, order)
        for pair in pairs
        if pair.base.strip() != pair.tuned.strip()
        for order in ORDERS
        if (key := judgement_key(pair, order, model)) not in saved
    }
    requests = [judge_request(pair, order) for pair, order in wanted.values()]
    keys = list(wanted)
    progress = ProgressReporter(say, "verdicts", len(requests))
    with RecordWriter(file) as writer:
        for done, (index, reply) in enumerate(completer.complete(requests, max_concurrency), 1):
            _, order = wanted[keys[index]]
            winner, reason = parse_judgement(reply.answer, order)
            verdict = {"key": keys[index], "order": order, "winner": winner, "reason": reason, "reply": reply.answer}
            writer.add(verdict | {"prompt_tokens": reply.prompt_tokens, "tokens": reply.tokens})
            progress.update(done)


def judgement_key(pair: AnswerPair, order: str, model: str) -> str:
    """Hash what identifies a verdict: everything that the judge is shown, and its model."""
    text = json.dumps([JUDGE_PROMPT, model, order, pair.question, pair.reference, pair.base, pair.tuned])
    return blake2b(text.encode(), digest_size=12).hexdigest()


def parse_judgement(text: str, order: str) -> tuple[str, str]:
    """Parse a judge's reply into its winner ("base", "tuned", "tie" or "unread") and its reason."""
    end = len(text)
    for _ in range(MAX_TRIED_BRACES):
        end = text.rfind("{", 0, end)
        if end < 0:
            break
        try:
            verdict: Any = _LENIENT_JSON.raw_decode(text, end)[0]
            winner, reason = (str(verdict.get(name, "")) for name in ("winner", "reason"))
        except (ValueError, RecursionError):  # the latter of a thousand brackets inside each other
            continue
        winner = winner.strip().casefold()
        if winner == "tie":
            return "tie", reason
        if winner in _WINNERS:
            sides = ("base", "tuned") if order == ORDERS[0] else ("tuned", "base")
            return sides[_WINNERS[winner]], reason
    return "unread", text.strip()[:500]


def combine_orders(pair: AnswerPair, model: str, saved: Mapping[str, Mapping[str, Any]]) -> Judgement | None:
    """Combine the saved verdicts of both orders: a side wins if both say so, anything else is a tie.

    Returns None if a verdict is missing.
    """
    if pair.base.strip() == pair.tuned.strip():
        return Judgement(0.5, True, 0, 0)
    verdicts = [saved[key] for order in ORDERS if (key := judgement_key(pair, order, model)) in saved]
    if len(verdicts) < len(ORDERS):
        return None
    winners = [verdict["winner"] for verdict in verdicts]
    points = {"base": 0, "tie": 0.5, "tuned": 1}
    preferred: float | None = None
    if "unread" not in winners:
        total = sum(points[winner] for winner in winners)
        preferred = total / 2 if total in (0, 2) else 0.5
    prompt_tokens, tokens = (sum(int(verdict[name]) for verdict in verdicts) for name in ("prompt_tokens", "tokens"))
    return Judgement(preferred, winners[0] == winners[1], prompt_tokens, tokens)


def summarize_judgements(model: str, judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Count wins, ties and losses of the tuned model, agreements of both orders, and tokens."""
    preferred = [each.preferred for each in judgements]
    return {
        "model": model,
        "pairs": len(judgements),
        "wins": preferred.count(1.0),
        "ties": preferred.count(0.5),
        "losses": preferred.count(0.0),
        "unread": preferred.count(None),
        "orders_agreed": sum(each.agreed for each in judgements),
        "prompt_tokens": sum(each.prompt_tokens for each in judgements),
        "tokens": sum(each.tokens for each in judgements),
    }


def judge_request(pair: AnswerPair, order: str) -> Request:
    """Return the request for a judge's verdict on a pair in one order."""
    first, second = (pair.base, pair.tuned) if order == ORDERS[0] else (pair.tuned, pair.base)
    reference = f"\n\n[A right answer]\n{pair.reference}" if pair.reference else ""
    text = JUDGE_PROMPT.format(question=pair.question, reference=reference, first=first, second=second)
    return Request((Turn("user", text),), SamplingParams(MAX_JUDGE_TOKENS))
