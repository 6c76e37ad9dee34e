"""Metrics of a run: steps, evaluations and events, written to the journal and printed."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from thinktune.data.mixture import source_names
from thinktune.errors import UserError
from thinktune.model.forward import LossReport, evaluate_row_losses
from thinktune.planner.flops import flops_per_token
from thinktune.planner.hardware import mfu
from thinktune.progress import format_duration
from thinktune.report import advice_sentence, diagnosis_line
from thinktune.report.diagnosis_text import state_name
from thinktune.run import RunFolder, diagnose_run, journal
from thinktune.run.diagnosis import overfitting_evaluations
from thinktune.run.environment import peak_host_memory_gib
from thinktune.train.anomalies import AnomalyDetector
from thinktune.train.context import RunContext, evaluation_interval_steps
from thinktune.train.step import StepReport

MAX_NAMED_ROWS = 5
TOLD_WHAT_TO_DO = ("worse", "diverging", "overfitting")  # states in which a run that goes on is worth a word


@dataclass(slots=True)
class MetricsLogger:
    """Collects the reports of steps on the device, and writes one line of metrics for each interval.

    Its clock counts seconds of training alone: without evaluations, samples and saves.
    """

    NOT_CARRIED: ClassVar = frozenset({"started_at"})

    pending: list[StepReport] = field(default_factory=list[StepReport])
    trained_tokens: int = 0
    seconds: float = 0.0  # of training before `started_at`
    logged: tuple[float, int] = (0.0, 0)  # seconds and tokens at the last line of metrics
    started_at: float = field(default_factory=time.monotonic)

    def start_clock(self) -> None:
        """Start counting the seconds of training in this process."""
        self.started_at = time.monotonic()

    def exclude(self, seconds: float) -> None:
        """Take seconds in which nothing was trained off the clock."""
        self.started_at += seconds

    @property
    def elapsed_seconds(self) -> float:
        """Seconds of training, those before a restart included."""
        return self.seconds + time.monotonic() - self.started_at

    def add(self, report: StepReport) -> None:
        """Keep a step's report for the next line; nothing is read from the device."""
        self.pending.append(report)

    def update_bar(self, context: RunContext, step: int) -> None:
        """Move the progress bar; nothing is read from the device."""
        seconds, tokens = self.logged
        left = context.tokens_left[step] * seconds / tokens if tokens else None
        context.bar(step, len(context.steps), left)

    def log(self, context: RunContext, step: int, anomalies: AnomalyDetector) -> None:
        """Read the numbers of the steps since the last line, up to `step`, and write the next line."""
        reports, self.pending = self.pending, []
        # Rank 0's: where a norm is not finite all ranks evaluate the step's rows, and rounding must not divide them.
        norms = context.world.broadcast(torch.stack([report.gradient_norm for report in reports]).tolist())
        sums = torch.stack([report.losses.sums for report in reports]).sum(0)
        counts = torch.stack([report.losses.counts for report in reports]).sum(0)
        sources = [report.sources for report in reports if report.sources]
        tokens = context.tokens_left[step - len(reports)] - context.tokens_left[step]
        self.trained_tokens += tokens
        seconds = self.elapsed_seconds
        # The speed of this interval alone: a mean since the start would hide that something slows the machine.
        speed = (self.trained_tokens - self.logged[1]) / max(1e-9, seconds - self.logged[0])
        self.logged = (seconds, self.trained_tokens)
        record: dict[str, Any] = {
            "kind": "train",
            "step": step,
            "epoch": context.epoch(step),
            **LossReport(sums, counts).mean_losses(),
            **_source_losses(context, sources),
            "learning_rate": context.learning_rate(step),
            "gradient_norm": norms[-1],
            "learned_tokens": sum(report.label_tokens for report in reports),
            "tokens": tokens,
            "tokens_per_second": round(speed, 1),
            **_device_metrics(context, speed),
            "seconds": round(seconds, 2),
        }
        events = anomalies.detect(context, step, reports, norms)
        if not context.world.is_main:
            return
        journal.append(RunFolder(context.folder).metrics, [*events, record])
        for event in events:
            context.say(f"step {event['step']}: {event['text']}")
        if step % context.recipe.train.log_every_steps and len(context.prepared.validation):
            return  # an evaluation is why this was written, and has a line of its own
        seconds_left = context.tokens_left[step] * record["seconds"] / max(1, self.trained_tokens)
        context.say(_format_line(record, len(context.steps), seconds_left))

    def state_dict(self) -> dict[str, Any]:
        """Return the reports not logged yet, the tokens, and the clock."""
        return {
            "pending": [_report_to_json(report) for report in self.pending],
            "trained_tokens": self.trained_tokens,
            "seconds": self.elapsed_seconds,
            "logged": self.logged,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` returned; call `start_clock` when training continues."""
        self.pending = [_report_from_json(report, device) for report in state["pending"]]
        self.trained_tokens, self.seconds = state["trained_tokens"], state["seconds"]
        seconds, tokens = state["logged"]
        self.logged = (seconds, tokens)


def log_event(context: RunContext, step: int, text: str) -> None:
    """Print something that happened to the run, and record it."""
    if not context.world.is_main:
        return
    journal.append(RunFolder(context.folder).metrics, [{"kind": "event", "step": step, "text": text}])
    context.say(f"step {step}: {text}")


def evaluate_held_out(context: RunContext, step: int) -> None:
    """Evaluate the held-out rows, together and row by row; do nothing where there are none.

    Raises UserError, on all ranks, where the base model's own loss is not finite.
    """
    rows = context.prepared.validation
    if not len(rows):
        return
    started_at = time.monotonic()
    batches = context.rank_batches(rows, range(len(rows.lengths)), context.evaluation_capacity)
    report, by_row = evaluate_row_losses(
        context.model, batches, context.device, context.precision, context.chunk_rows, context.world
    )
    losses = report.mean_losses()
    if not step and not math.isfinite(losses["loss"]):
        bad = [name for name, (loss, _) in by_row.items() if not math.isfinite(loss)]
        raise UserError(
            f"model.name: the eval loss of {context.recipe.model.name} is {losses['loss']} before anything is trained "
            f"(rows: {', '.join(bad[:MAX_NAMED_ROWS])}{' …' if bad[MAX_NAMED_ROWS:] else ''}), so nothing can be "
            "learned from it; download the model again, or use another"
        )
    if not context.world.is_main:
        return
    seconds = round(time.monotonic() - started_at, 2)
    facts = {"rows": len(rows), "learned_tokens": int(rows.label_tokens.sum()), "seconds": seconds}
    finite = {row: (round(loss, 6), tokens) for row, (loss, tokens) in by_row.items() if math.isfinite(loss)}
    record = {"kind": "eval", "step": step, "epoch": context.epoch(step), **losses, **facts}
    record |= _held_out_source_losses(context, by_row)
    before = diagnose_run(context.folder)
    journal.append(RunFolder(context.folder).row_losses, [{"step": step, "rows": finite}])
    journal.append(RunFolder(context.folder).metrics, [record])
    diagnosis = diagnose_run(context.folder)
    loss = f"step {step}/{len(context.steps)} eval loss {losses['loss']:.4f}"
    if diagnosis.state == before.state and before.last_step:  # explained when it began
        context.say(f"{loss}: {state_name(diagnosis).en.lower()}")
        return
    advice = advice_sentence(diagnosis).en if diagnosis.state in TOLD_WHAT_TO_DO else ""
    said = f"{diagnosis_line(diagnosis)} {advice}".rstrip()
    context.say(f"{loss} on {len(rows):,} held-out rows in {seconds:.1f} s: {said}")


def _source_losses(context: RunContext, reports: Sequence[LossReport]) -> dict[str, Any]:
    """Return the mean train loss and the learned tokens of each of several sources, by its name."""
    if not reports:
        return {}
    sums, counts = (torch.stack([getattr(each, key) for each in reports]).sum(0).tolist() for key in ("sums", "counts"))
    named = list(zip(source_names(context.recipe), sums, counts, strict=True))
    return {
        "source_losses": {name: total / count for name, total, count in named if count},
        "source_learned_tokens": {name: count for name, _, count in named},
    }


def _held_out_source_losses(context: RunContext, by_row: Mapping[str, tuple[float, int]]) -> dict[str, Any]:
    """Return the held-out loss of each of several sources, by its name; those without held-out rows have none."""
    if not context.recipe.is_mixture:
        return {}
    rows = context.prepared.validation
    owners = rows.dataset.sources_of_examples(rows.example_indices).tolist()
    sums, counts = ([0.0] * len(context.recipe.sources), [0] * len(context.recipe.sources))
    for owner, index in zip(owners, rows.example_indices.tolist(), strict=True):
        loss, tokens = by_row[rows.dataset.source(index)]
        sums[owner] += loss * tokens
        counts[owner] += tokens
    named = zip(source_names(context.recipe), sums, counts, strict=True)
    return {"source_losses": {name: total / count for name, total, count in named if count}}


def should_stop_early(context: RunContext, step: int) -> bool:
    """Return True if the run is to stop at this step, by `train.stop_when_overfitting`."""
    patience = context.recipe.train.stop_when_overfitting
    if patience is None or step % evaluation_interval_steps(context.recipe, context.steps):
        return False
    return context.world.broadcast(context.world.is_main and overfitting_evaluations(context.folder) >= patience)


def log_conclusion(context: RunContext, step: int) -> None:
    """Print how the run ended, what its evaluations mean, and what to do next."""
    if step < len(context.steps):
        patience = context.recipe.train.stop_when_overfitting
        overfits = patience is not None and overfitting_evaluations(context.folder) >= patience
        why = (
            f"train.stop_when_overfitting: {patience}"
            if overfits
            else "--finish; without it, the same command trains on"
        )
        context.say(f"stopped after step {step} of {len(context.steps)} because of {why}")
    diagnosis = diagnose_run(context.folder)
    epochs = context.epoch(step) * diagnosis.best_step / max(1, step)
    context.say(f"{diagnosis_line(diagnosis, 'finished')} {advice_sentence(diagnosis, 'finished', epochs).en}".strip())


def _format_line(record: dict[str, Any], steps: int, seconds_left: float) -> str:
    """Format what matters while a run goes on, each figure after its name; on most terminals it is one line."""
    step = record["step"]
    device = f" mfu {record['mfu']:.0%}" if "mfu" in record else ""
    device += f" memory {record['memory_gib']:.1f} GiB" if "memory_gib" in record else ""
    return (
        f"step {step}/{steps} {step / steps:.0%} loss {record['loss']:.4f} "
        f"{record['tokens_per_second']:,.0f} tokens/s{device} left {format_duration(seconds_left)}"
    )


def _device_metrics(context: RunContext, tokens_per_second: float) -> dict[str, float]:
    """Return peak memory, of the card or on the CPU of the process, and MFU where it is known."""
    if context.device.type == "cpu":
        return {"memory_gib": round(peak_host_memory_gib(), 3)}
    facts = {"memory_gib": round(torch.accelerator.max_memory_allocated() / 2**30, 3)}
    if context.device.type == "cuda":
        flops = flops_per_token(context.model.config, context.prepared.train.lengths)
        share = flops and mfu(tokens_per_second / context.world.size, flops, torch.cuda.get_device_name(context.device))
        facts |= {} if share is None else {"mfu": round(share, 4)}
    return facts


def _report_to_json(report: StepReport) -> dict[str, Any]:
    # A Python float holds every fp32 exactly, and JSON as Python writes it holds every float.
    return {
        "sums": _tensor_to_json(report.losses.sums),
        "counts": _tensor_to_json(report.losses.counts),
        "gradient_norm": _tensor_to_json(report.gradient_norm),
        "learned_tokens": report.label_tokens,
    } | (
        {
            "source_sums": _tensor_to_json(report.sources.sums),
            "source_counts": _tensor_to_json(report.sources.counts),
        }
        if report.sources
        else {}
    )


def _report_from_json(state: dict[str, Any], device: torch.device) -> StepReport:
    found = {
        key: torch.tensor(value["values"], dtype=getattr(torch, value["dtype"]), device=device)
        for key, value in state.items()
        if key != "learned_tokens"
    }
    sources = LossReport(found["source_sums"], found["source_counts"]) if "source_sums" in found else None
    losses = LossReport(found["sums"], found["counts"])
    return StepReport(losses, found["gradient_norm"], state["learned_tokens"], sources)


def _tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "values": tensor.tolist()}
