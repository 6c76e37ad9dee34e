"""What every contender shares: rows, first weights, the clock, the checks and the result it prints."""

import gc
import json
import logging
import math
import resource
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from thinktune.render import Part, Rendered
from thinktune.small import Size, make_model, make_tokenizer

ROWS_PER_STEP = 4
LEARNING_RATE = 1e-3  # a model of random weights; large enough that the probe's loss shows a wrong update
BETAS, EPSILON, WEIGHT_DECAY, CLIP_NORM = (0.9, 0.999), 1e-8, 0.0, 1.0
STEPS_PER_LOG = 10
PROMPT_SHARE, REASONING_SHARE = 0.08, 0.6
PROBE_ROWS = 8
LENGTH_SPREAD = 0.21  # of a lognormal whose 95th percentile is 1.38 times its mean, as in the medical rows


@dataclass(frozen=True, slots=True)
class Shape:
    """One model and one set of rows."""

    size: Size
    vocabulary: int
    steps: int
    mean_tokens: int
    longest_tokens: int


# "work" is where arithmetic counts, "overhead" where there is next to none and only what surrounds it is left.
SHAPES = {
    "work": Shape(Size(hidden=256, layers=4, heads=4, groups=2, head=64, inner=768), 8192, 10, 800, 2048),
    "overhead": Shape(Size(hidden=32, layers=1, heads=2, groups=1, head=16, inner=64), 320, 100, 20, 40),
}
QUICK_STEPS = {"work": 2, "overhead": 10}


@dataclass(frozen=True, slots=True)
class Job:
    """Where the first weights stand, and the rows in the order in which they are learned, four a step."""

    model: Path
    rows: list[Rendered]
    probe: list[Rendered]

    @property
    def steps(self) -> int:
        """Optimizer steps of one pass over the rows."""
        return len(self.rows) // ROWS_PER_STEP

    @property
    def tokens(self) -> int:
        """Tokens of all rows; no contender is credited with padding."""
        return sum(map(len, self.rows))


class Clock:
    """CPU time and memory of this process between `start` and `stop`: all threads, user and system."""

    def start(self) -> None:
        """Just before the first step."""
        gc.collect()
        self._loading_mib = _memory_mib("VmHWM")
        Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is the peak since here
        self._start_mib = _memory_mib("VmRSS")
        self._before = resource.getrusage(resource.RUSAGE_SELF)
        self._begun = time.process_time()

    def stop(self) -> None:
        """Just after the last step."""
        self.cpu_seconds = time.process_time() - self._begun
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.system_seconds = after.ru_stime - self._before.ru_stime
        self.page_faults = after.ru_minflt - self._before.ru_minflt
        peak_mib = _memory_mib("VmHWM")
        self.above_start_mib = peak_mib - self._start_mib
        self.process_peak_mib = max(peak_mib, self._loading_mib)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a contender hands back: its model after the last step, the steps it took, the gradient norm of the first."""

    model: Any
    steps: int
    gradient_norm: float


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table before any median."""

    steps: int
    tokens: int
    cpu_seconds: float
    system_seconds: float
    page_faults: int
    above_start_mib: float
    process_peak_mib: float
    gradient_norm: float
    weights_moved: float
    probe_loss: float


Train = Callable[[Job, str, Clock], Trained]


def make_job(folder: Path, shape: Shape, steps: int) -> None:
    """Write first weights and rows into a folder: the same ones whenever it is called."""
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abcdefghijklmnop"), 8)) for _ in range(shape.vocabulary)]
    tokenizer = make_tokenizer(words, shape.vocabulary - 2)
    assert len(tokenizer) == shape.vocabulary
    torch.manual_seed(0)
    make_model(tokenizer, shape.size).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [_make_row(generator, shape, index) for index in range(steps * ROWS_PER_STEP + PROBE_ROWS)]
    ends = np.cumsum([len(row) for row in rows])
    np.savez(
        folder / "rows.npz", ids=np.concatenate([r.ids for r in rows]), ends=ends, prompts=[_prompt(r) for r in rows]
    )


def read_job(folder: Path) -> Job:
    """The job that make_job wrote."""
    table = np.load(folder / "rows.npz")
    starts = [0, *table["ends"][:-1]]
    rows = [
        _rendered(table["ids"][start:end], int(prompt), f"row {index}")
        for index, (start, end, prompt) in enumerate(zip(starts, table["ends"], table["prompts"], strict=True))
    ]
    return Job(folder / "model", rows[:-PROBE_ROWS], rows[-PROBE_ROWS:])


