"""The loss under fp8 arithmetic: the same steps in bf16 and in fp8, in two columns.

On a card that has fp8, its own is used; elsewhere it is emulated: rounded to fp8, multiplied in full precision.

    pip install -e '.[fp8]' && python benchmarks/float8_loss.py --steps 200
"""

import argparse
import copy
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
from thinktune.model.transforms import apply_float8, can_compile, compile_layers, float8_problem
from thinktune.optim.optimizer import Optimizer
from thinktune.tokenization import Rendered
from thinktune.train.step import step

SIZE = ModelShape(hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=384)
VOCABULARY, CAPACITY, HELD_OUT = 512, 1024, 8


def rows(text: str, tokenizer: Any) -> list[Rendered]:
    """Split the text into rows of 200 tokens, all of which but the first are labels."""
    ids = np.array(tokenizer(text)["input_ids"], np.int32)
    pieces = [ids[start : start + 200] for start in range(0, len(ids) - 200, 200)]
    return [
        Rendered(piece, np.array([0] + [2] * (len(piece) - 1), np.uint8), f"text:{n}") for n, piece in enumerate(pieces)
    ]


def losses(model: Any, examples: Sequence[Rendered], steps: int, every: int) -> list[float]:
    """Train, and return the eval loss before and after each `every` steps."""
    device, pad = model.device, make_padding(0, [len(row) for row in examples], CAPACITY)
    held_out, trained = examples[:HELD_OUT], examples[HELD_OUT:]
    optimizer = Optimizer(model, TrainConfig(rows_per_step=4, memory="exact"))
    found = [evaluate_loss(model, pack(held_out, CAPACITY, pad=pad), device, torch.bfloat16).mean_losses()["loss"]]
    for number in range(1, steps + 1):
        chosen = [trained[(4 * number + offset) % len(trained)] for offset in range(4)]
        optimizer.begin_step(number, 1e-3)
        batches = [batch.to(device) for batch in pack(chosen, CAPACITY, pad=pad)]
        step(model, batches, optimizer, World(), torch.bfloat16)
        if number % every == 0:
            found.append(
                evaluate_loss(model, pack(held_out, CAPACITY, pad=pad), device, torch.bfloat16).mean_losses()["loss"]
            )
    return found


def main() -> None:
    """Print both columns and their difference."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=200)
    steps = arguments.parse_args().steps
    device = pick_device()
    emulate = float8_problem(device.type, compute_capability(device), installed=True) is not None
    text = "\n".join(
        module.__doc__ or "" for module in (torch, torch.nn.Module, torch.Tensor, np, np.ndarray, argparse)
    )
    text += "\n".join(str(getattr(np, name).__doc__) for name in sorted(dir(np))[:300])
    tokenizer = make_tokenizer([text], VOCABULARY)
    examples = rows(text, tokenizer)
    start = make_model(tokenizer, SIZE).to(device, torch.bfloat16)
    columns = []
    for float8 in (False, True):
        model = copy.deepcopy(start)
        if float8:
            apply_float8(model, emulate=emulate)
        set_attention(model, torch.bfloat16)
        if can_compile(device):
            compile_layers(model)
        columns.append(losses(model, examples, steps, max(1, steps // 4)))
    print(f"torch {torch.__version__}, {device}, fp8 {'emulated' if emulate else 'of the card'}, {len(examples)} rows")
    print("step   bf16      fp8     difference")
    for index, (bf16, fp8) in enumerate(zip(*columns, strict=True)):
        print(f"{index * max(1, steps // 4):4}  {bf16:.4f}  {fp8:.4f}  {(fp8 - bf16) / bf16:+.3%}")


if __name__ == "__main__":
    main()
