"""A chat template as texts around the turns: what is measured is what the template writes, or it is refused."""

import pytest
from support.chat_templates import KINDS, tokenizer_of

from thinktune.export.chat_form import FormError, measure_form, sample_conversations, trims_turns
from thinktune.tokenization.tags import write_probe
from thinktune.tokenization.think_template import ExtensionError, compose_think_template

NO_TEXTS = ("channels", "wants tools")
DATED = "{{- 'Today is ' + strftime_now('%d %b %Y') + '\\n' -}}"


def of_kind(name, think=False):
    kind = KINDS[name]
    tokenizer = tokenizer_of(kind.template, kind.eos, kind.stops, kind.plain)
    if think:
        composed = compose_think_template(tokenizer)
        tokenizer.chat_template, tokenizer.eos_token = composed.text, composed.end_token
    return tokenizer


@pytest.mark.parametrize("name", [name for name in KINDS if name not in NO_TEXTS])
def test_the_measured_texts_write_what_the_template_writes(name):
    for think in (False, True):
        tokenizer = of_kind(name, think)
        form = measure_form(tokenizer)
        assert (form.reasoning is not None) >= think  # `think` always reasons
        for messages in sample_conversations(takes_system=form.thinking.system is not None):
            for thinking, texts in ((True, form.thinking), (False, form.silent)):
                options = {"add_generation_prompt": True, "enable_thinking": thinking}
                assert texts.write(messages) == write_probe(tokenizer, *messages, **options)


@pytest.mark.parametrize("name", NO_TEXTS)
def test_a_template_that_no_texts_describe_is_refused(name):
    with pytest.raises(FormError, match=r"between reasoning and answer|fails on a plain question"):
        measure_form(of_kind(name))
    with pytest.raises(ExtensionError):
        of_kind(name, think=True)


def test_a_template_that_writes_the_date_is_refused():
    tokenizer = of_kind("a switch of its own")
    tokenizer.chat_template = DATED + tokenizer.chat_template
    with pytest.raises(FormError, match="writes the date"):
        measure_form(tokenizer)


def test_a_template_that_treats_one_turn_otherwise_is_refused():
    tokenizer = of_kind("a switch of its own")
    shout = "{%- if loop.index == 5 -%}{{- m.content | upper -}}{%- endif -%}"
    tokenizer.chat_template = tokenizer.chat_template.replace("{%- endfor -%}", shout + "{%- endfor -%}")
    with pytest.raises(FormError, match="more than write texts"):
        measure_form(tokenizer)


def test_a_token_that_the_engine_adds_is_cut_off_the_start_alone():
    tokenizer = of_kind("a switch of its own")
    tokenizer.bos_token = "<|im_start|>"
    form = measure_form(tokenizer)
    assert form.without("<|im_start|>").thinking.head == form.thinking.head.removeprefix("<|im_start|>")
    assert form.without("<|im_start|>").thinking.next == form.thinking.next


def test_white_space_that_a_template_takes_away_is_seen():
    assert trims_turns(of_kind("headers, end of turn in the generation configuration"))
    assert not trims_turns(of_kind("a switch of its own"))
