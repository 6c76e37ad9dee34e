"""Detokenizer: the pieces of a reply join to its completion, wherever it stops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chat_templates import KINDS, tokenizer_of

from thinktune.inference.replies import Detokenizer, SpecialTokens, StopStrings, join_pieces, parse_reply
from thinktune.inference.requests import SamplingParams
from thinktune.tokenization import Example, Turn
from thinktune.tokenization.chat_template import render, render_prompt


@pytest.fixture(scope="module")
def special_tokens(tokenizer):
    return SpecialTokens.from_tokenizer(tokenizer, None)


def generate(special_tokens, text, *, end=True, prompt=(1,), **settings):
    """Return the pieces and the completion of a reply whose sampled text is `text`."""
    ids = special_tokens.tokenizer.encode(text, add_special_tokens=False)
    detokenizer, pieces = (
        Detokenizer(SamplingParams(**{"max_new_tokens": 500} | settings), special_tokens, list(prompt)),
        [],
    )
    sampled = iter([*ids, special_tokens.tokenizer.eos_token_id] if end else ids)
    while not detokenizer.finish_reason:
        pieces += detokenizer.append(detokenizer.next_token(next(sampled)))
    return pieces, detokenizer.completion()


def test_a_reply_is_parsed_and_its_tokens_are_counted(special_tokens, tokenizer):
    head, tail = "<think>\nwhy so\n</think>", "\n\nthe heart"
    pieces, reply = generate(special_tokens, head + tail)
    assert (reply.reasoning, reply.answer, reply.finish, reply.closed) == ("why so", "the heart", "end", True)
    assert reply.reasoning_tokens == len(tokenizer.encode(head, add_special_tokens=False))
    assert reply.tokens == len(tokenizer.encode(head + tail, add_special_tokens=False)) + 1
    assert join_pieces(pieces) == ("why so", "the heart")


words = st.lists(
    st.sampled_from(["<think>", "</think>", "\n", " ", "why", "答案", "é", "🙂", "STOP", "S"]), max_size=12
)


@given(words.map("".join), st.integers(1, 30))
def test_pieces_join_to_the_completion_however_it_ends(tokenizer, text, budget):
    special_tokens = SpecialTokens.from_tokenizer(tokenizer, None)
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces, reply = generate(special_tokens, text, max_new_tokens=budget)
    assert join_pieces(pieces) == (reply.reasoning, reply.answer)
    assert reply.tokens == min(budget, len(ids) + 1)
    assert reply.finish == ("end" if budget > len(ids) else "length")
    whole = parse_reply(tokenizer.backend_tokenizer.decode(ids[:budget]))
    assert (reply.reasoning, reply.answer, reply.closed) == (whole.reasoning, whole.answer, whole.closed)
    assert 0 <= reply.reasoning_tokens <= reply.tokens


def test_a_reply_cut_within_a_character_ends_in_a_replacement_character(special_tokens, tokenizer):
    ids = tokenizer.encode("🙂", add_special_tokens=False)
    assert len(ids) > 1
    pieces, reply = generate(special_tokens, "🙂", max_new_tokens=1)
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
def test_stop_strings_end_the_answer_not_the_reasoning(special_tokens, text, stop, reasoning, answer, finish):
    pieces, reply = generate(special_tokens, text, stop=stop)
    assert (reply.reasoning, reply.answer, reply.finish) == (reasoning, answer, finish)
    assert join_pieces(pieces) == (reasoning, answer)


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), max_size=30),
)
def test_a_stop_string_is_found_however_the_text_is_cut(text, stops, sizes):
    emitted, stop_strings, rest, hit = "", StopStrings(tuple(stops)), text, False
    for size in [*sizes, len(text)]:
        piece, rest = rest[:size], rest[size:]
        final, hit = stop_strings.feed(piece)
        emitted += final
        if hit:
            break
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    assert hit == bool(ends)
    if hit:
        longest = max((stop for stop in stops if text[: min(ends)].endswith(stop)), key=len)
        assert emitted == text[: min(ends) - len(longest)]
    else:
        assert emitted + stop_strings.flush() == text


def test_reasoning_over_its_budget_is_closed_as_the_template_closes_it(special_tokens, tokenizer):
    prompt, text = render_prompt([Turn("user", "q?")], tokenizer), "<think>\nwhy why why why why why why"
    _, reply = generate(special_tokens, text, prompt=prompt, max_reasoning_tokens=5, max_new_tokens=12)
    closing = tokenizer.encode("\n</think>\n\n", add_special_tokens=False)
    assert special_tokens.reasoning_end_ids == tuple(closing)
    kept = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)[:5])
    assert (reply.reasoning, reply.closed) == (kept.removeprefix("<think>\n"), True)
    assert reply.reasoning_tokens == 5 + closing.index(tokenizer.convert_tokens_to_ids("</think>")) + 1
    assert (reply.tokens, reply.finish) == (12, "length")
    assert text.startswith(kept + reply.answer)


def test_a_budget_closes_no_reasoning_that_is_closed_or_was_never_opened(special_tokens):
    for text in ("<think>\na\n</think>\n\nb c d e f g h i j k l m n", "a b c d e f g h i"):
        assert generate(special_tokens, text, max_reasoning_tokens=6)[1] == generate(special_tokens, text)[1]


def test_a_prompt_that_opens_the_reasoning_is_recognised(special_tokens, tokenizer):
    prompt = tokenizer.encode("<|im_start|>assistant\n<think>\n", add_special_tokens=False)
    pieces, reply = generate(special_tokens, "why\n</think>\n\nso", prompt=prompt)
    assert [piece.kind for piece in pieces if piece.kind != "answer"] == ["reasoning"] * sum(
        piece.kind != "answer" for piece in pieces
    )
    assert (reply.reasoning, reply.answer, reply.closed) == ("why", "so", True)
    assert generate(special_tokens, "why why why", prompt=prompt, max_reasoning_tokens=1, max_new_tokens=9)[1].closed


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.own == "right"])
def test_tags_that_are_special_tokens_are_read_and_other_special_tokens_are_no_text(name):
    kind = KINDS[name]
    tokenizer = tokenizer_of(kind.template, kind.end)
    prompt = render_prompt([Turn("user", "q?")], tokenizer)
    whole = render(Example((Turn("user", "q?"), Turn("assistant", "so", "why")), "r:1"), tokenizer)[0]
    special_tokens = SpecialTokens.from_tokenizer(tokenizer, None)
    detokenizer = Detokenizer(SamplingParams(99), special_tokens, prompt)
    pieces = []
    for token in whole.ids[len(prompt) :].tolist():
        if not detokenizer.finish_reason:
            pieces += detokenizer.append(token)
    reply = detokenizer.completion()
    assert (reply.reasoning, reply.answer, reply.closed, reply.finish) == ("why", "so", True, "end")
    assert join_pieces(pieces) == ("why", "so")
    assert not any(piece.kind == "moved" for piece in pieces)
