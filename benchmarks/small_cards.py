"""Small cards on a large one: predicted against measured peak, and how large a model fits into how little memory.

`python benchmarks/small_cards.py [--part N]` needs only the repository (weights are random) and one CUDA card. Each
part takes less than ten minutes; `--part` runs one of them:

1. predicted against measured peak of ten settings of Qwen3-0.6B and 1.7B
2. 1.7B at 2,048 tokens in 8 GiB (4bit) and in 6 GiB (8bit-streamed)
3. 4B in 16 GiB, 8B in 24 GiB (both 8bit-streamed)
4. 32B on the whole card (8bit), its weights made on the card

The card is limited by `torch.cuda.set_per_process_memory_fraction`, which counts what torch reserves. On a small card
the driver's own memory (`context`) comes off first, so it comes off the limit here too. `--tiny` runs the same code on
the CPU with small shapes, to see that it works: its figures mean nothing.
"""

import json
import subprocess
import sys
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from card.turns import turns
from jobs import QWEN3, Shape
from random_model import random_model
from transformers import Qwen3Config

from thinktune.config.schema import MemoryTierName, TrainConfig
from thinktune.distributed.world import World
from thinktune.model.attention import set_attention
from thinktune.model.batch import Batch, make_padding, pack
from thinktune.model.device import pick_device
from thinktune.model.transforms import apply_activation_budget, can_compile, compile_layers
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer
from thinktune.planner.memory import Setting, Workload, memory_peaks
from thinktune.tokenization import Rendered, TokenKind
from thinktune.train.step import StepOptions, step

GIB = 2**30
STEPS, SHORTEST, MEAN, LONGEST = 10, 100, 900, 2048
PROMPT_SHARE = 0.1


@dataclass(frozen=True)
class Case:
    """A model, a setting, and the GiB that it is limited to (None: the whole card)."""

    model: str
    memory: MemoryTierName
    update_in_backward: bool
    budget: float
    tokens: int
    limit_gib: float | None = None


PARTS = (
    (
        Case("0.6B", "exact", False, 1.0, 8192),
        Case("0.6B", "8bit", True, 1.0, 8192),
        Case("0.6B", "4bit", True, 0.0, 8192),
        Case("1.7B", "exact", False, 1.0, 8192),
        Case("1.7B", "exact", False, 0.0, 16_384),
        Case("1.7B", "exact-bf16", True, 1.0, 8192),
        Case("1.7B", "8bit", False, 0.0, 2048),
        Case("1.7B", "8bit-streamed", True, 0.0, 2048),
        Case("1.7B", "4bit", True, 0.0, 4096),
        Case("1.7B", "8bit", True, 1.0, 8192),
    ),
    (Case("1.7B", "4bit", True, 0.0, 2048, 8), Case("1.7B", "8bit-streamed", True, 0.0, 2048, 6)),
    (Case("4B", "8bit-streamed", True, 0.0, 2048, 16), Case("8B", "8bit-streamed", True, 0.0, 2048, 24)),
    (Case("32B", "8bit", True, 0.0, 2048),),
)


