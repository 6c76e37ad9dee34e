"""A tokenizer is read with the template that the recipe names, and its eos ends a turn under that template."""

import json
import re

import pytest
from support.chat_templates import KINDS, ROWS, tokenizer_of, written_and_read_back

from thinktune.errors import UserError
from thinktune.tokenization import read_tokenizer
from thinktune.tokenization.model_template import read_tokenizer_with_notes
from thinktune.tokenization.tags import template_text


def save(folder, kind, **generation):
    tokenizer_of(kind.template, kind.eos, kind.stops, kind.plain).save_pretrained(folder)
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_the_own_template_of_a_base_decides_its_end_of_turn_and_says_so(tmp_path):
    folder = save(tmp_path, KINDS["base, whose eos ends a document"])
    tokenizer, [note] = read_tokenizer_with_notes(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    assert "<|im_end|>" in note
    assert "<|endoftext|>" in note
    written_and_read_back(tokenizer, ROWS["no reasoning"])


def test_a_template_that_writes_the_eos_keeps_it(tmp_path):
    folder = save(tmp_path, KINDS["drops the reasoning"])
    tokenizer, notes = read_tokenizer_with_notes(folder)
    assert (tokenizer.eos_token, notes) == ("<|im_end|>", ())
    assert template_text(tokenizer) == KINDS["drops the reasoning"].template


def test_the_eos_that_a_template_writes_elsewhere_stays_there(tmp_path):
    kind = KINDS["base, whose eos ends a document"]
    tokenizer_of("{{- eos_token -}}" + kind.template, kind.eos).save_pretrained(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.eos_token == "<|im_end|>"
    written = tokenizer.apply_chat_template([{"role": "user", "content": "q"}], tokenize=False)
    assert written == "<|endoftext|><|im_start|>user\nq<|im_end|>\n"


def test_tokens_that_end_generation_are_read_from_its_configuration(tmp_path):
    kind = KINDS["ends at the next turn"]
    tokenizer = tokenizer_of(kind.template, kind.eos)
    stop = tokenizer.convert_tokens_to_ids("<|user|>")
    folder = save(tmp_path, kind, eos_token_id=[tokenizer.eos_token_id, stop])
    read = read_tokenizer(folder, template="think")
    assert (read.eos_token, set(read.stop_tokens)) == ("<|user|>", {"<|endoftext|>", "<|user|>"})


@pytest.mark.parametrize("content", ["[", "[]", '{"eos_token_id": "x"}', '{"eos_token_id": [null]}'])
def test_a_damaged_generation_configuration_is_no_traceback(tmp_path, content):
    folder = save(tmp_path, KINDS["drops the reasoning"])
    (folder / "generation_config.json").write_text(content)
    assert read_tokenizer(folder).stop_tokens == ()


def test_a_path_names_another_template(tmp_path):
    folder = save(tmp_path / "model", KINDS["drops the reasoning"])
    file = tmp_path / "mine.jinja"
    file.write_text(KINDS["an opening tag of two words"].template.replace("turn|>", "im_end|>").replace("<im", "<|im"))
    tokenizer, [note, *_] = read_tokenizer_with_notes(folder, template=str(file))
    assert str(file) in note
    written_and_read_back(tokenizer, ROWS["one turn"])


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe\x00"])
def test_a_path_that_is_no_template_is_one_sentence(tmp_path, content):
    folder = save(tmp_path / "model", KINDS["drops the reasoning"])
    file = tmp_path / "mine.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^model\.template: .*{re.escape(str(file))}"):
        read_tokenizer(folder, template=str(file))


@pytest.mark.parametrize("has_chatml", [True, False])
def test_a_model_without_a_template_gets_plain_chatml_under_think_and_says_so(tmp_path, has_chatml):
    tokenizer = tokenizer_of("", "<|endoftext|>", plain=() if has_chatml else ("<|im_start|>", "<|im_end|>"))
    tokenizer.eos_token, tokenizer.chat_template = "<|endoftext|>", None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no chat template; write model\.template: think"):
        written_and_read_back(read_tokenizer(tmp_path), ROWS["one turn"])
    tokenizer, [note] = read_tokenizer_with_notes(tmp_path, template="think")
    assert "plain ChatML" in note
    assert tokenizer.eos_token == ("<|im_end|>" if has_chatml else "<|endoftext|>")
    for turns in ROWS.values():
        written_and_read_back(tokenizer, turns)


def test_a_named_template_beside_the_default_stays(tmp_path):
    kind = KINDS["drops the reasoning"]
    tokenizer = tokenizer_of(kind.template, kind.eos)
    tokenizer.chat_template = {"default": kind.template, "rag": "{{ messages }}"}
    tokenizer.save_pretrained(tmp_path)
    read = read_tokenizer(tmp_path, template="think")
    assert read.chat_template["rag"] == "{{ messages }}"
    written_and_read_back(read, ROWS["two turns"])
