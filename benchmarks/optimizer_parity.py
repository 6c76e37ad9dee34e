"""Parity of the memory tiers: a tiny Qwen3, trained in fp32 on Python's own source, then tuned on package texts.

`OMP_NUM_THREADS=1 python benchmarks/optimizer_parity.py --folder FOLDER [--seed N] [KIND ...]`: minutes on one core.
The base is kept in FOLDER and reused; one JSON line for each kind: the eval loss after 200 steps at a learning rate of
1e-5, how many weights never changed, and the update compared with that of fp32. Kinds: the tiers; `bf16`, plain
AdamW over bf16 weights, which thinktune does not offer; and `clip-*`, fp32 with several ways of clipping, where every
tenth batch is noise.
"""

import copy
import json
import math
import sysconfig
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinktune.config.schema import TrainConfig
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer
from thinktune.optim.optimizer import Optimizer

TOKENS, ROWS, VOCABULARY = 256, 4, 2048
BASE_STEPS, STEPS, NOISE_EVERY = 700, 200, 10
BASE_RATE, RATE = 2e-3, 1e-5
TIERS = ("fp32", "exact", "exact-bf16", "8bit", "8bit-streamed", "4bit")
CLIPS = ("clip-true", "clip-inside", "clip-last", "clip-each", "clip-none")
SIZE = ModelShape(hidden_size=192, num_layers=3, num_heads=3, num_kv_heads=1, head_dim=64, intermediate_size=512)


def base(folder: Path) -> tuple[Any, Tensor]:
    """Return a briefly trained model, rounded to bf16 as published ones are, and the tokens to tune it on."""
    library = Path(sysconfig.get_path("stdlib"))
    source = _text(library.glob("*.py"), 4_000_000)
    tuning = _text(Path(sysconfig.get_path("purelib")).glob("*.dist-info/METADATA"), 2_000_000)
    tokenizer = make_tokenizer([source[start : start + 10_000] for start in range(0, 2_000_000, 10_000)], VOCABULARY)
    model = make_model(tokenizer, SIZE)
    kept = folder / "base.pt"
    if not kept.exists():
        _train_base(model, _tokens(tokenizer, source))
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), kept)
    model.load_state_dict(torch.load(kept))
    return model.bfloat16().float(), _tokens(tokenizer, tuning)


def _train_base(model: Any, tokens: Tensor) -> None:
    adamw = torch.optim.AdamW(model.parameters(), lr=BASE_RATE, weight_decay=0.01)
    for step, batch in enumerate(_batches(tokens, BASE_STEPS, 1)):
        decay = 0.02 + 0.98 * (1 + math.cos(math.pi * step / BASE_STEPS)) / 2
        adamw.param_groups[0]["lr"] = BASE_RATE * min(1, (step + 1) / 50) * decay
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()


def tune(model: Any, tokens: Tensor, kind: str, seed: int) -> tuple[dict[str, Any], Tensor]:
    """Tune a copy of the base; return the figures, and the change of each weight."""
    cut = int(len(tokens) * 0.9)
    held_out = tokens[cut:][: (len(tokens) - cut) // TOKENS * TOKENS].view(-1, TOKENS)
    held_out = held_out[:: max(1, len(held_out) // 40)][:40]
    before, model = _flatten(model), copy.deepcopy(model)
    updater = _Updater(model, kind, seed)
    found = {"kind": kind, "seed": seed, "eval_before": round(_loss(model, held_out), 4)}
    started, clipped = time.process_time(), 0
    noise = torch.Generator().manual_seed(3)
    for step, batch in enumerate(_batches(tokens[:cut], STEPS, 7 + seed), start=1):
        if kind.startswith("clip") and step % NOISE_EVERY == 0:
            batch = torch.randint(VOCABULARY, batch.shape, generator=noise)
        clipped += updater.step(step, model, batch) > 1
    seconds = time.process_time() - started
    master = updater.masters()
    change = (_flatten(model) if master is None else master) - before
    found |= {
        "eval_after": round(_loss(model, held_out), 4),
        "never_moved": round((change == 0).float().mean().item(), 4),
    }
    return found | {"steps_clipped": clipped, "cpu_seconds": round(seconds, 1)}, change


class _Updater:
    """Updates of a model by one kind of optimizer."""

    def __init__(self, model: Any, kind: str, seed: int) -> None:
        self._kind, self._adamw, self._last_norm = kind, None, 0.0
        memory = kind if kind in TIERS else "fp32"
        clip_norm = 1.0 if kind in (*TIERS, "clip-true", "clip-inside") else 1e9
        if kind == "bf16":
            model.bfloat16()
            self._adamw = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
            return
        settings = TrainConfig(
            rows_per_step=1, memory=memory, clip_norm=clip_norm, seed=seed, update_in_backward=kind == "clip-inside"
        )
        self._optimizer = Optimizer(model, settings)

    def step(self, number: int, model: Any, batch: Tensor) -> float:
        """Take one step on a batch; return the gradient's norm."""
        if self._adamw:
            model(input_ids=batch, labels=batch).loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            self._adamw.step()
            self._adamw.zero_grad()
            return norm.item()
        self._optimizer.begin_step(number, RATE)
        model(input_ids=batch, labels=batch).loss.backward()
        match self._kind:
            case "clip-last":
                for weight in model.parameters():
                    weight.grad /= max(1.0, self._last_norm)
            case "clip-each":
                for weight in model.parameters():
                    weight.grad /= max(1.0, weight.grad.norm().item())
            case _:
                pass
        norm = self._optimizer.finish_step().item()
        self._last_norm = norm * max(1.0, self._last_norm) if self._kind == "clip-last" else norm
        return self._last_norm

    def masters(self) -> Tensor | None:
        """Return the exact weights, if the optimizer keeps them."""
        found = None if self._adamw else self._optimizer.master_weights()
        return None if found is None else torch.cat([tensor.flatten() for tensor in found.values()])


@torch.no_grad()
def _loss(model: Any, rows: Tensor) -> float:
    losses = [model(input_ids=part, labels=part).loss.item() for part in rows.split(ROWS)]
    return sum(losses) / len(losses)


def _flatten(model: Any) -> Tensor:
    return torch.cat([weight.detach().float().flatten() for weight in model.parameters()])


def _batches(tokens: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(0, len(tokens) - TOKENS, (ROWS,), generator=generator).tolist()
        yield torch.stack([tokens[start : start + TOKENS] for start in starts])


def _text(paths: Iterator[Path], most: int) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in sorted(paths))[:most]


def _tokens(tokenizer: Any, text: str) -> Tensor:
    pieces = [text[start : start + 20_000] for start in range(0, len(text), 20_000)]
    return torch.tensor([token for ids in tokenizer(pieces)["input_ids"] for token in ids])


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("kinds", nargs="*", default=[*TIERS, "bf16", *CLIPS])
    chosen = parser.parse_args()
    model, tokens = base(chosen.folder)
    references: dict[str, Tensor] = {}
    for kind in chosen.kinds:
        found, change = tune(model, tokens, kind, chosen.seed)
        reference = references.setdefault("clip" if kind.startswith("clip") else "tier", change)
        found["norm_share"] = round((change.norm() / reference.norm()).item(), 4)
        found["cosine"] = round((change @ reference / change.norm() / reference.norm()).item(), 4)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
