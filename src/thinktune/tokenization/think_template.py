"""Compose `model.template: think`: the model's own template for all that is given, and a stated form for the reply.

The prompt stays the model's own, byte for byte. A reply is written as reasoning in the model's think tags, the answer,
and END, the token that ends a turn. END is measured: it is what the own template writes after a reply, among the tokens
that end generation.
"""

import re
from dataclasses import dataclass
from typing import Literal

from thinktune.errors import shorten_error
from thinktune.tokenization.tags import (
    ANSWER,
    ASK,
    MARK,
    REPLY,
    ReasoningForm,
    Tags,
    read_form,
    template_text,
    write_probe,
)
from thinktune.tokenization.tokenizer import ChatTokenizer, tokenize

_ANSWERS = ("A", "a word", "42", "**A**", "- a", "(a)", "“", "答", "\\(")  # beginnings of answers

THINK_MARK = "thinktune think 1"  # in a comment of every composed template
CHATML_END = "<|im_end|>"

# Of a model that has no template: plain ChatML, which closes each message with the turn's END.
_CHATML = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + CHATML_END + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""

# Earlier replies lose their reasoning. A last reply is taken out, so that the own template writes the prompt for it.
_BEFORE = """{#- THINK_MARK: the model's own template writes all up to the reply, which is reasoning in tags, \
then the answer -#}
{%- set thinktune = namespace(messages=[], replies=false, reasoning='', content='') -%}
{%- for message in messages -%}
  {%- if message.role == 'assistant' and message.content is string -%}
    {%- set given = message.reasoning_content if message.reasoning_content is string else '' -%}
    {%- set parts = message.content.split(CLOSING, 1) if not given else [message.content] -%}
    {%- set content = parts[-1].lstrip('\\n') -%}
    {%- if loop.last and not add_generation_prompt and not message.tool_calls -%}
      {%- set thinktune.replies = true -%}
      {%- set thinktune.content = content -%}
      {%- set thinktune.reasoning = given if parts | length == 1 else parts[0].split(OPENING)[-1] -%}
    {%- elif message.tool_calls -%}
      {%- set thinktune.messages = thinktune.messages + [{'role': 'assistant', 'content': content, \
'tool_calls': message.tool_calls}] -%}
    {%- else -%}
      {%- set thinktune.messages = thinktune.messages + [{'role': 'assistant', 'content': content}] -%}
    {%- endif -%}
  {%- else -%}
    {%- set thinktune.messages = thinktune.messages + [message] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = thinktune.messages -%}
{%- if thinktune.replies -%}{%- set add_generation_prompt = true -%}{%- endif %}
"""

_AFTER = """{%- if thinktune.replies -%}
  {%- if thinktune.reasoning | trim -%}
    {{- BEGIN + thinktune.reasoning.strip('\\n') + BETWEEN + thinktune.content + END -}}
  {%- elif enable_thinking is defined and not enable_thinking -%}
    {{- SWITCHED_OFF + thinktune.content + END -}}
  {%- else -%}
    {{- EMPTY + thinktune.content + END -}}
  {%- endif -%}
{%- elif add_generation_prompt and enable_thinking is defined and not enable_thinking -%}
  {{- SWITCHED_OFF -}}
{%- endif -%}"""


class ExtensionError(Exception):
    """A chat template that `think` cannot extend; its text says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a reply ends: the token END, what stands between the answer and it, and what follows it.

    `found` says where the chat template writes END: after the reply, at the start of the next turn, or nowhere.
    """

    token: str
    before: str = ""
    after: str = ""  # white space
    found: Literal["reply", "next turn", "nowhere"] = "reply"


@dataclass(frozen=True, slots=True)
class ThinkTemplate:
    """A composed template, the token that ends its replies, and a sentence for the user."""

    text: str
    end_token: str
    note: str


