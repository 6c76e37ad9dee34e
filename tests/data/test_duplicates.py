"""Duplicates, leaked questions and near duplicates are found, others are not, in linear time."""

import pickle
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.faults.duplicates import (
    MAX_NEIGHBOURS,
    MIN_JACCARD,
    MINHASH_WORDS,
    candidate_pairs,
    find_duplicates,
    find_leaks,
    find_near_duplicates,
    fingerprint,
    jaccard,
    normalize_text,
    question_text,
)
from thinktune.tokenization import Example, Turn

FORTY_WORDS = (
    "I am a woman of fifty two and for about three weeks my left knee has been swollen every morning, it hurts when I "
    "climb the stairs at work, so which specialist should I see first and what might cause this?"
)
CHINESE = (
    "医生，我最近三个月总是感觉上腹部不适，有时候还会反酸、嗳气，请问这会不会是胃溃疡的早期表现，需要做胃镜检查吗？"
)
WORDS = "胃 心脏 血压 检查 头晕 咳嗽 怎么 治疗 药物 血糖 饮食 患者 手术 发烧 疼痛 皮肤 过敏 睡眠 运动 症状 原因 影响 可以 医生 最近 感觉 孩子 老人 需要 注意 为什么 多久"


def example(question, answer="Blood.", reasoning="A muscle.", system=None):
    before = (Turn("system", system),) if system else ()
    return Example((*before, Turn("user", question), Turn("assistant", answer, reasoning)), "rows.jsonl:1")


def conversation(*contents):
    roles = ["user", "assistant"] * len(contents)
    return Example(tuple(Turn(role, text) for role, text in zip(roles, contents, strict=False)), "rows.jsonl:1")


def near(questions, exact=None):
    bands = np.array([fingerprint(example(question)).minhash for question in questions])
    exact = np.arange(len(questions), dtype=np.uint64) if exact is None else np.array(exact, np.uint64)
    return list(find_near_duplicates(bands, exact, questions.__getitem__))


few = st.lists(st.integers(0, 9).map(lambda number: number * 2**60), max_size=40)


@given(few)
def test_duplicates_are_what_a_dictionary_finds(rows):
    first = {}
    expected = [first.setdefault(row, index) for index, row in enumerate(rows)]
    found = find_duplicates(np.array(rows, np.uint64))
    assert found.tolist() == [earlier if earlier != index else -1 for index, earlier in enumerate(expected)]


@given(few, st.randoms())
def test_leaks_are_what_a_dictionary_finds(questions, chance):
    held = [chance.random() < 0.3 for _ in questions]
    first = {}
    for index, question in enumerate(questions):
        if held[index]:
            first.setdefault(question, index)
    expected = [-1 if held[index] else first.get(question, -1) for index, question in enumerate(questions)]
    assert find_leaks(np.array(questions, np.uint64), np.array(held, bool)).tolist() == expected


@pytest.mark.parametrize(
    "other",
    [
        "what does the HEART pump?",
        "  What does\tthe\u3000heart  pump?\n",
        "Ｗｈａｔ　ｄｏｅｓ　ｔｈｅ　ｈｅａｒｔ　ｐｕｍｐ？",
    ],
)
def test_case_white_space_and_width_make_no_difference(other):
    ours, theirs = fingerprint(example("What does the heart pump?")), fingerprint(example(other))
    assert (ours.question_hash, ours.row_hash, ours.minhash.tolist()) == (
        theirs.question_hash,
        theirs.row_hash,
        theirs.minhash.tolist(),
    )


@given(st.text(max_size=30), st.text(max_size=30))
def test_questions_share_a_hash_exactly_where_their_normalized_texts_are_equal(question, other):
    same = normalize_text(question) == normalize_text(other)
    assert (fingerprint(example(question)).question_hash == fingerprint(example(other)).question_hash) == same


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("，。？：；（）…㎎ｶﾞ①　ﬁe\u0301"), max_size=30))
def test_a_text_and_its_normal_form_are_duplicates(text):
    assert (
        fingerprint(example(text)).question_hash
        == fingerprint(example(unicodedata.normalize("NFKC", text))).question_hash
    )


@pytest.mark.parametrize(
    "other",
    [
        example("What does the heart pump?", answer="Blood!"),
        example("What does the heart pump?", reasoning="A muscle!"),
        example("What does the heart pump?", system="Be brief."),
        example("What does the heart pump?", answer="Blood.A muscle.", reasoning=""),
    ],
)
def test_rows_are_the_same_only_if_every_turn_is(other):
    row = fingerprint(example("What does the heart pump?"))
    assert fingerprint(other).row_hash != row.row_hash
    assert fingerprint(other).question_hash == row.question_hash


def test_a_question_is_the_last_one_with_all_that_was_said_before_it():
    assert question_text(example("Why?", system="Be brief.")) == "Why?"
    assert question_text(conversation("Why?", "So.", "Go on", "Well.")) == "Why?\nSo.\nGo on"
    assert question_text(conversation("Why?", "So.", "Go on")) == "Why?\nSo.\nGo on"
    after = [
        fingerprint(conversation(question, "So.", "Go on", "Well.")).question_hash
        for question in ("Why?", "How?", "why ?")
    ]
    assert after[0] == after[2] != after[1]


def test_fingerprints_are_small_to_send_to_another_process():
    row = fingerprint(example(CHINESE * 50))
    assert row.minhash.shape == (MINHASH_WORDS,)
    assert 16 + row.minhash.nbytes <= 100
    assert len(pickle.dumps(row)) < 400


