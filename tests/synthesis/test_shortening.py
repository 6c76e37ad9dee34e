"""A rewriting of long reasoning is kept only if it is shorter, well formed, honest, and leads to the row's own answer."""

import pytest
from support.row_checks import TOKENS

from thinktune.config.row_faults import HANDED_PHRASES, resolve_policies
from thinktune.data.faults.checks import CheckRules
from thinktune.inference import Completion, SamplingParams
from thinktune.synthesis import SelectionRules
from thinktune.synthesis.shortening import Shortening, shorten
from thinktune.tokenization import Example, Turn

RULES = SelectionRules(CheckRules(resolve_policies({}), HANDED_PHRASES, TOKENS), max_reasoning_tokens=40)
LONG = "Seven rows, six trees each. " + " ".join(f"Hmm, is row {row} like the others? It is." for row in range(12))
QUESTION = "A farm has 7 rows of 6 trees each. How many trees are there?"
SHORT = "There are 7 rows with 6 trees in each of them, so I multiply: 7 times 6 makes 42 trees in all."
FREE_ANSWER = (
    "Ice is less dense than water, because its crystal lattice keeps the molecules further apart than in the liquid, "
    "so that the same mass takes more room and is carried by the water that it displaces."
)
SAMPLING = SamplingParams(200, temperature=0.6)


class Teacher:
    """A teacher that writes this rewriting, and says this of where it leads; None is no reply at all."""

    def __init__(self, rewriting, conclusion):
        self.rewriting, self.conclusion, self.asked = rewriting, conclusion, []

    def complete(self, requests):
        for index, request in enumerate(requests):
            self.asked.append(request)
            shown = request.turns[-1].content
            is_rewriting = any(word in shown for word in ("Rewrite", "改写"))
            said = self.rewriting if is_rewriting else self.conclusion
            if said is not None:
                yield index, Completion("", said, 30, 0, "end", False)


def row(question=QUESTION, answer="There are 42 trees.", reasoning=LONG):
    return Example((Turn("user", question), Turn("assistant", answer, reasoning)), "farm.jsonl:9")


def decide(rewriting, conclusion="42", example=None, judge=None):
    teacher = Teacher(rewriting, conclusion)
    shortening = Shortening(RULES, lambda text: len(text.split()), judge)
    return shorten([example or row()], teacher, shortening, SAMPLING), teacher


def why(*args, **given):
    made, _ = decide(*args, **given)
    return [each.verdict.why for each in made]


def test_a_shorter_rewriting_that_leads_to_the_answer_is_kept():
    [made], teacher = decide(SHORT)
    assert made.verdict.kept
    assert (made.verdict.reasoning, made.verdict.answer) == (SHORT, "There are 42 trees.")
    assert made.tokens < len(LONG.split())
    rewriting, following = (request.turns[-1].content for request in teacher.asked)
    assert LONG in rewriting
    assert SHORT in following
    assert LONG not in following
    assert "There are 42 trees." not in rewriting + following  # the answer is never shown
    assert teacher.asked[1].sampling.is_greedy


@pytest.mark.parametrize(
    ("rewriting", "conclusion", "reason"),
    [
        (SHORT, "48", "wrong answer"),
        (SHORT, "none", "wrong answer"),
        (SHORT, None, "answer cannot be graded"),
        (SHORT.replace("42 trees", "48 trees"), "42", "reasoning and answer differ"),
        ("Each row holds as many trees as the next, so I multiply both numbers.", "42", "reasoning and answer differ"),
        (SHORT + " The answer is 48.", "42", "reasoning and answer differ"),
        (LONG + " So 42.", "42", "too long"),
        ("As the given answer says, 7 times 6 makes 42.", "42", "admits that it was given the answer"),
        ("七行树每行六棵，七乘以六等于四十二，也就是说这个农场一共有42棵树，没有别的了。", "42", "another language"),
        (f"<think>{SHORT}</think>", "42", "not well formed"),
        ("", "42", "empty"),
    ],
)
def test_what_is_not_kept(rewriting, conclusion, reason):
    assert why(rewriting, conclusion) == [reason]


def test_a_teacher_that_is_silent_changes_nothing():
    assert why(None) == []


def test_chinese_is_asked_in_chinese():
    text = "每行六棵，七行就是七乘以六，所以一共有42棵树。"
    example = row("农场有7行树，每行6棵，请问一共有多少棵树呢？", "一共有42棵树。", "我想一想，数一数，" * 30)
    shortening = Shortening(RULES, len)
    teacher = Teacher(text, "42棵")
    [made] = shorten([example], teacher, shortening, SAMPLING)
    assert made.verdict.kept, made.verdict
    assert all("思考" in request.turns[-1].content for request in teacher.asked)


def test_free_text_is_judged():
    example = row("Why does ice float in a glass of water?", FREE_ANSWER)
    short = "Water expands when it freezes, so ice is lighter than the same room of water, and is carried by it."
    said = "Because it is lighter than what it pushes away."
    assert why(short, said, example) == ["answer cannot be graded"]
    assert why(short, said, example, lambda *_: [True]) == [""]
    assert why(short, said, example, lambda *_: [False]) == ["wrong answer"]
