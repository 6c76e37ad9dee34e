"""The Modelfile: what Ollama is told of a model, and what is said where its language or its lines cannot tell it."""

import re

import pytest
from support.chat_templates import KINDS, tokenizer_of
from support.serving import settings_of

from thinktune.errors import UserError
from thinktune.export.chat_form import measure_form
from thinktune.export.ollama import GgufFacts, compose_modelfile, create_in_ollama, read_gguf_facts
from thinktune.inference.requests import SamplingParams

PLAIN = GgufFacts("qwen3", adds_bos=False)


def lines_of(settings, facts=PLAIN):
    return compose_modelfile(settings, "mine-f16.gguf", facts).text.splitlines()


def test_sampling_stops_context_and_system_prompt_are_all_named(tmp_path):
    lines = lines_of(settings_of(tmp_path, system="Be kind.\nBe brief."))
    assert lines[0] == "FROM ./mine-f16.gguf"
    assert lines[-11:-9] == ['SYSTEM """Be kind.', 'Be brief."""']
    assert lines[-9:] == [
        "PARAMETER temperature 0.6", "PARAMETER top_p 0.95", "PARAMETER top_k 20", "PARAMETER min_p 0",
        "PARAMETER repeat_penalty 1", "PARAMETER num_predict 512", "PARAMETER num_ctx 8192",
        'PARAMETER stop "<|im_end|>"', 'PARAMETER stop "<|endoftext|>"',
    ]  # fmt: skip


@pytest.mark.parametrize("sampling", [SamplingParams(512, 0.0, 0.9), SamplingParams(512, 0.7, 1e-7)])
def test_a_greedy_model_is_greedy_in_ollama_whose_default_is_not(tmp_path, sampling):
    lines = lines_of(settings_of(tmp_path, sampling=sampling))
    assert {"PARAMETER temperature 0", "PARAMETER top_p 1"} <= set(lines)


def test_a_system_prompt_that_ollama_would_change_is_kept_inside_the_template(tmp_path):
    made = compose_modelfile(settings_of(tmp_path, system='全角\u3000空格 """'), "x.gguf", PLAIN)
    assert "\nSYSTEM" not in made.text
    assert r"\U00003000" in made.text
    assert r"\U00000022" in made.text
    assert any("inside TEMPLATE" in note for note in made.notes)


def test_without_a_template_in_go_the_ollama_that_reads_the_models_own_is_required(tmp_path):
    made = compose_modelfile(
        settings_of(tmp_path, form=None, unformed="it writes the date", system="a\u200db"), "x.gguf", PLAIN
    )
    assert "REQUIRES 0.30.0" in made.text
    assert "\nTEMPLATE" not in made.text
    assert made.notes[0].startswith("TEMPLATE is left out")
    assert "it writes the date" in made.notes[0]
    assert "is left out, because a SYSTEM line" in made.notes[1]


def test_a_token_that_the_file_adds_is_not_written_twice(tmp_path):
    kind = KINDS["drops the reasoning"]
    tokenizer = tokenizer_of("{{- bos_token -}}" + kind.template, kind.eos)
    settings = settings_of(tmp_path, form=measure_form(tokenizer), bos=tokenizer.bos_token)
    [adding] = [line for line in lines_of(settings, GgufFacts("llama", adds_bos=True)) if line.startswith("TEMPLATE")]
    [not_adding] = [line for line in lines_of(settings) if line.startswith("TEMPLATE")]
    assert tokenizer.bos_token not in adding
    assert tokenizer.bos_token in not_adding
    assert compose_modelfile(settings, "x.gguf", GgufFacts("llama", adds_bos=True)).notes == ()


def test_a_token_that_the_file_adds_and_the_template_does_not_write_is_said(tmp_path):
    made = compose_modelfile(settings_of(tmp_path, bos="<s>"), "x.gguf", GgufFacts("llama", adds_bos=True))
    assert "begins each prompt with <s>" in made.text


def test_without_ollama_the_command_is_said_to_be_untried(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = create_in_ollama(tmp_path, "mine")
    assert said.startswith("not tested, because Ollama is not installed")
    assert said.endswith("ollama create mine -f Modelfile")


OLLAMA = """#!/bin/sh
case "$1" in
  list) exit {list} ;;
  --version) echo "ollama version is 9.9.9" ;;
  create) [ -f "$4" ] && [ "$2" = mine ] || exit 9; echo "{says}" >&2; exit {create} ;;
esac
"""


@pytest.mark.parametrize(
    ("list_code", "create_code", "said"),
    [(1, 0, "not tested, because no Ollama server answers"), (0, 0, "made by .*9.9.9"), (0, 1, "failed: bad template")],
)
def test_where_ollama_is_installed_it_makes_the_model_or_says_why_not(
    tmp_path, monkeypatch, list_code, create_code, said
):
    program = tmp_path / "bin" / "ollama"
    program.parent.mkdir()
    program.write_text(OLLAMA.format(list=list_code, create=create_code, says="bad template"))
    program.chmod(0o755)
    (tmp_path / "Modelfile").write_text("FROM ./x.gguf\n")
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    if create_code:
        with pytest.raises(UserError, match=said):
            create_in_ollama(tmp_path, "mine")
    else:
        assert re.match(said, create_in_ollama(tmp_path, "mine"))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>not a model at all</html>"])
def test_a_file_that_is_no_gguf_file_is_refused(tmp_path, content):
    pytest.importorskip("gguf")
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UserError, match="is not a GGUF file"):
        read_gguf_facts(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("adds", "kind", "found"),
    [(True, "gpt2", True), (False, "llama", False), (None, "llama", True), (None, "gpt2", False)],
)
def test_whether_a_prompt_begins_with_a_token_is_read_from_the_file(tmp_path, adds, kind, found):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tokenizer_model(kind)
    if adds is not None:
        writer.add_add_bos_token(adds)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_gguf_facts(tmp_path / "x.gguf") == GgufFacts("llama", found)
