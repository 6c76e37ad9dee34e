"""Layouts of task files: which columns hold the question, its options and the right answer."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from thinktune.data.columns.mapping import COLUMN_ALIASES, INSTRUCTION_NAMES
from thinktune.data.columns.messages import is_blank, normalize_key
from thinktune.eval.answer_extraction import OPTION_LETTERS
from thinktune.eval.task_options import MAX_OPTIONS, find_listed_options, find_right_letters, read_options

OWN_COLUMNS = ("grader", "rules", "kind", "think")  # columns of our own layout that need no mapping
KEYPOINT_NAMES = ("keypoints", "keypoint", "key_points", "key_point")
QUESTION_NAMES = (
    *COLUMN_ALIASES["question"],
    *("question_stem", "stem", "question_text", "题目", "题干", "試験問題", "問題", "質問"),
)
CONTEXT_NAMES = (
    *("context", "passage", "article", "paragraph", "background", "story", "case", "vignette"),
    *("材料", "背景", "文章", "病例"),
)
CHOICE_NAMES = (
    *("choices", "options", "option", "choice", "answer_choices", "candidates", "endings"),
    *("选项", "選択肢", "候选项"),
)
# Answers, in the order in which they are tried: where there are options, those that name one come first.
LETTER_NAMES = (
    *("answer_idx", "answer_index", "answerkey", "answer_key", "answer_letter", "correct_option", "correct_choice"),
    *("correct_answer_idx", "correct_index", "cop", "correct_idx"),
)
ANSWER_NAMES = (
    *("answer", "final_answer", "correct_answer", "right_answer", "ground_truth", "gold_answer", "gold", "target"),
    *("correct", "key", "label", "expected_answer", "reference_answer", "答案", "正确答案", "标准答案", "参考答案"),
    *("正解", "答え", *COLUMN_ALIASES["answer"], "reference", "references", "ideal", "targets"),
)
WRONG_NAMES = ("incorrect_answers", "distractors", "wrong_answers")  # lists beside the right one
_WRONG = re.compile(r"(?:incorrect_answer|incorrect|distractor|wrong_answer)_?\d{1,2}")
_LABELLED = re.compile(
    r"(?P<prefix>choice|options?|opt|op|ending|sol|answer_choice|candidate|选项|选择|选択肢|選択肢|肢)"
    r"[_.-]?\(?(?P<label>[a-z]|\d{1,2})\)?"
)
MAX_SAMPLE_ROWS = 200
MIN_READABLE_SHARE = 0.5  # of sample rows, in which a column's values name an option


class TaskColumns(BaseModel):
    """Names of the columns. Several columns in `question` are joined; several in `choices` hold one option each.

    `reward_model.ground_truth` is a field inside a column; `messages` holds a conversation whose last turn is asked, or
    is the answer if it is the assistant's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str | tuple[str, ...] | None = None
    answer: str | None = None
    choices: str | tuple[str, ...] | None = None
    keypoints: str | None = None
    messages: str | None = None
    system: str | None = None

    @property
    def question_columns(self) -> tuple[str, ...]:
        """The columns that make the question, in order."""
        return (self.question,) if isinstance(self.question, str) else self.question or ()

    @property
    def choice_columns(self) -> tuple[str, ...]:
        """The columns that hold the options."""
        return (self.choices,) if isinstance(self.choices, str) else self.choices or ()

    @property
    def used(self) -> set[str]:
        """All columns that are read."""
        named = (*self.question_columns, *self.choice_columns, self.answer, self.keypoints, self.messages, self.system)
        return {name for name in named if name} | {name.partition(".")[0] for name in named if name}


