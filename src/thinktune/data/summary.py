"""Summarize the rows: plain values that account for every row read, and the same in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.config import ROW_FAULTS, DataConfig
from thinktune.data.columns.unused import unused_lines
from thinktune.data.types import Tally

LENGTH_THRESHOLDS_TOKENS = (512, 1024, 2048, 4096, 8192)


LENGTH_KINDS = ("prompt", "reasoning", "answer", "whole")


HISTOGRAM_BINS = 24


HISTOGRAM_QUANTILE = 0.995  # of the rows; the few longest share the last bin, so that they do not flatten the others


SPARKLINE_BLOCKS = " ▁▂▃▄▅▆▇█"


def summarize(
    settings: DataConfig, tally: Tally, files: Sequence[dict[str, Any]], lengths: NDArray[np.int32]
) -> dict[str, Any]:
    """Summarize what was read, found and measured; `lengths` (replies, 4) holds `lengths_by_kind` before any policy."""
    rows_read = sum(file["rows"] for file in files)
    return {
        "files": list(files),
        "rows_read": rows_read,
        "ignored": list(settings.ignore),
        "faults": [
            {
                "fault": name,
                "meaning": ROW_FAULTS[name].meaning,
                "policy": settings.faults[name],
                "count": sum(tally.counts[name].values()),
                "actions": tally.counts[name],
                "dropped_share": dropped_share(tally.counts[name], rows_read),
                "examples": tally.examples[name],
            }
            for name in ROW_FAULTS
            if name in tally.counts
        ],
        "dropped_rows": tally.total("dropped"),
        "stopping_rows": tally.total("stops"),
        "max_tokens": settings.max_tokens,
        "validation": settings.validation,
        **measure_lengths(lengths, settings.max_tokens),
    }


def measure_lengths(lengths: NDArray[np.int32], max_tokens: int) -> dict[str, Any]:
    """Measure replies: `lengths` and `histograms` by part, and how many are `over` some lengths."""
    parts = list(enumerate(LENGTH_KINDS)) if len(lengths) else []
    return {
        "lengths": {part: _statistics(lengths[:, place]) for place, part in parts},
        "histograms": {part: _histogram(lengths[:, place]) for place, part in parts},
        "over": {
            str(mark): int((lengths[:, 3] > mark).sum()) for mark in sorted({*LENGTH_THRESHOLDS_TOKENS, max_tokens})
        },
    }


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Describe what became of the rows: everything read is trained on, held out or dropped."""
    lines: list[str] = []
    for file in summary["files"]:
        lines.append(f"{file['path']}: {file['rows']:,} rows" + (f", {file['format']}" if file["rows"] else ""))
        lines += unused_lines(file.get("unused", ()))
    lines.append(
        f"{summary['rows_read']:,} rows read: {summary['train_rows']:,} to train on "
        f"({summary['train_tokens']:,} tokens, {summary['train_learned_tokens']:,} learned), "
        f"{summary['validation_rows']:,} held out, {summary['dropped_rows']:,} dropped"
        + (f", {summary['stopping_rows']:,} that stop the run" if summary["stopping_rows"] else "")
    )
    if summary["validation"] and summary["train_rows"] and not summary["validation_rows"]:
        lines.append("  no row is held out: there are too few, so nothing shows when the model is best")
    for fault in summary["faults"]:
        done = _action_words(fault["actions"], summary["rows_read"])
        lines.append(f"  {fault['fault']}: {done}, as in {fault['examples'][0]}")
    lines += _source_lines(summary.get("sources", ()))
    if summary["own_system_rows"]:
        lines.append(f"  {summary['own_system_rows']:,} rows have their own system prompt instead of data.system")
    lines += _decision_lines(summary)
    lines += _mode_lines(summary)
    over = ", ".join(f"{count:,} over {mark}" for mark, count in summary["over"].items() if count)
    return lines + ([f"  of all replies measured: {over} tokens"] if over else [])


def dropped_share(actions: Mapping[str, int], rows_read: int) -> float:
    """Return the share of all rows that a fault costs."""
    return round(actions.get("dropped", 0) / max(1, rows_read), 4)


def _action_words(actions: Mapping[str, int], rows_read: int) -> str:
    """Say what was done to how many rows; of those dropped, also which share of all rows they are."""
    share = actions.get("dropped", 0) / max(1, rows_read)
    costs = f" ({f'{share:.0%}' if share >= 0.01 else f'{share:.1%}'} of all rows)"
    return ", ".join(f"{count:,} {action}{costs if action == 'dropped' else ''}" for action, count in actions.items())


