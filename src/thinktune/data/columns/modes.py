"""Modes of replies, thinking or silent: how a row asks for one, and which rows are made silent."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from thinktune.data.faults.duplicates import question_text
from thinktune.data.split import hash_fraction
from thinktune.errors import UserError
from thinktune.tokenization import ChatTokenizer, Example, Turn
from thinktune.tokenization.chat_template import render_prompt
from thinktune.tokenization.conversation import Mode

THINKING_WORDS = (
    *("on", "true", "yes", "1", "think", "thinking", "thinking on", "reasoning", "enable", "enabled"),
    *("开", "开启", "打开", "是", "思考"),
)


SILENT_WORDS = (
    *("off", "false", "no", "0", "no think", "nothink", "no thinking", "non thinking", "nonthinking", "not thinking"),
    *("thinking off", "no reasoning", "non reasoning", "silent", "disable", "disabled"),
    *("关", "关闭", "否", "不思考", "非思考"),
)


MODE_OF_WORD: dict[str, Mode] = {
    **dict.fromkeys(THINKING_WORDS, "thinking"),
    **dict.fromkeys(SILENT_WORDS, "silent"),
}


# Qwen3's switches, also as GLM (/nothink) and SmolLM3 spell them. They take effect at an end of a text or on a line of
# their own; elsewhere a text speaks about them, and after a letter or a dot they are part of a path.
_SWITCH = r"(?<![A-Za-z0-9_./:~\\-])/(no[_-]?think|think)"


_SWITCH_LINE = re.compile(rf"\s*{_SWITCH}\s*", re.IGNORECASE)


_SWITCH_AT_START = re.compile(rf"{_SWITCH}(?=\s|\Z)", re.IGNORECASE)


_SWITCH_AT_END = re.compile(rf"{_SWITCH}[.。]?\Z", re.IGNORECASE)


_LONGEST_SWITCH = 16  # characters, with the one before it


def parse_mode(value: Any) -> Mode | None:
    """Return the mode that one word, number or truth value names, or None if it names none."""
    if isinstance(value, bool):
        return "thinking" if value else "silent"
    if isinstance(value, int | float) and value in (0, 1):
        return "thinking" if value else "silent"
    if not isinstance(value, str):
        return None
    word = " ".join(value.strip().removeprefix("/").casefold().replace("_", " ").replace("-", " ").split())
    return MODE_OF_WORD.get(word)


def find_switch(text: str) -> Mode | None:
    """Return what the last switch (`/think`, `/no_think`) in a text asks for, or None if it has none."""
    return split_switches(text)[1]


def split_switches(text: str) -> tuple[str, Mode | None]:
    """Return a text without the switches at its ends and on lines of their own, and what the last of them asks for.

    A text without any is returned unchanged.
    """
    if "/" not in text:
        return text, None
    lines = text.split("\n")
    alone = [found for line in lines if (found := _SWITCH_LINE.fullmatch(line))]
    if alone:
        text = "\n".join(line for line in lines if not _SWITCH_LINE.fullmatch(line))
    last = alone[-1] if alone else None
    if found := _SWITCH_AT_START.match(text.lstrip()[:_LONGEST_SWITCH]):
        text, last = text.lstrip()[found.end() :].lstrip(), last or found
    if found := _SWITCH_AT_END.search(text.rstrip()[-_LONGEST_SWITCH:]):
        text, last = text.rstrip()[: -len(found[0])], found
    return (text.strip("\n").rstrip(), parse_mode(last[1])) if last else (text, None)


def set_modes(
    turns: Sequence[tuple[Turn, tuple[str, str]]], row_mode: Mode | None = None
) -> list[tuple[Turn, tuple[str, str]]]:
    """Give each trained reply the mode that its row asks for: by a field, else by a switch in the conversation.

    A switch of the system prompt holds for all replies, a user's for the next one. After that, a user's still stands
    for replies without reasoning, as it does for the models that know it; others go by their reasoning.
    """
    changed: list[tuple[Turn, tuple[str, str]]] = []
    system = asked = standing = None
    for turn, field_names in turns:
        mode: Mode | None = None
        match turn.role:
            case "system":
                system = find_switch(turn.content)
            case "user":
                asked = find_switch(turn.content)
                standing = asked or standing
            case "assistant":
                still = system if standing is None else None if turn.has_reasoning else standing
                mode = turn.mode or row_mode or asked or still
                asked = None
        mode = mode if turn.trained else None
        changed.append((turn if turn.mode == mode else replace(turn, mode=mode), field_names))
    return changed


def silenced(turn: Turn) -> Turn:
    """Return a reply as it is trained without thinking: its reasoning is left out."""
    return replace(turn, reasoning="", mode="silent")


def apply_silent_share(example: Example, share: float, seed: int) -> Example:
    """Make all trained replies of an example silent if it is one of the chosen share; else return it unchanged.

    Only rows with reasoning and without a mode of their own are chosen, by a hash of the question and the seed, so that
    adding rows changes none. It is independent of the split, which hashes the question alone.
    """
    if not share:
        return example
    replies = [turn for turn in example.turns if turn.is_trained_reply]
    if any(turn.mode for turn in replies) or not any(turn.has_reasoning for turn in replies):
        return example
    if hash_fraction(f"silent\n{question_text(example)}", seed) >= share:
        return example
    turns = (silenced(turn) if turn.is_trained_reply else turn for turn in example.turns)
    return replace(example, turns=tuple(turns))


def has_thinking_switch(tokenizer: ChatTokenizer) -> bool:
    """Return True if the chat template writes other prompts with thinking than without."""
    asked = [Turn("user", "question")]
    return render_prompt(asked, tokenizer, thinking=True) != render_prompt(asked, tokenizer, thinking=False)


def refuse_share_without_switch(share: float, tokenizer: ChatTokenizer) -> None:
    """Raise UserError where a share of rows should be silent and the chat template cannot ask for it."""
    if share and not has_thinking_switch(tokenizer):
        raise UserError(
            f"data.silent_share: is {share:g}, but the model's chat template writes the same prompt with and "
            "without thinking, so nothing would tell the model when not to think; leave silent_share out, or use "
            "a template that has a switch (enable_thinking)"
        )
