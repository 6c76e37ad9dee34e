"""No CUDA name in the common path: devices by torch.accelerator, collectives by the device's own backend."""

import ast
import inspect
import json
from pathlib import Path

import pytest
import torch
from support.cli_ranks import without_cuda
from support.cuda_calls import OURS, cuda_calls
from support.ranks import run_ranks
from support.runs import quiet, settings, stop_after

from thinktune.distributed import world
from thinktune.model.attention import set_attention
from thinktune.train import train


def test_one_process_trains_evaluates_samples_saves_and_resumes_without_torch_cuda(tree):
    with cuda_calls() as found:
        with pytest.raises(KeyboardInterrupt):
            train(settings(tree), stop_after(3))
        folder = train(settings(tree), quiet)
    assert (folder / "final").is_dir()
    assert found == []


@pytest.mark.slow
def test_two_ranks_do_so_too(tree, tmp_path):
    (tmp_path / "mine.yaml").write_text(json.dumps(tree), encoding="utf-8")
    for fault, ends_with in (("stop", 75), ("none", 0)):
        for code, said, found in run_ranks(2, without_cuda, str(tmp_path / "mine.yaml"), fault):
            assert (code, found) == (ends_with, []), said


def test_a_call_of_torch_cuda_would_be_found():
    planted = compile("import torch\ntorch.cuda.is_available()\n", f"{OURS}/planted.py", "exec")
    with cuda_calls() as found:
        torch.cuda.is_available()
        exec(planted, {})
    assert found == ["planted.py:2 calls torch.cuda.is_available"]


def functions_that_call_cuda():
    """Yield the functions that use torch.cuda, and whether they check the device's type."""
    for path in sorted(Path(OURS).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "torch.cuda." in ast.unparse(node):
                yield f"{path.stem}.{node.name}", "device.type == 'cuda'" in ast.unparse(node)


def test_only_functions_that_check_the_device_use_torch_cuda():
    found = dict(functions_that_call_cuda())
    assert found, set_attention
    graphs = {name for name in found if name.startswith("cuda_graphs.")}  # made on CUDA alone, as the next test says
    assert graphs
    assert all(checks for name, checks in found.items() if name not in graphs), found


def test_graphs_are_captured_on_cuda_alone():
    made = [
        ast.unparse(node)
        for path in Path(OURS).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.IfExp) and "CudaGraphs(" in ast.unparse(node)
    ]
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(OURS).rglob("*.py"))
    assert made
    assert all("device.type == 'cuda'" in each for each in made)
    assert sources.count("CudaGraphs(") == len(made)


def test_collectives_are_the_devices_own():
    """So that a card of another maker, whose backend torch knows by its plugin, needs no code of ours."""
    assert "get_default_backend_for_device(device)" in inspect.getsource(world.init_distributed)
    assert "nccl" not in inspect.getsource(world).replace("NCCL", "")
    assert torch.distributed.get_default_backend_for_device(torch.device("cpu")) == "gloo"
