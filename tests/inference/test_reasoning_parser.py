"""Reasoning parser: replies with think tags, without, with incomplete ones, and cut anywhere."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.inference.replies import ReasoningParser, parse_reply

TABLE = {
    "<think>\nwhy\n</think>\n\nanswer": ("why", "answer", True),
    "<think>why</think>answer": ("why", "answer", True),
    "\n <think>\nwhy\n\nso\n</think>\n\nan\n\nswer": ("why\n\nso", "an\n\nswer", True),
    "<think>\n  why \n\n</think>\n\n  answer \n": ("  why ", "  answer \n", True),
    "why\n</think>\n\nanswer": ("why", "answer", True),
    "answer": ("", "answer", False),
    "a < b and 1 </ 2 <think": ("", "a < b and 1 </ 2 <think", False),
    "<think>\nwhy": ("why", "", False),
    "<think>\nwhy\n</thin": ("why\n</thin", "", False),
    "<think>\n\n</think>\n\nanswer": ("", "answer", True),
    "<think>a</think>b</think>c": ("a", "b</think>c", True),
    "<think>a</think>b<think>c": ("a", "b<think>c", True),
    "": ("", "", False),
    "<thi": ("", "<thi", False),
    "<think>中文\n</think>\n\n答案": ("中文", "答案", True),
}


def streamed(text, cuts):
    """Return what a reader sees at the end of a stream cut into pieces."""
    parser = ReasoningParser()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = {"reasoning": "", "answer": ""}
    pieces = [piece for start, stop in pairwise(edges) for piece in parser.feed(text[start:stop])]
    for piece in [*pieces, *parser.flush()]:
        if piece.kind == "moved":
            shown = {"reasoning": shown["answer"], "answer": ""}
        else:
            shown[piece.kind] += piece.text
    return shown["reasoning"], shown["answer"], parser.closed


@pytest.mark.parametrize("text", TABLE)
def test_a_reply_is_parsed(text):
    reply = parse_reply(text)
    assert (reply.reasoning, reply.answer, reply.closed) == TABLE[text]


tags = st.lists(st.sampled_from(["<think>", "</think>", "<", "/think>", "\n", " ", "why", "答"]), max_size=10).map(
    "".join
)


@given(tags, st.lists(st.integers(0, 60), max_size=12))
def test_how_a_stream_is_cut_changes_nothing(text, cuts):
    whole = parse_reply(text)
    assert streamed(text, cuts) == (whole.reasoning, whole.answer, whole.closed)


@pytest.mark.parametrize("text", TABLE)
def test_character_by_character_is_the_same(text):
    assert streamed(text, range(len(text))) == TABLE[text]


def test_an_incomplete_tag_is_held_back():
    parser = ReasoningParser()
    emitted = [piece.text for text in ("<think>", "why", "\n</th") for piece in parser.feed(text)]
    assert "".join(emitted) == "why"


@given(
    st.text(st.characters(exclude_characters="<>\n"), min_size=1),
    st.text(st.characters(exclude_characters="<>\n"), min_size=1),
)
def test_a_reply_written_by_the_template_is_parsed_back(reasoning, answer):
    reply = parse_reply(f"<think>\n{reasoning}\n</think>\n\n{answer}")
    assert (reply.reasoning, reply.answer, reply.closed) == (reasoning, answer, True)
