"""Agreement of a teacher's answer with the row's own: by our graders, and stricter where they are lenient.

A grader of an evaluation gives a model the benefit of the doubt, as both sides have it. Here a wrong answer would be
trained, and a right one that is lost costs one more try: what is not surely right is not right.
"""

import re
from dataclasses import dataclass, replace

from thinktune.eval import Task, answer_extraction
from thinktune.eval.answer_extraction import OPTION_LETTERS
from thinktune.eval.grading import MAX_SHORT_CHARACTERS, contains_keypoint, normalize, normalize_answer, pick_grader
from thinktune.eval.normalization import fold_compatibility
from thinktune.eval.tasks import grade_answer, task_from_example
from thinktune.synthesis.free_text_agreement import contradicts, holds_key_facts, key_terms, states_alone
from thinktune.tokenization import Example

MAX_FINAL_CHARACTERS = 80  # of a final answer behind `####`, in a box or behind "the answer is"
_FINAL_MARK = re.compile(
    r"####|(?:\bfinal\s+answer|\b(?:the|correct|right)\s+answer|(?:最终|正确)?答案)\s*(?:is|是|为|[:：])+",
    re.IGNORECASE,
)
_BOX = "\\boxed{"
_OPTION = re.compile(
    r"(?:^|\n|(?<=[ \t]{2})|(?<=[?？:：;；.。)）])[ \t]*+|(?<=[ \t])(?=[(（]))[(（]?([A-J])[)）.、:：．]\s*+(?=\S)"
)
_DENIED_LETTER = (
    r"(?:\b[Nn]ot|n['’]t|\b[Nn]ever|不选|不是|并非|不为|而非)\s*(?:option\s*|choice\s*|选项?\s*)?[(（\"'*]*{}\b"
)
_OPEN_LETTERS = re.compile(
    r"\b[A-J]\b[)）]?\s*(?:,\s*)?(?:or|/|或者?|还是)\s*(?:option\s*|选项?\s*)?[(（]?[A-J]\b", re.ASCII
)
_LETTERS = re.compile(r"[(（]?([A-J](?:\s*+[,，、和]?\s*+[A-J])*+)[)）]?\s*+(?:[.、:：．)）]\s*\S.*)?", re.DOTALL)
_STATEMENT = re.compile(
    r"(?:\b(?:answers?|results?|total|sum)\b|答案|结果|所以|因此|选)\s*"
    r"(?:\b(?:is|are|would be|equals?)\b|[:：=]|应该|应|是|为|选)+",
    re.IGNORECASE,
)
_UNIT = re.compile(
    r"\s*+([A-Za-z%‰°℃℉µμΩ$€¥][A-Za-z%‰°℃℉µμΩ/^²³0-9·-]*|[\u4e00-\u9fff]{1,4}(?:/[\u4e00-\u9fff]{1,3})?)"
)
_SENTENCE_END = re.compile(r"[.。;；!！\n](?!\d)")
_DIGITS = re.compile(r"\d[\d,]*(?:\.\d+)?")
_NO_UNITS = frozenset(
    [
        "and",
        "or",
        "in",
        "is",
        "are",
        "of",
        "for",
        "to",
        "as",
        "so",
        "the",
        "which",
        "because",
        "since",
        "at",
        "by",
        "on",
        "with",
        "total",
        "altogether",
    ]
)
_UNIT_WORDS = {"摄氏度": "°c", "华氏度": "°f", "milligram": "mg", "kilogram": "kg", "percent": "%"}
_FRACTION = re.compile(r"\\[dt]?frac\s*\{(-?\d+)\}\s*\{(\d+)\}")
_PERCENT = ("%", "percent", "百分", "％", "share", "proportion", "率", "比例")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether an answer agrees with the row's own (None: no grader can tell), by which grader, and what decided."""

    holds: bool | None
    grader: str
    detail: str = ""


def row_task(example: Example) -> Task:
    """Make the task of a row's last reply: a choice where the question lists options and the reply names letters.

    Where the reply works up to a final answer (`#### 42`, a box, "The answer is 42."), that is the reference.
    """
    task = task_from_example(example, "think")
    if task.keypoints:
        return task
    reply = task.references[0].strip()
    options = _listed_options(task.question)
    letters = _LETTERS.fullmatch(fold_compatibility(final_answer(reply) or reply)) if options else None
    if letters:
        wanted = "".join(sorted(set(re.sub("[^A-J]", "", letters[1]))))
        if wanted and wanted[-1] in OPTION_LETTERS[: len(options)]:
            return replace(task, grader="choice", references=(wanted,), choices=options)
    if final := final_answer(reply):
        grader = pick_grader(plain_math(final))
        return replace(task, grader="short" if grader == "text" else grader, references=(plain_math(final),))
    if task.grader in ("short", "text") and (number := _only_number(task.question, reply)):
        return replace(task, grader="number", references=(number,))
    return task


