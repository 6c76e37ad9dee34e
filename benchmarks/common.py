"""Code of every contender's process: the clock, the checks that it really trained, and the result that it prints."""

import gc
import json
import logging
import math
import resource
import sys
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from card.turns import OUT_OF_MEMORY_CODE, Gate, Turns, no_gate
from jobs import Job, Row, read_job
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a contender: its variant, the tokens of a batch if it cannot choose them, and its own settings."""

    variant: str
    batch_tokens: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Time and memory of this process between two steps, measured when the device is idle.

    Call `begin` just before the first step, and `step` after each. The clock runs from the end of the last warm-up step
    (without one: from `begin`) to the end of the last step. Memory is the peak since `begin`. `gate` waits for a turn
    on the card before the clock runs, and hands it back after the last step.
    """

    def __init__(self, job: Job, gate: Gate = no_gate) -> None:
        self._card, self._warm_up, self._gate = job.on_card, job.plan.warm_up, gate

    def begin(self) -> None:
        """Start measuring memory: everything is built, and no batch is read yet."""
        gc.collect()
        self._wait()
        if self._card:
            torch.cuda.reset_peak_memory_stats()
        else:
            self._loading_mib = _memory_mib("VmHWM")
            Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is the peak since here
            self._start_mib = _memory_mib("VmRSS")
        self._began = time.perf_counter()
        self.warm_up_seconds = 0.0
        if self._warm_up == 0:
            self._start()

    def step(self, number: int, last: int) -> None:
        """Record that a step was taken."""
        if number == self._warm_up:
            self._wait()
            self.warm_up_seconds = time.perf_counter() - self._began
            self._start()
        if number == last:
            self._stop()

    def _start(self) -> None:
        self._gate("timed")
        self._before = resource.getrusage(resource.RUSAGE_SELF)
        self._started, self._started_cpu = time.perf_counter(), time.process_time()

    def _stop(self) -> None:
        self._wait()
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = time.process_time() - self._started_cpu
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.system_seconds = after.ru_stime - self._before.ru_stime
        self.memory = self._card_memory() if self._card else self._host_memory()
        self._gate("card")

    def _card_memory(self) -> dict[str, float]:
        free, total = torch.cuda.mem_get_info()  # of the whole device: this process is alone on it
        return {
            "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
            "device_gib": (total - free) / GIB,
        }

    def _host_memory(self) -> dict[str, float]:
        peak_mib = _memory_mib("VmHWM")
        return {
            "above_start_mib": peak_mib - self._start_mib,
            "process_peak_mib": max(peak_mib, self._loading_mib),
        }

    def _wait(self) -> None:
        if self._card:
            torch.cuda.synchronize()


@dataclass(slots=True)
class Trained:
    """A contender after its last step.

    `step_tokens` are the tokens of each step, without padding; `losses` pairs of a step and the mean loss since the
    entry before it; `masters` the exact weights, if the model's own are rounded.
    """

    model: Any
    step_tokens: list[int]
    gradient_norms: list[float]
    losses: list[tuple[int, float]]
    setting: str = ""
    masters: dict[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one contender on one job, as its process prints it."""

    setting: str
    step_tokens: list[int]
    timed_tokens: int
    timed_steps: int
    seconds: float
    cpu_seconds: float
    system_seconds: float
    warm_up_seconds: float
    memory: dict[str, float]
    gradient_norms: list[float]
    losses: list[tuple[int, float]]
    flops_per_token: float
    weights_moved: float | None = None  # this and the next are not measured where every second on a card counts
    probe_loss: float | None = None


Train = Callable[[Job, Options, Clock], Trained]


def main(train: Train) -> None:
    """Run one variant of a contender on each job, and print the results as one line of JSON."""
    parser = ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument(
        "--settings", type=json.loads, default={}, help="settings of train, as JSON; for thinktune only"
    )
    parser.add_argument("--threads", type=int, help="threads of the CPU")
    parser.add_argument("--staged", action="store_true", help="a stage of first_card.py: it waits for turns")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    options = Options(arguments.variant, arguments.batch_tokens, arguments.settings)
    if arguments.staged:
        run_stage(train, arguments.folders[0], options)
        return
    results: list[dict[str, Any]] = []
    for folder in arguments.folders:
        job = read_job(folder)
        clock = Clock(job)
        torch.manual_seed(0)
        results.append(asdict(_check_trained(job, clock, train(job, options, clock))))
    print(json.dumps(results), flush=True)


def run_stage(train: Train, folder: Path, options: Options) -> None:
    """Run one variant as a stage that is led: weights and job are read, and the clock runs, in its turns on the card.

    A batch that does not fit ends the process with an exit code of its own.
    """
    turns = Turns()
    turns.wait("card")
    job = read_job(folder)
    torch.manual_seed(0)
    clock = Clock(job, turns.wait)
    try:
        trained = train(job, options, clock)
    except Exception as error:
        exit_if_out_of_memory(error)
        raise
    turns.find("contender", batch_tokens=options.batch_tokens, **staged_result(job, clock, trained))


def exit_if_out_of_memory(error: BaseException) -> None:
    """Leave with an exit code of its own if a full card is the cause of an error, at whatever depth."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, torch.OutOfMemoryError):
            print(f"{type(error).__name__}: {str(cause).splitlines()[0]}", file=sys.stderr)
            sys.exit(OUT_OF_MEMORY_CODE)
        cause = cause.__cause__ or cause.__context__


def staged_result(job: Job, clock: Clock, trained: Trained) -> dict[str, Any]:
    """Return the result without probe and weights, which take a second load of the model, with its speed and MFU."""
    from thinktune.planner.hardware import mfu

    _refuse_bad_norms(job, trained)
    result = asdict(_make_result(job, clock, trained))
    rate = result["timed_tokens"] / result["seconds"]
    share = mfu(rate, result["flops_per_token"], torch.cuda.get_device_name()) if job.on_card else None
    return result | {"tokens_per_s": rate, "mfu": share}


def _check_trained(job: Job, clock: Clock, trained: Trained) -> Result:
    """Return the result; raise AssertionError if a contender did not really train."""
    _refuse_bad_norms(job, trained)
    state = {name: weight.detach().cpu() for name, weight in trained.model.state_dict().items()}
    state |= {name: weight.cpu() for name, weight in (trained.masters or {}).items()}
    if trained.model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)  # the embedding under another name, and not its master
    trained.model, trained.masters = None, None
    gc.collect()
    if job.on_card:
        torch.cuda.empty_cache()
    moved = _weights_moved(job, state)
    assert moved, "no weight moved"
    return replace(_make_result(job, clock, trained), weights_moved=moved, probe_loss=_probe_loss(job, state))


