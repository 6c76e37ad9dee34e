"""One reply in the making: what it gives out is what it is in the end, wherever it stops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.chat_template import render_prompt
from thinktune.data.types import Turn
from thinktune.inference.replies import Detokenizer, SpecialTokens, StopStrings, join_pieces, parse_reply
from thinktune.inference.requests import SamplingParams


@pytest.fixture(scope="module")
def marks(tokenizer):
    return SpecialTokens.from_tokenizer(tokenizer, None)


def write(marks, text, *, end=True, prompt=(1,), **settings):
    """The pieces and the completion of a reply whose model says `text`."""
    ids = marks.tokenizer.encode(text, add_special_tokens=False)
    writer, pieces = Detokenizer(SamplingParams(**{"max_new_tokens": 500} | settings), marks, list(prompt)), []
    coming = iter([*ids, marks.tokenizer.eos_token_id] if end else ids)
    while not writer.finish_reason:
        pieces += writer.append(writer.next_token(next(coming)))
    return pieces, writer.completion()


def test_a_reply_is_taken_apart_and_its_tokens_counted(marks, tokenizer):
    head, tail = "<think>\nwhy so\n</think>", "\n\nthe heart"
    pieces, reply = write(marks, head + tail)
    assert (reply.reasoning, reply.answer, reply.finish, reply.closed) == ("why so", "the heart", "end", True)
    assert reply.reasoning_tokens == len(tokenizer.encode(head, add_special_tokens=False))
    assert reply.tokens == len(tokenizer.encode(head + tail, add_special_tokens=False)) + 1
    assert join_pieces(pieces) == ("why so", "the heart")


words = st.lists(
    st.sampled_from(["<think>", "</think>", "\n", " ", "why", "答案", "é", "🙂", "STOP", "S"]), max_size=12
)


@given(words.map("".join), st.integers(1, 30))
def test_pieces_make_up_the_completion_however_it_ends(tokenizer, text, budget):
    marks = SpecialTokens.from_tokenizer(tokenizer, None)
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces, reply = write(marks, text, max_new_tokens=budget)
    assert join_pieces(pieces) == (reply.reasoning, reply.answer)
    assert reply.tokens == min(budget, len(ids) + 1)
    assert reply.finish == ("end" if budget > len(ids) else "length")
    whole = parse_reply(tokenizer.backend_tokenizer.decode(ids[:budget]))
    assert (reply.reasoning, reply.answer, reply.closed) == (whole.reasoning, whole.answer, whole.closed)
    assert 0 <= reply.reasoning_tokens <= reply.tokens


def test_what_is_cut_in_a_character_shows_that_it_is(marks, tokenizer):
    ids = tokenizer.encode("🙂", add_special_tokens=False)
    assert len(ids) > 1
    pieces, reply = write(marks, "🙂", max_new_tokens=1)
    assert reply.answer == join_pieces(pieces)[1] == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stop", "reasoning", "answer", "finish"),
    [
        ("<think>\na END\n</think>\n\nb END c", ("END",), "a END", "b ", "stop"),
        ("b EN", ("END",), "", "b EN", "end"),
        ("ab", ("ab",), "", "", "stop"),
        ("one two", ("three",), "", "one two", "end"),
        ("one\n\nHuman: two", ("\n\nHuman:", "two"), "", "one", "stop"),
        ("答案是血液。完", ("血",), "", "答案是", "stop"),
    ],
)
def test_stop_texts_end_the_answer_not_the_reasoning(marks, text, stop, reasoning, answer, finish):
    pieces, reply = write(marks, text, stop=stop)
    assert (reply.reasoning, reply.answer, reply.finish) == (reasoning, answer, finish)
    assert join_pieces(pieces) == (reasoning, answer)


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), max_size=30),
)
def test_a_stop_is_found_however_the_text_was_cut(text, stops, sizes):
    given_out, stopper, rest, hit = "", StopStrings(tuple(stops)), text, False
    for size in [*sizes, len(text)]:
        piece, rest = rest[:size], rest[size:]
        certain, hit = stopper.feed(piece)
        given_out += certain
        if hit:
            break
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    assert hit == bool(ends)
    if hit:
        longest = max((stop for stop in stops if text[: min(ends)].endswith(stop)), key=len)
        assert given_out == text[: min(ends) - len(longest)]
    else:
        assert given_out + stopper.flush() == text


def test_reasoning_over_its_budget_is_closed_as_the_template_closes_it(marks, tokenizer):
    prompt, text = render_prompt([Turn("user", "q?")], tokenizer), "<think>\nwhy why why why why why why"
    _, reply = write(marks, text, prompt=prompt, max_reasoning_tokens=5, max_new_tokens=12)
    closing = tokenizer.encode("\n</think>\n\n", add_special_tokens=False)
    assert marks.reasoning_end_ids == tuple(closing)
    begun = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)[:5])
    assert (reply.reasoning, reply.closed) == (begun.removeprefix("<think>\n"), True)
    assert reply.reasoning_tokens == 5 + closing.index(tokenizer.convert_tokens_to_ids("</think>")) + 1
    assert (reply.tokens, reply.finish) == (12, "length")
    assert text.startswith(begun + reply.answer)


def test_a_budget_closes_nothing_that_is_closed_or_was_never_opened(marks):
    for text in ("<think>\na\n</think>\n\nb c d e f g h i j k l m n", "a b c d e f g h i"):
        assert write(marks, text, max_reasoning_tokens=6)[1] == write(marks, text)[1]


def test_a_prompt_that_opens_the_reasoning_is_known_to(marks, tokenizer):
    prompt = tokenizer.encode("<|im_start|>assistant\n<think>\n", add_special_tokens=False)
    pieces, reply = write(marks, "why\n</think>\n\nso", prompt=prompt)
    assert [piece.kind for piece in pieces if piece.kind != "answer"] == ["reasoning"] * sum(
        piece.kind != "answer" for piece in pieces
    )
    assert (reply.reasoning, reply.answer, reply.closed) == ("why", "so", True)
    assert write(marks, "why why why", prompt=prompt, max_reasoning_tokens=1, max_new_tokens=9)[1].closed