def measure_turn_end(tokenizer: ChatTokenizer) -> TurnEnd:
    """Measure how a turn ends under the chat template.

    Of what stands after a reply, END is the first token that ends generation, or else the first special token: base
    models often name only the end of a document. Where nothing stands there, END is the token that opens the next turn,
    if it follows at once and is special, and at last the tokenizer's own eos, which the template does not write.
    """
    stops = {*getattr(tokenizer, "stop_tokens", ()), tokenizer.eos_token}
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tail = after_reply(tokenizer) or ""
    for candidates in (stops, special):
        if found := _first_of(candidates, tail):
            return found
    follows = after_reply(tokenizer, ASK)
    found = _first_of(stops | special, follows) if follows else None
    if found and not found.before.strip():
        return TurnEnd(found.token, found="next turn")
    return TurnEnd(tokenizer.eos_token, found="nowhere")


def compose_think_template(tokenizer: ChatTokenizer) -> ThinkTemplate:
    """Compose the template `think` over the tokenizer's own one; raises ExtensionError where it cannot be extended."""
    own = template_text(tokenizer)
    if not own:
        return _compose_over_chatml(tokenizer)
    end = measure_turn_end(tokenizer)
    if THINK_MARK in own:
        return ThinkTemplate(own, end.token, "model.template: the model's own template already thinks")
    return _compose(tokenizer, own, end)


def suggest_template(tokenizer: ChatTokenizer) -> str:
    """Return the line to write where the chat template cannot carry a row, as the end of a sentence.

    It names `think` only where that can be composed.
    """
    try:
        if THINK_MARK in template_text(tokenizer):
            raise ExtensionError("it already thinks")
        compose_think_template(tokenizer)
    except ExtensionError as error:
        return f"name another template with model.template: PATH (think cannot extend this one: {error})"
    if not template_text(tokenizer):
        return "write model.template: think, which uses plain ChatML, or name a template with model.template: PATH"
    return "write model.template: think, which keeps the model's own prompt and adds a think block to its replies"


def after_reply(tokenizer: ChatTokenizer, *more: dict[str, str]) -> str | None:
    """Return what the chat template writes after a reply without reasoning; None if it does not write the reply."""
    for options in ({}, {"enable_thinking": False}):
        written = write_probe(tokenizer, ASK, REPLY, *more, **options)
        if written is not None and ANSWER in written:
            return written.partition(ANSWER)[2]
    return None


def _first_of(tokens: set[str], text: str) -> TurnEnd | None:
    """Return the token that stands first in a text, the longest of those at one place."""
    found = [(place, -len(token), token) for token in tokens if token and (place := text.find(token)) >= 0]
    if not found:
        return None
    place, _, token = min(found)
    after = text[place + len(token) :]
    return TurnEnd(token, text[:place], after[: len(after) - len(after.lstrip())])


def _compose_over_chatml(tokenizer: ChatTokenizer) -> ThinkTemplate:
    end = CHATML_END if _is_token(CHATML_END, tokenizer) else tokenizer.eos_token
    own = _CHATML.replace("CHATML_END", _quote(end))
    former = tokenizer.chat_template
    tokenizer.chat_template = own
    try:
        made = _compose(tokenizer, own, TurnEnd(end, after="\n"))
    finally:
        tokenizer.chat_template = former
    note = f"model.template: the model has no chat template, so plain ChatML is used; {made.note.partition(': ')[2]}"
    return ThinkTemplate(made.text, made.end_token, note)


