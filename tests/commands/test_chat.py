"""Chat: the model sees the conversation as its template renders it, and reasoning is shown apart from the answer."""

import pytest
import torch
from rich.console import Console

from thinktune.commands import chat
from thinktune.errors import UserError
from thinktune.inference.engine import Engine
from thinktune.inference.replies import Piece
from thinktune.inference.requests import Completion, SamplingParams
from thinktune.inference.session import Session
from thinktune.run import RunFolder, journal
from thinktune.tokenization.chat_template import render_prompt


def test_later_turns_see_earlier_answers_without_their_reasoning(tokenizer):
    session = Session("Be kind.")
    session.add_reply("q?", Completion("why", "a.", 9, 4, "end", closed=True))
    assert tokenizer.decode(render_prompt(session.make_request("r?", SamplingParams(8)).turns, tokenizer)) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nq?<|im_end|>\n"
        "<|im_start|>assistant\na.<|im_end|>\n<|im_start|>user\nr?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.fixture
def run_chat(model, tokenizer, monkeypatch, tmp_path):
    """Chat with a model that replies with given pieces; returns the prompts that it saw and what was printed."""

    def run_chat(lines, pieces, folder=tmp_path):
        prompts = []

        def stream(_, request):
            prompts.append(tokenizer.decode(render_prompt(request.turns, tokenizer, thinking=request.thinking)))
            yield from pieces

        monkeypatch.setattr(Engine, "stream", stream)
        session = (Engine(model, tokenizer), Session(None), SamplingParams(8))
        monkeypatch.setattr(chat, "open_engine", lambda *_: session)
        console, entered = Console(width=200, force_terminal=True, color_system="standard"), iter(lines)

        def read_line():
            try:
                return next(entered)
            except StopIteration:
                raise EOFError from None

        with console.capture() as shown:
            chat.chat_in_terminal(folder, console, read_line)
        return prompts, shown.get()

    return run_chat


def reply(reasoning, answer, finish="end"):
    return [
        Piece("reasoning", reasoning),
        Piece("answer", answer),
        Completion(reasoning, answer, 5, 2, finish, closed=True),
    ]


def test_reasoning_is_dimmed_and_apart_from_the_answer(run_chat):
    _, shown = run_chat(["q?"], reply("why", "because"))
    assert "\x1b[2mwhy\x1b[0m" in shown
    assert "\n\nbecause" in shown
    assert "cut off here" not in shown


def test_a_model_that_is_worse_than_its_base_is_not_offered_without_a_word(run_chat, tmp_path):
    metrics = [{"kind": "eval", "step": step, "loss": loss} for step, loss in {0: 7.047, 24: 422.899}.items()]
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.recipe.write_text("name: run\n", encoding="utf-8")
    journal.append(run.metrics, metrics)
    _, shown = run_chat([], [], run.path)
    assert "this model is worse than its base: the eval loss was 7.047 before training and is 422.899" in shown


def test_a_truncated_reply_is_marked(run_chat):
    assert "cut off here" in run_chat(["q?"], reply("why", "bec", "length"))[1]


def test_the_hint_fits_a_terminal_of_80_columns():
    assert len(chat.HELP) < 80


def test_think_turns_reasoning_off_and_reset_clears_the_conversation(run_chat):
    prompts, _ = run_chat(
        ["one?", "/think", "two?", "/reset", "/think", "three?", "/quit", "four?"], reply("why", "so.")
    )
    assert len(prompts) == 3
    assert prompts[1].endswith("two?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "one?" in prompts[1]
    assert "so." in prompts[1]
    assert prompts[2] == "<|im_start|>user\nthree?<|im_end|>\n<|im_start|>assistant\n"


def test_reasoning_without_an_opening_tag_is_labelled(run_chat):
    pieces = [
        Piece("answer", "why"),
        Piece("moved", ""),
        Piece("answer", "so."),
        Completion("why", "so.", 5, 2, "end", closed=True),
    ]
    assert "the text above was reasoning" in run_chat(["q?"], pieces)[1]


def test_a_model_that_can_make_no_reply_is_an_error(model, tokenizer, monkeypatch, tmp_path):
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    opened = (Engine(model, tokenizer), Session(None), SamplingParams(8))
    monkeypatch.setattr(chat, "open_engine", lambda *_: opened)
    with pytest.raises(UserError, match="no finite logits"):
        chat.chat_in_terminal(tmp_path, Console(), iter(["Why?"]).__next__)


def test_a_reply_cannot_command_the_terminal(run_chat):
    hostile = "a\x1b]0;title\x07\x1b[2J\x9b31m\u202eb\r\n"
    _, shown = run_chat(["q?", "/\x1b[2J"], reply(hostile, hostile))
    for control in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e", "\r"):
        assert control not in shown
    assert shown.count("a\\x1b]0;title") == 2
    assert "\x1b[2m" in shown, "our own styles are kept"
