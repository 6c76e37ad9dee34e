"""Questions with their correct answers, from held-out rows or from the fields of a row."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar, get_args

from pydantic import TypeAdapter

from thinktune.errors import UserError, shorten_error
from thinktune.eval import grading
from thinktune.eval.grading import FormatRules, Grader
from thinktune.eval.task_options import (
    MAX_OPTIONS,
    MIN_OPTIONS,
    NO_OPTIONS,
    Options,
    find_listed_options,
    find_right_letters,
    merge_listed,
    read_options,
    shuffle_by_hash,
)
from thinktune.eval.task_prompts import choice_prompt
from thinktune.tokenization import Example, Turn


@dataclass(frozen=True, slots=True)
class Task:
    """One question: its set, source (`file:line`) and prompt, its grader, and what that grader compares with.

    `references` are the accepted answers, or the letters of the right options. A right answer also follows the `rules`,
    which are all that the grader `format` looks at.
    `may_reason` is false for a row that is silent: trained in the mode without thinking, it is asked in it.
    """

    set: str
    source: str
    turns: tuple[Turn, ...]
    grader: Grader
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()
    rules: Mapping[str, Any] | None = None
    reasoning: str = ""
    kind: str = ""  # a group inside the set, such as the probe's arithmetic
    stem: str = ""  # the question without its options or how to answer it, where that is known
    may_reason: bool = True
    language: str = ""  # ISO 639-1, where the set says so

    @property
    def question(self) -> str:
        """Text of the last user turn."""
        return self.turns[-1].content

    @property
    def key(self) -> str:
        """Hash of the prompt: the same for the same turns."""
        text = repr([(turn.role, turn.content, turn.reasoning) for turn in self.turns])
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


_TASK = TypeAdapter(Task)


def task_from_example(example: Example, name: str) -> Task:
    """Make a task of a held-out row: graded by its key point if it has one, else by its answer."""
    reply = example.turns[-1]
    points = (example.keypoint,) if example.keypoint else ()
    grader = "keypoints" if points else grading.pick_grader(reply.content)
    prompt = example.turns[:-1]
    return Task(
        name,
        example.source,
        prompt,
        grader,
        (reply.content,),
        keypoints=points,
        reasoning=reply.reasoning,
        may_reason=reply.thinks,
    )


_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Parsed(Generic[_Value]):
    """A field's value, and a sentence for each mistake in it."""

    value: _Value
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskReading:
    """What a file says about all its rows, beyond their fields.

    `index_from`: the number of the first option, where answers are numbers. `shuffled`: the columns give the right
    option first, so that options are asked in an order of their own. `may_lack_answers`: the file has no answers at
    all, and its replies are compared, not graded. `instructed`: a column of the question says how to answer. `several`:
    more than one option may be right, and the question is to say so.
    """

    index_from: int = 0
    shuffled: bool = False
    may_lack_answers: bool = False
    instructed: bool = False
    several: bool = False


def make_task(
    row: Mapping[str, Any], name: str, source: str, system: str | None = None, reading: TaskReading | None = None
) -> Task:
    """Make a task from question, answer, choices, keypoints, grader, rules, kind, language, system and history.

    `history` holds turns before the question. Options that the question lists itself make it a choice if the answer is
    one of them. Raises UserError with every mistake of the row at once.
    """
    reading = reading or TaskReading()
    question = _parse_question(row.get("question"), source)
    choices = _parse_choices(row, question.value, source, reading)
    points = _parse_texts(row.get("keypoints"), f"{source}: keypoints")
    if choices.value:
        references = _parse_letters(row.get("answer"), choices.value, source, reading.index_from)
    else:
        references = _parse_references(row.get("answer"), f"{source}: answer")
    faults = [*question.faults, *choices.faults, *points.faults, *references.faults]
    rules = row.get("rules")
    grader = row.get("grader") or _default_grader(choices.value.texts, points.value, references.value)
    if grader not in get_args(Grader):
        faults.append(f"{source}: grader: is {_short_repr(grader)}; choose one of {', '.join(get_args(Grader))}")
    elif not faults:
        needed = {"keypoints": points.value, "format": rules, "refusal": True}.get(grader, references.value)
        if not needed and not (grader == "text" and reading.may_lack_answers):
            faults.append(f"{source}: has nothing to grade with; give answer, choices with answer, or keypoints")
    faults += _rule_faults(rules, source)
    if faults:
        raise UserError(faults)
    asked = question.value
    if choices.value:
        asked = choice_prompt(asked, choices.value, instructed=reading.instructed, several=reading.several)
    own_system = row.get("system")
    system = own_system if isinstance(own_system, str) and own_system.strip() else system
    return Task(
        name,
        source,
        (*([Turn("system", system)] if system else []), *row.get("history", ()), Turn("user", asked)),
        grader,
        references.value,
        choices.value.texts,
        points.value,
        rules,
        reasoning=str(row.get("think") or ""),
        kind=str(row.get("kind") or ""),
        stem=question.value if choices.value else "",
        language=str(row.get("language") or ""),
    )


