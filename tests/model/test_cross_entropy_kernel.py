"""The loss's Triton kernel: its numbers in Triton's interpreter, and its code for cards that are not here."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed: the loss of cards was not checked"
)

IN_THE_INTERPRETER = """
import json, math
import torch
from torch.nn.functional import cross_entropy
from thinktune.model import loss
from thinktune.model.kernels import cross_entropy as kernel

kernel.BLOCK_LOGITS = 64
found = []
for rows, vocab, dtype in ((1, 8, "float32"), (5, 64, "float32"), (3, 65, "bfloat16"), (4, 200, "bfloat16"), (2, 129, "float16")):
    generator = torch.Generator().manual_seed(rows)
    logits = (8 * torch.randn(rows, vocab, generator=generator)).to(getattr(torch, dtype))
    target = torch.randint(vocab, (rows, 1), generator=generator)
    given = logits.double().requires_grad_()
    expected = cross_entropy(given, target[:, 0], reduction="none")
    (0.25 * expected.sum()).backward()
    untouched = logits.clone()
    alone = kernel.cross_entropy_in_place(untouched, target, None)
    losses = kernel.cross_entropy_in_place(logits, target, 0.25)
    found.append({
        "case": [rows, vocab, dtype],
        "loss": float((losses - expected).abs().max()),
        "gradient": float((logits - given.grad).abs().max()),
        "alone": bool(alone.equal(losses)) and bool(untouched.double().equal(given.detach())),
    })

weighted = []
for dtype, weighs, by_probability in (
    ("float32", True, False), ("float32", False, True), ("float32", True, True), ("bfloat16", True, True)
):
    generator = torch.Generator().manual_seed(1)
    logits = (4 * torch.randn(6, 150, generator=generator)).to(getattr(torch, dtype))
    target = torch.randint(150, (6, 1), generator=generator)
    weights = torch.tensor([1, 0.5, 0, 1, 0.25, 3.0]) if weighs else None
    given = logits.double().requires_grad_()
    expected = cross_entropy(given, target[:, 0], reduction="none")
    factors = (weights if weighs else 1) * ((-expected.detach()).exp() if by_probability else 1)
    (0.25 * factors * expected).sum().backward()
    alone = kernel.cross_entropy_in_place(logits.clone(), target, None, weights, by_probability=by_probability)
    losses = kernel.cross_entropy_in_place(logits, target, 0.25, weights, by_probability=by_probability)
    weighted.append({
        "case": [dtype, weighs, by_probability],
        "loss": float((losses - expected).abs().max()),
        "gradient": float((logits - given.grad).abs().max()),
        "alone": bool(alone.equal(losses)),
    })
same = torch.randn(4, 150), torch.randint(150, (4, 1))
ones = same[0].clone()
kernel.cross_entropy_in_place(ones, same[1], 0.25, torch.ones(4))
kernel.cross_entropy_in_place(same[0], same[1], 0.25)
refused = torch.zeros(3, 10)
refused[1, 3] = -math.inf
kernel.cross_entropy_in_place(refused, torch.full((3, 1), 3), 1.0, torch.zeros(3), by_probability=True)

bad = 8 * torch.randn(6, 150)
bad[1, 70], bad[2, 149], bad[3, 10], bad[4, :] = math.nan, math.inf, -math.inf, -math.inf
bad[5, :140] = -math.inf  # whole blocks without a share
target = torch.tensor([[0], [3], [4], [10], [7], [145]])
losses = kernel.cross_entropy_in_place(bad, target, 1.0)
dry = torch.randn(2, 10)
kernel.cross_entropy_in_place(dry, torch.zeros(2, 1, dtype=torch.int64), math.nan)

halves = []
objectives = [loss.CROSS_ENTROPY, loss.Objective(0.5, 1.0), loss.Objective(0.5, 1.0, by_probability=True)]
kinds = torch.arange(50) % 3 + 1
for fused, objective in [(fused, objective) for objective in objectives for fused in (False, True)]:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(*size).requires_grad_() for size in ((50, 16), (300, 16)))
    labels = torch.randint(300, (50,))
    transform = loss.LogitTransform(0.5, 3.0)
    total, each = loss.linear_cross_entropy(hidden, weight, labels, scale=0.02, dtype=torch.float32,
                                            chunks=loss.LogitChunks(16, fused), transform=transform,
                                            weights=objective.label_weights(kinds))
    total.backward()
    halves.append((each, total.detach(), hidden.grad, weight.grad))
