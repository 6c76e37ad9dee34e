"""Correct answers are recognized as people would recognize them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.eval.grading import (
    FormatRules,
    chrf,
    contains_keypoint,
    follows_rules,
    is_refusal,
    keypoint_recall,
    matches_choice,
    matches_short_answer,
    normalize,
    normalize_answer,
    pick_grader,
    rouge_l,
    rouge_tokens,
)


@pytest.mark.parametrize(
    ("answer", "keypoint", "right"),
    [
        ("The cause is lack of Vitamin C.", "vitamin c", True),
        ("由缺乏维生素Ｃ引起。", "维生素C", True),
        ("There are 120 of them.", "12", False),
        ("There are 12 of them.", "12", True),
        ("the environment", "iron", False),
        ("an andiron", "iron", False),
        ("ironing", "iron", False),
        ("an iron.", "iron", True),
        ("不得超过百分之二十。", "百分之二十", True),
        ("Miranda", "rand", False),
        ("a  \n b", "a b", True),
        ("", "x", False),
    ],
)
def test_key_points_count_as_whole_words(answer, keypoint, right):
    assert contains_keypoint(answer, keypoint) is right


@given(st.text())
def test_normalizing_twice_is_normalizing_once(text):
    assert normalize(normalize(text)) == normalize(text)
    assert normalize_answer(normalize_answer(text)) == normalize_answer(text)


@given(st.text(min_size=1).filter(str.strip))
def test_a_key_point_is_in_itself(text):
    assert contains_keypoint(text, text)


def test_recall_is_the_share_of_points_and_any_way_of_saying_one_counts():
    assert keypoint_recall("铁和维生素C", ["铁|Fe", "维生素C", "锌"]) == pytest.approx(2 / 3)
    assert keypoint_recall("Fe", ["iron|Fe"]) == 1
    assert keypoint_recall("", ["iron"]) == 0


@pytest.mark.parametrize(
    ("reference", "grader"),
    [
        ("42", "number"),
        ("3.5 mg", "number"),
        ("20%", "number"),
        ("１２", "number"),
        ("120元", "number"),
        ("Paris", "short"),
        ("维生素C", "short"),
        ("in 1969 and 1972", "short"),
        ("It is caused by a lack of vitamin C, which collagen needs.", "text"),
        ("one\ntwo", "text"),
    ],
)
def test_the_grader_follows_from_the_reference(reference, grader):
    assert pick_grader(reference) == grader


@pytest.mark.parametrize(
    ("answer", "wanted", "right"),
    [
        ("Paris", ["paris"], True),
        ("Paris.", ["Paris"], True),
        ("The answer is Paris.", ["Paris"], True),
        ("答案是巴黎。", ["巴黎"], True),
        ("ＰＡＲＩＳ", ["paris"], True),
        ("the Louvre", ["Louvre"], True),
        ("**Paris**", ["Paris"], True),
        ("Lutetia", ["Paris", "Lutetia"], True),
        ("Paris or London", ["Paris"], False),
        ("3.5", ["35"], False),
        ("not Paris", ["Paris"], False),
        ("", ["Paris"], False),
    ],
)
def test_short_answers_are_compared_whole(answer, wanted, right):
    assert matches_short_answer(answer, wanted) is right


def test_a_choice_is_exactly_its_letters():
    options = ["one", "two", "three"]
    assert matches_choice("The answer is B", "B", options)
    assert matches_choice("答案：A、C", "CA", options)
    assert not matches_choice("答案：A、B、C", "AC", options)
    assert not matches_choice("no idea", "A", options)


@pytest.mark.parametrize("measure", [chrf, rouge_l])
def test_similarity_of_chinese_is_by_characters(measure):
    assert measure("缺乏维生素C引起坏血病", "缺乏维生素C引起坏血病") == pytest.approx(1)
    near = measure("坏血病是缺乏维生素C引起的", "缺乏维生素C引起坏血病")
    assert 0.3 < near < 1
    assert measure("完全不同", "缺乏维生素C引起坏血病") < near
    assert measure("", "缺乏") == 0


def test_rouge_is_by_words_and_by_chinese_characters():
    assert rouge_tokens("Vitamin C，维生素Ｃ。") == ["vitamin", "c", "维", "生", "素", "c"]
    # Longest common subsequence 3 of 4 and 3: precision 3/4, recall 1.
    assert rouge_l("the red cat sat", "the cat sat") == pytest.approx(2 * 0.75 / 1.75)
    assert rouge_l("甲乙丙丁", "甲丙丁") == pytest.approx(2 * 0.75 / 1.75)


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_between_0_and_1(one, other):
    for measure in (chrf, rouge_l):
        assert 0 <= measure(one, other) <= 1


@pytest.mark.parametrize(
    ("answer", "refusing"),
    [
        ("Blue has no sides; the question makes no sense.", True),
        ("There is no such treaty.", True),
        ("这个问题没有意义。", True),
        ("并不存在这样的人。", True),
        ("The colour blue has four sides.", False),
        ("有四条边。", False),
        ("The answer is 4. 答案是四。", False),
        ("", False),
    ],
)
def test_a_refusal_is_recognized(answer, refusing):
    assert is_refusal(answer) is refusing


@pytest.mark.parametrize(
    ("answer", "rules", "kept"),
    [
        ("one\n\ntwo", {"lines": 2}, True),
        ("one\ntwo\nthree", {"lines": 2}, False),
        ("a b c", {"words": 3}, True),
        ("红绿蓝", {"words": 3}, True),
        ("too many words here", {"most_words": 3}, False),
        ('{"name": "x", "age": 3}', {"json_keys": ["age", "name"]}, True),
        ('```json\n{"name": "x"}\n```', {"json_keys": ["name"]}, True),
        ('Here: {"name": "x"}', {"json_keys": ["name"]}, False),
        ("[1]", {"json_keys": ["name"]}, False),
        ("1. a\n2. b\n3. c", {"numbered": 3}, True),
        ("1、甲\n2、乙", {"numbered": 2}, True),
        ("1. a\n3. c", {"numbered": 2}, False),
        ("Yes.", {"one_of": ["yes", "no"]}, True),
        ("Yes, it is", {"one_of": ["yes", "no"]}, False),
        ("HELLO, WORLD!", {"capitals": True}, True),
        ("Hello", {"capitals": True}, False),
        ("Dear reader ... END", {"begins": "dear", "ends": "end"}, True),
        ("a cat", {"without": ["dog"], "holds": ["cat"]}, True),
        ("2024-05-01", {"pattern": r"\d{4}-\d\d-\d\d"}, True),
        ("on 2024-05-01", {"pattern": r"\d{4}-\d\d-\d\d"}, False),
        (" ", {"without": ["dog"]}, False),
    ],
)
def test_format_rules(answer, rules, kept):
    assert follows_rules(answer, FormatRules.model_validate(rules)) is kept
