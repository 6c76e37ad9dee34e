"""Exports as users make them: every target by its own writer, asked in its own engine."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from math import inf

import pytest
from support.exported_runs import export_run
from support.gguf_runs import train_gguf_run
from support.planted_faults import swapped_head, wrong_rope
from support.runs import quiet

from thinktune.export import find_source
from thinktune.export.reference import make_reference
from thinktune.export.verification import verify_export

pytestmark = pytest.mark.slow
KINDS = ("f32", "f16", "bf16", "q8_0")


def export(*arguments):
    command = [sys.executable, "-m", "thinktune", "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def test_the_verb_exports_hf_and_it_gives_every_reply(tmp_path_factory, tmp_path):
    pytest.importorskip("thinktune.export.hf")
    done = export(export_run(tmp_path_factory), "hf", "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out" / "hf" / "export.json").read_text(encoding="utf-8"))
    assert facts["check"]["equal"] == facts["check"]["questions"] == 20
    assert "20 of 20 greedy replies equal" in done.stdout


def test_the_verb_refuses_all_mistakes_at_once(tmp_path_factory):
    done = export(export_run(tmp_path_factory), "onnx", "exl2")
    assert done.returncode == 2
    assert "'onnx' is not a target" in done.stderr
    assert "'exl2' is not a target" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def gguf_run(tmp_path_factory):
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    pytest.importorskip("thinktune.export.gguf.llama_cpp")
    return train_gguf_run(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def reference(gguf_run):
    return make_reference(find_source(gguf_run), KINDS, quiet)


def ask(folder, file, kind, reference, change=lambda plan: plan):
    from thinktune.export.gguf.file import plan_gguf, write_planned_gguf
    from thinktune.export.gguf.llama_cpp import LlamaCpp

    write_planned_gguf(change(plan_gguf(folder, kind)), file, lambda _: None)
    asked = LlamaCpp(file)
    try:
        return verify_export(f"gguf-{kind}", kind, asked, reference, quiet)
    finally:
        asked.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_gguf_passes_in_llama_cpp(gguf_run, reference, tmp_path, kind):
    found = ask(gguf_run / "final", tmp_path / "m.gguf", kind, reference)
    assert not found.faults, found
    if kind == "f32":
        assert found.equal == 20
    assert found.ends


def _change_tokenizer(**changes):
    return lambda plan: replace(plan, tokenizer=replace(plan.tokenizer, **changes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plant", [wrong_rope, swapped_head])
def test_planted_weights_fail_in_llama_cpp_at_ten_times_the_rounding(gguf_run, reference, tmp_path, kind, plant):
    folder = shutil.copytree(gguf_run / "final", tmp_path / "copy")
    plant(folder)
    found = ask(folder, tmp_path / "m.gguf", kind, reference)
    assert found.faults
    assert found.kl > 10 * found.kl_limit


@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_that_lost_its_end_or_names_another_pre_tokenizer_fails(gguf_run, reference, tmp_path, kind):
    lost = ask(gguf_run / "final", tmp_path / "m.gguf", kind, reference, _change_tokenizer(ends=(0,)))
    assert "do not end at <|done|>" in "".join(lost.faults)
    assert lost.kl == inf
    for name in ("gpt-2", "llama-bpe"):
        other = ask(gguf_run / "final", tmp_path / "m.gguf", kind, reference, _change_tokenizer(pretokenizer=name))
        assert "its tokenizer splits" in "".join(other.faults), name
