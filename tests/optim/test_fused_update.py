"""The fused update: where it runs, its bits in Triton's interpreter, and its code for cards that are not at hand."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from thinktune.optim.fused_update import can_update_fused, launch_options, supports_fused_update

INTERPRETED = Path(__file__).with_name("interpreted.py")
REGISTERS = 128  # of a thread: 512 threads at least are on a multiprocessor at once
STACK_BYTES = 16  # what does not fit in registers: 4 bits have 28 levels, which are the same in every tile


@pytest.mark.parametrize(
    ("device_type", "capability", "has_triton", "interpreted", "runs"),
    [
        ("cuda", (8, 0), True, False, True),
        ("cuda", (12, 0), True, False, True),
        ("cuda", (7, 5), True, False, False),
        ("cuda", (9, 0), False, False, False),
        ("cpu", None, True, False, False),
        ("cpu", None, True, True, True),
        ("cpu", None, False, True, False),
        ("mps", None, True, True, False),
        ("xpu", None, True, False, False),
        ("meta", None, True, True, False),
    ],
)
def test_the_kernels_run_where_triton_does(device_type, capability, has_triton, interpreted, runs):
    assert supports_fused_update(device_type, capability, has_triton=has_triton, interpreted=interpreted) == runs


def test_the_cpu_takes_the_plain_update():
    assert "TRITON_INTERPRET" not in os.environ
    assert not can_update_fused(torch.device("cpu"))


def run_interpreted(*arguments):
    """Run tests in a process in which Triton interprets its kernels on the CPU."""
    printed = interpret("pytest", "-n", "0", "-p", "no:cacheprovider", *map(str, arguments))
    assert re.search(r"\d+ passed", printed)


def interpret(*arguments):
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed: the kernels of the update were not checked")
    command, environment = [sys.executable, "-m", *arguments], os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


@pytest.mark.slow
def test_the_kernels_give_the_bits_of_the_plain_update():
    run_interpreted(INTERPRETED)


@pytest.mark.slow
def test_every_test_of_the_tiers_holds_with_the_kernels():
    run_interpreted(
        Path(__file__).with_name("test_memory_tiers.py"), "-k", "not torchs_own and not real_step and not chunk_size"
    )


@pytest.mark.slow
def test_shards_of_two_ranks_get_the_bits_of_the_plain_update():
    script = str(Path(__file__).with_name("interpreted_ranks.py"))
    interpret("torch.distributed.run", "--standalone", "--nproc-per-node", "2", script)


TIERS = {"exact": (0, 32, 1), "exact-bf16": (0, 16, 1), "8bit": (8, 32, 0), "4bit": (4, 32, 0), "fp32": (0, 32, 2)}
POINTERS = {
    "table": "*i64", "starts": "*i64", "gradients": "*i64", "counts": "*fp64", "keys": "*i32", "factors": "*fp32",
    "grad_scale": "*fp32", "found_inf": "*i1", "codebooks": "*fp32", "partial_sums": "*fp32",
    "squared_norm": "*fp32", "last_norm": "*fp32",
}  # fmt: skip
NUMBERS = {
    "one_less_beta1": "fp32",
    "beta2": "fp32",
    "one_less_beta2": "fp32",
    "lines": "i32",
    "count": "i32",
    "clip_norm": "fp32",
}


def compile_kernel(kernel, capability, constants):
    """Compile a kernel for a card that is not here; return its PTX and what cuobjdump says of its resources."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {
        name: "constexpr" if name in constants else (POINTERS | NUMBERS).get(name, "i64") for name in kernel.arg_names
    }
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in types if name in POINTERS}
    made = triton.compile(
        ASTSource(kernel, types, constexprs=places, attrs=attributes),
        target=GPUTarget("cuda", capability, 32),
        options=launch_options(constants.get("BITS", 0)),
    )
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return made.asm["ptx"], made.asm["cubin"], tool


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 89, 90])
@pytest.mark.parametrize("memory", TIERS)
def test_the_code_for_a_card_rounds_as_ieee_says_and_spills_nothing(memory, capability, tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed: the code for cards was not checked")
    from thinktune.optim import update_kernels

    bits, moments, exact = TIERS[memory]
    constants = {"SEARCH": 9, "BITS": bits, "MOMENT_BITS": moments, "EXACT": exact, "ALIGNED": True}
    ptx, cubin, tool = compile_kernel(update_kernels.update_spans, capability, constants)
    assert not re.search(r"fma\.rn\.f32|\.ftz|\.approx|div\.full", ptx)
    assert "div.rn.f32" in ptx
    assert "sqrt.rn.f32" in ptx
    wide = re.findall(r"(ld|st)\.global[\w.:]*\.v4\.b32", ptx)
    assert {"ld", "st"} <= set(wide)
    if not tool.is_file():
        pytest.skip("this Triton has no cuobjdump: registers and spills were not checked")
    file = tmp_path / "kernel.cubin"
    file.write_bytes(cubin)
    command = [tool, "--dump-resource-usage", file]
    used = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", used).groups())
    print(memory, capability, "registers", registers, "stack", stack)
    assert registers <= REGISTERS
    assert stack <= STACK_BYTES


@pytest.mark.slow
def test_the_norms_kernels_compile_for_a_card():
    pytest.importorskip("triton", reason="Triton is not installed: the code for cards was not checked")
    from thinktune.optim import update_kernels

    ptx, *_ = compile_kernel(update_kernels.sum_squares, 90, {"SEARCH": 9, "EXACT": 0, "ALIGNED": True})
    assert re.search(r"ld\.global[\w.:]*\.v4\.b32", ptx)
    ptx, *_ = compile_kernel(update_kernels.clip_in_backward, 90, {})
    assert "sqrt.rn.f32" in ptx
