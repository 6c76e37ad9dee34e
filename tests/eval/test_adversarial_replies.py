"""Replies that loop, or that are written to hurt: whatever reads a reply takes time linear in it, and none ends a run."""

import string
import time
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from thinktune.errors import UserError
from thinktune.eval.answer_extraction import extract_letters, extract_number, parse_chinese_numeral
from thinktune.eval.grading import boxed_content, format_metrics, is_refusal, lcs_length, pick_grader
from thinktune.eval.llm_judge import parse_judgement
from thinktune.eval.normalization import fold_compatibility
from thinktune.eval.task_options import find_listed_options
from thinktune.eval.tasks import grade_answer, make_task

CHARACTERS = 100_000
MAX_SECONDS = 1.0  # of CPU time for one reply
OPTIONS = ["insulin", "glucagon", "cortisol", "growth hormone"]
LONG_REFERENCE = "The quick brown fox jumps over the lazy dog, 因为它很快。" * 20
PATTERN_RULES = [{"pattern": r"(?s).*明天再见\W*"}, {"numbered": 3}, {"json_keys": ["a"]}, {"lines": 2, "words": 9}]
TASKS = [
    make_task({"question": "q", "choices": OPTIONS, "answer": "B"}, "t", "t:1"),
    make_task({"question": "q", "answer": "42 mg", "grader": "number"}, "t", "t:2"),
    make_task({"question": "q", "answer": "Paris", "grader": "short"}, "t", "t:3"),
    make_task({"question": "q", "answer": LONG_REFERENCE, "grader": "text"}, "t", "t:4"),
    make_task({"question": "q", "keypoints": ["iron|Fe", "a a a a a a b", "维生素C"], "answer": "x y"}, "t", "t:5"),
    make_task({"question": "q", "grader": "refusal"}, "t", "t:6"),
    *(make_task({"question": "q", "grader": "format", "rules": rules}, "t", "t:7") for rules in PATTERN_RULES),
]
READERS: dict[str, Callable[[str], object]] = {
    "letters": lambda text: extract_letters(text, OPTIONS),
    "letters of ten": lambda text: extract_letters(text, [*"abcdefghij"]),
    "letters of 26": lambda text: extract_letters(text, [f"AB {letter}" for letter in string.ascii_uppercase]),
    "options in a question": find_listed_options,
    "boxed": boxed_content,
    "number": extract_number,
    "grader of a reference": pick_grader,
    "refusal": is_refusal,
    "judge": lambda text: parse_judgement(text, "base first"),
    "format": lambda text: format_metrics("Why?", reply_of(text), thinking=True),
    **{
        f"{task.grader} {task.source} {n}": (lambda text, task=task: grade_answer(task, text))
        for n, task in enumerate(TASKS)
    },
}
PIECES = [
    "A and ", "A,", "A, ", "A、", "(A", "((", "A)", "A is ", "A or ", "A ", "A\n", "AB", "*", "answer", "answer is ", "final ",
    "The answer is A, ", "答案", "答案是A和", "选", "选A", "\\boxed{", "\\text{", "\\boxed{A", "best option ", " the correct ",
    "1", "1,", "111,", "1.", ".1", "-1", "- 1", "1e", "1e1", "1e300 ", "1/", "10^", "1 x 10", "1万", "1百", "1千分", "1 mg", "1 ", "=", "=1",
    "####", "一", "一x", "百", "亿", "一亿", "零", "零点一", "负", "点", "百分之", "百分之一", "٣",
    " ", "\n", "\t", "\n ", " ,", "\u00a0", "\\", "$", "`", "```", "``` ", "{", "{\"", "[", "{\"a\":", "[{\"a\":", "[1,", "\"", "1. ", "1.\n", "\n1. a",
    "a", "ab ", "a a ", "的", "。", ".", "-", "a-", "_", "%", "it is not ", "\x00", "\ufffd", "\u200d",
    "\u0323\u0300", "a\u0300\u0323", "\u0f73", "\uff9e\u0300", "\u0344", "\ufdfa", "½", "ﬃ", "ΐ", "İ", "\u1100\u1161", "👩\u200d👩",
]  # fmt: skip


def reply_of(text):
    return {"reasoning": text, "answer": text, "closed": True, "finish": "end", "tokens": 1, "reasoning_tokens": 1}


