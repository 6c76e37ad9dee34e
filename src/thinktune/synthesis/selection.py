"""Selection of a teacher's tries: which are kept, and for each of the others the first reason why it is not."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from thinktune.data.faults.checks import CheckRules, check_example
from thinktune.data.faults.duplicates import jaccard, normalize_text
from thinktune.data.faults.language import main_language, main_script
from thinktune.data.faults.marks.think_tags import THINK_TAG
from thinktune.eval.grading import ends_in_loop
from thinktune.inference import Completion
from thinktune.synthesis.answer_agreement import Agreement, answer_agreement, conclusion_differs, row_task
from thinktune.synthesis.handed_traces import find_trace, opens_with_answer, without_traces
from thinktune.tokenization import Example
from thinktune.tokenization.tags import KNOWN_TAGS

Kind = Literal["plain", "hinted"]
# Why a try is not kept, in the order of the checks: those of its form first, what costs money last.
Why = Literal[
    "",
    "cut off",
    "not well formed",
    "empty",
    "loops",
    "too short",
    "too long",
    "another language",
    "admits that it was given the answer",
    "wrong answer",
    "answer cannot be graded",
    "reasoning and answer differ",
    "a fault of its row",
    "worse than the row's own answer",
    "the judge's verdict is unreadable",
    "nearly the same as another",
    "more than asked for",
]

MAX_JACCARD = 0.8  # of the runs of three characters of two kept reasonings
MIN_DISTINCT_WORDS = 3
WINDOW_CHARACTERS = 400  # in which a language is looked for, so that a passage in another one is found
MAX_FOREIGN_WINDOWS = 0.2  # of all windows: a quotation may be in another language
MIN_REPEATED_CHARACTERS, MAX_REPEATS = 20, 4  # of one sentence in a text that does not loop

# The judge: takes a question, the row's own answer and answers of a teacher; says of each whether it is no worse,
# None where its verdict could not be read.
Judge = Callable[[str, str, Sequence[str]], Sequence[bool | None]]


@dataclass(frozen=True, slots=True)
class Try:
    """A teacher's reply to a question.

    `hinted` says that the teacher was shown the answer. `reasoning_tokens` are best counted with the tokenizer of the
    model to train.
    """

    reasoning: str
    answer: str
    finish: str = "end"
    closed: bool = True
    reasoning_tokens: int = 0
    hinted: bool = False

    @classmethod
    def from_completion(cls, reply: Completion, *, hinted: bool = False) -> "Try":
        """Make the try of a completion."""
        return cls(reply.reasoning, reply.answer, reply.finish, reply.closed, reply.reasoning_tokens, hinted)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Decision on a try: kept, or why not; `detail` shows the place or the figure that decided.

    `reasoning` and `answer` are what is to be trained: without the sentences that spoke of a hint.
    """

    kept: bool
    why: Why
    grader: str
    reasoning: str
    answer: str
    kind: Kind = "plain"
    detail: str = ""

    def refused(self, why: Why, detail: str = "") -> "Verdict":
        """Return the verdict that refuses the same try."""
        return replace(self, kept=False, why=why, detail=detail)


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """What a kept try must be.

    `check` are the recipe's own rules of its rows: what they would drop or repair is not kept. `language` (ISO 639-1)
    is that of the reasoning; None asks for the question's. `own_answers` trains the row's own answer instead of the
    teacher's. Of each question at most `max_kept` tries are kept.
    """

    check: CheckRules
    min_reasoning_tokens: int = 1
    max_reasoning_tokens: int | None = None
    language: str | None = None
    own_answers: bool = False
    max_kept: int = 1


