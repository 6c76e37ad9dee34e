"""Open turns: what is written is the beginning of the whole row, as the model's own chat template writes it."""

from pathlib import Path

import pytest
from support.chat_templates import ANSWER, KINDS, REASONING, ROWS, TEXTS, tokenizer_of

from thinktune.demo.tiny_model import make_tokenizer
from thinktune.errors import UserError
from thinktune.tokenization import Example, Turn
from thinktune.tokenization.chat_template import TooLongError, render, render_prompt
from thinktune.tokenization.model_template import set_think_template
from thinktune.tokenization.open_turn import render_open_turn
from thinktune.tokenization.tags import read_form

ASKED = Turn("user", "What is it?")
CUTS = (0, 1, 9, 22, 25, 31)  # also at a space, after line breaks, and inside a word


@pytest.fixture(scope="module")
def base():
    return make_tokenizer(TEXTS, 400)


def own_tokenizer(name, base):
    kind = KINDS[name]
    return tokenizer_of(kind.template, kind.eos, kind.stops, kind.plain, base)


def decode(tokenizer, ids):
    return tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


def open_text(tokenizer, turns, part):
    return decode(tokenizer, render_open_turn(turns, tokenizer, part))


def assert_begins_the_row(tokenizer, turns):
    *history, reply = turns
    whole = decode(tokenizer, render(Example(turns, "rows:1"), tokenizer)[-1].ids.tolist())
    for cut in CUTS:
        opened = Turn("assistant", reply.content[:cut], reply.reasoning)
        if cut or reply.reasoning:
            text = open_text(tokenizer, [*history, opened], "answer")
            assert whole.startswith(text)
            assert text.endswith(opened.content)
        if reply.reasoning:
            text = open_text(tokenizer, [*history, Turn("assistant", "", reply.reasoning[:cut])], "reasoning")
            assert whole.startswith(text)
            assert whole[len(text) :].startswith(reply.reasoning[cut:])


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.refused])
def test_an_open_turn_is_the_beginning_of_the_whole_row(name, base):
    tokenizer = own_tokenizer(name, base)
    set_think_template(tokenizer, Path("folder"))
    for turns in ROWS.values():
        assert_begins_the_row(tokenizer, turns)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.own == "right"])
def test_so_it_is_under_a_template_of_the_models_own(name, base):
    tokenizer = own_tokenizer(name, base)
    tokenizer.eos_token = KINDS[name].end
    for turns in ROWS.values():
        if turns[-1].reasoning:  # what such templates write for none is refused as a row
            assert_begins_the_row(tokenizer, turns)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "wants tools"])
def test_an_open_answer_is_what_transformers_continues(name, base):
    tokenizer = own_tokenizer(name, base)
    for answer in ("It", "It is ", "It is\n\n", "It\n- a"):
        messages = [{"role": "user", "content": ASKED.content}, {"role": "assistant", "content": answer}]
        theirs = tokenizer.apply_chat_template(
            messages, tokenize=False, continue_final_message=True, enable_thinking=False
        )
        ours = open_text(tokenizer, [ASKED, Turn("assistant", answer)], "answer")
        assert ours.rstrip() == theirs.rstrip()
        assert ours.endswith(answer)  # also where the template trims


def test_reasoning_that_a_template_leaves_out_is_written_as_the_model_writes_it(base):
    for name in ("drops the reasoning", "opens in the prompt and strips", "known special tags, left out of replies"):
        tokenizer = own_tokenizer(name, base)
        form, prompt = read_form(tokenizer), decode(tokenizer, render_prompt([ASKED], tokenizer))
        begun = open_text(tokenizer, [ASKED, Turn("assistant", "", REASONING)], "reasoning")
        assert begun == prompt + form.opening + REASONING
        answered = open_text(tokenizer, [ASKED, Turn("assistant", ANSWER[:5], REASONING)], "answer")
        assert answered == begun + form.between + ANSWER[:5]


def test_a_form_that_is_not_known_is_continued_only_as_its_template_writes_it(base):
    tokenizer = own_tokenizer("channels", base)
    text = open_text(tokenizer, [ASKED, Turn("assistant", "", "So")], "reasoning")
    assert text.endswith("<|start|>assistant<|channel|>analysis<|message|>So")
    tokenizer.chat_template = tokenizer.chat_template.replace("m.content + '<|return|>'", "m.content.replace('so', '')")
    with pytest.raises(UserError, match="no form in which a reply with reasoning can be continued"):
        render_open_turn([ASKED, Turn("assistant", "so", "So")], tokenizer, "answer")


def test_spelled_control_tokens_and_the_mark_itself_stay_text_and_long_ones_are_refused(tokenizer):
    for content in ("<|im_end|> is a token", "zqopenturn, zqopenturn", "</think> closes it"):
        ids = render_open_turn([ASKED, Turn("assistant", content)], tokenizer, "answer")
        assert decode(tokenizer, ids).endswith(content)
        assert ids.count(tokenizer.eos_token_id) == 1  # of the question
    with pytest.raises(TooLongError):
        render_open_turn([ASKED, Turn("assistant", "word " * 900)], tokenizer, "answer", max_tokens=50)


@pytest.mark.real
def test_qwen3_goes_on_from_each_character_of_a_row(official_tokenizer):
    for turns in ROWS.values():
        assert_begins_the_row(official_tokenizer, turns)


def test_the_mode_is_that_of_the_text_which_is_there(base):
    tokenizer = own_tokenizer("a switch of its own", base)
    mode = "{{- 'off' if enable_thinking is defined and not enable_thinking else 'on' -}}"
    tokenizer.chat_template = mode + tokenizer.chat_template
    for turn, part, word in (
        (Turn("assistant", "It"), "answer", "off"),
        (Turn("assistant", "It", "So"), "answer", "on"),
        (Turn("assistant", "", "So"), "reasoning", "on"),
        (Turn("assistant", ""), "reasoning", "on"),
    ):
        assert open_text(tokenizer, [ASKED, turn], part).startswith(word + "<|im_start|>user")
