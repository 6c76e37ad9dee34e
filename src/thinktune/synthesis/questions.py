"""Questions for a teacher: the replies of a recipe's rows that lack their reasoning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thinktune.config import Recipe
from thinktune.config.schema import ColumnsConfig
from thinktune.data import Prepared
from thinktune.data.faults.language import main_script
from thinktune.data.pipeline import prepare_with_faults
from thinktune.errors import UserError
from thinktune.inference import Request, SamplingParams
from thinktune.progress import Say
from thinktune.tokenization import ChatTokenizer, Example, Turn

MAX_TOKENS_TO_SHORTEN = 2**17  # of a row; `data.max_tokens` is what it is to fit in afterwards

# For a teacher that does not reason by itself. It is sent with the question and never written into a row.
INSTRUCTIONS = {
    "en": "First think it through step by step between <think> and </think>. After </think>, write only your answer.",
    "zh": "请先在 <think> 和 </think> 之间一步一步地思考，然后在 </think> 之后只写出你的回答。",
}


# The second chance of a question without a right reply; what of it shows in the reply is found and refused.
HINTS = {
    "en": (
        "(A right answer is: {answer}\nThis is for you alone. Work the question out as somebody who has not seen it, "
        "do not mention it, and then give your answer.)"
    ),
    "zh": "（正确答案是：{answer}\n这只给你看。请像没有看到它一样独立推导这个问题，不要提到它，然后给出你的回答。）",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A reply without reasoning: the index of its row among `Rows.examples`, and of its turn there.

    `example` is the conversation up to and with the reply, which holds the row's own answer.
    """

    row_index: int
    turn_index: int
    example: Example

    @property
    def place(self) -> str:
        """`file:line`, and the number of the turn in a longer conversation."""
        asked = [turn for turn in self.example.turns if turn.role == "user"]
        return self.example.source if len(asked) == 1 else f"{self.example.source}, reply {len(asked)}"


@dataclass(frozen=True, slots=True)
class Rows:
    """A recipe's usable rows, their questions for the teacher, and the summary of all rows that were read."""

    examples: Sequence[Example]
    questions: Sequence[Question]
    summary: dict[str, Any]

    @property
    def passed_rows(self) -> int:
        """Rows that need nothing: each reply has its reasoning, or is to have none."""
        return len(self.examples) - len({question.row_index for question in self.questions})


def read_rows_to_ask(recipe: Recipe, tokenizer: ChatTokenizer, say: Say) -> Rows:
    """Read the rows of `data.name` as `check` does, repairs included, and keep those that only lack reasoning.

    Raises UserError for what would stop a run, and where no reply lacks its reasoning.
    """
    prepared = prepare_with_faults(
        _with_data(recipe, faults=recipe.data.faults | {"no_reasoning": "silent"}), tokenizer, say
    )
    if prepared.stop_reasons:
        raise UserError(prepared.stop_reasons)
    examples = prepared.train.examples()
    questions = [question for index, example in enumerate(examples) for question in _questions(index, example)]
    if not questions:
        raise UserError(
            f"data.name: each of the {len(examples):,} usable rows of {recipe.data.name} has its reasoning, or "
            "asks for none; nothing to do, so train with them as they are"
        )
    return Rows(examples, questions, prepared.summary)


def read_rows_to_shorten(
    recipe: Recipe, tokenizer: ChatTokenizer, say: Say, is_too_long: Callable[[str], bool]
) -> Rows:
    """Read the rows of `data.name` as `check` does, long ones included; questions are the replies that reason too long.

    Raises UserError for what would stop a run, and where no reasoning is too long.
    """
    room = max(recipe.data.max_tokens, MAX_TOKENS_TO_SHORTEN)
    prepared = prepare_with_faults(_with_data(recipe, max_tokens=room), tokenizer, say)
    if prepared.stop_reasons:
        raise UserError(prepared.stop_reasons)
    examples = prepared.train.examples()
    questions = [
        Question(row_index, index, Example(example.turns[: index + 1], example.source))
        for row_index, example in enumerate(examples)
        for index, turn in enumerate(example.turns)
        if turn.is_trained_reply and turn.has_reasoning and is_too_long(turn.reasoning)
    ]
    if not questions:
        raise UserError(
            f"--length: no reasoning in the {len(examples):,} usable rows of {recipe.data.name} is longer; nothing "
            "to shorten, so train with them as they are"
        )
    return Rows(examples, questions, prepared.summary)


def prepare_written(recipe: Recipe, file: str, tokenizer: ChatTokenizer) -> Prepared:
    """Prepare a file that `think` wrote, by the recipe's own policies, with all its rows on one side."""
    data = {"name": file, "hub": None, "revision": None, "files": None, "columns": ColumnsConfig(), "ignore": ()}
    return prepare_with_faults(_with_data(recipe, **data), tokenizer)


def teacher_request(question: Question, sampling: SamplingParams, *, instruct: bool) -> Request:
    """Return the request for one try: the conversation up to the reply, and the instruction to think if asked for."""
    language = _language(question)
    return _with_words(question, [INSTRUCTIONS[language]] if instruct else [], sampling)


def hinted_request(question: Question, sampling: SamplingParams, *, instruct: bool) -> Request:
    """Return the request for one try with the row's own answer shown."""
    language = _language(question)
    hint = HINTS[language].format(answer=question.example.turns[-1].content)
    return _with_words(question, [hint, *([INSTRUCTIONS[language]] if instruct else [])], sampling)


def _with_words(question: Question, words: Sequence[str], sampling: SamplingParams) -> Request:
    *earlier, last = question.example.turns[:-1]
    asked = replace(last, content="\n\n".join([last.content, *words]))
    return Request((*earlier, asked), sampling)


def _language(question: Question) -> str:
    text = question.example.question
    chinese = main_script(text) in ("Chinese", None) and any("\u4e00" <= letter <= "\u9fff" for letter in text)
    return "zh" if chinese else "en"


def _with_data(recipe: Recipe, **changes: Any) -> Recipe:
    """Change a recipe's data, hold no row out (rows are split when they are trained), and leave replay aside."""
    unsplit: dict[str, Any] = {"validation": 0.0, "silent_share": 0.0, "replay": None}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=unsplit | changes)})


def _questions(row_index: int, example: Example) -> Iterator[Question]:
    last = len(example.turns) - 1
    for index, turn in enumerate(example.turns):
        if _lacks_reasoning(turn):
            keypoint = example.keypoint if index == last else None
            yield Question(row_index, index, Example(example.turns[: index + 1], example.source, keypoint))


def _lacks_reasoning(turn: Turn) -> bool:
    return turn.is_trained_reply and turn.mode != "silent" and not turn.has_reasoning
