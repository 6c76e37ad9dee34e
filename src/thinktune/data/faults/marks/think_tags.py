"""Think tags in texts: read as reasoning, removed where that is sure, and described."""

import re
from dataclasses import replace

from thinktune.data.faults.repairs import comparison_key, excerpt
from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns
from thinktune.tokenization import Turn
from thinktune.tokenization.conversation import Role

# The possessive `*+` and `++` never backtrack, so no row takes long, however odd.
_GAP = r"(?:\s|\\n)*+"


_OPEN, _CLOSE = rf"<{_GAP}think{_GAP}>", rf"<{_GAP}/{_GAP}think{_GAP}>"


THINK_TAG = re.compile(rf"<{_GAP}(/?){_GAP}think{_GAP}>", re.IGNORECASE)


# Tags that a program has escaped, or that were typed with the wide marks of Chinese input.
_ESCAPED_TAG = re.compile(r"(?:&lt;|&#60;|＜|\\<|<(?=\\/)) ?(\\?[/／]?) ?think ?(?:&gt;|&#62;|＞|\\>|>)", re.IGNORECASE)


_TAG_TWICE = re.compile(rf"{_OPEN}{_GAP}{_OPEN}|{_CLOSE}{_GAP}{_CLOSE}", re.IGNORECASE)


_OPENS_AT_START = re.compile(rf"\A(?:{_GAP}{_OPEN})++{_GAP}", re.IGNORECASE)


_TAGS_AT_START = re.compile(rf"\A(?:{_GAP}<{_GAP}/?{_GAP}think{_GAP}>)++{_GAP}", re.IGNORECASE)


_CLOSES_AT_START = re.compile(rf"\A(?:{_GAP}{_CLOSE})++{_GAP}", re.IGNORECASE)


_BLOCK_AT_START = re.compile(rf"\A(?:{_GAP}{_OPEN})++(.*?){_CLOSE}(?:{_GAP}{_CLOSE})*{_GAP}", re.IGNORECASE | re.DOTALL)


_AT_END_OF_QUESTION = re.compile(rf"\s*+{_OPEN}{_GAP}({_CLOSE}{_GAP})?\Z", re.IGNORECASE)


_LONGEST_END = 200  # characters of a question's end in which its think tags are looked for