def _refuse_bad_norms(job: Job, trained: Trained) -> None:
    """Raise AssertionError if steps are missing, or a gradient was zero or not finite."""
    assert len(trained.step_tokens) == job.plan.steps, f"{len(trained.step_tokens)} steps, not {job.plan.steps}"
    assert trained.gradient_norms, "no gradient norm was reported"
    bad = [norm for norm in trained.gradient_norms if not 0 < norm < math.inf]
    assert not bad, f"gradient norms {bad} of {len(trained.gradient_norms)}"


def _make_result(job: Job, clock: Clock, trained: Trained) -> Result:
    timed = trained.step_tokens[job.plan.warm_up :]
    return Result(
        setting=trained.setting,
        step_tokens=trained.step_tokens,
        timed_tokens=sum(timed),
        timed_steps=len(timed),
        seconds=clock.seconds,
        cpu_seconds=clock.cpu_seconds,
        system_seconds=clock.system_seconds,
        warm_up_seconds=clock.warm_up_seconds,
        memory=clock.memory,
        gradient_norms=trained.gradient_norms,
        losses=trained.losses,
        flops_per_token=job.flops_per_token(),
    )


def _weights_moved(job: Job, state: dict[str, Tensor]) -> float:
    """Return the share of weights that changed."""
    moved = total = 0
    for name, first in _initial_weights(job.model):
        now = state[name].to(job.device)
        moved += int((now.float() != first.to(job.device).float()).sum())
        total += first.numel()
    return moved / total


def _initial_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        yield from load_file(file).items()


def load_initial_model(job: Job) -> Any:
    """Load the initial weights as a plain transformers model, in the dtype of the probe loss."""
    dtype = torch.bfloat16 if job.on_card else torch.float32
    return AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype, attn_implementation="sdpa")


@torch.no_grad()
def _probe_loss(job: Job, state: dict[str, Tensor]) -> float:
    """Return the mean cross entropy over the labels of rows nobody trained on: by transformers alone, row by row."""
    plain = load_initial_model(job)
    missing, unknown = plain.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}, f"weights are missing: {missing}"
    assert not unknown, f"weights are unknown: {unknown}"
    plain = plain.to(job.device).eval()
    total, count = 0.0, 0
    for row in job.probe:
        loss, tokens = _row_loss(plain, row, job.device)
        total, count = total + loss, count + tokens
    return total / count


def _row_loss(model: Any, row: Row, device: torch.device) -> tuple[float, int]:
    ids = torch.from_numpy(row.ids).long().to(device)
    logits = model(ids[None]).logits[0, row.prompt - 1 : -1].double()
    return float(cross_entropy(logits, ids[row.prompt :], reduction="sum")), len(row) - row.prompt


def _memory_mib(name: str) -> float:
    """Read a field of this process's status, such as VmRSS (resident now) or VmHWM (its peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
