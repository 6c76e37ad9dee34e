"""The loss after the same steps in bf16 and in fp8, over several seeds, and an interval of the difference.

On a card that has fp8, its own is used; elsewhere it is emulated: rounded to fp8, multiplied in full precision. A seed
makes the first weights and the order of rows. Evaluation is in bf16 for all.

    python benchmarks/float8_loss.py --steps 200 --seeds 3
"""

import argparse
import copy
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from thinktune.config.schema import TrainConfig
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer
from thinktune.distributed.world import World
from thinktune.model.attention import set_attention
from thinktune.model.batch import make_padding, pack
from thinktune.model.device import compute_capability, pick_device
from thinktune.model.forward import evaluate_loss
from thinktune.model.low_precision.float8 import Scaling, apply_float8, float8_problem
from thinktune.model.transforms import can_compile, compile_layers
from thinktune.optim.optimizer import Optimizer
from thinktune.tokenization import Rendered
from thinktune.train.step import step

SIZE = ModelShape(hidden_size=64, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=32, intermediate_size=192)
VOCABULARY, CAPACITY, HELD_OUT = 512, 512, 8
ROWS_PER_STEP = 4
WAYS: tuple[Scaling, ...] = ("tensor", "row")
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t for 1, 2, … degrees of freedom


def rows(text: str, tokenizer: Any) -> list[Rendered]:
    """Split the text into rows of 200 tokens, all of which but the first are labels."""
    ids = np.array(tokenizer(text)["input_ids"], np.int32)
    pieces = [ids[start : start + 200] for start in range(0, len(ids) - 200, 200)]
    return [
        Rendered(piece, np.array([0] + [2] * (len(piece) - 1), np.uint8), f"text:{n}") for n, piece in enumerate(pieces)
    ]


def final_loss(model: Any, examples: Sequence[Rendered], steps: int, seed: int) -> float:
    """Train, and return the eval loss after the last step."""
    device, pad = model.device, make_padding(0, [len(row) for row in examples], CAPACITY)
    held_out, trained = examples[:HELD_OUT], examples[HELD_OUT:]
    order = np.random.default_rng(seed).permutation(len(trained))
    optimizer = Optimizer(model, TrainConfig(rows_per_step=ROWS_PER_STEP, memory="exact"))
    for number in range(1, steps + 1):
        chosen = [trained[order[(ROWS_PER_STEP * number + offset) % len(order)]] for offset in range(ROWS_PER_STEP)]
        optimizer.begin_step(number, 1e-3)
        batches = [batch.to(device) for batch in pack(chosen, CAPACITY, pad=pad)]
        step(model, batches, optimizer, World(), torch.bfloat16)
    return evaluate_loss(model, pack(held_out, CAPACITY, pad=pad), device, torch.bfloat16).mean_losses()["loss"]


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval, by Student's t."""
    mean, count = statistics.fmean(differences), len(differences)
    if count == 1:
        return mean, float("nan")
    return mean, T_95[count - 2] * statistics.stdev(differences) / count**0.5


def main() -> None:
    """Print a row for each seed, and the mean difference of each way with its interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, len(T_95) + 2))
    arguments = parser.parse_args()
    device = pick_device()
    emulated = float8_problem(device.type, compute_capability(device)) is not None
    text = "\n".join(
        module.__doc__ or "" for module in (torch, torch.nn.Module, torch.Tensor, np, np.ndarray, argparse)
    )
    text += "\n".join(str(getattr(np, name).__doc__) for name in sorted(dir(np))[:300])
    tokenizer = make_tokenizer([text], VOCABULARY)
    examples = rows(text, tokenizer)
    print(f"torch {torch.__version__}, {device}, fp8 {'emulated' if emulated else 'of the card'}, {len(examples)} rows")
    print("seed  bf16    fp8, a scale a tensor  fp8, a scale a row", flush=True)
    differences: dict[str, list[float]] = {scaling: [] for scaling in WAYS}
    for seed in range(arguments.seeds):
        torch.manual_seed(seed)
        start = make_model(tokenizer, SIZE).to(device, torch.bfloat16)
        found = {}
        for scaling in (None, *WAYS):
            model = copy.deepcopy(start)
            if scaling:
                apply_float8(model, scaling, hold=True)
            set_attention(model, torch.bfloat16)
            if can_compile(device):
                compile_layers(model)
            found[scaling] = final_loss(model, examples, arguments.steps, seed)
        cells = [f"{found[None]:.4f}"]
        for scaling in WAYS:
            differences[scaling].append(found[scaling] / found[None] - 1)
            cells.append(f"{found[scaling]:.4f} ({differences[scaling][-1]:+.2%})")
        print(f"{seed:4}  " + "  ".join(cells), flush=True)
    for scaling in WAYS:
        mean, half = interval(differences[scaling])
        print(f"a scale a {scaling}: {mean:+.2%} ± {half:.2%} of bf16's loss (95 %, {arguments.seeds} seeds)")


if __name__ == "__main__":
    main()
