"""Ollama's TEMPLATE, in Go's template language, written from the texts of a chat template.

Ollama (0.9 and later) takes from it that a model can think: it looks for `.Thinking` in a loop over `.Messages`, and
reads the text before and after it, in the innermost block, as the think tags. So the last such block must hold the tags
and nothing else, and none of the texts in it may depend on anything.
"""

import re
from collections.abc import Callable

from thinktune.export.chat_form import ChatForm, ModeTexts

# What a Modelfile keeps in triple quotes: printable characters, blanks and line breaks. Its parser drops all others.
_KEPT_BLANKS = " \t\r\n"

# What would begin or end an action, or the Modelfile's own quotes; a brace at the end would join the next action's.
_NO_LITERAL = re.compile(r'\{\{|\}\}|"""|\{$')


def is_kept(text: str) -> bool:
    """Return True if a Modelfile can hold a text in triple quotes: it has no escapes."""
    return '"""' not in text and all(character in _KEPT_BLANKS or character.isprintable() for character in text)


def write_go_template(form: ChatForm, system: str | None = None) -> str:
    """Write the Go template of a form; `system` is the system prompt of conversations that have none of their own.

    The prompt follows the last turn that is no system prompt; where that is a reply, the model goes on with it.
    """
    begin = _of_mode(form, lambda texts: _begin(texts, system))
    reply = _of_mode(form, _earlier_reply)
    following = _of_mode(form, lambda texts: _literal(texts.next))
    prompt = _of_mode(form, lambda texts: _literal(texts.prompt))
    question = f"{_if('$begun', following)}{{{{ $begun = true }}}}{{{{ .Content }}}}{_if('eq $i $final', prompt)}"
    answer = f"{{{{ $begun = true }}}}{_if('ne $i $final', reply, _last_reply(form))}{{{{ .Content }}}}"
    return (
        "{{ $silent := and .IsThinkSet (not .Think) }}{{ $final := -1 }}{{ $begun := false }}"
        + _for_each_message(_if('ne .Role "system"', "{{ $final = $i }}"))
        + begin
        + _for_each_message(_if('eq .Role "user"', question, _if('eq .Role "assistant"', answer)))
    )


def _of_mode(form: ChatForm, write: Callable[[ModeTexts], str]) -> str:
    """Write what each mode has; one of them where they are equal."""
    thinking, silent = write(form.thinking), write(form.silent)
    return thinking if thinking == silent else _if("$silent", silent, thinking)


def _begin(texts: ModeTexts, system: str | None) -> str:
    if texts.system is None:
        return _literal(texts.head)
    before, after = texts.system
    own = _literal(before + system + after if system else texts.head)
    return _if(".System", f"{_literal(before)}{{{{ .System }}}}{_literal(after)}", own)


def _earlier_reply(texts: ModeTexts) -> str:
    reply = _literal(texts.reply)
    return _if(".Thinking", "{{ .Thinking }}".join(map(_literal, texts.kept)), reply) if texts.kept else reply


def _last_reply(form: ChatForm) -> str:
    """Write the prompt of a reply that is begun: as far as the opening tag, then the tag with the reasoning."""
    if form.reasoning is None:
        return _of_mode(form, lambda texts: _literal(texts.prompt))
    reasoning = "{{ .Thinking }}".join(map(_literal, form.reasoning))
    start = _literal(form.thinking.prompt.removesuffix(form.opened))
    thinking = start + _if(".Thinking", reasoning, _literal(form.opened))
    return thinking if form.thinking == form.silent else _if("$silent", _literal(form.silent.prompt), thinking)


def _for_each_message(body: str) -> str:
    return f"{{{{ range $i, $m := .Messages }}}}{body}{{{{ end }}}}"


def _if(condition: str, then: str, otherwise: str = "") -> str:
    between = f"{{{{ else }}}}{otherwise}" if otherwise else ""
    return f"{{{{ if {condition} }}}}{then}{between}{{{{ end }}}}"


def _literal(text: str) -> str:
    """Write a text as it is where a template and a Modelfile keep it, or else as an action with a quoted string."""
    if is_kept(text) and not _NO_LITERAL.search(text):
        return text
    return f'{{{{ "{"".join(map(_escape, text))}" }}}}'


def _escape(character: str) -> str:
    """Escape a character of a Go string."""
    if character.isprintable() and character not in '"\\{}':
        return character
    return f"\\U{ord(character):08x}"