def labels(row: Rendered) -> list[int]:
    """Token ids where they are learned, -100 elsewhere, as transformers wants them."""
    return np.where(row.parts > 0, row.ids, -100).tolist()


def load_plain(job: Job) -> Any:
    """The first weights as a plain transformers model in fp32, with torch's own attention."""
    return AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32, attn_implementation="sdpa")


def load_tokenizer(job: Job) -> Any:
    """The model's tokenizer; contenders need it for its padding token."""
    return AutoTokenizer.from_pretrained(job.model)


def trainer_settings(folder: Path) -> dict[str, Any]:
    """What both transformers' Trainer and TRL's are told, so that they take the same steps as ours."""
    return {
        "output_dir": str(folder),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": WEIGHT_DECAY,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "max_grad_norm": CLIP_NORM,
        "num_train_epochs": 1,
        "logging_steps": STEPS_PER_LOG,
        "logging_first_step": True,  # for its gradient norm, the one that is taken at the same weights by all
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "train_sampling_strategy": "sequential",
    }


def main(train: Train) -> None:
    """Run one variant of a contender on every job of a folder and print its results as one line of JSON."""
    parser = ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("variant")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in SHAPES:
        job = read_job(arguments.folder / name)
        clock = Clock()
        torch.manual_seed(0)
        trained = train(job, arguments.variant, clock)
        results[name] = asdict(_checked(job, clock, trained))
    print(json.dumps(results), flush=True)


def _checked(job: Job, clock: Clock, trained: Trained) -> Result:
    """The result; AssertionError where a contender did not really train."""
    plain = load_plain(job)
    first = {name: weight.clone() for name, weight in plain.named_parameters()}
    plain.load_state_dict(trained.model.state_dict())
    moved = sum(int((weight != first[name]).sum()) for name, weight in plain.named_parameters())
    assert trained.steps == job.steps, f"{trained.steps} steps where {job.steps} were asked for"
    assert 0 < trained.gradient_norm < math.inf, f"the gradient norm is {trained.gradient_norm}"
    assert moved, "no weight moved"
    return Result(
        steps=trained.steps,
        tokens=job.tokens,
        cpu_seconds=clock.cpu_seconds,
        system_seconds=clock.system_seconds,
        page_faults=clock.page_faults,
        above_start_mib=clock.above_start_mib,
        process_peak_mib=clock.process_peak_mib,
        gradient_norm=trained.gradient_norm,
        weights_moved=moved / sum(weight.numel() for weight in first.values()),
        probe_loss=_probe_loss(plain, job.probe),
    )


@torch.no_grad()
def _probe_loss(model: Any, rows: list[Rendered]) -> float:
    """Mean cross entropy over the learned tokens of rows nobody trained on, by transformers alone, row by row."""
    model.eval()
    total, count = 0.0, 0
    for row in rows:
        logits = model(torch.from_numpy(row.ids.astype(np.int64))[None]).logits[0, :-1].double()
        targets = torch.tensor(labels(row)[1:])
        total += float(cross_entropy(logits, targets, ignore_index=-100, reduction="sum"))
        count += int((targets != -100).sum())
    return total / count


def _make_row(generator: np.random.Generator, shape: Shape, index: int) -> Rendered:
    """Tokens drawn by Zipf's law, so that there is something to learn, and a length drawn as in the medical rows."""
    middle = math.log(shape.mean_tokens) - LENGTH_SPREAD**2 / 2
    length = min(shape.longest_tokens, round(float(generator.lognormal(middle, LENGTH_SPREAD))))
    weights = 1 / np.arange(10, shape.vocabulary + 10)
    ids = generator.choice(shape.vocabulary, size=length, p=weights / weights.sum())
    return _rendered(ids, max(1, round(length * PROMPT_SHARE)), f"row {index}")


def _rendered(ids: Any, prompt: int, name: str) -> Rendered:
    parts = np.full(len(ids), Part.REASONING, np.uint8)
    parts[:prompt] = Part.GIVEN
    parts[prompt + round((len(ids) - prompt) * REASONING_SHARE) :] = Part.ANSWER
    parts[-1] = Part.END
    return Rendered(np.asarray(ids, np.int32), parts, name)


def _prompt(row: Rendered) -> int:
    return int(np.argmax(row.parts > 0))


def _memory_mib(field: str) -> float:
    """A field of this process's status, such as VmRSS (resident now) or VmHWM (its peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