def grade_answer(task: Task, answer: str) -> dict[str, float]:
    """Score an answer's content, each measure from 0 to 1; which measures there are depends on the task alone.

    Where an answer is right or wrong, it is right only if it also follows the task's rules.
    """
    follows = not task.rules or grading.follows_rules(answer, FormatRules.model_validate(task.rules))
    match task.grader:
        case "choice":
            right: float = grading.matches_choice(answer, task.references[0], task.choices)
        case "number":
            right = any(grading.matches_number(answer, reference) for reference in task.references)
        case "short":
            right = grading.matches_short_answer(answer, task.references)
        case "refusal":
            right = grading.is_refusal(answer)
        case "format":
            right = follows
        case "keypoints":
            recall = grading.keypoint_recall(answer, task.keypoints)
            return {"right": float(recall == 1 and follows), "keypoint_recall": recall} | _similarity(task, answer)
        case "text":
            return _similarity(task, answer)
    return {"right": float(right and follows)}


def task_to_record(task: Task) -> dict[str, Any]:
    """Convert a task to plain values, from which `task_from_record` makes an equal one."""
    record = asdict(task)
    return record | {"turns": [_rename_key(turn, "trained", "learned") for turn in record["turns"]]}


def task_from_record(record: Mapping[str, Any]) -> Task:
    """Make the task of a record that `task_to_record` returned."""
    turns = [_rename_key(turn, "learned", "trained") for turn in record["turns"]]
    return _TASK.validate_python({**record, "turns": turns})


def _rename_key(record: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    # Files of an evaluation say `learned`, as they always have; the code says `trained`.
    return {new if key == old else key: value for key, value in record.items()}


def _similarity(task: Task, answer: str) -> dict[str, float]:
    """Return chrF and ROUGE-L against the closest reference; nothing without references."""
    if not task.references:
        return {}
    return {"chrf": grading.chrf(answer, *task.references), "rouge_l": grading.rouge_l(answer, *task.references)}


def _default_grader(choices: Sequence[str], points: Sequence[str], references: Sequence[str]) -> Grader:
    if choices:
        return "choice"
    return "keypoints" if points else grading.pick_grader(references[0]) if references else "text"


def _parse_question(value: Any, source: str) -> _Parsed[str]:
    if isinstance(value, str) and value.strip():
        return _Parsed(value)
    return _Parsed("", (f"{source}: question: is {_short_repr(value)}; give the question as text",))


def _parse_choices(row: Mapping[str, Any], question: str, source: str, reading: TaskReading) -> _Parsed[Options]:
    """Read a row's options, or those that its question lists if the answer is one of them."""
    value = row.get("choices")
    options = read_options(value)
    if options is None:
        return _Parsed(NO_OPTIONS, (f"{source}: choices: are {_short_repr(value)}; give a list of texts",))
    if not options and value is not None and value != "":
        return _Parsed(NO_OPTIONS, (f"{source}: choices: are all blank; fill them, or leave them out",))
    if not options:
        if row.get("grader") or row.get("keypoints"):
            return _Parsed(NO_OPTIONS)
        listed = find_listed_options(question)
        right = find_right_letters(row.get("answer"), listed, reading.index_from) if listed else ""
        return _Parsed(listed if listed and right else NO_OPTIONS)
    if not MIN_OPTIONS <= len(options) <= MAX_OPTIONS:
        count = f"{source}: choices: has {len(options)} options; give {MIN_OPTIONS} to {MAX_OPTIONS}"
        return _Parsed(options, (count,))
    merged = merge_listed(question, options)
    return _Parsed(shuffle_by_hash(question, merged) if reading.shuffled and not merged.listed else merged)


def _parse_letters(value: Any, options: Options, source: str, index_from: int) -> _Parsed[tuple[str, ...]]:
    """Read the letters of the right options."""
    if letters := find_right_letters(value, options, index_from):
        return _Parsed((letters,))
    if options.by_text_only:
        what = "may mean two options, because the question lists them in another order than their columns"
        return _Parsed(
            (), (f"{source}: answer: is {_short_repr(value)}, which {what}; give the text of the correct option",)
        )
    known = ", ".join(filter(None, options.labels)) or options.letters
    fault = f"{source}: answer: is {_short_repr(value)}, which is not an option; "
    return _Parsed((), (f"{fault}give a letter of {known}, an index from {index_from}, or an option's text",))


_FINAL_ANSWER = re.compile(r"####[ \t]*(\S[^\n]*)\s*\Z")


def _parse_references(value: Any, place: str) -> _Parsed[tuple[str, ...]]:
    """Read accepted answers; of a worked solution, only the answer that it marks (`#### 18` or `\\boxed{18}`)."""
    texts = _parse_texts(value, place)
    return _Parsed(tuple(map(_final_answer, texts.value)), texts.faults)


def _final_answer(text: str) -> str:
    if marked := _FINAL_ANSWER.search(text[-500:]):
        return marked[1].strip()
    return grading.boxed_content(text) or text


def _parse_texts(value: Any, place: str) -> _Parsed[tuple[str, ...]]:
    if value is None or value == "":
        return _Parsed(())
    texts = value if isinstance(value, list | tuple) else [value]
    if any(not isinstance(text, str | int | float) or not str(text).strip() for text in texts):
        return _Parsed((), (f"{place}: holds {_short_repr(value)}; give texts that are not blank",))
    return _Parsed(tuple(str(text) for text in texts))


def _rule_faults(rules: Any, source: str) -> list[str]:
    try:
        if rules is not None:
            FormatRules.model_validate(rules)
    except ValueError as error:
        return [f"{source}: rules: {shorten_error(error, 200)}"]
    return []


def _short_repr(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]