print(json.dumps({
    "found": found,
    "weighted": weighted,
    "same_bits": bool(ones.equal(same[0])),
    "refused": refused.isnan().all(1).tolist(),
    "finite_losses": losses.isfinite().tolist(),
    "finite_gradients": bad.isfinite().all(1).tolist(),
    "no_finite_gradient": (~bad.isfinite()).all(1).tolist(),
    "dry": bool(dry.isnan().all()),
    "whole": [float((a - b).abs().max() / b.abs().max())
              for plain, fused in zip(halves[::2], halves[1::2]) for a, b in zip(plain, fused)],
    "none": kernel.cross_entropy_in_place(torch.empty(0, 9), torch.empty(0, 1, dtype=torch.int64), 1.0).shape,
}))
"""


@pytest.fixture(scope="module")
def interpreted():
    """Run the kernel in a process of its own: Triton decides when it is imported whether it is interpreted."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", IN_THE_INTERPRETER], capture_output=True, text=True, env=environment)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_losses_and_gradients_are_those_of_double_precision(interpreted):
    rounding = {"float32": 1e-6, "float16": 2e-4, "bfloat16": 1e-3}  # of a gradient of at most 0.25
    assert len(interpreted["found"]) == 5
    for found in interpreted["found"]:
        assert found["loss"] < 1e-5, found
        assert found["gradient"] < rounding[found["case"][2]], found
        assert found["alone"], "without a scale the logits stay, and the losses are the same"


def test_weights_and_the_labels_own_probability_are_factors_of_the_gradient_alone(interpreted):
    rounding = {"float32": 1e-6, "bfloat16": 1e-3}
    assert len(interpreted["weighted"]) == 4
    for found in interpreted["weighted"]:
        assert found["loss"] < 1e-5, found
        assert found["gradient"] < rounding[found["case"][0]], found
        assert found["alone"], found
    assert interpreted["same_bits"], "weights of 1 are no weights"
    assert interpreted["refused"] == [False, True, False], "a label that weighs nothing is refused, too"


def test_a_loss_that_is_not_finite_makes_its_row_so_and_no_other(interpreted):
    assert interpreted["finite_losses"] == [True, False, False, False, False, True]
    assert interpreted["finite_gradients"] == interpreted["finite_losses"]
    assert interpreted["no_finite_gradient"] == [not finite for finite in interpreted["finite_losses"]]
    assert interpreted["dry"]


def test_the_whole_loss_with_it_is_the_cpus(interpreted):
    assert len(interpreted["whole"]) == 12
    assert max(interpreted["whole"]) < 1e-5
    assert interpreted["none"] == [0]


IN_MACHINE_CODE = """
import json, re, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from thinktune.model.kernels import cross_entropy as kernel

found = {}
tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
names = kernel._cross_entropy.arg_names
for capability in (80, 89, 90):
    for learns, weighs in ((False, False), (True, False), (True, True)):
        constants = {"VOCABULARY": 151_936, "BLOCK": kernel.BLOCK_LOGITS, "WITH_GRADIENT": learns,
                     "BY_PROBABILITY": weighs, **({} if weighs else {"weights": None})}
        types = {"logits": "*bf16", "targets": "*i64", "losses": "*fp32", "row_stride": "i32", "scale": "fp32"}
        types |= {"weights": "*fp32"} if weighs else {}
        aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in ("logits", "targets", "losses", "row_stride")}
        source = ASTSource(kernel._cross_entropy, types | dict.fromkeys(constants, "constexpr"),
                           {(names.index(name),): value for name, value in constants.items()}, aligned)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": kernel.WARPS})
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(made.asm["cubin"])
            file.flush()
            used = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
            code = subprocess.run([tool, "--dump-sass", file.name], capture_output=True, text=True).stdout
        registers, stack = map(int, re.search(r"REG:(\\d+).*?STACK:(\\d+)", used).groups())
        found[f"{capability} {learns} {'weighted' * weighs}"] = {
            "registers": registers, "stack": stack,
            "spills": len(re.findall(r"\\b(?:LDL|STL)\\b", code)),
            "wide_loads": len(re.findall(r"\\bLDG\\S*\\.128", code)), "wide_stores": len(re.findall(r"\\bSTG\\S*\\.128", code)),
        }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_code_for_cards_reads_16_bytes_at_a_time_and_spills_nothing(tmp_path):
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", IN_MACHINE_CODE], capture_output=True, text=True, env=environment)
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 9
    for name, code in found.items():
        assert code["spills"] == 0, (name, code)
        assert code["registers"] <= 64, (name, code)
        assert code["wide_loads"] >= 2, (name, code)
        assert ("True" in name) == (code["wide_stores"] >= 2), (name, code)