class TaskLayout(BaseModel):
    """Layout of a task file.

    `header` names the columns of a table without a header row; `system` is the system prompt of every question.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    columns: TaskColumns
    header: tuple[str, ...] | None = None
    grader: str | None = None
    system: str | None = None

    def describe(self) -> str:
        """Describe in one line which column is read as what."""
        columns = self.columns
        parts = {
            "messages": columns.messages,
            "question": " + ".join(columns.question_columns),
            "choices": ", ".join(columns.choice_columns),
            "answer": columns.answer,
            "keypoints": columns.keypoints,
            "system": columns.system,
        }
        return "; ".join(f"{part} = {names}" for part, names in parts.items() if names)


@cache
def known_layouts() -> tuple[TaskLayout, ...]:
    """Return the layouts of files whose columns have names of their own."""
    text = files("thinktune.eval").joinpath("task_layouts.yaml").read_text(encoding="utf-8")
    return tuple(TaskLayout.model_validate(layout) for layout in yaml.safe_load(text))


def layout_matches(layout: TaskLayout, names: Collection[str]) -> bool:
    """Return True if a file has all columns of a layout."""
    return layout.columns.used <= {*names}


def value_of(row: Mapping[str, Any], name: str | None) -> Any:
    """Return the value of a column, or of a field inside one (`reward_model.ground_truth`); None without it."""
    if name is None or name in row:
        return row.get(name or "")
    value: Any = row
    for key in name.split("."):
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


@dataclass(frozen=True, slots=True)
class _Sample:
    """Names of a file's columns by their normalized spelling, and its first rows."""

    names: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]

    def find(self, spellings: Sequence[str], kind: type | tuple[type, ...] = object) -> str | None:
        """Return the first column of one of these spellings that has values, all of a kind."""
        for spelling in spellings:
            name = self.names.get(spelling)
            values = [row[name] for row in self.rows if not is_blank(row.get(name))] if name else []
            if values and all(isinstance(value, kind) for value in values):
                return name
        return None


def find_layout(rows: Sequence[Mapping[str, Any]]) -> TaskLayout | None:
    """Find a layout by the usual names of columns and by what they hold; None where there is no question."""
    names: dict[str, str] = {}
    for row in rows[:MAX_SAMPLE_ROWS]:
        for name in row:
            names.setdefault(normalize_key(name), name)
    fitting = next(
        (known for known in known_layouts() if not known.header and layout_matches(known, names.values())), None
    )
    if fitting:
        return fitting
    sample = _Sample(names, rows[:MAX_SAMPLE_ROWS])
    keypoints = sample.find(KEYPOINT_NAMES)
    messages, question = _find_question(sample)
    if not messages and not question:
        return None
    choices = _find_choices(sample, {*question})
    answer = _find_answer(sample, question, choices)
    if isinstance(choices, tuple) and answer and _wrong_columns(sample) == choices:
        choices = (answer, *choices)
    system = sample.find(COLUMN_ALIASES["system"], str)
    columns = TaskColumns(
        question=question if len(question) > 1 else next(iter(question), None),
        answer=answer,
        choices=choices,
        keypoints=keypoints,
        messages=messages,
        system=system,
    )
    return TaskLayout(columns=columns)


def _find_question(sample: _Sample) -> tuple[str | None, tuple[str, ...]]:
    """Find the column of a conversation, or else the columns whose texts make the question, in order."""
    question = sample.find(QUESTION_NAMES, str)
    if question is None:
        names = ("turns", *COLUMN_ALIASES["messages"], *QUESTION_NAMES)
        return sample.find(names, list), ()
    key = normalize_key(question)
    if key in INSTRUCTION_NAMES:
        more = sample.find(COLUMN_ALIASES["input"], str)
        return None, (question, more) if more else (question,)
    before = sample.find((*INSTRUCTION_NAMES, "说明"), str)
    context = sample.find(CONTEXT_NAMES, str)
    return None, tuple(name for name in (before, context, question) if name)


def _find_choices(sample: _Sample, taken: Collection[str]) -> str | tuple[str, ...] | None:
    """Find the column of options, or the columns that hold one each."""
    for spelling in CHOICE_NAMES:
        name = sample.names.get(spelling)
        values = [row[name] for row in sample.rows if not is_blank(row.get(name))] if name and name not in taken else []
        if values and sum(bool(read_options(value)) for value in values) >= MIN_READABLE_SHARE * len(values):
            return name
    groups: dict[str, dict[str, str]] = {}
    for key, name in sample.names.items():
        if name in taken:
            continue
        if len(name) == 1 and name.upper() in OPTION_LETTERS:
            groups.setdefault("", {})[name.lower()] = name
        elif found := _LABELLED.fullmatch(key):
            groups.setdefault(found["prefix"], {})[found["label"]] = name
    for group in groups.values():
        for labels in ([*OPTION_LETTERS.lower()], [str(n) for n in range(100)], [str(n) for n in range(1, 100)]):
            held = [group[label] for label in labels[:MAX_OPTIONS] if label in group]
            if len(held) >= 2 and held == [group[label] for label in labels[: len(held)] if label in group]:
                return tuple(held)
    wrong = sample.find(WRONG_NAMES, list)
    return (wrong,) if wrong else _wrong_columns(sample) or None


