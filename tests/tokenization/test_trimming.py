"""Rows that are too long: only the middle of the reasoning goes, in whole sentences, and what is left says so."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.tokenization import Example, TokenKind, Turn
from thinktune.tokenization.chat_template import render
from thinktune.tokenization.trimming import OMISSION_MARK, trim_reasoning

CHINESE = [f"第{number}步，看血液。" for number in range(40)]
ENGLISH = [f"Step {number}: it is 2.5 mg, so think. " for number in range(40)]


def example(sentences, answer="心脏泵血液。"):
    return Example((Turn("user", "心脏泵什么？"), Turn("assistant", answer, "".join(sentences))), "rows.jsonl:3")


@pytest.mark.parametrize("sentences", [CHINESE, ENGLISH])
def test_whole_sentences_go_out_of_the_middle_with_a_mark(tokenizer, sentences):
    row = example(sentences)
    [whole] = render(row, tokenizer)
    limit = len(whole) // 2
    trimmed, [rendered] = trim_reasoning(row, tokenizer, limit)
    assert len(rendered) <= limit
    assert trimmed.turns[0] == row.turns[0]
    assert trimmed.turns[1].content == row.turns[1].content
    head, tail = trimmed.turns[1].reasoning.split(OMISSION_MARK)
    kept = [sentence for sentence in sentences if sentence.strip() in (head + tail)]
    assert kept[0] == sentences[0]
    assert kept[-1] == sentences[-1]
    count = head.count("步") + tail.count("步") + head.count("Step") + tail.count("Step")
    assert count == len(kept)
    ahead = sum(sentence.strip() in head for sentence in sentences)
    assert head.strip() == "".join(sentences[:ahead]).strip()
    assert tail.strip() == "".join(sentences[ahead - count :]).strip()
    assert rendered.ids[rendered.kinds == TokenKind.END].tolist() == [tokenizer.eos_token_id]
    longer = [*sentences[: ahead + 1], OMISSION_MARK, *sentences[ahead - count :]]
    assert len(render(example(longer), tokenizer)[0]) > limit - 3  # one sentence more would not fit


@given(st.integers(10, 900))
@settings(max_examples=40)
def test_at_any_limit_the_row_fits_or_is_refused_and_the_answer_is_whole(tokenizer, limit):
    row = example(CHINESE)
    trimmed, [rendered] = trim_reasoning(row, tokenizer, limit)
    if rendered is None:
        shortest = example([CHINESE[0], OMISSION_MARK, CHINESE[-1]])
        assert len(render(shortest, tokenizer)[0]) > limit
    else:
        assert len(rendered) <= limit
        written = tokenizer.decode(rendered.ids[rendered.kinds == TokenKind.ANSWER].tolist())
        assert written == "心脏泵血液。"
        assert trimmed.turns[1].reasoning.startswith(CHINESE[0])


def test_what_reasoning_alone_cannot_make_fit_is_refused(tokenizer):
    assert trim_reasoning(example(CHINESE, "长" * 500), tokenizer, 200)[1] == [None]


def test_only_the_reply_that_is_too_long_is_shortened(tokenizer):
    turns = (
        Turn("user", "肺？"),
        Turn("assistant", "空气。", "短。"),
        Turn("user", "心？"),
        Turn("assistant", "血液。", "".join(CHINESE)),
    )
    row = Example(turns, "rows.jsonl:4")
    trimmed, rendered = trim_reasoning(row, tokenizer, len(render(row, tokenizer)[1]) - 50)
    assert trimmed.turns[:3] == turns[:3]
    assert OMISSION_MARK in trimmed.turns[3].reasoning
    assert rendered[0].ids.tolist() == render(row, tokenizer)[0].ids.tolist()
