"""Think tags of a model: what opens and closes the reasoning in its replies, as its own chat template writes them.

They are measured on a small conversation. Only where the template leaves the reasoning out, as many do, is its text
searched for pairs that are known.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol


class Templated(Protocol):
    """What has a chat template: a string, or several by name, of which `default` is that of plain conversations."""

    chat_template: Any

    def apply_chat_template(self, conversation: Any, /, **options: Any) -> Any:
        """Render a conversation."""
        ...


@dataclass(frozen=True, slots=True)
class Tags:
    """The texts that open and close the reasoning of a reply."""

    opening: str = "<think>"
    closing: str = "</think>"


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """How a reply with reasoning is written: `opening`, then the reasoning, `between`, and the answer.

    `opening` begins where the prompt ends, so it is blank where the prompt has opened the reasoning. `between` holds
    the closing tag, white space, and a mark that opens the answer, if there is one. `written` is false if the chat
    template itself leaves the reasoning out. `foreign` is the text between reasoning and answer of a template that
    writes them as two messages, or with nothing between them: no pair of tags describes such a reply.
    """

    tags: Tags
    opening: str
    between: str
    written: bool
    foreign: str | None = None


QUESTION, REASONING, ANSWER = "zqquestion", "zqreasoning", "zqanswer"  # no template and no tokenizer has these
ASK = {"role": "user", "content": QUESTION}
REPLY = {"role": "assistant", "content": ANSWER}

MARK = re.compile(r"<[^<>\n]+>|\[[^\[\]\n]+\]|◁[^◁▷\n]+▷")

# Pairs of templates that leave the reasoning out: the text after the opening tag, before and after the closing one.
_KNOWN = (
    (Tags("<think>", "</think>"), "\n", "\n", "\n\n"),
    (Tags("<seed:think>", "</seed:think>"), "", "", "\n"),
    (Tags("[THINK]", "[/THINK]"), "", "", ""),
    (Tags("<|START_THINKING|>", "<|END_THINKING|>"), "", "", ""),
    (Tags("<|channel>thought", "<channel|>"), "\n", "\n", ""),
    (Tags("<mm:think>", "</mm:think>"), "", "", ""),
    (Tags("<think:opensource>", "</think:opensource>"), "", "", ""),
    (Tags("<|inner_prefix|>", "<|inner_suffix|>"), "", "", ""),
    (Tags("◁think▷", "◁/think▷"), "", "", ""),
)
KNOWN_TAGS = tuple(tags for tags, *_ in _KNOWN)
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def template_text(tokenizer: Templated) -> str:
    """Return the chat template for a plain conversation; empty if there is none."""
    template = tokenizer.chat_template
    return str(template.get("default", "") if isinstance(template, Mapping) else template or "")


def write_probe(tokenizer: Templated, *messages: Mapping[str, str], **options: Any) -> str | None:
    """Return what the chat template writes for a conversation; None where it refuses it."""
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except Exception:  # a template raises whatever it likes; rendering the rows reports that better
        return None


def read_tags(tokenizer: Templated) -> Tags:
    """Return the think tags of the tokenizer's chat template."""
    return read_form(tokenizer).tags


def read_form(tokenizer: Templated) -> ReasoningForm:
    """Return how a reply with reasoning is written under the tokenizer's chat template."""
    return _read_form(tokenizer, template_text(tokenizer))


@lru_cache(maxsize=8)
def _read_form(tokenizer: Templated, template: str) -> ReasoningForm:
    prompt = write_probe(tokenizer, ASK, add_generation_prompt=True, enable_thinking=True) or ""
    for keys in (_REASONING_KEYS[:1], _REASONING_KEYS):
        reply = REPLY | dict.fromkeys(keys, REASONING)
        whole = write_probe(tokenizer, ASK, reply, enable_thinking=True) or ""
        head, found, rest = whole.partition(REASONING)
        between, ends, _ = rest.partition(ANSWER)
        if found and ends:
            return _measured_form(prompt, head, between, written=len(keys) == 1)
    tags, after_opening, before_closing, after_closing = next(
        (known for known in _KNOWN if known[0].opening in template and known[0].closing in template), _KNOWN[0]
    )
    begun = prompt.rstrip().endswith(tags.opening)
    between = before_closing + tags.closing + after_closing
    return ReasoningForm(tags, "" if begun else tags.opening + after_opening, between, written=False)


def _measured_form(prompt: str, head: str, between: str, *, written: bool) -> ReasoningForm:
    """Read the form off what a template wrote: the prompt, all before the reasoning, and all up to the answer."""
    if head.startswith(prompt) and head[len(prompt) :].strip():
        start, tag = head[len(prompt) :], head[len(prompt) :].strip()
    elif prompt.startswith(head) and prompt[len(head) :].strip():
        start, tag = "", prompt[len(head) :].strip()  # it opens the reasoning in the prompt alone
    else:
        start, tag = (head[len(prompt) :] if head.startswith(prompt) else ""), _last_tag(head)
    if MARK.sub("", between).strip() == "" and tag in MARK.findall(between):
        tag = _last_tag(head)  # what the prompt adds is the closing tag: it lets no reasoning begin
    header = {mark for mark in MARK.findall(prompt.rpartition(QUESTION)[2]) if mark not in tag}
    marks = MARK.findall(between)
    if not between.strip() or header.intersection(marks):
        return ReasoningForm(Tags(), "", "", written, foreign=between)
    first = MARK.match(between.lstrip())
    closing = first[0] if first else between.strip()
    return ReasoningForm(Tags(tag, closing), start, between, written)


def _last_tag(head: str) -> str:
    """Return the last mark of a text, or else its last line."""
    head = head.rstrip()
    last = [found for found in MARK.finditer(head) if found.end() == len(head)]
    return last[-1][0] if last else head.rpartition("\n")[2]
