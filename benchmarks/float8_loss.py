"""What 8-bit arithmetic does to the loss: the same steps in bf16 and in fp8, side by side.

On a card that has fp8 it is the card's; elsewhere it is emulated: rounded as 8 bits are, multiplied in full.

    pip install -e '.[fp8]' && python benchmarks/float8_loss.py --steps 200
"""

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from thinktune.config.schema import TrainConfig
from thinktune.data.chat_template import Rendered
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer
from thinktune.distributed.world import World
from thinktune.model.attention import set_attention
from thinktune.model.batch import make_padding, pack
from thinktune.model.device import pick_device
from thinktune.model.forward import evaluate_loss
from thinktune.model.transforms import apply_float8, can_compile, compile_layers, float8_problem
from thinktune.optim.optimizer import Optimizer
from thinktune.train.step import step

SIZE = ModelShape(hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=384)
VOCABULARY, CAPACITY, HELD_OUT = 512, 1024, 8


def rows(text: str, tokenizer: Any) -> list[Rendered]:
    """The text in pieces of 200 tokens, all but the first token of each learned."""
    ids = np.array(tokenizer(text)["input_ids"], np.int32)
    pieces = [ids[start : start + 200] for start in range(0, len(ids) - 200, 200)]
    return [
        Rendered(piece, np.array([0] + [2] * (len(piece) - 1), np.uint8), f"text:{n}") for n, piece in enumerate(pieces)
    ]


def losses(model: Any, drawn: Sequence[Rendered], steps: int, every: int) -> list[float]:
    """Eval loss before, and after each `every` steps."""
    device, pad = model.device, make_padding(0, [len(row) for row in drawn], CAPACITY)
    held, trained = drawn[:HELD_OUT], drawn[HELD_OUT:]
    update = Optimizer(model, TrainConfig(rows_per_step=4, memory="exact"))
    found = [evaluate_loss(model, pack(held, CAPACITY, pad=pad), device, torch.bfloat16).mean_losses()["loss"]]
    for number in range(1, steps + 1):
        chosen = [trained[(4 * number + offset) % len(trained)] for offset in range(4)]
        update.begin_step(number, 1e-3)
        batches = [batch.to(device) for batch in pack(chosen, CAPACITY, pad=pad)]
        step(model, batches, update, World(), torch.bfloat16)
        if number % every == 0:
            found.append(
                evaluate_loss(model, pack(held, CAPACITY, pad=pad), device, torch.bfloat16).mean_losses()["loss"]
            )
    return found


def main() -> None:
    """Print both columns, and the largest difference."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=200)
    steps = arguments.parse_args().steps
    device = pick_device()
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    emulate = float8_problem(device.type, capability, installed=True) is not None
    text = "\n".join(
        module.__doc__ or "" for module in (torch, torch.nn.Module, torch.Tensor, np, np.ndarray, argparse)
    )
    text += "\n".join(str(getattr(np, name).__doc__) for name in sorted(dir(np))[:300])
    tokenizer = make_tokenizer([text], VOCABULARY)
    drawn = rows(text, tokenizer)
    start = make_model(tokenizer, SIZE).to(device, torch.bfloat16)
    columns = []
    for coded in (False, True):
        model = copy.deepcopy(start)
        if coded:
            apply_float8(model, emulate=emulate)
        set_attention(model, torch.bfloat16)
        if can_compile(device):
            compile_layers(model)
        columns.append(losses(model, drawn, steps, max(1, steps // 4)))
    print(f"torch {torch.__version__}, {device}, fp8 {'emulated' if emulate else 'of the card'}, {len(drawn)} rows")
    print("step   bf16      fp8     difference")
    for index, (plain, coded) in enumerate(zip(*columns, strict=True)):
        print(f"{index * max(1, steps // 4):4}  {plain:.4f}  {coded:.4f}  {(coded - plain) / plain:+.3%}")


if __name__ == "__main__":
    main()