def find_think_tags(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find think tags inside reasoning and contents; repaired where what they mean is sure."""
    safe, unsafe, repaired = list[TurnFault](), list[TurnFault](), list(turns)
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False)):
        mended = repaired[index]  # a question before it may have made it silent
        if "<" in turn.reasoning and THINK_TAG.search(turn.reasoning):
            mended = replace(mended, reasoning=strip_reasoning_tags(turn.reasoning))
            (unsafe if THINK_TAG.search(mended.reasoning) else safe).append(
                TurnFault(index, f"{reasoning_field}: {describe_think_tag(turn.reasoning, turn.role)}")
            )
        content = _unescape_tags(turn)
        if "<" in content and THINK_TAG.search(content):
            mended = _mend_content(replace(mended, content=content))
            (unsafe if THINK_TAG.search(mended.content) else safe).append(
                TurnFault(index, f"{content_field}: {_describe(turn, content, mended)}")
            )
        repaired[index] = mended
        if turn.role == "user" and _asks_for_silence(turn) and not THINK_TAG.search(mended.content):
            _silence_next(repaired, turns, index)
    changed = repaired != list(turns)
    return unsafe + safe, None if unsafe else tuple(repaired) if changed else turns


def _unescape_tags(turn: Turn) -> str:
    """Return a reply's content with its escaped tags as plain ones, if they then are a think block; else unchanged."""
    content = turn.content
    if turn.role != "assistant" or not _ESCAPED_TAG.search(content):
        return content
    plain = _ESCAPED_TAG.sub(lambda found: f"<{'/' if found[1] else ''}think>", content)
    mended = _mend_content(replace(turn, content=plain))
    return content if THINK_TAG.search(mended.content) else plain


def _mend_content(turn: Turn) -> Turn:
    """Take a turn's content apart where its think tags have one meaning; else they stay in it."""
    if turn.role == "system":
        return turn
    if turn.role == "user":
        end = _AT_END_OF_QUESTION.search(turn.content, max(len(turn.content) - _LONGEST_END, 0))
        return replace(turn, content=turn.content[: end.start()]) if end and end.start() else turn
    if not turn.has_reasoning and (split := split_block(turn.content)):
        return replace(turn, reasoning=split[0], content=split[1])
    return replace(turn, content=strip_answer_tags(turn.content, turn.reasoning))


def _asks_for_silence(turn: Turn) -> bool:
    """Return True for a question that ends with an empty think block, as templates write it to ask for no reasoning."""
    end = _AT_END_OF_QUESTION.search(turn.content, max(len(turn.content) - _LONGEST_END, 0))
    return bool(end and end[1])


def _silence_next(repaired: list[Turn], turns: Turns, index: int) -> None:
    if index + 1 < len(turns):
        reply = turns[index + 1]
        if reply.role == "assistant" and reply.trained and reply.mode is None and not reply.has_reasoning:
            repaired[index + 1] = replace(reply, mode="silent")


def split_block(content: str) -> tuple[str, str] | None:
    """Split a reply into reasoning and answer at its one think block, whose tags may be doubled, cased or spaced.

    Empty blocks before it are left out. None where the tags could mean something else.
    """
    begins = _TAGS_AT_START.match(content)
    start, is_open = 0, True  # some tools cut the opening tag
    if begins:
        start, is_open = begins.end(), not list(THINK_TAG.finditer(begins[0]))[-1][1]
    body = content[start:]
    first = THINK_TAG.search(body)
    if not is_open or first is None or not first[1]:
        return None
    reasoning = body[: first.start()].strip()
    answer = _strip_trailing_tags(_CLOSES_AT_START.sub("", body[first.start() :])).strip()
    if not reasoning or not answer or THINK_TAG.search(answer):
        return None
    return _trim_gap(reasoning), answer


def _trim_gap(text: str) -> str:
    """Remove the escaped newlines that a tag had before or after it."""
    while text.startswith("\\n"):
        text = text[2:].lstrip()
    while text.endswith("\\n"):
        text = text[:-2].rstrip()
    return text


def strip_reasoning_tags(reasoning: str) -> str:
    """Remove the think tags around reasoning, and stray ones at its start and end."""
    return _strip_trailing_tags(_OPENS_AT_START.sub("", reasoning))


def strip_answer_tags(answer: str, reasoning: str) -> str:
    """Remove stray think tags at an answer's ends, and blocks that are empty or repeat the reasoning."""
    while (block := _BLOCK_AT_START.match(answer)) and comparison_key(block[1]) in ("", comparison_key(reasoning)):
        answer = answer[block.end() :]
    return _strip_trailing_tags(_CLOSES_AT_START.sub("", answer))


def _strip_trailing_tags(text: str) -> str:
    end = len(text)
    for tag in reversed(list(THINK_TAG.finditer(text))):
        if text[tag.end() : end].replace("\\n", "").strip():
            break
        end = tag.start()
    return text[:end].rstrip() if end < len(text) else text


def _describe(turn: Turn, content: str, mended: Turn) -> str:
    """Describe the tags of a turn's content, by what becomes of it."""
    if turn.role == "user" and mended.content != content:
        return f"ends with a think tag, which the chat template writes itself ({turn.content.strip()[-20:]!r})"
    if turn.role == "assistant" and content != turn.content:
        escaped = _ESCAPED_TAG.search(turn.content)
        return f"a think tag is escaped ({excerpt(turn.content, escaped) if escaped else repr(content[:20])})"
    if not turn.has_reasoning and mended.has_reasoning:
        return f"a think tag is {_unusual_form(content)}; the text between is read as the reasoning ({content[:20]!r})"
    return describe_think_tag(content, turn.role)


def _unusual_form(content: str) -> str:
    tags = list(THINK_TAG.finditer(content))
    if len(tags) > len({bool(tag[1]) for tag in tags}):
        return "doubled"
    return "in capitals" if any(tag[0] != tag[0].lower() for tag in tags) else "spaced"


def describe_think_tag(text: str, role: Role) -> str:
    """Describe what is wrong with the think tags in a text."""
    tags = list(THINK_TAG.finditer(text))
    kinds = "".join("c" if tag[1] else "o" for tag in tags)
    if role != "assistant":
        word = "stray"
    elif _TAG_TWICE.search(text) or (kinds == "oc" and not text[: tags[0].start()].strip()):
        word = "doubled"  # also a complete block: the chat template puts its own tags around the reasoning
    elif "oo" in kinds:
        word = "nested"
    else:
        word = "unclosed" if kinds.endswith("o") else "stray"
    return f"a think tag is {word} ({excerpt(text, tags[0])})"
