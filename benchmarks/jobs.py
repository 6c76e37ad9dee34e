"""A job: first weights, rows as token ids, and the steps in which they are learned, the same for every contender."""

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ours import deal_rows
from transformers import AutoConfig, Qwen3Config, Qwen3ForCausalLM

from thinktune.demo.tiny_model import ModelShape, make_tokenizer
from thinktune.model.flops import flops_per_token, mean_context

PROMPT_SHARE = 0.08  # of a row's tokens; as in the medical rows, the rest is learned
PROBE_ROWS = 8
SHORTEST_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Shape:
    """Shapes of a Qwen3."""

    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    head: int
    vocabulary: int = 151_936
    tied: bool = True

    def config(self) -> Qwen3Config:
        """The configuration that transformers makes a model from."""
        size = ModelShape(self.hidden, self.layers, self.heads, self.groups, self.head, self.inner)
        turns = {"rope_type": "default", "rope_theta": 1_000_000.0}
        return size.config(
            self.vocabulary, tie_word_embeddings=self.tied, max_position_embeddings=40_960, rope_parameters=turns
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
    """How long rows are: lognormal with this mean and this spread of the logarithm, cut off at the longest."""

    mean: float
    spread: float
    longest: int

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Lengths of so many rows."""
        middle = math.log(self.mean) - self.spread**2 / 2
        drawn = generator.lognormal(middle, self.spread, count).round()
        return drawn.clip(SHORTEST_TOKENS, self.longest).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a row, of which the first `prompt` are given and the others learned."""

    ids: NDArray[np.int32]
    prompt: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> list[int]:
        """Token ids where they are learned, -100 elsewhere, as transformers wants them."""
        return [-100] * self.prompt + self.ids[self.prompt :].tolist()


@dataclass(frozen=True, slots=True)
class Plan:
    """What all contenders are told: how rows become steps, which of them are timed, and where it all happens."""

    steps: int
    warm_up: int  # the first steps, outside the clock
    learning_rate: float
    device: str
    tokens_per_step: int | None = None
    rows_per_step: int | None = None
    log_every: int = 10


@dataclass(frozen=True)
class Job:
    """What stands in a job's folder."""

    folder: Path
    model: Path
    plan: Plan
    rows: list[Row]
    probe: list[Row]

    @cached_property
    def steps(self) -> list[list[int]]:
        """The rows of each step, dealt as `thinktune train` deals them from the same numbers."""
        plan = self.plan
        dealt = deal_rows(self.rows, plan.tokens_per_step, plan.rows_per_step)
        assert len(dealt) >= plan.steps, f"the rows are enough for {len(dealt)} steps, not for {plan.steps}"
        return dealt[: plan.steps]

    @property
    def rows_in_order(self) -> list[Row]:
        """The rows of the steps, one after another."""
        return [self.rows[row] for step in self.steps for row in step]

    def first_rows(self, count: int) -> list[Row]:
        """So many rows in that order, beyond the steps' own where a contender's steps take more of them."""
        taken = [row for step in self.steps for row in step]
        others = sorted(set(range(len(self.rows))) - set(taken))
        assert len(self.rows) >= count, f"{len(self.rows)} rows where {count} are needed"
        return [self.rows[row] for row in [*taken, *others][:count]]

    @property
    def step_tokens(self) -> list[int]:
        """Tokens of each step, none of them padding."""
        return [sum(len(self.rows[row]) for row in step) for step in self.steps]

    @property
    def device(self) -> torch.device:
        """Where the model is trained."""
        return torch.device(self.plan.device)

    @property
    def on_card(self) -> bool:
        """Whether that is a CUDA card."""
        return self.device.type == "cuda"

    def batches(self, batch_tokens: int | None) -> list[list[int]]:
        """The steps cut into batches of about `batch_tokens`, each step into as many; in the order of the steps."""
        parts = 1
        if batch_tokens and self.plan.tokens_per_step:
            parts = max(1, round(self.plan.tokens_per_step / batch_tokens))
        return [batch for step in self.steps for batch in self._cut(step, parts)]

    def batches_per_step(self, batch_tokens: int | None) -> int:
        """How many of them make a step."""
        return len(self.batches(batch_tokens)) // len(self.steps)

    def flops_per_token(self) -> float:
        """Of training on these rows."""
        config = AutoConfig.from_pretrained(self.model)
        return flops_per_token(config, mean_context([len(row) for row in self.rows_in_order]))

    def _cut(self, step: list[int], parts: int) -> list[list[int]]:
        assert len(step) >= parts, f"a step of {len(step)} rows makes no {parts} batches"
        cut: list[list[int]] = [[] for _ in range(parts)]
        sizes = [0] * parts
        for row in sorted(step, key=lambda row: -len(self.rows[row])):
            least = sizes.index(min(sizes))
            cut[least].append(row)
            sizes[least] += len(self.rows[row])
        return [sorted(part, key=step.index) for part in cut]


def write_model(folder: Path, shape: Shape, device: str, dtype: torch.dtype) -> Path:
    """First weights of a shape, with a tokenizer that contenders need for its padding token; written once."""
    if (folder / "whole").exists():
        return folder
    tokenizer = make_tokenizer(["a benchmark"], 264)
    config = shape.config()
    config.eos_token_id, config.pad_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id, None
    config.dtype = dtype
    torch.manual_seed(0)
    former = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(former)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "whole").touch()
    return folder


def write_job(folder: Path, model: Path, plan: Plan, lengths: Lengths, count: int) -> Path:
    """Rows of random tokens and what to do with them: the same ones whenever it is called with the same numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = AutoConfig.from_pretrained(model).vocab_size
    generator = np.random.default_rng(0)
    sizes = lengths.draw(generator, count + PROBE_ROWS)
    weights = 1 / np.arange(10, vocabulary + 10)  # Zipf's law, so that there is something to learn
    ids = generator.choice(vocabulary, size=sizes.sum(), p=weights / weights.sum()).astype(np.int32)
    np.savez(folder / "rows.npz", ids=ids, sizes=sizes)
    (folder / "job.json").write_text(json.dumps({"model": str(model), "plan": asdict(plan)}))
    return folder


def read_job(folder: Path) -> Job:
    """The job that write_job wrote."""
    facts: dict[str, Any] = json.loads((folder / "job.json").read_text())
    table = np.load(folder / "rows.npz")
    parts = np.split(table["ids"], np.cumsum(table["sizes"])[:-1])
    rows = [Row(ids, max(1, round(len(ids) * PROMPT_SHARE))) for ids in parts]
    return Job(folder, Path(facts["model"]), Plan(**facts["plan"]), rows[:-PROBE_ROWS], rows[-PROBE_ROWS:])
