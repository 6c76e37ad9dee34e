"""Predicted against measured memory of a real step on the CPU: Qwen3-0.6B's shapes, random weights, one short row.

`python benchmarks/plan_against_cpu.py [--tokens 256] [SETTING ...]`: one process per setting, one at a time; prints
the peak of its resident memory above the interpreter with its libraries, the prediction, and their ratio. A setting is
a memory tier, `+inside` with the update in the backward pass, `+recompute` with activations recomputed.
"""

import gc
import json
import resource
import subprocess
import sys
import time
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import QWEN3
from random_model import random_model

from thinktune.config.schema import TrainConfig
from thinktune.distributed.world import World
from thinktune.model.batch import pack
from thinktune.model.transforms import apply_activation_budget
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer
from thinktune.planner.memory import Setting, Workload, memory_peaks
from thinktune.tokenization import Rendered, TokenKind
from thinktune.train.step import step

GIB = 2**30
CPU = torch.device("cpu")
SETTINGS = ("exact-bf16+inside+recompute", "exact-bf16", "4bit+inside", "8bit+recompute", "8bit-streamed+inside")
LABEL_SHARE, SIZE = 0.9, "0.6B"


def parse_setting(text: str, tokens: int) -> Setting:
    """Parse a setting from its short form."""
    memory, *options = text.split("+")
    return Setting(memory, "inside" in options, 0.0 if "recompute" in options else 1.0, tokens)  # pyright: ignore


def predict(setting: Setting) -> dict[str, float]:
    """Return the predicted peak, in GiB; on the CPU, states kept on the host are in the same memory."""
    fp32 = setting.memory == "fp32"
    tokens = setting.batch_tokens
    found = memory_peaks(
        Workload(QWEN3[SIZE].config(), CPU, fp32, False, tokens, tokens, LABEL_SHARE, tokens / 2), setting
    )
    return {"predicted": (found.train + found.host) / GIB}


def measure(setting: Setting) -> dict[str, float]:
    """Take one real step; return its peak and the memory before it, in GiB, and its seconds."""
    torch.set_num_threads(2)
    torch.ones(64, 64) @ torch.ones(64, 64)
    gc.collect()
    start = _resident_gib()
    model = random_model(QWEN3[SIZE].config(), CPU, TIERS[setting.memory].load_dtype)
    apply_activation_budget(model, setting.activation_budget, compiled=False)
    update = Optimizer(
        model, TrainConfig(rows_per_step=1, memory=setting.memory, update_in_backward=setting.update_in_backward)
    )
    loaded, _ = _resident_gib(), _reset_peak()
    precision = torch.float32 if setting.memory == "fp32" else torch.bfloat16
    started = time.monotonic()
    update.begin_step(1, 1e-5)
    report = step(model, [_batch(setting.batch_tokens)], update, World(), precision)
    assert torch.isfinite(report.gradient_norm)
    seconds = time.monotonic() - started
    return {"measured": _peak_gib() - start, "loaded": loaded - start, "interpreter": start, "seconds": seconds}


def _batch(tokens: int) -> Any:
    ids = np.random.default_rng(0).integers(0, 151_000, tokens).astype(np.int32)
    kinds = np.full(tokens, int(TokenKind.ANSWER), np.uint8)
    kinds[: tokens - round(tokens * LABEL_SHARE)] = int(TokenKind.PROMPT)
    [batch] = pack([Rendered(ids, kinds, "made:1")], tokens)
    return batch


def _resident_gib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / GIB


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_gib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [kib] = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return kib / 2**20


def main() -> None:
    """Measure each setting in a process of its own."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", default=SETTINGS)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(parse_setting(options.settings[0], options.tokens))))
        return
    for text in options.settings:
        setting = parse_setting(text, options.tokens)
        command = [sys.executable, __file__, "--child", "--tokens", str(options.tokens), text]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = predict(setting) | json.loads(done.stdout.splitlines()[-1])
        ratio = found["predicted"] / found["measured"]
        print(
            json.dumps(
                asdict(setting) | {key: round(value, 3) for key, value in found.items()} | {"ratio": round(ratio, 3)}
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