def _wrong_columns(sample: _Sample) -> tuple[str, ...]:
    """Return the columns of wrong answers, one each or a list, beside which the right one stands."""
    wrong = sample.find(WRONG_NAMES, list)
    return (wrong,) if wrong else tuple(name for key, name in sample.names.items() if _WRONG.fullmatch(key))


def _find_answer(sample: _Sample, question: Sequence[str], choices: str | tuple[str, ...] | None) -> str | None:
    """Find the column of the right answer: where there are options, the one whose values name them best."""
    inner = ("reward_model.ground_truth", "reward_model.answer", "extra_info.answer")
    nested = [name for name in inner if any(value_of(row, name) is not None for row in sample.rows)]
    taken = {*question, *((choices,) if isinstance(choices, str) else choices or ())}
    spelled = [
        sample.names[key]
        for key in dict.fromkeys((*LETTER_NAMES, *ANSWER_NAMES))
        if key in sample.names and sample.names[key] not in taken
    ]
    candidates = [*nested, *spelled]
    with_values = [name for name in candidates if any(not is_blank(value_of(row, name)) for row in sample.rows)]
    if choices and _wrong_columns(sample) == choices:
        correct = ("correct_answer", "answer", "right_answer", "ground_truth")
        return next((sample.names[key] for key in correct if key in sample.names), None)
    shares = {name: _option_share(sample, name, question, choices) for name in with_values}
    best = max(shares.values(), default=0.0)
    if best >= MIN_READABLE_SHARE:
        return next(name for name in with_values if shares[name] >= 0.95 * best)
    plain_first = [name for name in with_values if normalize_key(name) not in LETTER_NAMES]
    return next(iter((*plain_first, *with_values)), next(iter(candidates), None))


def _option_share(sample: _Sample, name: str, question: Sequence[str], choices: str | tuple[str, ...] | None) -> float:
    """Return the share of rows with options in which a column's value names one of them."""
    asked = right = 0
    for row in sample.rows:
        if choices is not None:
            options = read_options(gather_choices(row, choices))
        else:
            options = find_listed_options("\n".join(str(row.get(each) or "") for each in question))
        if options:
            value = value_of(row, name)
            asked += 1
            right += bool(find_right_letters(value, options)) or (isinstance(value, int) and value == len(options))
    return right / asked if asked else 0.0


def gather_choices(row: Mapping[str, Any], choices: str | tuple[str, ...]) -> Any:
    """Return a row's options as they stand in their column, or from several columns by their labels."""
    if isinstance(choices, str):
        return row.get(choices)
    lists = [row.get(name) for name in choices]
    if any(isinstance(value, list) for value in lists):  # a right answer, and a list of wrong ones
        return [text for value in lists for text in (value if isinstance(value, list) else [value])]
    filled = {name: row[name] for name in choices if not is_blank(row.get(name))}
    found = {name: _LABELLED.fullmatch(normalize_key(name)) for name in filled}
    labels = [found_one["label"] if (found_one := found[name]) else name if len(name) == 1 else "" for name in filled]
    if not filled:
        return None
    return [{"label": label, "text": text} for label, text in zip(labels, filled.values(), strict=True)]


def unused_choices(layout: TaskLayout, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the columns that look like options and are not read, where the layout reads none."""
    if layout.columns.choices is not None:
        return ()
    names = {normalize_key(name): name for row in rows[:MAX_SAMPLE_ROWS] for name in row}
    used = layout.columns.used
    found = _find_choices(_Sample(names, rows[:MAX_SAMPLE_ROWS]), used)
    return () if found is None else (found,) if isinstance(found, str) else found