def repeated(piece, characters=CHARACTERS):
    return (piece * (characters // len(piece) + 1))[:characters]


def assert_quick(read, text):
    """Neighbours on the same core and collections of all that other tests left behind slow one try, not three."""
    spent = seconds_of(read, text)
    for _ in range(2):
        spent = spent if spent < MAX_SECONDS else min(spent, seconds_of(read, text))
    assert spent < MAX_SECONDS, f"{spent:.1f} s for {len(text):,} characters that begin with {text[:40]!r}"


def seconds_of(read, text):
    start = time.process_time()
    read(text)
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_no_reply_takes_long(name):
    """Each piece repeated, alone and inside a statement."""
    for piece in PIECES:
        for text in (f"The answer is {repeated(piece)} x", f"```json\n{repeated(piece)}```"):
            assert_quick(READERS[name], text)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=15, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=4),
    before=st.sampled_from(PIECES),
    after=st.sampled_from(PIECES),
)
def test_no_mixture_takes_long(name, pieces, before, after):
    assert_quick(READERS[name], before + repeated("".join(pieces), CHARACTERS // 2) + after)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("letters", "A and " * 60 + "A x"),  # took twice as long with each further repeat
        ("letters", f"answer{' ' * CHARACTERS}x"),
        ("letters", f"A{' ' * CHARACTERS}x"),
        ("letters", repeated("A ")),
        ("letters", f"The answer is {repeated(chr(92) + 'boxed{')}"),
        ("number", repeated("1")),
        ("number", f"1e{repeated('1')}"),
        ("number", f"0.{repeated('3')}"),
        ("number", f"1/{repeated('7')}"),
        ("number", repeated("1,")),
        ("number", repeated("1万")),
        ("number", repeated("=1 ")),
        ("number", f"一{repeated('亿')}"),
        ("number", f"零点{repeated('三')}"),
        ("number", repeated("一x")),
        ("short t:3 2", repeated("\u0323\u0300")),  # combining marks in no order
        ("short t:3 2", repeated("\u0f73")),
        ("text t:4 3", repeated("the lazy dog ")),
        ("text t:4 3", repeated("\ufdfa")),
        ("keypoints t:5 4", repeated("a ")),
        ("format t:7 7", repeated("\n") + "1"),
        ("format t:7 8", repeated("[")),
        ("format t:7 8", f"```{' ' * CHARACTERS}```x```"),
        ("judge", repeated('{"a":')),
        ("judge", repeated("{")),
        ("grader of a reference", f"1{' ' * CHARACTERS}x"),
    ],
)
def test_replies_that_were_known_to_hurt_do_not(name, text):
    assert_quick(READERS[name], text)


def test_a_pattern_of_the_task_itself_is_stopped():
    """Nobody but its author can make it linear, so it has a limit, and the row is not graded."""
    task = make_task({"question": "q", "grader": "format", "rules": {"pattern": "(x+x+)+y"}}, "t", "t:1")
    with pytest.raises(TimeoutError):
        assert_quick(lambda text: grade_answer(task, text), repeated("x"))


def test_long_numbers_are_still_compared_exactly():
    digits = "123456789" * 600
    task = make_task({"question": "q", "answer": digits, "grader": "number"}, "t", "t:1")
    assert grade_answer(task, f"The answer is {digits}.") == {"right": 1}
    assert grade_answer(task, f"The answer is {digits[:-1]}8.") == {"right": 0}
    third = make_task({"question": "q", "answer": "0.33"}, "t", "t:1")
    assert grade_answer(third, f"It is 0.{'3' * 9000}") == {"right": 1}
    assert grade_answer(make_task({"question": "q", "answer": "42"}, "t", "t:1"), f"42 or {'9' * 9000}") == {"right": 0}
    assert parse_chinese_numeral("零点" + "三" * 5000) is not None
    assert parse_chinese_numeral("一" + "亿" * 5000) is None


@given(st.lists(st.sampled_from("ab c"), max_size=60), st.lists(st.sampled_from("abcd"), max_size=60))
def test_the_longest_common_subsequence_is_that_of_rouge_score(one, other):
    table = rouge_scorer._lcs_table(one, other)
    assert lcs_length(one, other) == lcs_length(other, one) == table[len(one)][len(other)]


@given(st.text(max_size=40))
def test_folding_is_nfkc_for_texts_of_people(text):
    assert fold_compatibility(text) == unicodedata.normalize("NFKC", text)


def test_long_runs_of_marks_keep_all_their_marks():
    text = "a" + "\u0323\u0300" * 200
    assert sorted(fold_compatibility(text).replace("\u034f", "")) == sorted(unicodedata.normalize("NFKC", text))


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("A, B (both)", "A"),
        ("The answer is A, Because", "A"),
        ("C, A is wrong", "C"),
        ("答案是AB项", ""),
        ("A, BOTH of them", "A"),
    ],
)
def test_possessive_patterns_find_what_the_former_ones_did(answer, wanted):
    assert extract_letters(answer, OPTIONS) == wanted


def test_a_verdict_with_braces_in_its_reason_is_read():
    text = 'I think {so}. {"reason": "it has {a} and {b}", "winner": "tie"}'
    assert parse_judgement(text, "base first") == ("tie", "it has {a} and {b}")


def test_a_wrong_pattern_is_a_mistake_of_the_task_file():
    with pytest.raises(UserError, match=r"t:1: rules: .*regular expression"):
        make_task({"question": "q", "grader": "format", "rules": {"pattern": "(a"}}, "t", "t:1")
