"""Jobs: initial weights, rows of token ids and the steps in which they are trained, the same for every contender."""

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, Qwen3Config, Qwen3ForCausalLM

from thinktune.data.packing import assign_rows
from thinktune.demo.tiny_model import ModelShape, make_tokenizer
from thinktune.planner.flops import flops_per_token

SEED = 42
PROMPT_SHARE = 0.08  # of a row's tokens, as in the medical rows; the others are labels
PROBE_ROWS = 8
SHORTEST_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen3."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int = 151_936
    tied: bool = True

    def config(self) -> Qwen3Config:
        """Return the configuration that transformers makes a model from."""
        shape = ModelShape(
            self.hidden_size, self.num_layers, self.num_heads, self.num_kv_heads, self.head_dim, self.intermediate_size
        )
        rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
        return shape.config(
            self.vocab_size, tie_word_embeddings=self.tied, max_position_embeddings=40_960, rope_parameters=rope
        )


QWEN3 = {  # as published
    "0.6B": Shape(1024, 3072, 28, 16, 8, 128),
    "1.7B": Shape(2048, 6144, 28, 16, 8, 128),
    "4B": Shape(2560, 9728, 36, 32, 8, 128),
    "8B": Shape(4096, 12_288, 36, 32, 8, 128, tied=False),
    "14B": Shape(5120, 17_408, 40, 40, 8, 128, tied=False),
    "32B": Shape(5120, 25_600, 64, 64, 8, 128, tied=False),
}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of rows: lognormal with this mean and this standard deviation of the logarithm, cut at the longest."""

    mean: float
    spread: float
    longest: int

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Draw the lengths of `count` rows."""
        log_mean = math.log(self.mean) - self.spread**2 / 2
        drawn = generator.lognormal(log_mean, self.spread, count).round()
        return drawn.clip(SHORTEST_TOKENS, self.longest).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a row, the first `prompt` of which are the prompt and the others labels."""

    ids: NDArray[np.int32]
    prompt: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> list[int]:
        """Return the token ids with -100 in place of the prompt, as transformers takes labels."""
        return [-100] * self.prompt + self.ids[self.prompt :].tolist()


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings that all contenders get: how rows become steps, which of them are timed, and on which device."""

    steps: int
    warm_up: int  # the first steps, outside the clock
    learning_rate: float
    device: str
    tokens_per_step: int | None = None
    rows_per_step: int | None = None
    log_every: int = 10


@dataclass(frozen=True)
class Job:
    """A job as read from its folder."""

    folder: Path
    model: Path
    plan: Plan
    rows: list[Row]
    probe: list[Row]

    @cached_property
    def steps(self) -> list[list[int]]:
        """Return the row indices of each step, assigned as `thinktune train` assigns them."""
        plan = self.plan
        steps = assign_rows(
            [len(row) for row in self.rows],
            [len(row) - row.prompt for row in self.rows],
            tokens_per_step=plan.tokens_per_step,
            rows_per_step=plan.rows_per_step,
            epochs=1,
            seed=SEED,
        )
        assert len(steps) >= plan.steps, f"the rows are enough for {len(steps)} steps, not for {plan.steps}"
        return [list(step.rows) for step in steps[: plan.steps]]

    @property
    def rows_in_order(self) -> list[Row]:
        """Return the rows of the steps in order."""
        return [self.rows[row] for step in self.steps for row in step]

    def first_rows(self, count: int) -> list[Row]:
        """Return `count` rows in that order, followed by the rest for contenders whose steps take more rows."""
        taken = [row for step in self.steps for row in step]
        others = sorted(set(range(len(self.rows))) - set(taken))
        assert len(self.rows) >= count, f"{len(self.rows)} rows where {count} are needed"
        return [self.rows[row] for row in [*taken, *others][:count]]

    @property
    def step_tokens(self) -> list[int]:
        """Return the tokens of each step, without padding."""
        return [sum(len(self.rows[row]) for row in step) for step in self.steps]

    @property
    def device(self) -> torch.device:
        """Return the device on which the model is trained."""
        return torch.device(self.plan.device)

    @property
    def on_card(self) -> bool:
        """Return True if that is a CUDA card."""
        return self.device.type == "cuda"

    def batches(self, batch_tokens: int | None) -> list[list[int]]:
        """Split each step into the same number of batches of about `batch_tokens`, in the order of the steps."""
        parts = 1
        if batch_tokens and self.plan.tokens_per_step:
            parts = max(1, round(self.plan.tokens_per_step / batch_tokens))
        return [batch for step in self.steps for batch in self._split(step, parts)]

    def batches_per_step(self, batch_tokens: int | None) -> int:
        """Return the number of batches of a step."""
        return len(self.batches(batch_tokens)) // len(self.steps)

    def flops_per_token(self) -> float:
        """Return the operations per token of training on these rows."""
        config = AutoConfig.from_pretrained(self.model)
        return flops_per_token(config, [len(row) for row in self.rows_in_order]) or 0.0

    def _split(self, step: list[int], parts: int) -> list[list[int]]:
        """Split a step's rows into batches of about equal size: the longest rows first, each to the smallest batch."""
        assert len(step) >= parts, f"a step of {len(step)} rows cannot be split into {parts} batches"
        batches: list[list[int]] = [[] for _ in range(parts)]
        sizes = [0] * parts
        for row in sorted(step, key=lambda row: -len(self.rows[row])):
            smallest = sizes.index(min(sizes))
            batches[smallest].append(row)
            sizes[smallest] += len(self.rows[row])
        return [sorted(batch, key=step.index) for batch in batches]


def write_model(folder: Path, shape: Shape, device: str, dtype: torch.dtype) -> Path:
    """Write random weights of a shape, with a tokenizer that contenders need for its padding token; only once."""
    if (folder / "whole").exists():
        return folder
    tokenizer = make_tokenizer(["a benchmark"], 264)
    config = shape.config()
    config.eos_token_id, config.pad_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id, None
    config.dtype = dtype
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(previous)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "whole").touch()
    return folder


def write_job(folder: Path, model: Path, plan: Plan, lengths: Lengths, count: int) -> Path:
    """Write a plan and rows of random tokens: always the same for the same arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = AutoConfig.from_pretrained(model).vocab_size
    generator = np.random.default_rng(0)
    sizes = lengths.draw(generator, count + PROBE_ROWS)
    weights = 1 / np.arange(10, vocab_size + 10)  # Zipf's law, so that there is something to learn
    ids = generator.choice(vocab_size, size=sizes.sum(), p=weights / weights.sum()).astype(np.int32)
    np.savez(folder / "rows.npz", ids=ids, sizes=sizes)
    (folder / "job.json").write_text(json.dumps({"model": str(model), "plan": asdict(plan)}))
    return folder


def read_job(folder: Path) -> Job:
    """Read a job that `write_job` wrote."""
    facts: dict[str, Any] = json.loads((folder / "job.json").read_text())
    table = np.load(folder / "rows.npz")
    parts = np.split(table["ids"], np.cumsum(table["sizes"])[:-1])
    rows = [Row(ids, max(1, round(len(ids) * PROMPT_SHARE))) for ids in parts]
    return Job(folder, Path(facts["model"]), Plan(**facts["plan"]), rows[:-PROBE_ROWS], rows[-PROBE_ROWS:])