def select(example: Example, tries: Sequence[Try], rules: SelectionRules, judge: Judge | None = None) -> list[Verdict]:
    """Decide on each try at the last reply of an example, which holds the row's own answer.

    A judge is asked only about free text that no grader can decide on, and only of tries that passed everything else.
    Of several right tries those without a hint come first, then the shorter ones.
    """
    task = row_task(example)
    verdicts = [check_form(example, each, rules) for each in tries]
    agreements: dict[int, Agreement] = {}
    for index, verdict in enumerate(verdicts):
        if not verdict.kept:
            continue
        agreement = agreements[index] = answer_agreement(task, verdict.answer)
        verdicts[index] = _graded(verdict, agreement, has_judge=judge is not None)
        if verdicts[index].kept and (difference := conclusion_differs(task, verdict.reasoning)):
            verdicts[index] = verdicts[index].refused("reasoning and answer differ", difference)
        elif verdicts[index].kept:
            verdicts[index] = check_row(example, verdicts[index], rules)
    if judge is not None:
        asked = [index for index, each in enumerate(verdicts) if each.kept and agreements[index].holds is None]
        _ask_judge(example, tries, verdicts, asked, judge)
    _thin_out(verdicts, rules)
    return verdicts


def check_form(example: Example, each: Try, rules: SelectionRules) -> Verdict:
    """Check a try's form, language and honesty; without a fault, return a verdict that keeps it."""
    question, own_answer = example.question, example.turns[-1].content
    reasoning, answer = each.reasoning.strip(), each.answer.strip()
    kind: Kind = "hinted" if each.hinted else "plain"
    trace = ""
    if each.hinted:
        reasoning = without_traces(question, reasoning)
    verdict = Verdict(True, "", "", reasoning, own_answer if rules.own_answers else answer, kind)
    if fault := _form_fault(example, replace(each, reasoning=reasoning, answer=answer), rules):
        return verdict.refused(*fault)
    if foreign := _other_language(question, own_answer, reasoning, answer, rules.language):
        return verdict.refused("another language", foreign)
    for text in (reasoning, answer):
        trace = trace or find_trace(question, text)
    if not trace and each.hinted:
        trace = opens_with_answer(question, reasoning, row_task(example).references)
    return verdict.refused("admits that it was given the answer", trace) if trace else replace(verdict, answer=answer)


def _form_fault(example: Example, each: Try, rules: SelectionRules) -> tuple[Why, str] | None:
    if each.finish not in ("end", "stop"):
        return "cut off", f"ended by {each.finish}"
    tag = _find_tag(each.reasoning) or _find_tag(each.answer)
    if tag or not each.closed:
        return "not well formed", tag or "the reasoning was not closed"
    for part, text in (("reasoning", each.reasoning), ("answer", each.answer)):
        if not any(character.isalnum() for character in text):
            return "empty", part
        if ends_in_loop(text) or _most_repeats(text) > MAX_REPEATS:
            return "loops", part
    distinct = {normalize_text(word) for word in _words(each.reasoning)}
    plain = normalize_text(each.reasoning).strip(".。!！?？")
    if len(distinct) < MIN_DISTINCT_WORDS or each.reasoning_tokens < rules.min_reasoning_tokens:
        return "too short", f"{each.reasoning_tokens} tokens of reasoning"
    if plain in {normalize_text(text).strip(".。!！?？") for text in (example.question, each.answer)}:
        return "empty", "the reasoning only repeats the question or the answer"
    if rules.max_reasoning_tokens is not None and each.reasoning_tokens > rules.max_reasoning_tokens:
        return "too long", f"{each.reasoning_tokens} tokens of reasoning"
    return None


def _find_tag(text: str) -> str:
    """Return the first think tag of any model in a text, else ""."""
    if found := THINK_TAG.search(text):
        return found[0]
    return next((tag for tags in KNOWN_TAGS for tag in (tags.opening, tags.closing) if tag in text), "")


def _words(text: str) -> list[str]:
    """Split a text at white space; a text without any, as of Chinese, into its characters."""
    words = text.split()
    return words if len(words) >= MIN_DISTINCT_WORDS else list(text)


def _most_repeats(text: str) -> int:
    """Count the commonest sentence, where it is long enough to be one."""
    sentences = [each.strip() for each in text.replace("。", ".\n").replace(". ", ".\n").splitlines()]
    counts = Counter(each for each in sentences if len(each) >= MIN_REPEATED_CHARACTERS)
    return max(counts.values(), default=0)


