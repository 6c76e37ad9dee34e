"""Measure how fast rows are assigned to steps and packed into batches, and how full both are; print Markdown.

    python benchmarks/pack_rows.py [--rows N] [--lengths FILE] [--steps N ...] [--capacities N ...] [--seed N]

Lengths are drawn like those of real medical rows (log-normal, mean 790 tokens, 95th percentile 1,090, at most 2,048),
or read from a text file with one number per line. Needs Linux or macOS for the peak memory.
"""

import resource
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thinktune.data.packing import assign_rows, bin_pack

MEAN_TOKENS, SPREAD, LEAST_TOKENS, MOST_TOKENS = 790, 0.21, 32, 2048
STEPS = (2048, 4096, 8192, 16_384, 32_768, 65_536)
CAPACITIES = (2048, 4096, 8192, 16_384, 32_768)
HEADER = (
    "| tokens per step | batch capacity | assigned in s | packed in s | step fill | batch fill |\n" + "|---:" * 6 + "|"
)


def main() -> None:
    arguments = _arguments()
    lengths = _lengths(arguments)
    print(
        f"{len(lengths):,} rows of {lengths.mean():,.0f} tokens on average, 95th percentile {_percentile(lengths):,}\n"
    )
    print(HEADER)
    for tokens_per_step in arguments.steps:
        _measure(lengths, tokens_per_step, arguments.capacities, arguments.seed)
    print(f"\npeak memory, with torch imported: {_peak_gib():.2f} GiB")


def _measure(lengths: NDArray[np.int64], tokens_per_step: int, capacities: Sequence[int], seed: int) -> None:
    """Print a line for each capacity that a step can fill and that every row fits into."""
    start = time.perf_counter()
    steps = assign_rows(lengths, lengths, tokens_per_step=tokens_per_step, rows_per_step=None, epochs=1, seed=seed)
    assigning = time.perf_counter() - start
    tokens = int(lengths.sum())
    sizes = lengths.tolist()
    for capacity in capacities:
        if not lengths.max() <= capacity <= tokens_per_step:
            continue
        start = time.perf_counter()
        batches = sum(len(bin_pack([sizes[row] for row in step.rows], capacity)) for step in steps)
        packing = time.perf_counter() - start
        times = f"{assigning:.1f} | {packing:.1f}"
        fills = f"{tokens / (len(steps) * tokens_per_step):.2%} | {tokens / (batches * capacity):.2%}"
        print(f"| {tokens_per_step:,} | {capacity:,} | {times} | {fills} |", flush=True)


def _lengths(arguments: Namespace) -> NDArray[np.int64]:
    if arguments.lengths:
        return np.loadtxt(arguments.lengths, dtype=np.int64, ndmin=1)
    centre = np.log(MEAN_TOKENS) - SPREAD**2 / 2
    drawn = np.random.default_rng(arguments.seed).lognormal(centre, SPREAD, arguments.rows)
    return drawn.clip(LEAST_TOKENS, MOST_TOKENS).astype(np.int64)


def _percentile(lengths: NDArray[np.int64]) -> int:
    return int(np.percentile(lengths, 95))


def _peak_gib() -> float:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kilobytes / 2**20


def _arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of random lengths")
    parser.add_argument(
        "--lengths", type=Path, help="a text file of real lengths, one per line, instead of random ones"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="sizes of a step in tokens")
    parser.add_argument("--capacities", type=int, nargs="+", default=CAPACITIES, help="sizes of a batch in tokens")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
