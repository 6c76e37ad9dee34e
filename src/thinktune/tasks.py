"""Questions with what a right answer is: the noun of an evaluation, from held-out rows or from files of tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, get_args

from pydantic import TypeAdapter

from thinktune import grade
from thinktune.data import Example, Turn
from thinktune.errors import UserError
from thinktune.extract import LETTERS
from thinktune.grade import Grader
from thinktune.obey import Rules, obeys
from thinktune.script import main_script


@dataclass(frozen=True, slots=True)
class Task:
    """One question: its set, where it stands (`file:line`), its prompt, and by which grader it is right when.

    `references` are the accepted answers, for a choice its letters; `rules` are those of the grader `format`.
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
    stem: str = ""  # the question without its options, where it has any

    @property
    def question(self) -> str:
        """What the last user turn asks."""
        return self.turns[-1].content

    @property
    def key(self) -> str:
        """What the prompt is known by: the same for the same turns."""
        said = repr([(turn.role, turn.content, turn.reasoning) for turn in self.turns])
        return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


_TASK = TypeAdapter(Task)


def from_example(example: Example, name: str) -> Task:
    """A held-out row as a task: by its key points where it has any, else by its answer."""
    reply = example.turns[-1]
    points = (example.keypoint,) if example.keypoint else ()
    grader = "keypoints" if points else grade.pick_grader(reply.content)
    prompt = example.turns[:-1]
    return Task(name, example.source, prompt, grader, (reply.content,), keypoints=points, reasoning=reply.reasoning)


def make_task(row: Mapping[str, Any], name: str, source: str, system: str | None = None) -> Task:
    """A task from the fields question, answer, choices, keypoints, grader, rules and kind.

    Raises UserError with every mistake of the row at once.
    """
    faults: list[str] = []
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        faults.append(f"{source}: question: is {_shown(question)}; write the text that is asked")
    choices = _choices(row.get("choices"), source, faults)
    points = _texts(row.get("keypoints"), f"{source}: keypoints", faults)
    if choices:
        references = _letters(row.get("answer"), choices, source, faults)
    else:
        references = _texts(row.get("answer"), f"{source}: answer", faults)
    grader, rules = row.get("grader") or _grader(choices, points, references), row.get("rules")
    if grader not in get_args(Grader):
        faults.append(f"{source}: grader: is {_shown(grader)}; known are {', '.join(get_args(Grader))}")
    needed = {"keypoints": points, "format": rules, "refusal": True}.get(grader, references)
    if not needed and not faults:
        faults.append(f"{source}: has nothing to grade by; give answer, choices with answer, or keypoints")
    if rules is not None:
        rules = _rules(rules, source, faults)
    if faults:
        raise UserError(faults)
    return Task(
        name,
        source,
        (*([Turn("system", system)] if system else []), Turn("user", _asked(str(question), choices))),
        grader,
        references,
        choices,
        points,
        rules,
        reasoning=str(row.get("think") or ""),
        kind=str(row.get("kind") or ""),
        stem=str(question) if choices else "",
    )


def score(task: Task, answer: str) -> dict[str, float]:
    """The measures of an answer's substance, each 0 to 1; which ones there are depends on the task alone."""
    match task.grader:
        case "choice":
            right: float = grade.is_choice(answer, task.references[0], task.choices)
        case "number":
            right = any(grade.is_number(answer, reference) for reference in task.references)
        case "short":
            right = grade.is_short(answer, task.references)
        case "refusal":
            right = grade.refuses(answer)
        case "format":
            right = obeys(answer, Rules.model_validate(task.rules))
        case "keypoints":
            recalled = grade.recall(answer, task.keypoints)
            return {"right": float(recalled == 1), "keypoint_recall": recalled} | _likeness(task, answer)
        case "text":
            return _likeness(task, answer)
    return {"right": float(right)}


def to_record(task: Task) -> dict[str, Any]:
    """A task as plain values, which `from_record` reads back equal."""
    return asdict(task)


def from_record(record: Mapping[str, Any]) -> Task:
    """The task of a record that `to_record` made."""
    return _TASK.validate_python(dict(record))


def _likeness(task: Task, answer: str) -> dict[str, float]:
    if not task.references:
        return {}
    pairs = [(grade.chrf(answer, wanted), grade.rouge_l(answer, wanted)) for wanted in task.references]
    return {"chrf": max(pair[0] for pair in pairs), "rouge_l": max(pair[1] for pair in pairs)}


def _grader(choices: Sequence[str], points: Sequence[str], references: Sequence[str]) -> Grader:
    if choices:
        return "choice"
    return "keypoints" if points else grade.pick_grader(references[0]) if references else "text"


def _asked(question: str, choices: Sequence[str]) -> str:
    """The question as it is put: with its options under it, and how to answer in its own language."""
    if not choices:
        return question
    chinese = main_script(question + "".join(choices)) == "Chinese" or any(
        "\u4e00" <= letter <= "\u9fff" for letter in question
    )
    ending = (
        "请在回答的最后写出正确选项的字母，如“答案：A”。"
        if chinese
        else 'End with the letter of the right option, as in "Answer: A".'
    )
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question.rstrip()}\n{options}\n\n{ending}"


def _choices(value: Any, source: str, faults: list[str]) -> tuple[str, ...]:
    """Options as a list of texts, from a list, a mapping by letter, or a list of {key, value}."""
    if value is None:
        return ()
    if isinstance(value, Mapping):
        value = [text for _, text in sorted(value.items()) if str(text or "").strip()]
    elif isinstance(value, list) and all(isinstance(option, Mapping) for option in value):
        value = [option.get("value", option.get("text")) for option in value]
    texts = _texts(value, f"{source}: choices", faults)
    if not 2 <= len(texts) <= len(LETTERS):
        faults.append(f"{source}: choices: are {len(texts)}; give 2 to {len(LETTERS)}")
    return texts


def _letters(value: Any, choices: Sequence[str], source: str, faults: list[str]) -> tuple[str, ...]:
    """The letters of the right options: from letters, an index from 0, or the option's own text."""
    known = LETTERS[: len(choices)]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return (known[value],)
    text = "".join(value) if isinstance(value, list) else str(value if value is not None else "").strip()
    if text in choices:
        return (known[list(choices).index(text)],)
    plain = "".join(sorted(set(text.upper().replace(",", "").replace(" ", ""))))
    if plain and set(plain) <= set(known):
        return (plain,)
    if text.isdigit() and int(text) < len(choices):
        return (known[int(text)],)
    faults.append(
        f"{source}: answer: is {_shown(value)}, no option; give a letter of {known}, an index from 0, or an option"
    )
    return ()


def _texts(value: Any, place: str, faults: list[str]) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    texts = value if isinstance(value, list | tuple) else [value]
    if any(not isinstance(text, str | int | float) or not str(text).strip() for text in texts):
        faults.append(f"{place}: holds {_shown(value)}; give texts")
        return ()
    return tuple(str(text) for text in texts)


def _rules(value: Any, source: str, faults: list[str]) -> dict[str, Any] | None:
    try:
        Rules.model_validate(value)
    except ValueError as error:
        faults.append(f"{source}: rules: {' '.join(str(error).split())[:200]}")
    return value


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]