def _other_language(question: str, own_answer: str, reasoning: str, answer: str, asked: str | None) -> str:
    """Name the text that is in another language than it should be: the reasoning in that asked for, or the question's.

    The answer is in the language of the row's own, which in a translation is not the question's.
    """
    expected = asked or main_language(question) or main_language(own_answer)
    found = main_language(reasoning)
    if expected and found and found != expected:
        return f"the reasoning is {found}, not {expected}"
    windows = [reasoning[at : at + WINDOW_CHARACTERS] for at in range(0, len(reasoning), WINDOW_CHARACTERS)]
    scripts = [script for window in windows if (script := main_script(window))]
    wanted = _SCRIPT_OF_LANGUAGE.get(asked or "", "Latin" if asked else None) or main_script(question)
    if wanted and sum(script != wanted for script in scripts) > MAX_FOREIGN_WINDOWS * len(scripts):
        return f"the reasoning is in part {next(script for script in scripts if script != wanted)}"
    wanted = main_script(own_answer) or main_script(question)
    script = main_script(answer)
    if wanted and script and script != wanted:
        return f"the answer is {script}, not {wanted}"
    expected, found = main_language(own_answer) or main_language(question), main_language(answer)
    return f"the answer is {found}, not {expected}" if expected and found and found != expected else ""


_SCRIPT_OF_LANGUAGE = {
    "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "el": "Greek", "he": "Hebrew",
    "ru": "Cyrillic", "uk": "Cyrillic", "bg": "Cyrillic", "ar": "Arabic", "hi": "Indic",
}  # fmt: skip


def _graded(verdict: Verdict, agreement: Agreement, *, has_judge: bool) -> Verdict:
    verdict = replace(verdict, grader=agreement.grader)
    if agreement.holds is None:
        verdict = replace(verdict, grader="judge" if has_judge else agreement.grader)
        return verdict if has_judge else verdict.refused("answer cannot be graded", agreement.detail)
    return verdict if agreement.holds else verdict.refused("wrong answer", agreement.detail)


def check_row(example: Example, verdict: Verdict, rules: SelectionRules) -> Verdict:
    """Check the row as it would be trained; a repair is refused as well, since a teacher's next try may need none."""
    own = example.turns[-1]
    answer = own.content if rules.own_answers else verdict.answer
    reply = replace(own, content=answer, reasoning=verdict.reasoning, trained=True)
    earlier = tuple(replace(turn, trained=False) for turn in example.turns[:-1])
    trained = Example((*earlier, reply), example.source, example.keypoint)
    checked = check_example(trained, [("answer", "think")] * len(trained.turns), rules.check)
    wrong = next((found for found in checked.findings if found.action != "kept"), None)
    if wrong is not None:
        return verdict.refused("a fault of its row", f"{wrong.fault}: {wrong.sentence}")
    return replace(verdict, answer=answer)


def _ask_judge(
    example: Example, tries: Sequence[Try], verdicts: list[Verdict], asked: Sequence[int], judge: Judge
) -> None:
    """Put the judge's verdicts in place; tries with the same answer are asked about once.

    It reads the answers of the teacher, even where the row's own is what will be trained.
    """
    answers = list(dict.fromkeys(tries[index].answer.strip() for index in asked))
    own_answer = example.turns[-1].content
    said = dict(zip(answers, judge(example.question, own_answer, answers) if answers else (), strict=True))
    for index in asked:
        match said[tries[index].answer.strip()]:
            case None:
                verdicts[index] = verdicts[index].refused("the judge's verdict is unreadable")
            case False:
                verdicts[index] = verdicts[index].refused("worse than the row's own answer")
            case True:
                pass


def _thin_out(verdicts: list[Verdict], rules: SelectionRules) -> None:
    """Refuse what is nearly the same as a better try, and what is more than was asked for."""
    kept: list[int] = []
    order = sorted(
        (index for index, verdict in enumerate(verdicts) if verdict.kept),
        key=lambda index: (verdicts[index].kind == "hinted", len(verdicts[index].reasoning), index),
    )
    for index in order:
        reasoning = verdicts[index].reasoning
        twin = next((other for other in kept if jaccard(reasoning, verdicts[other].reasoning) >= MAX_JACCARD), None)
        if twin is not None:
            verdicts[index] = verdicts[index].refused("nearly the same as another", f"try {twin + 1}")
        elif len(kept) >= rules.max_kept:
            verdicts[index] = verdicts[index].refused("more than asked for")
        else:
            kept.append(index)
