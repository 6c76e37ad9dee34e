"""fp8: each output channel with a scale of its own, in the form that compressed-tensors reads, and what is refused."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_models import tiny_model
from transformers import AutoModelForCausalLM

from thinktune.errors import UserError
from thinktune.export import find_source, fp8
from thinktune.files import read_json

IDS = torch.arange(3, 60)[None]


def made_of(folder, name, dtype=torch.float32, **changes):
    model = tiny_model(name)
    for key, value in changes.items():
        setattr(model.config, key, value)
    model.to(dtype).save_pretrained(folder)
    return model


def exported(source_folder, folder):
    folder.mkdir()
    done = []
    plan = fp8.write_fp8(find_source(source_folder), folder, done.append)
    assert sum(done) == plan.size_bytes
    return plan


def test_a_rounded_row_is_within_half_a_step_of_its_own_largest_value():
    torch.manual_seed(1)
    weight = torch.randn(48, 64) * torch.logspace(-6, 3, 48)[:, None]
    weight[7] = 0
    values, scale = fp8.round_rows(weight)
    assert (values.dtype, scale.dtype, scale.shape) == (torch.float8_e4m3fn, torch.bfloat16, (48, 1))
    read = values.float() * scale.float()
    assert read.isfinite().all()
    # 3 bits of mantissa: half a step is 1/16 of a value, or of the smallest normal one. bf16's scale adds 2^-8 at the top.
    step = (weight.abs() / 16).maximum(scale.float() * 2.0**-10) + weight.abs().amax(1, keepdim=True) * 2.0**-8
    assert ((read - weight).abs() <= step).all()
    assert (values.float().abs().amax(1)[weight.abs().amax(1) > 0] > 400).all()  # the whole range is used


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_rounded_and_all_else_is_kept(tmp_path, dtype):
    made_of(tmp_path / "model", "qwen2", dtype)
    plan = exported(tmp_path / "model", tmp_path / "fp8")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "fp8"))
    assert len(plan.rounded) == 4 * 7
    assert set(after) == set(before) | {f"{name}_scale" for name in plan.rounded}
    for name, tensor in before.items():
        if name in plan.rounded:
            assert after[name].dtype == torch.float8_e4m3fn
            assert after[f"{name}_scale"].shape == (tensor.shape[0], 1)
        else:
            assert torch.equal(after[name], tensor.to(torch.bfloat16))
    config = read_json(tmp_path / "fp8" / "config.json")
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    assert config["dtype"] == "bfloat16"
    size = sum(path.stat().st_size for path in (tmp_path / "fp8").glob("*.safetensors"))
    assert plan.size_bytes < size < plan.size_bytes + 20_000  # and the header


def test_what_is_read_back_answers_almost_as_the_model_does(tmp_path):
    model = made_of(tmp_path / "model", "qwen3").eval()
    exported(tmp_path / "model", tmp_path / "fp8")
    (tmp_path / "plain").mkdir()
    fp8.dequantize_fp8(tmp_path / "fp8", tmp_path / "plain", lambda _bytes: None)
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    assert read.dtype == torch.float32
    right = mean_kl(model, read)
    with torch.no_grad():
        scale = load_file(tmp_path / "fp8" / "model.safetensors")["model.layers.1.mlp.up_proj.weight_scale"].float()
        read.model.layers[1].mlp.up_proj.weight.div_(scale)  # as if the scales of one weight were lost
    assert right * 10 < mean_kl(model, read)


def mean_kl(ours, theirs):
    with torch.no_grad():
        first, second = (torch.log_softmax(model(IDS).logits[0].double(), -1) for model in (ours, theirs))
    return float((first.exp() * (first - second)).sum(-1).mean())


def test_shards_have_an_index_and_hold_the_same(tmp_path, monkeypatch):
    made_of(tmp_path / "model", "llama")
    exported(tmp_path / "model", tmp_path / "one")
    monkeypatch.setattr(fp8, "SHARD_BYTES", 20_000)
    exported(tmp_path / "model", tmp_path / "many")
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3
    places = read_json(tmp_path / "many" / "model.safetensors.index.json")["weight_map"]
    whole = load_file(tmp_path / "one" / "model.safetensors")
    parts = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert places.keys() == parts.keys() == whole.keys()
    assert all(torch.equal(parts[name].float(), whole[name].float()) for name in whole)


def test_experts_are_refused_in_words(tmp_path):
    made_of(tmp_path / "model", "mixtral")
    with pytest.raises(UserError, match="not plain matrices"):
        fp8.plan_fp8(tmp_path / "model")


def test_the_tokenizers_files_go_with_it_and_the_run_s_own_do_not(start, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in start.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("README.md", "files.json", "LICENSE"):
        (folder / name).write_text("{}")
    exported(folder, tmp_path / "fp8")
    copied = {path.name for path in (tmp_path / "fp8").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"} <= copied
    assert not copied & {"README.md", "files.json"}
    assert (tmp_path / "fp8" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


READ = """
import sys, json, torch
from transformers import AutoModelForCausalLM
theirs, ours = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in sys.argv[1:])
scheme = theirs.model.layers[0].mlp.up_proj.quantization_scheme
theirs(torch.arange(3, 60)[None])  # weights are decompressed by the first pass
equal = [
    torch.equal(module.weight.float(), ours.get_submodule(name).weight)
    for name, module in theirs.named_modules() if isinstance(module, torch.nn.Linear) and "layers" in name
]
print(json.dumps({"equal": sum(equal), "of": len(equal), "dynamic": scheme.input_activations.dynamic,
                  "strategy": scheme.weights.strategy}))
"""


@pytest.mark.slow
def test_compressed_tensors_reads_the_same_weights(tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "library")]
    installed = subprocess.run([*command, "compressed-tensors", "loguru"], capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        pytest.skip(f"pip cannot bring compressed-tensors: {installed.stderr.strip()[-200:]}")
    made_of(tmp_path / "model", "qwen3")
    exported(tmp_path / "model", tmp_path / "fp8")
    (tmp_path / "plain").mkdir()
    fp8.dequantize_fp8(tmp_path / "fp8", tmp_path / "plain", lambda _bytes: None)
    before = f"import sys; sys.path.append({str(tmp_path / 'library')!r})\n"
    ran = subprocess.run(
        [sys.executable, "-c", before + READ, str(tmp_path / "fp8"), str(tmp_path / "plain")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found == {"equal": 28, "of": 28, "dynamic": True, "strategy": "channel"}
