"""Reasoning that says nothing, and answers that only repeat the question."""

import re
from collections import Counter

from thinktune.data.faults.habits import Habits
from thinktune.data.faults.marks.reply_forms import suggest_think_tags
from thinktune.data.faults.repairs import comparison_key
from thinktune.data.faults.text_checks import VISIBLE
from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns, trained_replies
from thinktune.tokenization import Turn

MAX_TALK_CHARACTERS = 120  # longer reasoning says something


MIN_WORD_LETTERS = 3  # a letter or two may name a variable


MIN_ECHO_CHARACTERS = 8  # a greeting is answered by the same greeting; a Chinese character counts as two


_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


_HAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


# What people and programs write where there is no reasoning: words alone, without marks, in lower case.
_NO_REASONING = re.compile(
    "|".join(
        (
            r"(?:there is |i have |i need |i do )?(?:no|not|none|without|skip|skipped|omitted|empty|null|missing)?"
            r"(?: any)?(?: further| extra| additional)?"
            r"(?: ?(?:reasoning|thinking|thoughts?|explanation|analysis|rationale|cot|steps))?"
            r"(?: is| was| are)?(?: not)?"
            r"(?: ?(?:needed|required|necessary|provided|available|given|applicable|here|n a))*",
            r"(?:see|as|same as) (?:above|below|before)|to be (?:filled(?: in)?|added|done)|todo|tbd|placeholder",
            r"(?:let me|let us|let's|lets|i will|i'll|i should|i need to) (?:think|see|reason)"
            r"(?: about (?:it|this|that))?(?: (?:step by step|carefully|for a moment))?",
            r"(?:thinking|think|reasoning)(?: (?:step by step|carefully|process))?|ok|okay|sure|yes|hm+|well|wait|done",
            r"无需?|没有?|略|暂无|空|同上|见上|不用|不需要|不必|待补充|待填写|好的?|嗯+|收到",
            r"(?:此处|这里|这道?题)?(?:无|没有|无需|不需要|不用|无须|暂无|省略|略去|跳过)(?:任何|过多|额外)?的?"
            r"(?:思考|推理|分析|思维链|解释|说明)(?:过程|步骤|内容)?",
            r"(?:思考|推理|分析)(?:过程)?(?:中|略|省略|无|暂无|为空|一下)?",
            r"(?:让我|我来|先|请)(?:一步一步地?|一步步地?|好好|仔细)?(?:思考|想想|想一想|分析)(?:一下)?(?:这个问题)?",
        )
    )
)


def find_no_reasoning(habits: Habits, turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find trained replies without reasoning, or with some that says nothing."""
    faults = list[TurnFault]()
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False)):
        if not turn.is_trained_reply or turn.mode == "silent":
            continue
        if why := _why_empty(turn, _question(turns, index), habits):
            why = (
                "has no think block" if not VISIBLE.search(turn.reasoning) and reasoning_field == content_field else why
            )
            asked = ", but the row asks for reasoning" if turn.mode == "thinking" else ""
            asked += suggest_think_tags(turn.content)
            faults.append(TurnFault(index, f"{reasoning_field}: {why}{asked}"))
    return faults, None


def find_echoes(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find answers that are their question once more, as a wrong mapping makes them."""
    wrong = "data.columns.answer may name the wrong column"
    return [
        TurnFault(index, f"{field}: only repeats the question ({turn.content.strip()[:20]!r}); {wrong}")
        for index, turn, (field, _) in trained_replies(turns, field_names)
        if _is_echo(turn.content, _question(turns, index))
    ], None


def _why_empty(turn: Turn, question: str, habits: Habits) -> str | None:
    """Say why a reply's reasoning is none, or None."""
    text = turn.reasoning.strip()
    if not VISIBLE.search(text):
        return "is empty or null"
    if len(text) <= MAX_TALK_CHARACTERS:
        words = " ".join(_WORD.findall(text))
        if not words:
            return None if _is_formula(text) else f"says nothing ({text[:20]!r})"
        if _NO_REASONING.fullmatch(words.lower().replace(" ", "") if _HAN.search(words) else words.lower()):
            return f"says nothing ({text[:40]!r})"
        if _is_one_word(words):
            return f"is one word ({text[:20]!r})"
        if comparison_key(text) in habits.shared_reasoning:
            return f"is the same text in many rows with other answers ({text[:40]!r})"
    if _is_same(text, question):
        return f"only repeats the question ({text[:20]!r})"
    return None


def _is_one_word(words: str) -> bool:
    return len(words) >= MIN_WORD_LETTERS and words.isalpha() and not _HAN.search(words)


def _is_formula(text: str) -> bool:
    """Return True for signs that carry meaning, as emoji and arrows do in puzzles."""
    return any(
        not character.isascii() and not character.isalnum() and character not in "…—。，、？！·" for character in text
    )


def _is_echo(answer: str, question: str) -> bool:
    if not _is_same(answer, question):
        return False
    counts = Counter(bool(_HAN.match(character)) for character in answer if character.isalnum())
    return counts[False] + 2 * counts[True] >= MIN_ECHO_CHARACTERS


def _is_same(text: str, question: str) -> bool:
    """Return True for two texts with the same words; their first letters settle most pairs."""
    size = len(text)
    if not question or abs(size - len(question)) > max(8, size // 4):
        return False
    key = "".join(_WORD.findall(text.lower()))
    return bool(key) and key == "".join(_WORD.findall(question.lower()))


def _question(turns: Turns, index: int) -> str:
    return turns[index - 1].content.strip() if index and turns[index - 1].role == "user" else ""
