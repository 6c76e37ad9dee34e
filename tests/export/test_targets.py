"""Targets by name: all that are unknown are named at once, and a GGUF without a kind holds the weights as they are."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import quiet

from thinktune.commands.export import describe_export
from thinktune.errors import UserError
from thinktune.export import find_source
from thinktune.export.export import export_model
from thinktune.export.targets import find_targets, own_kind


def test_all_unknown_targets_are_named_at_once_with_those_that_there_are(start):
    with pytest.raises(UserError) as raised:
        find_targets(find_source(start), ["exl2", "onnx", "exl2"])
    first, second = raised.value.faults
    assert first.startswith("export: 'exl2' is not a target; name one or more of hf, fp8, gguf, gguf-f32")
    assert "'onnx'" in second


@pytest.mark.parametrize(("dtype", "kind"), [(torch.float32, "f32"), (torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_the_kind_that_holds_the_weights_as_they_are(start, tmp_path, dtype, kind):
    folder = shutil.copytree(start, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    # Norms are often kept in fp32.
    stored = {name: each if each.dim() == 1 else each.to(dtype) for name, each in weights.items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    assert own_kind(folder) == kind


def test_a_kind_of_gguf_that_nothing_here_makes_is_refused_with_those_that_are(start, monkeypatch):
    pytest.importorskip("thinktune.export.gguf.programs")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    with pytest.raises(
        UserError, match=r"q4_k_m needs llama.cpp's llama-quantize, which was not found.*choose f32, f16"
    ):
        find_targets(find_source(start), ["gguf-q4_k_m"])


@pytest.mark.parametrize("engine", ["vllm", "sglang", "mlx"])
def test_an_engines_target_is_a_script_and_says_that_nothing_was_asked(start, tmp_path, engine):
    source = find_source(start)
    [made] = export_model(source, find_targets(source, [engine]), tmp_path, quiet)
    assert (made.folder / "serve.sh").read_text(encoding="utf-8").startswith("#!/bin/sh")
    assert not (made.folder / "README.md").exists(), "no model is here"
    text = "\n".join(describe_export(made))
    assert "NOT CHECKED: a script was written; the engine was not tested" in text
    assert str(start.resolve()) in made.finished, "the line to type names the model's own folder"
