"""Think tags are read off what a model's own chat template writes."""

import pytest
from support.chat_templates import KINDS, tokenizer_of

from thinktune.tokenization.chat_template import reasoning_end_ids
from thinktune.tokenization.tags import Tags, read_form, read_tags

REPLIES = {  # how a template writes a reply, where its prompt ends, and the tags that follow from it
    "a pair that nobody knows": (
        "'<|im_start|>a\\n<pondering>' + m.reasoning_content + '</pondering>' + m.content",
        "<|im_start|>a\\n",
        ("<pondering>", "</pondering>"),
    ),
    "a pair in the prompt": (
        "'<|im_start|>a\\n<pondering>\\n' + m.reasoning_content + '\\n</pondering>\\n' + m.content",
        "<|im_start|>a\\n<pondering>\\n",
        ("<pondering>", "</pondering>"),
    ),
    "words": (
        "'<|im_start|>a\\nThinking: ' + m.reasoning_content + '\\nAnswer: ' + m.content",
        "<|im_start|>a\\n",
        ("Thinking:", "Answer:"),
    ),
    "no opening tag": (
        "'<|im_start|>a\\n' + m.reasoning_content + '</think>' + m.content",
        "<|im_start|>a\\n",
        ("<|im_start|>a", "</think>"),
    ),
}


def of_reply(reply, prompt):
    return (
        "{%- for m in messages -%}{%- if m.role == 'assistant' -%}{{- " + reply + " + '<|im_end|>' -}}{%- else -%}"
        "{{- m.content + '<|im_end|>' -}}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '" + prompt + "' -}}{%- endif -%}"
    )


@pytest.mark.parametrize("name", REPLIES)
def test_tags_are_measured(name):
    reply, prompt, tags = REPLIES[name]
    tokenizer = tokenizer_of(of_reply(reply, prompt), "<|im_end|>")
    if name == "no opening tag":
        assert read_tags(tokenizer).closing == tags[1]
        return
    assert read_tags(tokenizer) == Tags(*tags)
    assert read_form(tokenizer).written


@pytest.mark.parametrize(
    "between",
    ["<|im_end|><|im_start|>a<|final|>", "<|im_start|>final<|im_start|>", ""],
    ids=["turn", "channel", "none"],
)
def test_reasoning_that_is_a_message_of_its_own_has_no_tags(between):
    reply = f"'<|im_start|>a<|analysis|>' + m.reasoning_content + '{between}' + m.content"
    assert read_form(tokenizer_of(of_reply(reply, "<|im_start|>a"), "<|im_end|>")).foreign == between


def test_a_changed_template_is_read_again():
    tokenizer = tokenizer_of(of_reply(*REPLIES["words"][:2]), "<|im_end|>")
    assert read_tags(tokenizer).opening == "Thinking:"
    tokenizer.chat_template = {"default": of_reply(*REPLIES["a pair that nobody knows"][:2]), "rag": "{{ messages }}"}
    assert read_tags(tokenizer).opening == "<pondering>"
    tokenizer.chat_template = None
    assert read_tags(tokenizer) == Tags("<think>", "</think>")


def test_a_reasoning_budget_closes_with_the_models_own_tag():
    kind = KINDS["special tags, and marks around the answer"]
    tokenizer = tokenizer_of(kind.template, kind.eos)
    closing = tokenizer.backend_tokenizer.decode(list(reasoning_end_ids(tokenizer)), skip_special_tokens=False)
    assert closing == "<|/THOUGHT|><|TEXT|>"