def _source_lines(sources: Sequence[dict[str, Any]]) -> list[str]:
    """Account for each of several sources: its rows, and its part of what is trained where the steps are known."""
    lines: list[str] = []
    for source in sources:
        lines.append(
            f"  {source['key']}, {source['name']}: {source['train_rows']:,} rows to train on "
            f"({source['train_tokens']:,} tokens), {source['validation_rows']:,} held out, "
            f"{source['dropped_rows']:,} dropped" + _dealt_words(source)
        )
        lines += _own_answer_lines(source.get("own_answers"))
        lines += [
            f"    {fault['fault']}: {', '.join(f'{count:,} {action}' for action, count in fault['actions'].items())}"
            for fault in source["faults"]
        ]
    return lines


def _own_answer_lines(account: dict[str, Any] | None) -> list[str]:
    """Say what the base was asked and what came of it; before that, what train will ask, and how long it may become."""
    if account is None:
        return []
    left_out = sum(account["left_out"].values())
    more = f"; {left_out:,} questions have a fault" if left_out else ""
    more += f"; {account['no_room']:,} leave no space for a reply" if account["no_room"] else ""
    if not account["made"]:
        return [
            f"    not made yet: train first has the base write {account['asked']:,} replies to "
            f"{account['questions']:,} questions, each of at most {account['longest_tokens']:,} tokens, "
            f"{account['most_tokens']:,} in all, and caches them; until then each counts with its greatest "
            f"possible length{more}"
        ]
    lost = {"cut at their limit": account["cut"], "that would train as different tokens": account["other_tokens"]}
    dropped = ", ".join(f"{count:,} {why}" for why, count in lost.items() if count)
    return [
        f"    {account['asked']:,} replies of the base to {account['questions']:,} questions, {account['kept']:,} kept"
        + (f" ({dropped} are left out)" if dropped else "")
        + more
    ]


def _dealt_words(source: dict[str, Any]) -> str:
    """Say which part of the trained tokens a source has, and how often its rows come."""
    if "dealt_tokens" not in source:
        return f"; its share is {source['share']:.0%}" if source["share"] else ""
    passes = source["passes"]
    often = f"each row {passes:g} times" if passes >= 1 else f"{passes:.0%} of its rows"
    return f"; {source['dealt_share']:.1%} of the trained tokens, {often}"


def _decision_lines(summary: dict[str, Any]) -> list[str]:
    """Say how many decisions about single rows count, and which do not, because their rows are others now."""
    lines: list[str] = []
    for each in summary.get("decisions", ()):
        lines.append(
            f"  {each['file']}: {each['applied']:,} {'row is' if each['applied'] == 1 else 'rows are'} decided"
        )
        if stale := [*each["changed"], *each["gone"]]:
            one = "row has changed or is gone, so its decision does"
            many = "rows have changed or are gone, so their decisions do"
            what = f"{len(stale):,} {one if len(stale) == 1 else many} not count, as that about {stale[0]}"
            lines.append(f"  {each['file']}: {what}; decide again with check --doubts")
    return lines


def _mode_lines(summary: dict[str, Any]) -> list[str]:
    """Say how many rows are trained without thinking; or that none is, where the model has a switch to lose."""
    if silent := summary.get("silent_rows"):
        are = "row is" if silent == 1 else "rows are"
        return [f"  {silent:,} {are} trained without thinking (an empty think block is given, not learned)"]
    if summary.get("has_thinking_switch") and summary["train_rows"] and not summary.get("silent_share"):
        return [
            "  every row has reasoning: trained on such rows alone, a model forgets how to answer without "
            "thinking; data.silent_share: 0.1 prevents that"
        ]
    return []


def sparkline(histogram: dict[str, Any]) -> str:
    """Draw a histogram as a line of blocks; any count above zero is at least the smallest block."""
    counts = histogram["counts"]
    top = max(counts)
    return "".join(
        SPARKLINE_BLOCKS[max(1, round(8 * count / top))] if count else SPARKLINE_BLOCKS[0] for count in counts
    )


def _statistics(values: NDArray[np.int32]) -> dict[str, float]:
    return {
        "mean": round(float(values.mean()), 1),
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": float(values.max()),
    }


def _histogram(values: NDArray[np.int32]) -> dict[str, Any]:
    """Count values in bins of equal, round width from 0; the last bin also holds longer ones."""
    width = _round_up(max(1.0, float(np.quantile(values, HISTOGRAM_QUANTILE)) / HISTOGRAM_BINS))
    bins = np.minimum(values // width, HISTOGRAM_BINS - 1)
    counts = np.bincount(bins, minlength=HISTOGRAM_BINS).tolist()
    return {"width": width, "counts": counts}


def _round_up(value: float) -> int:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10 ** int(np.floor(np.log10(value)))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= value))
