"""The questions that an export is asked: held-out rows of the run, and our own where it has too few."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from thinktune.config import Recipe, load_recipe
from thinktune.data import prepare
from thinktune.data.own_answers.entry import restore_own_answers
from thinktune.errors import UserError
from thinktune.export.source import ModelSource
from thinktune.inference.chat_defaults import with_system_prompt
from thinktune.progress import Say
from thinktune.run.resume import refuse_other_data
from thinktune.tokenization import ChatTokenizer, Example, TokenKind, Turn
from thinktune.tokenization.chat_template import TooLongError, render, render_prompt
from thinktune.tokenization.tokenizer import escape_control_tokens

QUESTIONS = 20
MAX_PROMPT_TOKENS = 1024  # a longer one takes long to read, and its logits much memory
CONTEXT_SHARE = 2  # a prompt takes at most one part in this of the model's context
MAX_REPLY_TOKENS = 192
OTHER_MODE_QUESTIONS = 4  # asked in the other mode as well


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is asked, its prompt by our tokenizer, and where it is from.

    `answered` is the prompt with the row's own reply up to its end token, where there is one and it is short enough:
    there the model has learned to stop.
    """

    turns: tuple[Turn, ...]
    thinking: bool
    source: str
    prompt: tuple[int, ...]
    held_out: bool
    answered: tuple[int, ...] | None = None

    @property
    def text(self) -> str:
        """Text of the last user turn."""
        return self.turns[-1].content


def choose_questions(
    source: ModelSource, tokenizer: ChatTokenizer, context_tokens: int, say: Say
) -> tuple[Question, ...]:
    """Return the questions for a model: of its run's held-out rows, then ours, each in the mode of its row.

    Left out are those with too long a prompt, those whose text spells control tokens (which other engines read as such,
    and ours does not), and those that the chat template refuses.
    """
    longest = min(MAX_PROMPT_TOKENS, context_tokens // CONTEXT_SHARE)
    chosen: list[Question] = []
    for example, held_out in (
        *((each, True) for each in _held_out_examples(source, tokenizer, say)),
        *((each, False) for each in _own_examples(source.defaults.system)),
    ):
        if len(chosen) == QUESTIONS:
            break
        if found := _question(example, tokenizer, longest, held_out=held_out):
            chosen.append(found)
    if not chosen:
        raise UserError(
            f"{source.folder}: none of the questions can be asked, because its chat template rejects them or its "
            f"context of {context_tokens:,} tokens is too short, so an export could not be checked"
        )
    return tuple(chosen)


def in_other_mode(questions: Sequence[Question], tokenizer: ChatTokenizer) -> tuple[Question, ...]:
    """Return some questions in the mode that they are not asked in, where the chat template has a switch for it."""
    found: list[Question] = []
    for question in questions[:OTHER_MODE_QUESTIONS]:
        prompt = tuple(render_prompt(question.turns, tokenizer, thinking=not question.thinking))
        if prompt != question.prompt:
            found.append(replace(question, thinking=not question.thinking, prompt=prompt, answered=None))
    return tuple(found)


def _question(example: Example, tokenizer: ChatTokenizer, longest: int, *, held_out: bool) -> Question | None:
    """Return the question of an example, None where it cannot be asked."""
    turns, reply = example.turns[:-1], example.turns[-1]
    if any(escape_control_tokens(turn, tokenizer) is not turn for turn in turns):
        return None
    try:
        prompt = tuple(render_prompt(turns, tokenizer, thinking=reply.thinks, max_tokens=longest))
    except (UserError, TooLongError):
        return None
    if len(prompt) > longest:
        return None
    answered = _answered(example, tokenizer, longest) if held_out else None
    return Question(turns, reply.thinks, example.source, prompt, held_out, answered)


def _answered(example: Example, tokenizer: ChatTokenizer, longest: int) -> tuple[int, ...] | None:
    if escape_control_tokens(example.turns[-1], tokenizer) is not example.turns[-1]:
        return None
    rendered = render(example, tokenizer)[-1]
    ends = (rendered.kinds == TokenKind.END).nonzero()[0]
    found = tuple(rendered.ids[: ends[-1]].tolist()) if len(ends) else ()
    return found if 0 < len(found) <= 2 * longest else None


def _held_out_examples(source: ModelSource, tokenizer: ChatTokenizer, say: Say) -> list[Example]:
    """Read the held-out rows of a run; none, and why, where its rows are not there any more or not the same."""
    if source.run is None:
        return []
    recipe: Recipe = load_recipe(source.run.recipe)
    try:
        restore_own_answers(recipe, tokenizer, source.run.own_answers)
        prepared = prepare(recipe, tokenizer, say)
        refuse_other_data(prepared.fingerprint, prepared.train.digest_lines(), source.run.path)
    except (UserError, OSError) as error:
        say(f"the run's held-out rows cannot be asked ({error}); the bundled questions are asked instead")
        return []
    # Twice as many as are wanted: some may be too long.
    return prepared.validation.examples(2 * QUESTIONS)


def _own_examples(system: str | None) -> Iterable[Example]:
    lines = files("thinktune.export").joinpath("questions.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        asked = with_system_prompt(system, [Turn("user", json.loads(line)["question"])])
        yield Example((*asked, Turn("assistant", "", mode="thinking")), f"questions.jsonl:{number}")
