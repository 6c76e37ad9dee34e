"""Shortening of reasoning that is too long: a teacher rewrites it, and the row's own answer must still follow from it.

Whether it follows is asked: the teacher reads the rewritten reasoning and says to which answer it leads, and our
graders compare that with the row's. A reasoning that does not itself reach a number or an option is refused before
that, since a teacher may know the answer without it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from thinktune.eval.answer_extraction import OPTION_LETTERS
from thinktune.eval.grading import contains_keypoint
from thinktune.inference import Completion, Request, SamplingParams
from thinktune.synthesis.answer_agreement import answer_agreement, conclusion_differs, row_task
from thinktune.synthesis.selection import Judge, SelectionRules, Try, Verdict, check_form, check_row
from thinktune.tokenization import Example, Turn

MAX_LENGTH_SHARE = 0.9  # of the tokens before; a rewriting that saves less is not worth its risk

REWRITE = {
    "en": (
        "Below are a question and somebody's thoughts about it. Rewrite the thoughts in at most {words} words, in the "
        "same language and in the first person, as if they had been thought that way at once. Keep every step that "
        "the conclusion needs, leave out repetitions, detours and settled doubts, and add nothing. Write only the "
        "rewritten thoughts.\n\n[Question]\n{question}\n\n[Thoughts]\n{reasoning}"
    ),
    "zh": (
        "下面是一个问题和某人对它的思考。请用同一种语言、第一人称把这段思考改写到{words}字以内，"
        "就像一开始就是这样想的。"
        "保留得出结论所需的每一步，去掉重复、弯路和已经解决的疑问，不要添加新内容。只写改写后的思考。"
        "\n\n[问题]\n{question}\n\n[思考]\n{reasoning}"
    ),
}
FOLLOW = {
    "en": (
        "Below are a question and somebody's thoughts about it. Which answer do these thoughts lead to? Go by the "
        "thoughts alone, even where you would think otherwise, and write only that answer; if they lead to none, write "
        '"none".\n\n[Question]\n{question}\n\n[Thoughts]\n{reasoning}'
    ),
    "zh": (
        "下面是一个问题和某人对它的思考。这段思考得出的答案是什么？只根据这段思考，即使你有不同看法，也只写出它得出的答案；"
        "如果没有得出答案，就写“没有”。\n\n[问题]\n{question}\n\n[思考]\n{reasoning}"
    ),
}


class Completer(Protocol):
    """Source of completions; a request without one, as when the budget is spent, is left out."""

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Yield each request's index and completion, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class Shortening:
    """What a rewriting is held to: the rules of all reasoning, with a longest length, and how tokens are counted."""

    rules: SelectionRules
    count_tokens: Callable[[str], int]
    judge: Judge | None = None

    @property
    def max_tokens(self) -> int:
        """Tokens of reasoning from which on it is too long."""
        assert self.rules.max_reasoning_tokens is not None
        return self.rules.max_reasoning_tokens


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A rewriting of the reasoning of an example, by its index: its request, its reply, and the decision on it."""

    index: int
    request: Request
    reply: Completion
    verdict: Verdict
    tokens: int


def shorten(
    examples: Sequence[Example], completer: Completer, shortening: Shortening, sampling: SamplingParams
) -> list[Rewriting]:
    """Rewrite the reasoning of each example's last reply once, and decide on each rewriting that came.

    A kept one is shorter by a tenth at the least, within the length asked for, passes the checks of a new reasoning,
    and leads to the row's own answer.
    """
    asked = [rewrite_request(example, shortening.max_tokens, sampling) for example in examples]
    made: list[Rewriting] = []
    for index, reply in sorted(completer.complete(asked)):
        verdict, tokens = _check_rewriting(examples[index], reply, shortening)
        made.append(Rewriting(index, asked[index], reply, verdict, tokens))
    checked = [place for place, each in enumerate(made) if each.verdict.kept]
    follow = [follow_request(examples[made[place].index], made[place].verdict.reasoning, sampling) for place in checked]
    said = {checked[number]: reply for number, reply in completer.complete(follow)} if follow else {}
    for place in checked:
        each = made[place]
        verdict = _check_conclusion(examples[each.index], each.verdict, said.get(place), shortening.judge)
        made[place] = replace(each, verdict=verdict)
    return made


def rewrite_request(example: Example, max_tokens: int, sampling: SamplingParams) -> Request:
    """Return the request to rewrite the reasoning of an example's last reply; a word has more than one token."""
    words = {"words": max(20, max_tokens * 2 // 3)}
    return _request(REWRITE, example, example.turns[-1].reasoning, sampling, **words)


def follow_request(example: Example, reasoning: str, sampling: SamplingParams) -> Request:
    """Return the request for the answer that a reasoning leads to."""
    return _request(FOLLOW, example, reasoning, replace(sampling, temperature=0.0))


def _request(
    prompts: dict[str, str], example: Example, reasoning: str, sampling: SamplingParams, **values: int
) -> Request:
    chinese = any("\u4e00" <= letter <= "\u9fff" for letter in reasoning[:200])
    text = prompts["zh" if chinese else "en"].format(question=example.question, reasoning=reasoning, **values)
    return Request((Turn("user", text),), sampling)


def _check_rewriting(example: Example, reply: Completion, shortening: Shortening) -> tuple[Verdict, int]:
    """Check all of a rewriting but its conclusion; returns its tokens as well."""
    own = example.turns[-1]
    # What the teacher thought about its rewriting is its own; what it wrote is the reasoning.
    text, rules = reply.answer.strip(), replace(shortening.rules, own_answers=True)
    tokens, before = shortening.count_tokens(text), shortening.count_tokens(own.reasoning)
    closed = reply.closed or not reply.reasoning
    verdict = check_form(example, Try(text, own.content, reply.finish, closed, tokens), rules)
    if verdict.kept and tokens > MAX_LENGTH_SHARE * before:
        verdict = verdict.refused("too long", f"{tokens} tokens, {before} before")
    if verdict.kept:
        task = row_task(example)
        reached = True
        if task.grader == "number":
            digits = task.references[0].split()[0]
            reached = contains_keypoint(text, digits) or answer_agreement(task, text).holds is True
        elif task.grader == "choice":
            wanted = [task.choices[OPTION_LETTERS.index(letter)] for letter in task.references[0]]
            reached = all(
                contains_keypoint(text, option) or contains_keypoint(text, letter)
                for option, letter in zip(wanted, task.references[0], strict=True)
            )
        if not reached or conclusion_differs(task, text):
            verdict = verdict.refused("reasoning and answer differ", f"does not reach {task.references[0][:40]!r}")
    return (check_row(example, verdict, rules) if verdict.kept else verdict), tokens


def _check_conclusion(example: Example, verdict: Verdict, said: Completion | None, judge: Judge | None) -> Verdict:
    """Hold the answer that a rewriting leads to against the row's own."""
    own_answer = example.turns[-1].content
    if said is None or said.finish == "length":
        return verdict.refused("answer cannot be graded", "nobody said where it leads")
    agreement = answer_agreement(row_task(example), said.answer)
    holds, grader = agreement.holds, agreement.grader
    if holds is None and judge is not None:
        [holds] = judge(example.question, own_answer, [said.answer])
        grader = "judge"
    verdict = replace(verdict, grader=grader)
    match holds:
        case True:
            return verdict
        case None:
            why = "the judge's verdict is unreadable" if grader == "judge" else "answer cannot be graded"
            return verdict.refused(why, agreement.detail)
        case False:
            return verdict.refused("wrong answer", f"it leads to {said.answer.strip()[:60]!r}")