def _only_number(question: str, reply: str) -> str:
    """Return the number, with its unit, that is all a short reply adds to its question ("It is 42 mg."), else ""."""
    plain = fold_compatibility(reply)
    found = list(_DIGITS.finditer(plain))
    news = [term for term in key_terms(plain) if term not in set(key_terms(question))]
    if len(found) != 1 or not news or len(reply) > MAX_SHORT_CHARACTERS:
        return ""
    unit = _UNIT.match(plain, found[0].end())
    number = plain[found[0].start() : unit.end() if unit and unit[1].casefold() not in _NO_UNITS else found[0].end()]
    if found[0].start() and plain[found[0].start() - 1] in "-−–/^":
        return ""
    return number if set(news) <= set(key_terms(number)) else ""


def final_answer(reply: str) -> str:
    """Return the final answer that a reply states at its end, else "": in its last box, or behind its last mark."""
    start = reply.rfind(_BOX)
    if start >= 0:
        depth = 0
        for place in range(start + len(_BOX) - 1, len(reply)):
            depth += {"{": 1, "}": -1}.get(reply[place], 0)
            if depth == 0:
                return reply[start + len(_BOX) : place].strip()
    ends = [mark.end() for mark in _FINAL_MARK.finditer(reply)]
    if not ends:
        return ""
    final = reply[ends[-1] :].strip().strip("*$ ").rstrip(".。").strip("*$ ")
    return final if final and len(final) <= MAX_FINAL_CHARACTERS and "\n" not in final else ""


def plain_math(text: str) -> str:
    """Return LaTeX of a short result as plain text: a fraction as 1/2, no spacing and text commands."""
    plain = _FRACTION.sub(r"\1/\2", text)
    plain = re.sub(r"\\(?:left|right|displaystyle|[,;!:])|\\(?:text|mathrm|mathbf)\s*(?=\{)|\$", "", plain)
    return plain.replace("{", "").replace("}", "").replace("\\%", "%").strip() if plain != text else text.strip()


def answer_agreement(task: Task, answer: str) -> Agreement:
    """Grade an answer against the row's own; `task` is that of `row_task`."""
    if doubt := contradicts(answer, task.references if task.grader != "choice" else ()):
        return Agreement(False, task.grader, doubt)
    match task.grader:
        case "choice":
            return _choice_agreement(task, answer)
        case "number":
            return _number_agreement(task, answer)
        case "short":
            return _short_agreement(task, answer)
        case "keypoints":
            return _keypoint_agreement(task, answer)
        case _:
            holds, detail = holds_key_facts(task.question, task.references[0], answer)
            return Agreement(holds, "key facts", detail)


def conclusion_differs(task: Task, reasoning: str) -> str:
    """Return the conclusion that a reasoning states and that is not the row's answer, else "".

    Only the last statement counts ("so the answer is 12"), and only of what can be told exactly: numbers and letters.
    """
    if task.grader not in ("number", "choice"):
        return ""
    statements = _statements(reasoning)
    if not statements:
        return ""
    last = statements[-1]
    if task.grader == "choice":
        found = answer_extraction.extract_letters(f"answer: {last}", task.choices)
        return last[:60] if found and found != task.references[0] else ""
    number = answer_extraction.extract_number(last)
    return last[:60] if number is not None and not _is_right_number(task, f"answer: {last}") else ""


def _choice_agreement(task: Task, answer: str) -> Agreement:
    found = answer_extraction.extract_letters(answer, task.choices)
    if found != task.references[0]:
        return Agreement(False, "choice", f"chooses {found or 'nothing'}, not {task.references[0]}")
    plain = fold_compatibility(answer)
    for pattern in (_OPEN_LETTERS, *(re.compile(_DENIED_LETTER.format(letter), re.ASCII) for letter in found)):
        if doubt := pattern.search(plain):
            return Agreement(False, "choice", f"says {doubt[0]!r}")
    for statement in _statements(answer):
        other = answer_extraction.extract_letters(f"answer: {statement}", task.choices)
        if other and other != found:
            return Agreement(False, "choice", f"also chooses {other}")
    if len(found) == 1 and (wrong := _quotes_other_option(task, answer)):
        return Agreement(False, "choice", wrong)
    return Agreement(True, "choice")


def _quotes_other_option(task: Task, answer: str) -> str:
    """Return what is wrong where the letter stands before the text of another option ("B. lung" for "A. lung")."""
    right = OPTION_LETTERS.index(task.references[0])
    plain = normalize(answer)
    for index, option in enumerate(task.choices):
        text = normalize(option)
        if index != right and len(text) > 1 and text not in normalize(task.choices[right]):
            pattern = rf"\b{task.references[0].lower()}\s*[.、:：)）]\s*{re.escape(text)}"
            if re.search(pattern, plain):
                return f"{task.references[0]} is not {option[:40]!r}"
    return ""


