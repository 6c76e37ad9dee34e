"""Talking: the conversation is given to the model as its template wants it, and what it says is told apart."""

import pytest
from rich.console import Console

from thinktune.commands import chat as room
from thinktune.data.chat_template import render_prompt
from thinktune.inference.engine import Engine
from thinktune.inference.replies import Piece
from thinktune.inference.requests import Completion, SamplingParams
from thinktune.inference.session import Session


def test_later_turns_see_earlier_answers_without_their_reasoning(tokenizer):
    session = Session("Be kind.")
    session.add_reply("q?", Completion("why", "a.", 9, 4, "end", closed=True))
    assert tokenizer.decode(render_prompt(session.make_request("r?", SamplingParams(8)).turns, tokenizer)) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nq?<|im_end|>\n"
        "<|im_start|>assistant\na.<|im_end|>\n<|im_start|>user\nr?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.fixture
def talk(model, tokenizer, monkeypatch):
    """Chat with a model that says what the test wrote; returns the prompts that it saw and what was printed."""

    def talk(lines, pieces):
        prompts = []

        def stream(_, request):
            prompts.append(tokenizer.decode(render_prompt(request.turns, tokenizer, thinking=request.thinking)))
            yield from pieces

        monkeypatch.setattr(Engine, "stream", stream)
        opened = (Engine(model, tokenizer), Session(None), SamplingParams(8))
        monkeypatch.setattr(room, "open_engine", lambda _: opened)
        console, coming = Console(width=80, force_terminal=True, color_system="standard"), iter(lines)

        def ask():
            try:
                return next(coming)
            except StopIteration:
                raise EOFError from None

        with console.capture() as shown:
            room.chat_in_terminal(None, console, ask)
        return prompts, shown.get()

    return talk


def reply(reasoning, answer, finish="end"):
    return [
        Piece("reasoning", reasoning),
        Piece("answer", answer),
        Completion(reasoning, answer, 5, 2, finish, closed=True),
    ]


def test_reasoning_is_dimmed_and_stands_apart_from_the_answer(talk):
    _, shown = talk(["q?"], reply("why", "because"))
    assert "\x1b[2mwhy\x1b[0m" in shown
    assert "\n\nbecause" in shown
    assert "cut here" not in shown


def test_a_cut_reply_is_marked(talk):
    assert "cut here" in talk(["q?"], reply("why", "bec", "length"))[1]


def test_think_turns_reasoning_off_and_reset_forgets(talk):
    prompts, _ = talk(["one?", "/think", "two?", "/reset", "/think", "three?", "/quit", "four?"], reply("why", "so."))
    assert len(prompts) == 3
    assert prompts[1].endswith("two?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "one?" in prompts[1]
    assert "so." in prompts[1]
    assert prompts[2] == "<|im_start|>user\nthree?<|im_end|>\n<|im_start|>assistant\n"


def test_reasoning_without_an_opening_tag_is_named_as_such(talk):
    pieces = [
        Piece("answer", "why"),
        Piece("moved", ""),
        Piece("answer", "so."),
        Completion("why", "so.", 5, 2, "end", closed=True),
    ]
    assert "the text above was reasoning" in talk(["q?"], pieces)[1]