def _compose(tokenizer: ChatTokenizer, own: str, end: TurnEnd) -> ThinkTemplate:
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
    try:
        prompt = str(tokenizer.apply_chat_template([ASK], **options))
    except Exception as error:  # a template raises whatever it likes
        raise ExtensionError(f"it fails on a plain question ({shorten_error(error)})") from None
    if after_reply(tokenizer) is None:
        raise ExtensionError("it does not write the text of a reply")
    form = read_form(tokenizer)
    if form.foreign is not None:
        raise ExtensionError(f"it writes {form.foreign!r} between reasoning and answer, a form that is not known")
    if not _is_token(end.token, tokenizer):
        raise ExtensionError(f"{end.token!r}, with which it ends a turn, is not a token")
    tags = form.tags
    if prompt.rstrip().endswith(tags.closing):
        raise ExtensionError("its prompt closes the reasoning before a reply begins")
    begin = form.opening if form.written else _joined(tokenizer, prompt, form.opening)
    off = write_probe(tokenizer, ASK, add_generation_prompt=True, enable_thinking=False)
    own_switch = off not in (None, prompt) and not (off or "").rstrip().endswith(tags.opening)
    between = form.between if form.written else form.between + _answer_mark(tokenizer, prompt, tags)
    empty = begin + _settle_end(tokenizer, prompt + begin, between)
    if not form.written:
        between = empty.removeprefix(begin)
    switched_off = "" if own_switch else empty
    closing_text = (end.before if end.before.strip() else "") + end.token + end.after
    values = {
        "THINK_MARK": THINK_MARK,
        "OPENING": _quote(tags.opening),
        "CLOSING": _quote(tags.closing),
        "BEGIN": _quote(begin),
        "BETWEEN": _quote(between),
        "EMPTY": _quote(empty),
        "SWITCHED_OFF": _quote(switched_off),
        "END": _quote(closing_text),
    }
    before, after = (
        re.sub(r"\b(?:" + "|".join(values) + r")\b", lambda found: values[found[0]], text) for text in (_BEFORE, _AFTER)
    )
    # White space at both ends of the own template counts as before: it begins a line, as Jinja drops the line break of
    # the block before it; an empty expression follows it, not a block; Jinja drops the last line break of a template.
    text = pin_eos(tokenizer, own, end.token) + before + own.removesuffix("\n") + "{{ '' -}}" + after
    return ThinkTemplate(text, end.token, _describe(form, begin, between, end))


def _is_token(text: str, tokenizer: ChatTokenizer) -> bool:
    [ids] = tokenize([text], tokenizer)
    return len(ids) == 1


def pin_eos(tokenizer: ChatTokenizer, own: str, end_token: str) -> str:
    """Return a line for a template that writes `eos_token`, so that another end of turn leaves its text as it is."""
    if end_token == tokenizer.eos_token or "eos_token" not in own:
        return ""
    return f"{{%- set eos_token = {_quote(tokenizer.eos_token)} %}}\n"


def _joined(tokenizer: ChatTokenizer, prompt: str, opening: str) -> str:
    """Return the opening tag with white space before it where it would else melt into the prompt's last token."""
    [given] = tokenize([prompt], tokenizer)
    for space in ("", "\n", " ") if opening else ("",):
        [ids] = tokenize([prompt + space + opening], tokenizer)
        if ids[: len(given)] == given:
            return space + opening
    raise ExtensionError("its prompt ends within a token, so nothing can follow it")


def _settle_end(tokenizer: ChatTokenizer, given: str, between: str) -> str:
    """Return `between` with such white space at its end that its tokens are the same whatever answer follows.

    Some tokenizers split two line breaks where a word follows them.
    """
    text = between.rstrip()
    for space in dict.fromkeys((between[len(text) :], "\n\n", "\n", "")):
        prompt = given + text + space
        ids, *longer = tokenize([prompt, *(prompt + answer for answer in _ANSWERS)], tokenizer)
        if all(each[: len(ids)] == ids for each in longer):
            return text + space
    raise ExtensionError("no white space after its closing tag stays a token of its own")


def _answer_mark(tokenizer: ChatTokenizer, prompt: str, tags: Tags) -> str:
    """Return the mark with which the own template opens an answer after its prompt; empty if there is none."""
    written = write_probe(tokenizer, ASK, REPLY, enable_thinking=True) or ""
    mark = written.removeprefix(prompt).partition(ANSWER)[0].strip() if written.startswith(prompt) else ""
    return mark if MARK.fullmatch(mark) and mark not in (tags.opening, tags.closing) else ""


def _describe(form: ReasoningForm, begin: str, between: str, end: TurnEnd) -> str:
    start = f"{begin!r}, the reasoning" if begin else f"the reasoning (the prompt has opened {form.tags.opening})"
    why = "" if end.found != "nowhere" else " (the model's own template ends no reply)"
    return f"model.template: a reply is {start}, {between!r}, the answer and {end.token}{why}"


def _quote(text: str) -> str:
    """Write a text as a Jinja string."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
