"""A chat template as the texts that it writes around each turn, measured on small conversations and compared with it.

Engines that do not run the model's own Jinja template get their template from these texts. Where a template does more
than write texts around the turns (it writes the date, or cuts a turn), the comparison says so, and no text is guessed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from thinktune.tokenization.tags import ANSWER, QUESTION, REASONING, Templated, read_form, template_text, write_probe

_SYSTEM, _FURTHER, _NOW = "zqsystem", "zqfurther", "zqnow"

Message = Mapping[str, str]  # `role`, `content`, and for a reply with reasoning `reasoning_content`


@dataclass(frozen=True, slots=True)
class ModeTexts:
    """The texts that a chat template writes in one mode, thinking or silent.

    `head` begins a conversation without a system prompt, `system` stands around one (None: it takes none). `reply`
    stands between a question and its reply, `next` between that and the next question, `prompt` after the last
    question. `kept` stands before and after the reasoning of an earlier reply (None: it is left out of the history).
    """

    head: str
    system: tuple[str, str] | None
    reply: str
    next: str
    prompt: str
    kept: tuple[str, str] | None

    def write(self, messages: Sequence[Message]) -> str:
        """Write a conversation up to the assistant's next reply; questions and replies alternate."""
        first = messages[0]
        turns = messages[1:] if first["role"] == "system" else messages
        text = self.head
        if turns is not messages:
            before, after = self.system or ("", "")
            text = before + first["content"] + after
        for place, turn in enumerate(turns):
            if turn["role"] == "user":
                text += self.next if place else ""
            elif self.kept and turn.get("reasoning_content"):
                text += turn["reasoning_content"].join(self.kept)
            else:
                text += self.reply
            text += turn["content"]
        return text + self.prompt


@dataclass(frozen=True, slots=True)
class ChatForm:
    """A chat template as texts: those of each mode, and what stands before and after the reasoning of a reply.

    `reasoning` begins with the opening tag, also where the prompt has written it already: then `opened` is that end of
    the prompt. `reasoning` is None for a model that does not reason. `silent` equals `thinking` where nothing switches
    the mode.
    """

    thinking: ModeTexts
    silent: ModeTexts
    reasoning: tuple[str, str] | None
    opened: str = ""

    def without(self, leading: str) -> "ChatForm":
        """Return the form without a text at the start of a conversation, such as a token that the engine adds."""

        def cut(texts: ModeTexts) -> ModeTexts:
            system = texts.system and (texts.system[0].removeprefix(leading), texts.system[1])
            return replace(texts, head=texts.head.removeprefix(leading), system=system)

        return replace(self, thinking=cut(self.thinking), silent=cut(self.silent))


class FormError(Exception):
    """A chat template that no texts around the turns describe; the message says why, as the end of a sentence."""


def measure_form(tokenizer: Templated) -> ChatForm:
    """Measure a tokenizer's chat template; raises FormError where texts around the turns do not describe it."""
    if _writes_the_time(tokenizer):
        raise FormError("it writes the date")
    thinking, silent = (_measure_mode(tokenizer, enabled) for enabled in (True, False))
    form = ChatForm(thinking, silent, *_measure_reasoning(tokenizer, thinking))
    for messages in sample_conversations(takes_system=thinking.system is not None):
        for enabled, texts in ((True, thinking), (False, silent)):
            written = _write(tokenizer, messages, enabled)
            if written is not None and texts.write(messages) != written:
                roles = ", ".join(message["role"] for message in messages)
                raise FormError(f"it does more than write texts around the turns (seen on {roles})")
    return form


def trims_turns(tokenizer: Templated) -> bool:
    """Return True if the chat template takes white space away from the ends of a question."""
    written = _write(tokenizer, [{"role": "user", "content": f"\n {QUESTION} \n"}], True)
    return written is not None and f"\n {QUESTION} \n" not in written


def sample_conversations(*, takes_system: bool) -> Iterator[list[Message]]:
    """Yield conversations of one to three questions, with reasoning, marks of other languages, and a system prompt."""
    questions = ("What is it?", "“{{ .x }}” and {% y %}\n\n- a 'b' \"c\"", "再想一想：心脏\u3000泵什么？")
    replies = ("It pumps.\n\nYes.", "是的。")
    for count in (1, 2, 3):
        for reasons in (False, True) if count > 1 else (False,):
            turns: list[Message] = []
            for place, question in enumerate(questions[:count]):
                turns.append({"role": "user", "content": question})
                if place < count - 1:
                    thought = {"reasoning_content": f"Thought {place}.\n\nMore."} if reasons else {}
                    turns.append({"role": "assistant", "content": replies[place]} | thought)
            yield turns
            if takes_system:
                yield [{"role": "system", "content": "Be kind.\nBe brief."}, *turns]


def _write(tokenizer: Templated, messages: Sequence[Message], thinking: bool) -> str | None:
    return write_probe(tokenizer, *messages, add_generation_prompt=True, enable_thinking=thinking)


def _measure_mode(tokenizer: Templated, thinking: bool) -> ModeTexts:
    ask, reply, further = _user(QUESTION), {"role": "assistant", "content": ANSWER}, _user(_FURTHER)
    alone = _write(tokenizer, [ask], thinking)
    if alone is None or QUESTION not in alone:
        raise FormError("it fails on a plain question, or does not write it")
    head, _, prompt = alone.partition(QUESTION)
    longer = _parts(_write(tokenizer, [ask, reply, further], thinking), QUESTION, ANSWER, _FURTHER)
    if longer is None:
        raise FormError("it fails on a conversation of two questions, or does not write all of it")
    thought = [ask, reply | {"reasoning_content": REASONING}, further]
    kept = _parts(_write(tokenizer, thought, thinking), QUESTION, REASONING, ANSWER, _FURTHER)
    system = _parts(_write(tokenizer, [{"role": "system", "content": _SYSTEM}, ask], thinking), _SYSTEM, QUESTION)
    return ModeTexts(
        head,
        (system[0], system[1]) if system else None,
        longer[1],
        longer[2],
        prompt,
        (kept[1], kept[2]) if kept else None,
    )


def _measure_reasoning(tokenizer: Templated, thinking: ModeTexts) -> tuple[tuple[str, str] | None, str]:
    """Measure what stands before and after the reasoning, and the end of the prompt that opens it."""
    found = read_form(tokenizer)
    if found.foreign is not None:
        raise FormError(f"it writes {found.foreign!r} between reasoning and answer")
    if not found.written and found.tags.opening not in template_text(tokenizer):
        return None, ""
    if found.opening.strip():
        return (found.opening, found.between), ""
    place = thinking.prompt.rfind(found.tags.opening)
    if place < 0:
        raise FormError("nothing in it opens the reasoning")
    opened = thinking.prompt[place:]
    return (opened + found.opening, found.between), opened


def _parts(text: str | None, *marks: str) -> list[str] | None:
    """Split a text at marks that follow one another; None where one is missing."""
    parts: list[str] = []
    for mark in marks:
        before, found, text = (text or "").partition(mark)
        if not found:
            return None
        parts.append(before)
    return [*parts, text or ""]


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _writes_the_time(tokenizer: Templated) -> bool:
    """Return True if the prompt has another text where the function that gives templates the time does."""
    shadowed = "{%- macro strftime_now(form) -%}" + _NOW + "{%- endmacro -%}" + template_text(tokenizer)
    return _NOW in (write_probe(tokenizer, _user(QUESTION), add_generation_prompt=True, chat_template=shadowed) or "")
