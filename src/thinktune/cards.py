"""Cards: how much memory they have, how fast they and their links move bytes, and how many of them there are."""

import re
from dataclasses import dataclass

from thinktune.errors import UserError
from thinktune.flops import peak_tflops

GIB = 2**30
# GiB as the driver reports them, GB/s of the card's memory, GB/s to the host in one direction (PCIe, as built).
KNOWN = {
    "H200": (140.4, 4800, 55),
    "H100": (79.6, 3350, 55),
    "H100 NVL": (93.6, 3900, 55),
    "H100 PCIe": (79.6, 2000, 55),
    "H800": (79.6, 3350, 55),
    "H20": (95.6, 4000, 55),
    "A100 40GB": (40.0, 1555, 25),  # first: of two that a name may mean, the smaller one is planned for
    "A100 80GB": (80.0, 2039, 25),
    "A800": (80.0, 2039, 25),
    "L40S": (44.9, 864, 25),
    "A10": (22.5, 600, 25),
    "RTX 5090": (31.8, 1792, 55),
    "RTX 4090": (24.0, 1008, 25),
    "RTX 3090": (24.0, 936, 25),
    "RTX A6000": (48.0, 768, 25),
    "RTX 4060": (8.0, 272, 12),
    "RTX 3060": (12.0, 360, 25),
}
LINK = 12  # GB/s where the card is not known
# GB/s from one card to the others of its machine in one direction (NVLink), as the makers state them; of cards that
# are not here, the link to the host is taken.
NVLINK = {
    "H200": 450,
    "H100": 450,
    "H100 NVL": 300,
    "H800": 200,
    "H20": 450,
    "A100 40GB": 300,
    "A100 80GB": 300,
    "A800": 200,
}


@dataclass(frozen=True, slots=True)
class Card:
    """A card, named or at hand. What is not known of its speed is none."""

    name: str
    memory_bytes: int
    tflops: float | None = None  # dense bf16, as the maker states it
    bandwidth: float | None = None  # bytes/s
    link: float = LINK * 1e9  # bytes/s to the host, in each direction
    peers: float = LINK * 1e9  # bytes/s to the other cards of its machine, in each direction

    @property
    def memory_gib(self) -> float:
        """Its memory in GiB."""
        return self.memory_bytes / GIB


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cards of one kind: `ranks` of them, `per_node` in each machine."""

    card: Card
    ranks: int = 1
    per_node: int = 1


def find_cluster(text: str) -> Cluster:
    """The cards that a recipe names: one (`H100`, `24GiB`), a machine of them (`8xH100`), or machines (`4x8xH100`).

    Raises UserError where the card is not known, or a number is not one or more.
    """
    parts = re.fullmatch(r"\s*(?:([0-9]+)\s*[x×]\s*)?(?:([0-9]+)\s*[x×]\s*)?(.+?)\s*", text, re.IGNORECASE)
    first, second, name = parts.groups() if parts else (None, None, text)
    machines, per_node = (1, int(first or 1)) if second is None else (int(first or 1), int(second))
    if not machines * per_node:
        raise UserError(
            f"plan.card: {text!r} is no card at all; write how many cards a machine has, as in 8xH100, "
            "or how many machines and cards in each, as in 4x8xH100"
        )
    return Cluster(find_card(name), machines * per_node, per_node)


def find_card(text: str) -> Card:
    """The card that a recipe names (`rtx4090`, `H200`), or one of so much memory (`24GiB`, `24 GB`).

    Raises UserError where it is neither.
    """
    if size := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(GiB|GB|G)", text.strip(), re.IGNORECASE):
        unit = 10**9 if size[2].upper() == "GB" else GIB
        return Card(text.strip(), int(float(size[1]) * unit))
    names = [name for name in KNOWN if _plain(text) in _plain(name)]
    if not names:
        raise UserError(
            f"plan.card: {text!r} is no card known here; name its memory instead, as in 24GiB, "
            f"or one of {', '.join(KNOWN)}"
        )
    return _known(min(names, key=len), None)


def card_at_hand(name: str, memory_bytes: int) -> Card:
    """The card that a driver names, with the memory that is free on it."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    found = [known for known in KNOWN if words >= set(known.lower().split())]
    return _known(max(found, key=len), memory_bytes) if found else Card(name, memory_bytes, peak_tflops(name))


def _known(name: str, memory_bytes: int | None) -> Card:
    gib, bandwidth, link = KNOWN[name]
    peers = NVLINK.get(name, link)
    size = memory_bytes or int(gib * GIB)
    return Card(name, size, peak_tflops(name), bandwidth * 1e9, link * 1e9, peers * 1e9)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("geforce")
