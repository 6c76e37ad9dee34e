"""Tokenizers as `model.template` wants them: their chat template, and the token that ends a turn under it."""

from collections.abc import Mapping
from pathlib import Path

from thinktune.errors import UserError, shorten_error
from thinktune.files import expand_home
from thinktune.tokenization.chat_template import render
from thinktune.tokenization.conversation import Example, Turn
from thinktune.tokenization.tags import ASK, template_text, write_probe
from thinktune.tokenization.think_template import (
    ExtensionError,
    after_reply,
    compose_think_template,
    measure_turn_end,
    pin_eos,
)
from thinktune.tokenization.tokenizer import ChatTokenizer, load_tokenizer

OWN, THINK = "own", "think"
FIELD = "model.template"

_QUESTION = Turn("user", "What does the heart pump?")
_REPLY = Turn("assistant", "It pumps blood.", "A muscle that\n\nmoves a liquid.")


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False, template: str = OWN) -> ChatTokenizer:
    """Load the tokenizer of a model folder with the chat template that `template` names: own, think, or a file.

    Its eos is the token that ends a turn under that template. Raises UserError where there is no tokenizer that loads,
    where a file cannot be read, and where `think` cannot extend the model's own template.
    """
    return read_tokenizer_with_notes(folder, trust_remote_code=trust_remote_code, template=template)[0]


def read_tokenizer_with_notes(
    folder: Path, *, trust_remote_code: bool = False, template: str = OWN, likely: bool = False
) -> tuple[ChatTokenizer, tuple[str, ...]]:
    """Load a tokenizer as `read_tokenizer` does; also return a line for each thing that is not the model's own.

    `likely` is that of `load_tokenizer`.
    """
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code, likely=likely)
    if template == THINK:
        return tokenizer, (set_think_template(tokenizer, folder),)
    notes: list[str] = []
    if template != OWN:
        _set_template(tokenizer, _read_template(template))
        notes.append(f"{FIELD}: {template} is used instead of the model's own chat template")
    if note := _use_measured_end(tokenizer):
        notes.append(note)
    return tokenizer, tuple(notes)


def set_think_template(tokenizer: ChatTokenizer, folder: Path) -> str:
    """Set the composed template and its end of turn, and prove it; returns the sentence that says what it is."""
    try:
        composed = compose_think_template(tokenizer)
    except ExtensionError as error:
        raise UserError(
            f"{FIELD}: think cannot extend the chat template in {folder}: {error}; name another one with {FIELD}: PATH"
            f", or use another model"
        ) from None
    own = _prompts(tokenizer) if template_text(tokenizer) else None
    _set_template(tokenizer, composed.text)
    tokenizer.eos_token = composed.end_token
    prompts = _prompts(tokenizer)
    try:
        render(Example((_QUESTION, _REPLY), f"{FIELD}: think"), tokenizer)
    except UserError as error:
        raise UserError(f"{error}; this is a bug in thinktune: please report it") from None
    if own and (prompts[0] != own[0] or not prompts[1].startswith(own[1] or "")):
        raise UserError(f"{FIELD}: think changes the prompt of the chat template in {folder}; please report this")
    return composed.note


def _prompts(tokenizer: ChatTokenizer) -> list[str]:
    """Return the prompts of a small conversation, with thinking on and off."""
    return [
        write_probe(tokenizer, ASK, add_generation_prompt=True, enable_thinking=thinking) or ""
        for thinking in (True, False)
    ]


def _use_measured_end(tokenizer: ChatTokenizer) -> str | None:
    """Make the token that ends a turn the eos, where the template never writes the eos; returns a sentence about it."""
    own = template_text(tokenizer)
    end = measure_turn_end(tokenizer) if own else None
    former = tokenizer.eos_token
    if end is None or end.found != "reply" or end.token == former or former in (after_reply(tokenizer) or ""):
        return None
    pinned = pin_eos(tokenizer, own, end.token)
    if pinned:
        _set_template(tokenizer, pinned + own)
    tokenizer.eos_token = end.token
    return (
        f"{FIELD}: a reply ends with {end.token}, as in the chat template, not with the tokenizer's {former}; "
        "final/ names it too"
    )


def _set_template(tokenizer: ChatTokenizer, text: str) -> None:
    """Set the template of a plain conversation, and leave the others that have names."""
    named = tokenizer.chat_template
    tokenizer.chat_template = {**named, "default": text} if isinstance(named, Mapping) else text


def _read_template(path: str) -> str:
    try:
        text = expand_home(Path(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{FIELD}: is {path!r}, which cannot be read ({shorten_error(error)}); write own, think, or the path of a "
            "Jinja file"
        ) from None
    if not text.strip():
        raise UserError(f"{FIELD}: {path} is empty; write a chat template into it, or name another one")
    return text
