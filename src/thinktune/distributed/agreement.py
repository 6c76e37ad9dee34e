"""Agreement of ranks: what decides a run must be the same for all of them before its first step."""

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from thinktune.distributed.world import DisagreementError, World

MAX_SHOWN_CHARACTERS = 120  # of one value
MAX_SHOWN_RANKS = 4
NOT_THERE = "nothing"  # what a rank has that does not know a key, as with an older release


def refuse_differences(world: World, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise DisagreementError on all ranks where one has other facts than rank 0, a sentence for each key that differs.

    Args:
        world: the ranks, all of which must call.
        facts: what this rank was given, by key, grouped by the remedy that ends a sentence about them. Values are
            plain: texts, numbers, None, and lists of them.
    """
    if world.size == 1:
        return
    found = world.all_gather((socket.gethostname(), {remedy: dict(group) for remedy, group in facts.items()}))
    hosts = [host for host, _ in found]
    faults: list[str] = []
    for remedy in facts:
        groups = [groups.get(remedy, {}) for _, groups in found]
        for key in dict.fromkeys(key for group in groups for key in group):
            values = [group.get(key, NOT_THERE) for group in groups]
            if others := [rank for rank, value in enumerate(values) if value != values[0]]:
                alike = [rank for rank in others if values[rank] == values[others[0]]]
                theirs, ours = shown_values(values[others[0]], values[0])
                where, here = name_ranks(alike, hosts), name_ranks([0], hosts)
                faults.append(f"{key}: is {theirs} on {where}, and {ours} on {here}; {remedy}")
    if faults:
        raise DisagreementError(faults)


def name_ranks(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Name some ranks, and where hosts differ the machine of the first one."""
    names = ", ".join(map(str, ranks[:MAX_SHOWN_RANKS]))
    more = f" and {len(ranks) - MAX_SHOWN_RANKS} more" if len(ranks) > MAX_SHOWN_RANKS else ""
    machine = f" ({hosts[ranks[0]]})" if len(set(hosts)) > 1 else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {names}{more}{machine}"


def shown_values(first: Any, second: Any) -> tuple[str, str]:
    """Return two different values as texts that are short and differ."""
    texts = [value if value is NOT_THERE else repr(value) for value in (first, second)]
    if max(map(len, texts)) <= MAX_SHOWN_CHARACTERS:
        return texts[0], texts[1]
    # A long text, such as a system prompt: from a little before the first place that differs.
    pairs = enumerate(zip(*texts, strict=False))
    start = max(0, next((place for place, (left, right) in pairs if left != right), min(map(len, texts))) - 20)
    cut = [f"{'…' * (start > 0)}{text[start : start + MAX_SHOWN_CHARACTERS]}" for text in texts]
    return cut[0], cut[1]
