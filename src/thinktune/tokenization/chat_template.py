"""Render conversations as tokens, exactly as the tokenizer's own chat template writes them, with each token's kind."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.errors import UserError, shorten_error
from thinktune.tokenization.conversation import Example, Turn
from thinktune.tokenization.tags import read_form, read_tags, template_text
from thinktune.tokenization.think_template import suggest_template
from thinktune.tokenization.tokenizer import ESCAPE_MARK, ChatTokenizer, escape_control_tokens, exceeds_tokens, tokenize

EFFORT_OPTION = "reasoning_effort"
NEAREST_LEVELS = {"minimal": "low", "xhigh": "high", "max": "high"}

REPLIES_PER_ROUND = 32  # of a conversation that are rendered before it is asked whether later ones can fit


class TooLongError(Exception):
    """A conversation that by its characters alone is longer than asked for."""


class TokenKind(IntEnum):
    """Kind of a token: given to the model, or one of the three things that it learns to write."""

    PROMPT = 0
    REASONING = 1
    ANSWER = 2
    END = 3


@dataclass(frozen=True, slots=True)
class Rendered:
    """A reply with its history as tokens: `ids` (n,) int32, `kinds` (n,) uint8 of `TokenKind`, and its `file:line`."""

    ids: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    source: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def label_tokens(self) -> int:
        """Number of trained tokens."""
        return int(np.count_nonzero(self.kinds))


def render(example: Example, tokenizer: ChatTokenizer) -> list[Rendered]:
    """Render each trained reply, with its history as the model will see it at inference."""
    return [reply for reply in render_batch([example], tokenizer)[0] if reply is not None]


def render_batch(
    examples: Sequence[Example], tokenizer: ChatTokenizer, max_tokens: int | None = None
) -> list[list[Rendered | None]]:
    """Render the trained replies of many examples at once, tokenizing on all cores.

    With `max_tokens`, a reply is not tokenized, and None, where the template's text of it is surely longer, and so are
    the replies after one whose prompt is longer by itself.

    Proved of every reply, or UserError says what differs: the prompt is a token prefix of the whole; the template keeps
    reasoning and answer; the last trained token is the end-of-turn token; the tokens decode to the template's text.
    What the template writes after the end-of-turn token is prompt, never trained.

    A reply without reasoning is rendered in the template's mode without thinking, prompt and whole alike: an empty
    think block is given, never learned.
    """
    places = [[place for place, turn in enumerate(each.turns) if turn.is_trained_reply] for each in examples]
    rendered: list[list[Rendered | None]] = [[] for _ in examples]
    # Every reply is rendered with its history, so that all of a long conversation would take the square of its length.
    for start in range(0, max(map(len, places), default=0), REPLIES_PER_ROUND):
        asked = [
            (index, place)
            for index, trained in enumerate(places)
            if not start or (trained[start:] and _may_go_on(examples[index], trained[start], tokenizer, max_tokens))
            for place in trained[start : start + REPLIES_PER_ROUND]
        ]
        conversations = [_reply_with_history(examples[index], place) for index, place in asked]
        replies = _render_replies(conversations, tokenizer, max_tokens)
        for (index, _), reply in zip(asked, replies, strict=True):
            rendered[index].append(reply)
    return [found + [None] * (len(trained) - len(found)) for found, trained in zip(rendered, places, strict=True)]


def prompt_exceeds(turns: Sequence[Turn], tokenizer: ChatTokenizer, max_tokens: int, *, thinking: bool = True) -> bool:
    """Return True where a conversation up to a reply is longer than the limit by itself."""
    try:
        return len(render_prompt(turns, tokenizer, thinking=thinking, max_tokens=max_tokens)) > max_tokens
    except TooLongError:
        return True


def _may_go_on(example: Example, place: int, tokenizer: ChatTokenizer, max_tokens: int | None) -> bool:
    """Return True where the reply at a place of the turns may fit by what stands before it."""
    thinks, history = example.turns[place].thinks, example.turns[:place]
    return max_tokens is None or not prompt_exceeds(history, tokenizer, max_tokens, thinking=thinks)


def _reply_with_history(example: Example, place: int) -> Example:
    """Return the conversation up to the reply at a place of the turns; blank reasoning of the reply is none."""
    reply = example.turns[place]
    reply = reply if reply.thinks else replace(reply, reasoning="")
    return Example((*example.turns[:place], reply), example.source)


def _render_replies(
    conversations: Sequence[Example], tokenizer: ChatTokenizer, max_tokens: int | None
) -> list[Rendered | None]:
    """Render the last turn of each conversation; None where it is surely longer than `max_tokens`."""
    turns = [tuple(escape_control_tokens(turn, tokenizer) for turn in each.turns) for each in conversations]
    texts = [apply_chat_template(tokenizer, each, enable_thinking=each[-1].thinks) for each in turns]
    fitting = [
        index
        for index, text in enumerate(texts)
        if max_tokens is None or not exceeds_tokens(text.replace(ESCAPE_MARK, ""), max_tokens, tokenizer)
    ]
    prompts = [
        apply_chat_template(
            tokenizer, turns[index][:-1], add_generation_prompt=True, enable_thinking=turns[index][-1].thinks
        )
        for index in fitting
    ]
    ids = tokenize([texts[index] for index in fitting] + prompts, tokenizer)
    found: list[Rendered | None] = [None] * len(conversations)
    for place, index in enumerate(fitting):
        source, reply = conversations[index].source, turns[index][-1]
        templated = _TemplatedReply(source, reply, texts[index], prompts[place], ids[place], ids[len(fitting) + place])
        _refuse_lossy_tokens(templated, tokenizer)
        found[index] = Rendered(np.asarray(templated.ids, np.int32), _token_kinds(templated, tokenizer), source)
    return found


def render_prompt(
    turns: Sequence[Turn],
    tokenizer: ChatTokenizer,
    *,
    thinking: bool = True,
    effort: str | None = None,
    max_tokens: int | None = None,
) -> list[int]:
    """Tokenize a conversation up to the assistant's next reply; control tokens spelled in it stay plain characters.

    `effort` is for templates with levels of effort (`has_effort_levels`). With `max_tokens`, a conversation that is
    surely longer is not tokenized, which would take seconds: TooLongError.
    """
    escaped = [escape_control_tokens(turn, tokenizer) for turn in turns]
    options = mode_options(tokenizer, thinking=thinking, effort=effort)
    return tokenize_prompt(
        apply_chat_template(tokenizer, escaped, add_generation_prompt=True, **options), tokenizer, max_tokens
    )


def mode_options(tokenizer: ChatTokenizer, *, thinking: bool, effort: str | None) -> dict[str, Any]:
    """Return the options of the chat template for a mode and a level of effort."""
    level = None if effort is None else nearest_level(effort, tokenizer)
    return {"enable_thinking": thinking} | ({EFFORT_OPTION: level} if level else {})


def tokenize_prompt(text: str, tokenizer: ChatTokenizer, max_tokens: int | None) -> list[int]:
    """Tokenize what the chat template wrote; raises TooLongError where it is surely longer than `max_tokens`."""
    if max_tokens is not None and exceeds_tokens(text.replace(ESCAPE_MARK, ""), max_tokens, tokenizer):
        raise TooLongError(
            f"the conversation has {len(text):,} characters, which is certainly more than {max_tokens:,} tokens"
        )
    return tokenize([text], tokenizer)[0]


def has_effort_levels(tokenizer: ChatTokenizer) -> bool:
    """Return True if the chat template takes a level of effort."""
    return EFFORT_OPTION in template_text(tokenizer)


def nearest_level(effort: str, tokenizer: ChatTokenizer) -> str | None:
    """Return a level of effort that the chat template names: the asked one, or the nearest that all such have.

    None where the template has no levels, or none of this kind: `none` is left to its switch for thinking.
    """
    text = template_text(tokenizer)
    if EFFORT_OPTION not in text:
        return None
    named = f"'{effort}'" in text or f'"{effort}"' in text
    return effort if named else NEAREST_LEVELS.get(effort, None if effort == "none" else effort)


def reasoning_end_ids(tokenizer: ChatTokenizer) -> tuple[int, ...]:
    """Return the tokens that stand between reasoning and answer under the chat template, including the closing tag."""
    form = read_form(tokenizer)
    return tuple(tokenize([form.between or f"\n{form.tags.closing}\n\n"], tokenizer)[0])


def reference_ids(examples: Sequence[Example], tokenizer: ChatTokenizer) -> list[list[list[int] | None]]:
    """Tokenize each trained reply with transformers alone, to compare our ids with.

    None where the text spells a control token: ours are plain characters there, and transformers' are not.
    """
    found: list[list[list[int] | None]] = [[] for _ in examples]
    comparable: dict[bool, list[tuple[int, int, list[dict[str, str]]]]] = {True: [], False: []}  # by `enable_thinking`
    replies_with_history = (
        (index, _reply_with_history(example, place).turns)
        for index, example in enumerate(examples)
        for place, turn in enumerate(example.turns)
        if turn.is_trained_reply
    )
    for index, turns in replies_with_history:
        if all(escape_control_tokens(turn, tokenizer) is turn for turn in turns):
            comparable[turns[-1].thinks].append((index, len(found[index]), _to_messages(turns)))
        found[index].append(None)
    for thinking, replies in comparable.items():
        conversations = [messages for _, _, messages in replies]
        references = (
            tokenizer.apply_chat_template(conversations, tokenize=True, return_dict=False, enable_thinking=thinking)
            if conversations
            else []
        )
        for (index, place, _), ids in zip(replies, references, strict=True):
            found[index][place] = ids
    return found


def decode_by_token(rendered: Rendered, tokenizer: ChatTokenizer) -> list[list[Any]]:
    """Decode token by token as [kind, text]; tokens that only together make a character are joined."""
    found: list[list[Any]] = []
    start = 0
    for stop in range(1, len(rendered) + 1):
        text = tokenizer.backend_tokenizer.decode(rendered.ids[start:stop].tolist(), skip_special_tokens=False)
        if not text.endswith("\ufffd") or stop == len(rendered) or rendered.kinds[stop] != rendered.kinds[start]:
            found.append([int(rendered.kinds[start]), text])
            start = stop
    return found


@dataclass(frozen=True, slots=True)
class _TemplatedReply:
    """A reply with its history and the prompt before it, as the template writes them, and the ids of both texts."""

    source: str
    reply: Turn
    text: str
    prompt: str
    ids: list[int]
    prompt_ids: list[int]


def _token_kinds(reply: _TemplatedReply, tokenizer: ChatTokenizer) -> NDArray[np.uint8]:
    """Return the `TokenKind` of each token, (n,) uint8."""
    ids, start = reply.ids, len(reply.prompt_ids)
    if ids[:start] != reply.prompt_ids:
        raise UserError(_prefix_fault(reply, tokenizer))
    trained = ids[start:]
    end_of_turn = tokenizer.eos_token_id  # read once: transformers looks it up again each time
    if end_of_turn not in trained:
        raise UserError(
            f"{reply.source}: the chat template never writes the end-of-turn token {tokenizer.eos_token!r}, so the "
            f"model could not learn to stop; {suggest_template(tokenizer)}"
        )
    kinds = np.full(len(ids), TokenKind.PROMPT, np.uint8)
    answer = _answer_token_index(reply, _answer_char_index(reply, tokenizer), tokenizer)
    if reply.reply.thinks:  # else it is what the template writes for no reasoning, which no model need learn
        kinds[start:answer] = TokenKind.REASONING
    end = len(ids) - 1 - trained[::-1].index(end_of_turn)
    kinds[answer:end] = TokenKind.ANSWER
    kinds[end] = TokenKind.END
    return kinds


def _answer_token_index(reply: _TemplatedReply, answer_char_index: int, tokenizer: ChatTokenizer) -> int:
    """Find the first token of the answer."""
    start = len(reply.prompt_ids)
    if answer_char_index == len(reply.prompt):
        return start
    backend, closing = tokenizer.backend_tokenizer, read_tags(tokenizer).closing
    before = reply.text[:answer_char_index].replace(ESCAPE_MARK, "")
    closing_id = backend.token_to_id(closing)
    if closing_id in reply.ids[start:]:
        start = reply.ids.index(closing_id, start) + 1
        if before.rstrip("\n").endswith(closing):
            while not backend.decode([reply.ids[start]], skip_special_tokens=False).strip("\n"):
                start += 1
            return start
    # The first token with which more is written than what stands before the answer.
    length = len(backend.normalizer.normalize_str(before) if backend.normalizer else before)
    return bisect_right(
        range(len(reply.ids)),
        length,
        lo=start,
        hi=len(reply.ids) - 1,
        key=lambda index: len(backend.decode(reply.ids[: index + 1], skip_special_tokens=False)),
    )


def _answer_char_index(reply: _TemplatedReply, tokenizer: ChatTokenizer) -> int:
    """Find the first character of the answer; raises UserError if the template left out reasoning or answer."""
    form, turn = read_form(tokenizer), reply.reply
    written = reply.text[len(reply.prompt) :]
    head, closing, tail = written.partition(form.tags.closing)
    answer = turn.content.strip("\n")
    if turn.reasoning.strip("\n") not in head or answer not in (tail if closing else written):
        raise UserError(
            f"{reply.source}: the chat template does not write the row's reasoning and answer in full; "
            f"it writes {written[:200]!r}; {suggest_template(tokenizer)}"
        )
    if (form.foreign or "").strip() or (turn.has_reasoning and not closing):
        raise UserError(
            f"{reply.source}: the chat template writes the reasoning as a message of its own, with "
            f"{form.foreign or ''!r} before the answer, a form that is not known; {suggest_template(tokenizer)}"
        )
    if not closing:
        if reply.prompt.rstrip().endswith(form.tags.opening):
            raise UserError(
                f"{reply.source}: the chat template's prompt opens the reasoning ({form.tags.opening}) and nothing "
                f"closes it before the answer; {_silent_row_remedy(tokenizer)}"
            )
        return len(reply.prompt)
    opens_answer = form.between.partition(form.tags.closing)[2].strip()
    if opens_answer and tail.lstrip().startswith(opens_answer):
        tail = tail.lstrip().removeprefix(opens_answer)
    return len(reply.text) - len(tail.lstrip("\n"))


def _refuse_lossy_tokens(reply: _TemplatedReply, tokenizer: ChatTokenizer) -> None:
    """Raise UserError if the tokens do not decode to the text that the template wrote."""
    backend = tokenizer.backend_tokenizer
    expected = reply.text.replace(ESCAPE_MARK, "")
    decoded = backend.decode(reply.ids, skip_special_tokens=False)
    if decoded != expected and decoded != (backend.normalizer.normalize_str(expected) if backend.normalizer else None):
        raise UserError(
            f"{reply.source}: its tokens decode to {decoded[:80]!r}…, which is not what the chat template wrote; "
            "the tokenizer loses text; use another model"
        )


def _prefix_fault(reply: _TemplatedReply, tokenizer: ChatTokenizer) -> str:
    pairs = enumerate(zip(reply.prompt_ids, reply.ids, strict=False))
    shorter = min(len(reply.prompt_ids), len(reply.ids))
    first = next((index for index, (ours, theirs) in pairs if ours != theirs), shorter)
    prompt, row = (tokenizer.decode(ids[first : first + 8]) for ids in (reply.prompt_ids, reply.ids))
    remedy = suggest_template(tokenizer) if reply.reply.thinks else _silent_row_remedy(tokenizer)
    return (
        f"{reply.source}: the chat template's prompt is not a prefix of the whole row: at token {first} the prompt "
        f"continues with {prompt!r}, the row with {row!r}; training and inference would differ, so {remedy}"
    )


def _silent_row_remedy(tokenizer: ChatTokenizer) -> str:
    return (
        f"leave out rows without reasoning with data.faults: {{no_reasoning: drop}}, or {suggest_template(tokenizer)}"
    )


def apply_chat_template(tokenizer: ChatTokenizer, turns: Sequence[Turn], **options: Any) -> str:
    """Write turns by the chat template; raises UserError where there is none, or where it refuses them."""
    if not tokenizer.chat_template:
        raise UserError(f"model.name: the tokenizer has no chat template; {suggest_template(tokenizer)}")
    try:
        return tokenizer.apply_chat_template(_to_messages(turns), tokenize=False, **options)
    except Exception as error:  # a template raises Jinja's errors, and whatever its expressions raise
        raise UserError(
            f"model.name: its chat template rejects a row ({shorten_error(error)}); name another one with "
            "model.template: PATH"
        ) from None


def _to_messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [
        {"role": turn.role, "content": turn.content}
        | ({"reasoning_content": turn.reasoning} if turn.role == "assistant" else {})
        for turn in turns
    ]
