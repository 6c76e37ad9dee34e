"""Thoughts of former replies as clients send them back, in whichever form, taken apart from the answers.

Clients keep a reply as they show it: the reasoning in a field of its own, in think tags before the answer, in content
parts, or in the HTML of a folded block. Whatever the form, the chat template decides what the model sees of it.
"""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from thinktune.inference.replies import parse_reply
from thinktune.tokenization.tags import KNOWN_TAGS, Tags

# Open WebUI's block, in which each line is quoted and escaped. In a fence of code, such a block is part of the answer.
# The time is linear in the text: that the tag ends is looked for once, and then nothing after its type can fail.
_FENCE_OR_DETAILS = re.compile(
    r"^(?P<fence>`{3,}|~{3,}).*?(?:^(?P=fence)|\Z)"
    r"""|^[ \t]*<details\b(?=[^>\n]*>)[^>\n]*?\btype=["']reasoning["'][^>\n]*>(?P<block>.*?)(?P<end></details>|\Z)""",
    re.DOTALL | re.MULTILINE,
)
_SPACE = re.compile(r"\s*")

THOUGHT_FIELDS = ("thinking", "reasoning", "text", "summary")  # of a content part, by whoever made it


@dataclass(frozen=True, slots=True)
class FormerReply:
    """A reply's reasoning and answer; `is_open` if its text breaks off in the reasoning."""

    reasoning: str
    answer: str
    is_open: bool = False


def split_reply(text: str, reasoning: str, tags: Tags) -> FormerReply:
    """Take the thoughts out of a reply's text, and put them with those that came apart from it.

    Think tags count at the start of the text, those of any family of models. Where the reasoning came apart, the text
    was parsed before it came: what is not closed in it is part of the answer. Else a text that breaks off in its
    reasoning is all reasoning, kept to the last character, and the opening tag may be missing, as prompts write it.
    """
    apart = bool(reasoning.strip())
    blocks = _take_out_details(text) if "<details" in text else FormerReply("", text)
    thoughts, text, at = [reasoning, blocks.reasoning], blocks.answer, 0
    while opened := _opening_at(text, at, tags):
        start, each = opened
        end = text.find(each.closing, start)
        if end < 0:
            if not apart:
                return FormerReply(_join([*thoughts, text[start:].lstrip("\n")]), "", is_open=True)
            break
        thoughts.append(text[start:end].strip("\n"))
        at = end + len(each.closing)
    if at:
        text = text[at:].lstrip("\n")
    elif not apart and not blocks.reasoning:
        for each in dict.fromkeys([tags, Tags()]):
            if each.closing in text and (reply := parse_reply(text, each)).closed:
                return FormerReply(reply.reasoning, reply.answer)
    return FormerReply(_join(thoughts), text, is_open=blocks.is_open and not text.strip())


def thoughts_of_parts(parts: Any) -> str:
    """Join the thoughts of content parts or details of reasoning in the form of any API; other parts have none.

    Anthropic's are in `thinking`, Mistral's in a list there, OpenAI's in `summary`, and OpenRouter's in `text`.
    """
    found = (_text_of(part) for part in parts) if isinstance(parts, list | tuple) else ()
    return _join(found)


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    for name in THOUGHT_FIELDS:
        value: Any = part.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list) and (text := "".join(map(_text_of, value))):
            return text
    return ""


def _opening_at(text: str, at: int, tags: Tags) -> tuple[int, Tags] | None:
    """Return the end of the opening tag that stands at a place of the text, white space apart, and its family."""
    found = _SPACE.match(text, at)
    start = found.end() if found else at
    each = next((each for each in (tags, *KNOWN_TAGS) if text.startswith(each.opening, start)), None)
    return each and (start + len(each.opening), each)


def _take_out_details(text: str) -> FormerReply:
    """Take out the folded blocks of reasoning, wherever they stand; the text is open if the file is cut off in one."""
    blocks, kept, at, is_open = list[str](), list[str](), 0, False
    for found in _FENCE_OR_DETAILS.finditer(text):
        if found["fence"]:
            continue
        blocks.append(_unquote(found["block"]))
        kept.append(text[at : found.start()].strip("\n"))
        at, is_open = found.end(), not found["end"]
    if not blocks:
        return FormerReply("", text)
    kept.append(text[at:].lstrip("\n"))
    return FormerReply(_join(blocks), "\n\n".join(filter(str.strip, kept)), is_open)


def _unquote(block: str) -> str:
    """Return the reasoning in a folded block, without its summary and its marks of quotation."""
    block = block.strip()
    if block.startswith("<summary>"):
        block = block.partition("</summary>")[2]
    lines = html.unescape(block).strip("\n").split("\n")
    return "\n".join(line.removeprefix(">").removeprefix(" ") if line.startswith(">") else line for line in lines)


def _join(thoughts: Iterable[str]) -> str:
    return "\n\n".join(dict.fromkeys(filter(str.strip, thoughts)))  # a client may send the same in two forms
