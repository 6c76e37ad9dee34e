"""The suite for one card: thinktune and its peers on Qwen3's shapes with random weights and realistic row lengths.

    python benchmarks/gpu.py PART [--only NAME ...] [--size SIZE ...] [--out FOLDER] [--tiny]

PART is one of: ceilings, sweep, peers, sizes, parity, small-cards-1 to -4. Each ends within --seconds (590) and
names what could not run in that time, and every peer whose package is not installed. Needs this tree, torch and
transformers; peers are found where they are installed or on PYTHONPATH. Initial weights and rows are written once, to
--work. Prints a table in Markdown and writes it, all figures as JSON and all loss curves as a page, to --out. Exit code
1 if a contender failed or if losses differ that must be equal. --tiny runs the same on the CPU with tiny shapes, to
see that everything works; its figures mean nothing.
"""

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from suite import (
    HERE,
    OURS,
    Budget,
    Contender,
    Line,
    commit,
    differences,
    environment,
    kernel,
    markdown,
    run,
    versions,
    write,
)

SMALL_CARDS = tuple(f"small-cards-{number}" for number in range(1, 5))  # the parts of small_cards.py
PARTS = ("ceilings", "sweep", "peers", "sizes", "parity", *SMALL_CARDS)
REACHED_TFLOPS = 790.0  # what matrix products reach on an H200; the share of it is printed next to MFU
SAME_LOSS = 0.01  # relative, in bf16; only the rounding differs
TOKENS_PER_STEP, PEER_BATCH_TOKENS = 32_768, 16_384  # a larger batch costs peers memory and makes them no faster
PARITY_STEPS, PARITY_TOKENS = 200, 8192
GOALS = {"tokens/s": 45_000, "times the fastest peer": 1.3, "times the tutorial's loop": 8}

TRL = Contender("TRL, tuned", "peer_trl.py", "tuned", "trl", PEER_BATCH_TOKENS)
TRL_BF16 = Contender("TRL, tuned, bf16 weights", "peer_trl.py", "tuned-bf16", "trl", PEER_BATCH_TOKENS)
TUTORIAL = Contender("the tutorial's loop", "peer_tutorial.py", "checkpointing", "accelerate")
PEERS = (  # the most important first, in case time runs out
    Contender(OURS, "ours.py", "plan"),
    TUTORIAL,
    TRL,
    Contender("Trainer, tuned", "peer_trainer.py", "tuned", "accelerate", PEER_BATCH_TOKENS, same_steps=True),
    TRL_BF16,
    Contender("Unsloth, full fine-tuning", "peer_unsloth.py", "full", "unsloth", PEER_BATCH_TOKENS),
    Contender("LLaMA-Factory, full, pure bf16", "peer_llama_factory.py", "full", "llamafactory", PEER_BATCH_TOKENS),
    Contender("Trainer, default", "peer_trainer.py", "default", "accelerate"),
    Contender("TRL, default", "peer_trl.py", "default", "trl"),
)
PARITY = (
    Contender(OURS, "ours.py", "exact", settings={"memory": "exact"}),
    Contender("thinktune, 8bit", "ours.py", "8bit", settings={"memory": "8bit"}),
    Contender("thinktune, 4bit", "ours.py", "4bit", settings={"memory": "4bit"}),
    replace(TRL, batch_tokens=PARITY_TOKENS),
    replace(TRL_BF16, name="plain bf16 AdamW (TRL)", batch_tokens=PARITY_TOKENS),
)


def main() -> None:
    arguments = _arguments()
    budget = Budget(arguments.seconds)
    match arguments.part:
        case "ceilings":
            sys.exit(_script("ceilings.py", ["--out", str(arguments.out)], arguments, budget))
        case part if part in SMALL_CARDS:
            sys.exit(_script("small_cards.py", ["--part", part[-1]], arguments, budget))
        case "sizes":
            sizes = ("tiny",) if arguments.tiny else arguments.size
            faults_found = [
                fault
                for size in sizes
                for fault in _part(f"sizes-{size}", size, (PEERS[0], TRL, TRL_BF16), arguments, budget)
            ]
        case "peers":
            faults_found = _part("peers", "1.7B", PEERS, arguments, budget)
        case "parity":
            faults_found = _part("parity", "1.7B", PARITY, arguments, budget)
        case _:
            faults_found = _part("sweep", "1.7B", _sweep(), arguments, budget)
    if faults_found:
        sys.exit("\n".join(["failed:", *faults_found]))


