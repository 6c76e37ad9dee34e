"""Ollama's TEMPLATE: Go's own text/template renders it as the model's own chat template does."""

from dataclasses import replace

import pytest
from support.chat_templates import KINDS, tokenizer_of
from support.go_template import build_renderer, render

from thinktune.export.chat_form import ChatForm, ModeTexts, measure_form, sample_conversations
from thinktune.export.go_template import is_kept, write_go_template
from thinktune.tokenization.tags import write_probe
from thinktune.tokenization.think_template import compose_think_template

CHATML = ModeTexts(
    "",
    ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n"),
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    None,
)
ODD = 'a "b" \\ {{ c }} {% d %} \u3000\u200d {'  # what a template, a Modelfile or Go would change
QUOTES = '"""'


def test_a_model_that_does_not_reason_has_no_thinking_in_its_template():
    assert write_go_template(ChatForm(CHATML, CHATML, None)).count("Thinking") == 0
    assert ".Thinking" in write_go_template(ChatForm(CHATML, CHATML, ("<think>\n", "\n</think>\n\n")))


@pytest.mark.parametrize("text", [ODD, QUOTES, "a\u200db", "b}} {{c"])
def test_what_a_modelfile_would_change_is_written_as_a_string_of_go(text):
    texts = ModeTexts(text, ("S" + text, text), text, text, text, None)
    written = write_go_template(ChatForm(texts, texts, None), system=text)
    assert is_kept(written)
    assert text not in written


@pytest.mark.slow
def test_go_renders_every_kind_of_template_as_jinja_does(tmp_path):
    cases, wanted, tags = [], [], []
    for name, kind in KINDS.items():
        if name in ("channels", "wants tools"):
            continue
        for think in (False, True):
            tokenizer = tokenizer_of(kind.template, kind.eos, kind.stops, kind.plain)
            if think:
                composed = compose_think_template(tokenizer)
                tokenizer.chat_template = composed.text
            form = measure_form(tokenizer)
            conversations = [
                (messages, asked)
                for messages in sample_conversations(takes_system=form.thinking.system is not None)
                for asked in (None, True, False)
            ]
            cases.append((write_go_template(form), conversations))
            wanted.append(
                [
                    write_probe(tokenizer, *messages, add_generation_prompt=True, enable_thinking=asked is not False)
                    for messages, asked in conversations
                ]
            )
            tags.append(tuple(map(str.strip, form.reasoning or ("", ""))))
    odd = ModeTexts(ODD, (QUOTES, ODD), ODD, QUOTES, ODD, (ODD, QUOTES))
    alone = [{"role": "user", "content": "q"}]
    cases.append((write_go_template(ChatForm(odd, odd, None), system=ODD), [(alone, None)]))
    wanted.append([odd.write([{"role": "system", "content": ODD}, *alone])])
    tags.append(("", ""))
    assert len(cases) == 23
    for (template, _), texts, pair, made in zip(
        cases, wanted, tags, render(build_renderer(tmp_path), cases), strict=True
    ):
        assert not made["Error"], template
        assert made["Texts"] == texts, template
        assert pair == ("", "") or (made["Opening"], made["Closing"]) == pair


@pytest.mark.slow
def test_go_begins_a_reply_where_the_conversation_ends_with_one(tmp_path):
    closed = ChatForm(CHATML, CHATML, ("<think>\n", "\n</think>\n\n"))
    prompted = replace(CHATML, prompt=CHATML.prompt + "<think>\n")
    opened = ChatForm(prompted, prompted, ("<think>\n", "\n</think>\n\n"), "<think>\n")
    question, reply = {"role": "user", "content": "q"}, {"role": "assistant", "content": "It"}
    ends = ([question, reply | {"reasoning_content": "why"}], [question, reply], [question])
    cases = [(write_go_template(form), [(messages, True) for messages in ends]) for form in (closed, opened)]
    prompt = "q<|im_end|>\n<|im_start|>assistant\n"
    of_closed, of_opened = render(build_renderer(tmp_path), cases)
    thought = prompt + "<think>\nwhy\n</think>\n\nIt"
    assert of_closed["Texts"] == [thought, prompt + "It", prompt]
    assert of_opened["Texts"] == [thought, prompt + "<think>\nIt", prompt + "<think>\n"]
    assert (of_opened["Opening"], of_opened["Closing"]) == ("<think>", "</think>")
