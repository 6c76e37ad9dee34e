"""Replies longer than `data.max_tokens`: left out or trimmed, so that the others of a conversation are kept."""

from collections.abc import Sequence
from dataclasses import replace

from thinktune.config import DataConfig
from thinktune.data.columns.modes import apply_silent_share
from thinktune.data.types import Action, Finding
from thinktune.tokenization import ChatTokenizer, Example, Rendered, Turn
from thinktune.tokenization.tokenizer import exceeds_tokens, max_characters
from thinktune.tokenization.trimming import trim_reasoning


def cut_surely_too_long(
    example: Example, settings: DataConfig, tokenizer: ChatTokenizer
) -> tuple[Example | None, tuple[Finding, ...]]:
    """End an example before what is surely too long, before it is checked, rendered and tokenized; None drops it.

    Reasoning that may be trimmed is left for later.
    """
    turns = apply_silent_share(example, settings.silent_share, settings.seed).turns
    may_trim = settings.faults["too_long"] == "trim-reasoning"
    replies = [place for place, turn in enumerate(turns) if turn.is_trained_reply]
    end = _end_of_contents(turns, replies, settings.max_tokens, tokenizer)
    fitting = [place for place in replies if place < end]
    most = max_characters(settings.max_tokens, tokenizer)
    texts = (_text(turns, place, with_reasoning=not may_trim) for place in fitting)
    if all(len(text) > most and exceeds_tokens(text, settings.max_tokens, tokenizer) for text in texts):
        fitting = []
    if len(fitting) == len(replies):
        return example, ()
    what = _describe_characters(len(_text(turns, replies[-1], with_reasoning=not may_trim)), settings.max_tokens)
    if not fitting or settings.faults["too_long"] == "stop":
        action: Action = "stops" if settings.faults["too_long"] == "stop" else "dropped"
        return None, (Finding("too_long", f"{example.source}: {what}", action),)
    count = f"the last {len(replies) - len(fitting):,} of its {len(replies):,} replies have up to "
    sentence = f"{example.source}: {count}{what}; the conversation ends before them"
    return replace(example, turns=example.turns[: fitting[-1] + 1]), (Finding("too_long", sentence, "trimmed"),)


def _end_of_contents(turns: Sequence[Turn], replies: Sequence[int], max_tokens: int, tokenizer: ChatTokenizer) -> int:
    """Return the place of the first trained reply that is surely too long by the contents up to it, or the end."""
    characters = tested = 0
    most = max_characters(max_tokens, tokenizer)
    trained = set(replies)
    for place, turn in enumerate(turns):
        characters += len(turn.content.strip())
        # Twice as much each time, so that a long conversation takes time linear in its text.
        if place in trained and characters > max(most, 2 * tested):
            tested = characters
            if exceeds_tokens(_text(turns, place, with_reasoning=False), max_tokens, tokenizer):
                return place
    return len(turns)


def _text(turns: Sequence[Turn], place: int, *, with_reasoning: bool) -> str:
    """Join what a template surely writes for the reply at a place: all contents up to it, and its own reasoning."""
    reply = turns[place]
    reasoning = reply.reasoning.strip() if with_reasoning and reply.thinks else ""
    return "".join(turn.content.strip() for turn in turns[: place + 1]) + reasoning


def handle_too_long(
    example: Example, replies: Sequence[Rendered | None], settings: DataConfig, tokenizer: ChatTokenizer
) -> tuple[tuple[Example, list[Rendered]] | None, Finding]:
    """Leave out an example's replies over `max_tokens`, or trim them where the policy says so; None drops the row.

    `replies` are those of the example's trained turns; None where one was too long to be tokenized.
    """
    limit, policy = settings.max_tokens, settings.faults["too_long"]
    too_long = [reply is None or len(reply) > limit for reply in replies]
    trims = policy == "trim-reasoning"
    trimmed, lengths = trim_reasoning(example, tokenizer, limit) if trims else (example, replies)
    fitting = None if policy == "stop" else _only_fitting(trimmed, lengths, limit)
    what, note = _describe(example, replies, limit), ""
    if fitting is None:
        note = ", and too few of them are reasoning that could be trimmed" if trims else ""
        return None, Finding("too_long", f"{example.source}: {what}{note}", "stops" if policy == "stop" else "dropped")
    if trims:
        note = f"; {max(map(len, fitting[1]))} after sentences were cut from the middle of the reasoning"
    if left_out := len(replies) - len(fitting[1]):
        count = f"{sum(too_long):,} of its {len(replies):,} replies have up to "
        what = f"{count}{what}"
        note += f"; {left_out:,} {'is' if left_out == 1 else 'are'} left out, and the others are trained"
    return fitting, Finding("too_long", f"{example.source}: {what}{note}", "trimmed")


def _only_fitting(
    example: Example, replies: Sequence[Rendered | None], limit: int
) -> tuple[Example, list[Rendered]] | None:
    """Make the replies that do not fit history, and end the example after the last one that does; None if none does."""
    places = [place for place, turn in enumerate(example.turns) if turn.is_trained_reply]
    fitting = {place: reply for place, reply in zip(places, replies, strict=True) if reply and len(reply) <= limit}
    if not fitting:
        return None
    turns = tuple(
        replace(turn, trained=False) if turn.is_trained_reply and place not in fitting else turn
        for place, turn in enumerate(example.turns[: max(fitting) + 1])
    )
    same = turns == example.turns
    return example if same else replace(example, turns=turns), list(fitting.values())


def _describe(example: Example, replies: Sequence[Rendered | None], limit: int) -> str:
    """Describe the longest reply, in tokens if all are known, else the whole in characters."""
    if lengths := [len(reply) for reply in replies if reply is not None and len(reply) > limit]:
        return f"{max(lengths)} tokens, more than data.max_tokens {limit}"
    return _describe_characters(sum(len(turn.content) + len(turn.reasoning) for turn in example.turns), limit)


def _describe_characters(characters: int, max_tokens: int) -> str:
    return f"{characters:,} characters, more than data.max_tokens {max_tokens} can hold"