@pytest.mark.parametrize("question", ["", "？", "ab", "𠀀", "\ud800", "血" * 200_000])
def test_every_question_has_a_fingerprint(question):
    assert fingerprint(example(question)).minhash.tolist() == fingerprint(example(question)).minhash.tolist()


@pytest.mark.parametrize(
    ("question", "other"),
    [
        (FORTY_WORDS, FORTY_WORDS.replace("swollen", "painful")),
        (FORTY_WORDS, FORTY_WORDS.replace("I am a woman", "I'm a woman")),
        (CHINESE, CHINESE.replace("医生，", "")),
        (CHINESE, CHINESE.replace("三个月", "两个月")),
        ("高血压患者在日常饮食中应该注意哪些问题？", "高血压患者在日常饮食中应该注意哪些问题"),
    ],
)
def test_a_question_with_a_word_changed_is_found(question, other):
    filler = ["患者的血糖多久检查一次？", "How long does a fever last?"]
    assert near([question, *filler, other]) == [(3, 0, jaccard(question, other))]


@pytest.mark.parametrize(
    ("question", "other"),
    [
        ("What does the heart pump?", "What does the lung pump?"),
        ("What are the symptoms of measles in adults?", "What are the symptoms of mumps in adults?"),
        ("心脏泵什么？", "肺泵什么？"),
        ("高血压患者在日常饮食中应该注意哪些问题？", "糖尿病患者在日常饮食中应该注意哪些问题？"),
        ("", "？"),
    ],
)
def test_different_questions_of_one_template_are_not(question, other):
    assert jaccard(question, other) < MIN_JACCARD
    assert near([question, other]) == []


def test_pairs_at_the_threshold_are_found_with_95_percent_and_others_rarely_compared():
    chance = random.Random(0)
    pairs, asked = [], []
    for _ in range(2000):
        question = "".join(chance.choices(WORDS.split(), k=chance.randrange(14, 30)))
        other = list(question)
        for _ in range(chance.choice([1, 1, 2, 2, 5, 6])):
            other[chance.randrange(len(other))] = chance.choice("甲乙丙丁戊己庚辛")
        pairs.append((question, "".join(other)))
    questions = [question for pair in pairs for question in pair]
    bands = np.array([fingerprint(example(question)).minhash for question in questions])
    exact = np.arange(len(questions), dtype=np.uint64)
    found = find_near_duplicates(bands, exact, lambda row: (asked.append(row), questions[row])[1])
    found = {later for later, _, _ in found}
    similar = {2 * number + 1: jaccard(*pair) for number, pair in enumerate(pairs)}
    wanted = {row for row, similarity in similar.items() if MIN_JACCARD <= similarity < 0.85}
    apart = {row for row, similarity in similar.items() if similarity < 0.6}
    assert len(wanted) > 200
    assert len(wanted & found) >= 0.95 * len(wanted)
    assert len(apart) > 200
    assert len(apart & set(asked)) <= 0.05 * len(apart)
    assert not apart & found


def test_long_questions_are_compared_from_start_to_end():
    chance = random.Random(0)
    question, other = ("".join(chance.choices(WORDS, k=10_000)) for _ in range(2))
    found = near([question, other, question[:-900] + other[:900], question[:900] + other[900:]])
    assert [(later, earlier) for later, earlier, _ in found] == [(2, 0), (3, 1)]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_each_later_row_comes_once_with_the_most_similar_earlier_one(order):
    variants = (FORTY_WORDS, FORTY_WORDS + " I also have a fever.", FORTY_WORDS + " I also have a fever. Thank you.")
    first, second, last = (variants[number] for number in order)
    found = near([first, second, last])
    assert found == [(1, 0, jaccard(first, second)), (2, order.index(1), jaccard(variants[1], last))]


def test_exact_duplicates_are_not_found_again():
    changed = FORTY_WORDS.replace("swollen", "painful")
    found = near([FORTY_WORDS, changed, changed, FORTY_WORDS], exact=[1, 2, 2, 1])
    assert [(later, earlier) for later, earlier, _ in found] == [(1, 0)]


def test_no_rows_have_no_duplicates():
    empty = np.empty(0, np.uint64)
    assert len(find_duplicates(empty)) == len(find_leaks(empty, np.empty(0, bool))) == 0
    assert list(find_near_duplicates(empty.reshape(0, MINHASH_WORDS), empty, str)) == []


def test_a_row_is_compared_with_few_of_a_huge_bucket():
    count, buckets = 210_000, 3
    key = np.arange(count, dtype=np.uint64) % buckets
    pairs = 0
    for later, earlier in candidate_pairs(key, key < 2):
        assert (later > earlier).all()
        assert (key[later] == key[earlier]).all()
        assert set(key[later].tolist()) <= {0, 1}
        assert len(np.unique(later)) == len(later)
        pairs += len(later)
        assert pairs <= MAX_NEIGHBOURS * count
    assert pairs == 2 * sum(count // buckets - distance for distance in range(1, MAX_NEIGHBOURS + 1))


@pytest.mark.parametrize("count", [1000, 4000])
def test_a_question_that_comes_thousands_of_times_takes_linear_work(count):
    bands = np.tile(fingerprint(example(CHINESE)).minhash, (count, 1))
    asked = []
    found = find_near_duplicates(bands, np.arange(count, dtype=np.uint64), lambda row: (asked.append(row), CHINESE)[1])
    assert [later for later, _, _ in found] == list(range(1, count))
    assert len(asked) <= 2 * count
