"""What a run says of itself: lines of metrics, the loss on held-out rows, each in the journal and aloud."""

import math
import time
from typing import Any

import torch

from thinktune.model import LossReport
from thinktune.model.flops import flops_per_token, mean_context
from thinktune.model.forward import evaluate_row_losses
from thinktune.planner.hardware import mfu
from thinktune.planner.resolve import evaluation_batch_tokens
from thinktune.progress import format_duration
from thinktune.report import advice_sentence, diagnosis_line
from thinktune.run import RunFolder, diagnose_run
from thinktune.run import journal as track
from thinktune.run.diagnosis import overfitting_evaluations
from thinktune.run.environment import peak_host_memory_gib
from thinktune.train import anomalies as health
from thinktune.train.state import Run, evaluation_interval_steps


def update_bar(run: Run) -> None:
    """Move the bar; nothing is read from the device."""
    seconds, tokens = run.logged
    run.bar(run.done, len(run.steps), run.tokens_left[run.done] * seconds / tokens if tokens else None)


def log_metrics(run: Run) -> None:
    """Read the finished numbers of the steps since the last line and write the next one."""
    reports, run.pending = run.pending, []
    norms = torch.stack([made.gradient_norm for made in reports]).tolist()
    sums = torch.stack([made.losses.sums for made in reports]).sum(0)
    counts = torch.stack([made.losses.counts for made in reports]).sum(0)
    first = run.done - len(reports)
    tokens = run.tokens_left[first] - run.tokens_left[run.done]
    run.trained_tokens += tokens
    seconds = time.monotonic() - run.started
    # The speed of this interval alone: a mean since the start would hide that something slows the machine.
    speed = (run.trained_tokens - run.logged[1]) / max(1e-9, seconds - run.logged[0])
    run.logged = (seconds, run.trained_tokens)
    line = {
        "kind": "train",
        "step": run.done,
        "epoch": run.epoch,
        **LossReport(sums, counts).mean_losses(),
        "learning_rate": run.learning_rate(run.done),
        "gradient_norm": norms[-1],
        "learned_tokens": sum(made.label_tokens for made in reports),
        "tokens": tokens,
        "tokens_per_second": round(speed, 1),
        **_device_metrics(run, speed),
        "seconds": round(seconds, 2),
    }
    events = health.detect_anomalies(run, reports, norms)
    if not run.world.is_main:
        return
    track.append(RunFolder(run.folder).metrics, [*events, line])
    for event in events:
        run.say(f"step {event['step']}: {event['text']}")
    run.say(_format_line(run, line))


def log_event(run: Run, text: str) -> None:
    """Say something that happened to the run, and record it."""
    if not run.world.is_main:
        return
    track.append(RunFolder(run.folder).metrics, [{"kind": "event", "step": run.done, "text": text}])
    run.say(f"step {run.done}: {text}")


def evaluate_held_out(run: Run) -> None:
    """Measure the held-out rows, all of them and row by row; without any, the last model counts as the best."""
    rows = run.prepared.validation
    if not len(rows):
        return
    begun = time.monotonic()
    # Padded batches have the shapes of training, for which the layers are compiled.
    capacity = run.capacity if run.pad else evaluation_batch_tokens(run.recipe, rows, run.device, run.capacity)
    packed = run.rank_batches(rows, range(len(rows.lengths)), capacity)
    report, by_row = evaluate_row_losses(run.model, packed, run.device, run.precision, run.chunk_rows, run.world)
    if not run.world.is_main:
        return
    losses = report.mean_losses()
    seconds = round(time.monotonic() - begun, 2)
    facts = {"rows": len(rows), "learned_tokens": int(rows.label_tokens.sum()), "seconds": seconds}
    kept = {row: (round(loss, 6), tokens) for row, (loss, tokens) in by_row.items() if math.isfinite(loss)}
    track.append(RunFolder(run.folder).row_losses, [{"step": run.done, "rows": kept}])
    track.append(
        RunFolder(run.folder).metrics, [{"kind": "eval", "step": run.done, "epoch": run.epoch, **losses, **facts}]
    )
    run.say(
        f"step {run.done}/{len(run.steps)} eval loss {losses['loss']:.4f} "
        f"on {len(rows):,} held-out rows in {seconds:.1f} s: {diagnosis_line(diagnose_run(run.folder))}"
    )


def should_stop_early(run: Run) -> bool:
    """Whether the run is to stop here, by `train.stop_when_overfitting`."""
    patience = run.recipe.train.stop_when_overfitting
    if patience is None or run.done % evaluation_interval_steps(run.recipe, run.steps):
        return False
    return run.world.broadcast(run.world.is_main and overfitting_evaluations(run.folder) >= patience)


def log_conclusion(run: Run) -> None:
    """Say how the run ended, what its evaluations mean, and what follows."""
    if run.done < len(run.steps):
        patience = run.recipe.train.stop_when_overfitting
        run.say(f"stopped after step {run.done} of {len(run.steps)}, as train.stop_when_overfitting: {patience} asks")
    verdict = diagnose_run(run.folder)
    epochs = run.epoch * verdict.best_step / max(1, run.done)
    run.say(f"{diagnosis_line(verdict)} {advice_sentence(verdict, epochs).en}".strip())


def _format_line(run: Run, record: dict[str, Any]) -> str:
    """One plain line, each figure after its name: it is read by people and by grep."""
    seconds_left = run.tokens_left[run.done] * record["seconds"] / max(1, run.trained_tokens)
    parts = " ".join(
        f"{part} {record[f'{part}_loss']:.3f}" for part in ("reasoning", "answer", "end") if f"{part}_loss" in record
    )
    device = f" mfu {record['mfu']:.1%}" if "mfu" in record else ""
    device += f" memory {record['memory_gib']:.1f} GiB" if "memory_gib" in record else ""
    return (
        f"step {run.done}/{len(run.steps)} {run.done / len(run.steps):.0%} loss {record['loss']:.4f} ({parts}) "
        f"rate {record['learning_rate']:.2e} norm {record['gradient_norm']:.2f} "
        f"{record['tokens_per_second']:,.0f} tokens/s{device} left {format_duration(seconds_left)}"
    )


def _device_metrics(run: Run, tokens_per_second: float) -> dict[str, float]:
    """MFU where the card's peak is known, and the most memory held: the card's, or on the CPU the process's."""
    if run.device.type == "cpu":
        return {"memory_gib": round(peak_host_memory_gib(), 3)}
    facts = {"memory_gib": round(torch.accelerator.max_memory_allocated() / 2**30, 3)}
    if run.device.type == "cuda":
        flops = flops_per_token(run.model.config, mean_context(run.prepared.train.lengths))
        share = mfu(tokens_per_second / run.world.size, flops, torch.cuda.get_device_name(run.device))
        facts |= {} if share is None else {"mfu": round(share, 4)}
    return facts