def _is_right_number(task: Task, answer: str) -> bool:
    return bool(grade_answer(task, plain_math(answer)).get("right"))


def _number_agreement(task: Task, answer: str) -> Agreement:
    answer = plain_math(_last_box(answer))
    reference = task.references[0]
    if not _is_right_number(task, answer):
        return Agreement(False, "number", f"is not {reference}")
    for statement in _statements(answer):
        other = answer_extraction.extract_number(statement)
        if other is not None and not _is_right_number(task, f"answer: {statement}"):
            return Agreement(False, "number", f"also states {statement[:40]!r}")
    if wrong := _other_unit(task.question, reference, answer):
        return Agreement(False, "number", wrong)
    return Agreement(True, "number")


def _last_box(answer: str) -> str:
    """Return an answer whose box is the last thing that it states as such a statement, else as it is."""
    boxed = final_answer(answer) if _BOX in answer else ""
    return f"answer: {boxed}" if boxed and "\n" not in boxed else answer


def _other_unit(question: str, reference: str, answer: str) -> str:
    """Return what is wrong with an answer's unit: another word than the reference's, or a percent sign."""
    digits = _DIGITS.search(fold_compatibility(reference))
    if digits is None:
        return ""
    wanted = _unit_after(fold_compatibility(reference), digits.end())
    places = [found for found in _DIGITS.finditer(fold_compatibility(answer)) if found[0] == digits[0]]
    found = {unit for place in places if (unit := _unit_after(fold_compatibility(answer), place.end()))}
    if wanted and found and not any(_is_same_unit(unit, wanted) for unit in found):
        known, said = answer_extraction.extract_number(reference), answer_extraction.extract_number(answer)
        if "/" in wanted or not (known and said and known.dimension and known.dimension == said.dimension):
            return f"is in {min(found)}, not in {wanted}"
    asked = f"{question} {reference}".casefold()
    if not wanted and any(unit.startswith("%") for unit in found) and not any(word in asked for word in _PERCENT):
        return "is a percentage"
    return ""


def _is_same_unit(unit: str, wanted: str) -> bool:
    """Return True if a word is the wanted unit, with more behind it or, in Chinese, without what is counted in it."""
    return unit.startswith(wanted) or (not unit.isascii() and "/" not in wanted and wanted.startswith(unit))


def _unit_after(text: str, end: int) -> str:
    found = _UNIT.match(text, end)
    word = found[1].casefold().rstrip("s.。") if found else ""
    word = _UNIT_WORDS.get(word, word)
    return "" if word in _NO_UNITS else word


def _short_agreement(task: Task, answer: str) -> Agreement:
    answer = _last_box(answer)
    plain = normalize_answer(plain_math(answer).removeprefix("answer:"))
    if plain and plain in {normalize_answer(reference) for reference in task.references}:
        return Agreement(True, "short")
    holds, detail = states_alone(task.question, task.references[0], answer)
    return Agreement(holds, "short", detail)


def _keypoint_agreement(task: Task, answer: str) -> Agreement:
    """Require all key points, none of them denied. One that the question itself holds proves nothing."""
    missing = [
        point
        for point in task.keypoints
        if not any(contains_keypoint(answer, way) for way in point.split("|") if way.strip())
    ]
    if missing:
        return Agreement(False, "keypoints", f"lacks {missing[0]!r}")
    ways = [way for point in task.keypoints for way in point.split("|") if way.strip()]
    if doubt := contradicts(answer, [way for way in ways if contains_keypoint(answer, way)]):
        return Agreement(False, "keypoints", doubt)
    if all(any(contains_keypoint(task.question, way) for way in point.split("|")) for point in task.keypoints):
        return Agreement(None, "keypoints", "the question has all key points, so any answer could repeat them")
    return Agreement(True, "keypoints")


def _listed_options(question: str) -> tuple[str, ...]:
    """Return the options that a question lists from A on, in order; () unless there are at least two."""
    found = list(_OPTION.finditer(question))
    starts = [match for match, letter in zip(found, OPTION_LETTERS, strict=False) if match[1] == letter]
    if len(starts) < 2 or len(starts) != len(found):
        return ()
    ends = [match.start() for match in starts[1:]] + [len(question)]
    options = tuple(
        question[match.end() : end].strip().split("\n\n")[0] for match, end in zip(starts, ends, strict=True)
    )
    return options if all(options) else ()


def _statements(text: str) -> list[str]:
    """Return what stands behind each "the answer is", up to the end of its sentence."""
    behind = (text[found.end() : found.end() + MAX_FINAL_CHARACTERS].lstrip() for found in _STATEMENT.finditer(text))
    return [_SENTENCE_END.split(statement)[0] for statement in behind]
