"""NVIDIA cards of this machine as nvidia-smi tells of them, which takes no memory of a card, as asking torch does."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from thinktune.run.card_lock import cards_in_use

QUERY = "index,uuid,name,memory.used,memory.free,memory.total,utilization.gpu,mig.mode.current"
ANSWER_SECONDS = 3


@dataclass(frozen=True, slots=True)
class NvidiaCard:
    """A card; numbers that its driver does not tell are None. `is_split` where MIG makes several of it.

    `index` is CUDA's number of it: None among unlike cards, which CUDA counts from the fastest on and nvidia-smi by
    their place, unless CUDA_DEVICE_ORDER says so.
    """

    index: int | None
    uuid: str
    name: str
    used_mib: float | None
    free_mib: float | None
    total_mib: float | None
    percent: float | None
    is_split: bool

    @property
    def lock_names(self) -> set[str]:
        """The names that its lock may have, as CUDA_VISIBLE_DEVICES may name it: a number, or a UUID's beginning."""
        beginnings = {f"cuda-{self.uuid[:length]}" for length in range(len("GPU-") + 1, len(self.uuid) + 1)}
        return beginnings if self.index is None else {*beginnings, f"cuda-{self.index}"}

    @property
    def in_use(self) -> bool:
        """True while a verb of thinktune computes on it, whoever started that."""
        return not self.lock_names.isdisjoint(cards_in_use())


def ask_nvidia_smi() -> list[NvidiaCard]:
    """List the cards; none where there is no card or no such program."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True)
        cards = [_read(line) for line in done.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    counts_alike = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({card.name for card in cards}) == 1
    return cards if counts_alike else [replace(card, index=None) for card in cards]


def first_visible(cards: Sequence[NvidiaCard]) -> NvidiaCard | None:
    """Return the card on which a process that is started here computes; None where that cannot be told."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if named is None else named.split(",")[0].strip()
    found = [card for card in cards if first == str(card.index) or (first and card.uuid.startswith(first))]
    return found[0] if len(found) == 1 and not found[0].is_split else None


def _read(line: str) -> NvidiaCard:
    index, uuid, name, *numbers, split = (part.strip() for part in line.split(","))
    used, free, total, percent = map(_number, numbers)
    return NvidiaCard(int(index), uuid, name, used, free, total, percent, split == "Enabled")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return None