def _sweep() -> tuple[Contender, ...]:
    """Return variants of ours: batch tokens, activation budget and tier, one at a time around the plan's choice."""
    batches = [{"batch_tokens": tokens} for tokens in (8192, 16_384, 32_768)]
    budgets = [{"batch_tokens": 16_384, "activation_budget": budget} for budget in (1.0, 0.7, 0.5, 0.0)]
    tiers = [{"batch_tokens": 16_384, "memory": memory} for memory in ("exact-bf16", "8bit", "4bit")]
    variants: list[dict[str, Any]] = [*batches, *budgets, *tiers]
    names = [", ".join(f"{key} {value}" for key, value in settings.items()) for settings in variants]
    contenders = [
        Contender(name, "ours.py", "sweep", settings=settings) for name, settings in zip(names, variants, strict=True)
    ]
    return (PEERS[0], *contenders)


def _arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder of the results")
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/thinktune-benchmark"), help="folder of weights and rows, which are kept"
    )
    parser.add_argument("--only", nargs="+", default=[], help="run only contenders whose names start so, and ours")
    parser.add_argument("--size", nargs="+", default=["0.6B", "4B", "8B"], help="sizes that the part sizes measures")
    parser.add_argument("--seconds", type=float, default=590, help="seconds after which the command ends")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    return parser.parse_args()


def _script(name: str, options: list[str], arguments: Namespace, budget: Budget) -> int:
    """Run a part that is a script of its own; return its exit code."""
    if not (HERE / name).is_file():
        print(f"missing: benchmarks/{name} is not in this tree")
        return 1
    command = [sys.executable, str(HERE / name), *options, *(["--tiny"] if arguments.tiny else [])]
    try:
        return subprocess.run(command, env=environment(), check=False, timeout=budget.left).returncode
    except subprocess.TimeoutExpired:
        print(f"stopped: {name} took more than {arguments.seconds:.0f} s")
        return 1