def config(name: str, tiny: bool) -> Qwen3Config:
    """Return a published shape's configuration, or one of a sixteenth of its width and two layers."""
    shape = QWEN3[name]
    if tiny:
        hidden_size, intermediate_size = shape.hidden_size // 16, shape.intermediate_size // 16
        shape = Shape(hidden_size, intermediate_size, 2, shape.num_heads // 4, 2, 32, 2000, shape.tied)
    return shape.config()


def batches(tokens: int, vocab_size: int) -> list[Batch]:
    """Return a full batch for each step: rows of realistic lengths (lognormal around 900 tokens, at most 2,048)."""
    generator = np.random.default_rng(1)
    pad = make_padding(0, [SHORTEST] * (tokens // SHORTEST) + [LONGEST], tokens)  # one shape for all steps, as in a run
    made: list[Batch] = []
    for number in range(STEPS):
        rows: list[Rendered] = []
        free = tokens
        while free > 0:
            length = int(np.clip(generator.lognormal(np.log(MEAN) - 0.125, 0.5), SHORTEST, LONGEST))
            length = free if free - length < SHORTEST else min(length, free)
            kinds = np.full(length, int(TokenKind.ANSWER), np.uint8)
            kinds[: max(1, int(length * PROMPT_SHARE))] = int(TokenKind.PROMPT)
            ids = generator.integers(0, vocab_size, length).astype(np.int32)
            rows.append(Rendered(ids, kinds, f"made:{number}.{len(rows)}"))
            free -= length
        made += pack(rows, tokens, pad=pad)[:1]
    return made


def context_gib() -> float:
    """Return what the driver takes for this process, if no other process is on the card; call it before anything."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / GIB


def allowed_fraction(limit_gib: float, context_gib: float, total_gib: float) -> float:
    """Return the share of a large card that torch may reserve, so that it has what it would have on a small one."""
    return (limit_gib - context_gib) / total_gib


def measure(case: Case, tiny: bool, context: float | None = None) -> dict[str, Any]:
    """Take ten steps of a case in this process; return the predicted and the measured memory.

    `context` are the driver's GiB of a process; None measures them, for which this process must be alone on the card.
    """
    device, shape = pick_device(), config(case.model, tiny)
    cuda, compiled = device.type == "cuda", can_compile(device)
    tokens = case.tokens // 16 if tiny else case.tokens
    if cuda and context is None:
        context = context_gib()
    if cuda and case.limit_gib:
        total_gib = torch.cuda.mem_get_info()[1] / GIB
        torch.cuda.set_per_process_memory_fraction(allowed_fraction(case.limit_gib, context or 0.0, total_gib))
    workload = Workload(shape, device, False, compiled, tokens, LONGEST, 1 - PROMPT_SHARE, 600.0)
    memory_bytes = int(case.limit_gib * GIB) if case.limit_gib else torch.cuda.mem_get_info()[1] if cuda else GIB
    setting = Setting(
        case.memory, case.update_in_backward, case.budget, tokens, chunk_rows=workload.chunk_rows(memory_bytes)
    )
    predicted = memory_peaks(workload, setting)
    started = time.monotonic()
    # Exact tiers start as fp32 weights, which the update splits one by one: that takes their own size, not twice of it.
    model = random_model(shape, device, TIERS[case.memory].load_dtype)
    set_attention(model, torch.bfloat16)
    apply_activation_budget(model, case.budget, compiled)
    if compiled:
        compile_layers(model)
    optimizer = Optimizer(
        model, TrainConfig(rows_per_step=1, memory=case.memory, update_in_backward=case.update_in_backward)
    )
    made, marks = batches(tokens, shape.vocab_size), [time.monotonic()]
    for number, batch in enumerate(made, start=1):
        if cuda and number == 2:  # the peak of loading and of the first step's states is not that of a step
            torch.cuda.reset_peak_memory_stats()
        options = StepOptions(chunk_rows=setting.chunk_rows)
        optimizer.begin_step(number, 1e-5)
        report = step(model, [batch.to(device)], optimizer, World(), torch.bfloat16, options)
        assert torch.isfinite(report.gradient_norm)
        marks.append(time.monotonic())
    found = {"case": vars(case), "predicted_gib": predicted.train / GIB, "host_gib": predicted.host / GIB}
    found |= {
        "loading_s": marks[0] - started,
        "context_gib": context,
        "tokens_per_s": tokens * (STEPS - 2) / (marks[-1] - marks[2]),
    }
    if cuda:
        found |= {"device": torch.cuda.get_device_name(), "measured_gib": torch.cuda.max_memory_allocated() / GIB}
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
        found["ratio"] = found["predicted_gib"] / found["measured_gib"]
    return found


def main() -> None:
    """Run each case in a process of its own, so that none inherits another's memory."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--part", type=int, choices=range(1, len(PARTS) + 1))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--case", type=int, nargs=2)
    parser.add_argument("--staged", action="store_true", help="a stage of first_card.py: it waits for turns")
    options = parser.parse_args()
    if options.case:
        line, case = turns(options.staged), PARTS[options.case[0]][options.case[1]]
        line.wait("card")
        try:
            line.find("case", **measure(case, options.tiny, line.facts.get("context_gib")))
        except torch.OutOfMemoryError as error:  # a finding, not a fault: this case does not fit its limit
            line.find("case", case=vars(case), absent=f"does not fit: {str(error).splitlines()[0]}")
        return
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("small_cards.py needs a CUDA card; --tiny runs the same code on the CPU")
    for part, cases in enumerate(PARTS):
        if options.part in (None, part + 1):
            for number in range(len(cases)):
                command = [sys.executable, __file__, "--case", str(part), str(number), *["--tiny"] * options.tiny]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                tail = (done.stderr.strip() or "no output").splitlines()[-1]
                print(done.stdout.strip() or json.dumps({"case": vars(cases[number]), "failed": tail}), flush=True)


if __name__ == "__main__":
    main()
