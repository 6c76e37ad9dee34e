"""Conversations that end in an open turn: the assistant has begun a reply, and goes on from there."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from thinktune.errors import UserError
from thinktune.tokenization.chat_template import apply_chat_template, mode_options, tokenize_prompt
from thinktune.tokenization.conversation import Turn
from thinktune.tokenization.tags import ANSWER, read_form
from thinktune.tokenization.tokenizer import ChatTokenizer, escape_control_tokens

OpenPart = Literal["reasoning", "answer"]

_END = "zqopenturn"  # stands where the open turn ends, while the template writes it


def render_open_turn(
    turns: Sequence[Turn],
    tokenizer: ChatTokenizer,
    part: OpenPart,
    *,
    effort: str | None = None,
    max_tokens: int | None = None,
) -> list[int]:
    """Tokenize a conversation whose last turn, the assistant's, is open in its reasoning or in its answer.

    The chat template writes the turn, and its text is cut where the given part ends. If the template leaves out what is
    given, as many do with reasoning, the turn is written after the prompt as the model writes a reply. A turn without
    reasoning whose answer is open is in the mode without thinking. Raises UserError where the template refuses the
    conversation, TooLongError as `render_prompt` does.
    """
    *history, reply = [escape_control_tokens(turn, tokenizer) for turn in turns]
    options = mode_options(tokenizer, thinking=part == "reasoning" or reply.has_reasoning, effort=effort)
    if part == "reasoning":
        marked = replace(reply, reasoning=reply.reasoning + _END, content=ANSWER)
    else:
        marked = replace(reply, content=reply.content + _END)
    text = apply_chat_template(tokenizer, [*history, marked], **options).rpartition(_END)[0]
    if not _holds(text, reply, part):
        prompt = apply_chat_template(tokenizer, history, add_generation_prompt=True, **options)
        text = prompt + _begun_reply(reply, part, tokenizer)
    return tokenize_prompt(text, tokenizer, max_tokens)


def _holds(text: str, reply: Turn, part: OpenPart) -> bool:
    """Return True if the template wrote all of the open turn; it may strip white space where a part begins."""
    if part == "reasoning":
        return bool(text) and text.endswith(reply.reasoning.lstrip())
    return bool(text) and reply.reasoning.strip() in text and text.endswith(reply.content.lstrip())


def _begun_reply(reply: Turn, part: OpenPart, tokenizer: ChatTokenizer) -> str:
    form = read_form(tokenizer)
    if not reply.has_reasoning and part == "answer":
        return reply.content
    if form.foreign is not None:
        raise UserError("messages: the chat template has no form in which a reply with reasoning can be continued")
    begun = form.opening + reply.reasoning
    return begun if part == "reasoning" else begun.rstrip("\n") + form.between + reply.content