def _part(name: str, size: str, contenders: Sequence[Contender], arguments: Namespace, budget: Budget) -> list[str]:
    """Run contenders on a size, print and write the results; return the faults."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # this process must hold nothing on the card
        job, card = pool.submit(_write_job, name.partition("-")[0], size, arguments).result()
    chosen = [each for each in contenders if _is_selected(each, arguments.only)]
    lines: list[Line] = []
    shapes = "tiny shapes" if arguments.tiny else f"Qwen3 {size}"
    for contender in chosen:
        line = run(_tiny(contender), [job], budget, 1) if arguments.tiny else run(contender, [job], budget)
        lines.append(line)
        outcome = line.absent or f"{_rate(line):,.0f} tokens/s, {budget.left:.0f} s left"
        print(f"{name}: {contender.name}: {outcome}", file=sys.stderr, flush=True)
    facts = {
        "shapes": shapes,
        "card": card,
        "commit": commit(),
        "versions": versions() + ("" if arguments.tiny else f"; attention: {kernel()}"),
        "seconds": round(budget.seconds - budget.left),
    }
    text = f"{table(lines, card)}\n\n{shapes}, random weights; {card}; commit {facts['commit']}; {facts['versions']}."
    goals = _goals(lines) if name == "peers" and not arguments.tiny else []
    text = "\n".join([text, *([""] if goals else []), *goals])
    write(arguments.out, name, lines, facts, text)
    print(text, flush=True)
    return faults(lines, 1e-4 if arguments.tiny else SAME_LOSS)


def faults(lines: Sequence[Line], tolerance: float) -> list[str]:
    """Return which contenders failed, and whose losses differ from ours though they compute the same."""
    failed = [f"{line.contender.name}: {line.absent}" for line in lines if line.absent.startswith("failed")]
    return failed + [
        f"{name}: a logged loss differs from ours by {difference:.1e}, more than {tolerance:.0e}"
        for name, difference in differences(lines).items()
        if difference > tolerance
    ]


def table(lines: Sequence[Line], card: str) -> str:
    """Return the figures of all contenders as Markdown; ratios are to ours."""
    from thinktune.planner.hardware import mfu

    ours = next((_rate(line) for line in lines if line.contender.name == OURS and line.results), None)
    logged = [dict(map(tuple, line.results[0]["losses"])) if line.results else {} for line in lines]
    steps = sorted(set(logged[0]) & {1, 2, 10, 40, 50, 100, 200}) if logged else []
    head = (
        *(
            "contender",
            "setting",
            "batch tokens",
            "tokens/s",
            "ours is faster by",
            "MFU",
            f"of {REACHED_TFLOPS:.0f} TFLOP/s",
        ),
        *(
            "peak allocated GiB",
            "reserved",
            "device",
            "warm-up beyond its steps, s",
            *(f"loss, step {step}" for step in steps),
        ),
        *("largest difference from ours", "probe loss", "first norm", "weights moved"),
    )
    differ = differences(lines)
    rows: list[list[str]] = []
    for line, losses in zip(lines, logged, strict=True):
        name = line.contender.name
        if not line.results:
            rows.append([name, line.absent, *[""] * (len(head) - 2)])
            continue
        result, rate = line.results[0], _rate(line)
        share = mfu(rate, result["flops_per_token"], card)
        memory = [result["memory"].get(f"{kind}_gib") for kind in ("allocated", "reserved", "device")]
        extra = result["warm_up_seconds"] - result["seconds"] / result["timed_steps"] * (
            len(result["step_tokens"]) - result["timed_steps"]
        )
        rows.append(
            [
                name,
                result["setting"],
                f"{line.batch_tokens:,}" if line.batch_tokens else "its own",
                f"{rate:,.0f}",
                f"{ours / rate:.2f}" if ours else "",
                f"{share:.1%}" if share else "",
                f"{rate * result['flops_per_token'] / REACHED_TFLOPS / 1e12:.1%}" if share else "",
                *("" if figure is None else f"{figure:.2f}" for figure in memory),
                f"{extra:.1f}",
                *(f"{losses[step]:.4f}" if step in losses else "" for step in steps),
                f"{differ[name]:.1e}" if name in differ else "",
                f"{result['probe_loss']:.4f}",
                f"{result['gradient_norms'][0]:.3f}",
                f"{result['weights_moved']:.1%}",
            ]
        )
    return markdown(head, rows)


def _goals(lines: Sequence[Line]) -> list[str]:
    """Return the goals and what was measured, for 1.7B on an H200."""
    rates = {line.contender.name: _rate(line) for line in lines if line.results}
    ours = rates.pop(OURS, None)
    if ours is None:
        return []
    measured = {"tokens/s": ours}
    if TUTORIAL.name in rates:
        measured["times the tutorial's loop"] = ours / rates[TUTORIAL.name]
    if rates:
        measured["times the fastest peer"] = ours / max(rates.values())
    return [
        f"- goal {wanted:,} {what}: "
        + (
            f"{measured[what]:,.2f}, {'met' if measured[what] >= wanted else 'missed'}"
            if what in measured
            else "not measured"
        )
        for what, wanted in GOALS.items()
    ]


def _rate(line: Line) -> float:
    """Return tokens per second, without padding."""
    return line.results[0]["timed_tokens"] / line.results[0]["seconds"]


def _is_selected(contender: Contender, only: Sequence[str]) -> bool:
    return not only or contender.name == OURS or any(contender.name.startswith(name) for name in only)


def _tiny(contender: Contender) -> Contender:
    """Return the same contender with sizes that a CPU runs in seconds."""
    settings = {key: 256 if key == "batch_tokens" else value for key, value in contender.settings.items()}
    return replace(contender, batch_tokens=contender.batch_tokens and 256, settings=settings)


def _write_job(part: str, size: str, arguments: Namespace) -> tuple[Path, str]:
    """Write the weights, unless they exist, and the part's job; return its folder and the card's name."""
    import torch
    from jobs import QWEN3, Lengths, Plan, Shape, write_job, write_model

    work = arguments.work
    if arguments.tiny:
        model = write_model(work / "tiny", Shape(64, 128, 2, 4, 2, 16, 512), "cpu", torch.float32)
        plan = Plan(4, 1, 1e-3, "cpu", tokens_per_step=256, log_every=2)
        job = write_job(work / f"job-{part}-tiny", model, plan, Lengths(60, 0.55, 128), 48)
        return job, "CPU: these figures mean nothing"
    if not torch.cuda.is_available():
        sys.exit("no CUDA card here; --tiny runs the same on the CPU with tiny shapes")
    model = write_model(work / size, QWEN3[size], "cuda", torch.bfloat16)
    steps, warm_up, tokens = {
        "parity": (PARITY_STEPS, 10, PARITY_TOKENS),
        "sweep": (15, 5, TOKENS_PER_STEP),
    }.get(part, (40, 10, TOKENS_PER_STEP))
    plan = Plan(steps, warm_up, 1e-5, "cuda", tokens_per_step=tokens)
    job = write_job(work / f"job-{part}-{size}", model, plan, Lengths(900, 0.55, 2048), 2000)
    return job, torch.cuda.get_device_name()


if __name__ == "__main__":
    main()
