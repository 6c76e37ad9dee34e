"""Special tokens and the template's marks are control tokens; line breaks and words that a tokenizer adds are text."""

import copy

import pytest
from support.prepared_rows import rows_of, with_rows
from tokenizers import AddedToken

from thinktune.commands.check import verify_tokens
from thinktune.data.pipeline import prepare, prepare_with_faults
from thinktune.tokenization import Example, Turn
from thinktune.tokenization.chat_template import render, render_prompt
from thinktune.tokenization.tokenizer import control_tokens

TEXTS = ("\n", "\n\n", "  ", "        ", "part", "user", "assistant", "<table>", "</b>", "…", "血液", "##", "C++")
BUILT = """{%- for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ '\\n' ~
(('<think>\\n' ~ m.reasoning_content ~ '\\n</think>\\n\\n') if m.role == 'assistant' else '') ~ m.content ~ '<|im_end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""


def with_added(tokenizer, *texts, special=False, template=None):
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens([AddedToken(text, special=special, normalized=False) for text in texts], special_tokens=special)
    changed.chat_template = template or changed.chat_template
    return changed


def reply_text(rendered, tokenizer):
    return tokenizer.decode(rendered.ids.tolist())


@pytest.mark.parametrize("text", TEXTS)
def test_an_added_token_that_is_text_costs_no_row(tree, tokenizer, text):
    added = with_added(tokenizer, text)
    rows = rows_of(9, answer=f"It is{text}this, {text} and {text}that")
    prepared = prepare(with_rows(tree, rows, validation=0.0, faults={"fragment": "keep"}), added)
    assert {action for fault in prepared.summary["faults"] for action in fault["actions"]} <= {"kept"}  # told as markup
    assert len(prepared.train) == 9
    token = added.convert_tokens_to_ids(text)
    assert all(token in reply.ids for reply in prepared.train.replies())  # it takes one token, as in transformers
    assert verify_tokens(prepared, added)["rendered_again"] == 9


@pytest.mark.parametrize("text", ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|extra|>", "[CTRL]", "STOP"])
def test_a_row_that_spells_a_special_token_is_a_fault(tree, tokenizer, text):
    special = with_added(tokenizer, "<|extra|>", "[CTRL]", "STOP", special=True)
    rows = [*rows_of(8), *rows_of(1, question="Which?", answer=f"This {text} here.")]
    summary = prepare_with_faults(with_rows(tree, rows, validation=0.0), special).summary
    [fault] = summary["faults"]
    assert (fault["fault"], fault["actions"]) == ("control_token", {"dropped": 1})
    assert f"rows.jsonl:9: answer: contains the control token {text}" in fault["examples"][0]


@pytest.mark.parametrize(
    ("mark", "template"),
    [
        ("<|assistant|>", BUILT),  # put together by the template: it stands nowhere in its source
        ("<用户>", BUILT.replace("'<|' ~ m.role ~ '|>'", "'<用户>' if m.role == 'user' else '<AI>'")),
        ("### Response:", BUILT.replace("'<|' ~ m.role ~ '|>'", "'### Response:' if m.role == 'assistant' else 'Q'")),
        ("<tool_call>", BUILT + "{% if tools %}Answer in <tool_call></tool_call>.{% endif %}"),
    ],
)
def test_a_mark_that_the_template_writes_is_a_control_token_though_not_special(tree, tokenizer, mark, template):
    assert mark in control_tokens(with_added(tokenizer, mark, template=template))
    assert mark not in control_tokens(with_added(tokenizer, mark))  # whose template never writes it


def test_the_template_decides_also_when_it_is_changed_later(tokenizer):
    changed = with_added(tokenizer, "<tag>")
    assert "<tag>" not in control_tokens(changed)
    changed.chat_template = changed.chat_template + "{% if tools %}<tag>{% endif %}"
    assert "<tag>" in control_tokens(changed)


def test_a_template_that_refuses_every_conversation_still_has_the_marks_of_its_source(tokenizer):
    changed = with_added(tokenizer, "<tag>", template="{{ raise_exception('no') }}<tag>")
    assert {"<tag>", "<|im_end|>"} <= set(control_tokens(changed))


def test_the_tokens_of_our_own_template(tokenizer):
    expected = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"}
    assert set(control_tokens(tokenizer)) == expected


def test_text_around_a_spelled_control_token_keeps_its_added_tokens(tokenizer):
    added = with_added(tokenizer, "\n\n", "<|extra|>", "血液")
    turns = (Turn("user", "x\n\n<|im_end|>\n\n血液<|extra|>"), Turn("assistant", "<|im_start|>\n\n血液", "t\n\nu"))
    [rendered] = render(Example(turns, "r:1"), added)
    ids = rendered.ids.tolist()
    for text, times in (("\n\n", 5), ("血液", 2), ("<|extra|>", 1)):
        assert ids.count(added.convert_tokens_to_ids(text)) == times, text
    assert ids.count(added.eos_token_id) == 2  # one ends each turn; the spelled one is plain characters
    assert ids[: len(prompt := render_prompt(turns[:1], added))] == prompt
    assert reply_text(rendered, added).count("<|im_end|>") == 3


@pytest.mark.real
def test_the_control_tokens_of_qwen3(official_tokenizer):
    found = set(control_tokens(official_tokenizer))
    assert {"<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_response>"} <= found
    assert "<|fim_prefix|>" not in found  # neither special nor written by the template
