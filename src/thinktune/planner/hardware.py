"""Cards: how much memory they have, how fast they compute, how fast they and their links move bytes, and how many."""

import re
from dataclasses import dataclass

from thinktune.errors import UserError

GIB = 2**30


# GiB as the driver reports them, dense bf16 TFLOP/s without sparsity as the maker states them (none: not looked up),
# GB/s of the card's memory, GB/s to the host in one direction (PCIe, as built).
KNOWN_CARDS: dict[str, tuple[float, float | None, int, int]] = {
    "H200": (140.4, 989.0, 4800, 55),
    "H200 NVL": (140.4, 835.0, 4800, 55),
    "H100": (79.6, 989.0, 3350, 55),
    "H100 NVL": (93.6, 835.0, 3900, 55),
    "H100 PCIe": (79.6, 756.0, 2000, 55),
    "H800": (79.6, 989.0, 3350, 55),
    "H20": (95.6, 148.0, 4000, 55),
    "A100": (40.0, 312.0, 1555, 25),  # of those that a name may mean, the smallest one is planned for
    "A100 40GB": (40.0, 312.0, 1555, 25),
    "A100 80GB": (80.0, 312.0, 2039, 25),
    "A800": (80.0, 312.0, 2039, 25),
    "L40S": (44.9, 362.0, 864, 25),
    "A10": (22.5, 125.0, 600, 25),
    "RTX 5090": (31.8, 209.5, 1792, 55),
    "RTX 4090": (24.0, 165.2, 1008, 25),
    "RTX 3090": (24.0, 71.0, 936, 25),
    "RTX A6000": (48.0, 154.8, 768, 25),
    "RTX 4060": (8.0, None, 272, 12),
    "RTX 3060": (12.0, None, 360, 25),
}


VARIANT_WORDS = {"laptop", "mobile", "max", "ti", "super", "d", "ada", "sff"}  # words that make another card of a name


DEFAULT_LINK_GB_PER_SECOND = 12  # GB/s where the card is not known


# GB/s from one card to the others of its machine in one direction (NVLink), as the makers state them; of cards that
# are not here, the link to the host is taken.
NVLINK_GB_PER_SECOND = {
    "H200": 450,
    "H200 NVL": 450,
    "H100": 450,
    "H100 NVL": 300,
    "H800": 200,
    "H20": 450,
    "A100": 300,
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
    memory_bytes_per_second: float | None = None  # bytes/s
    host_bytes_per_second: float = DEFAULT_LINK_GB_PER_SECOND * 1e9  # bytes/s to the host, in each direction
    peer_bytes_per_second: float = (
        DEFAULT_LINK_GB_PER_SECOND * 1e9
    )  # bytes/s to the other cards of its machine, in each direction

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
    names = [name for name in KNOWN_CARDS if _normalize(text) in _normalize(name)]
    if not names:
        raise UserError(
            f"plan.card: {text!r} is no card known here; name its memory instead, as in 24GiB, "
            f"or one of {', '.join(KNOWN_CARDS)}"
        )
    return _make_known_card(min(names, key=len), None)


def card_from_driver(name: str, memory_bytes: int) -> Card:
    """The card that a driver names, with the memory that is free on it."""
    known = _match_driver_name(name)
    return _make_known_card(known, memory_bytes) if known else Card(name, memory_bytes)


def peak_bf16_tflops(name: str) -> float | None:
    """What a card's maker states for dense bf16, by the name that its driver gives; none for a card not known here."""
    known = _match_driver_name(name)
    return KNOWN_CARDS[known][1] if known else None


def mfu(tokens_per_second: float, flops_per_token: float, name: str) -> float | None:
    """Model FLOPs utilization (Chowdhery et al., PaLM, 2022): the share of the card's peak that learning takes."""
    peak = peak_bf16_tflops(name)
    return None if peak is None else tokens_per_second * flops_per_token / (peak * 1e12)


def _match_driver_name(name: str) -> str | None:
    """The longest known name of which a driver's name holds every word, unless it is another card of that name."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    found = [known for known in KNOWN_CARDS if words >= set(known.lower().split())]
    return max(found, key=len) if found and not words & VARIANT_WORDS else None


def _make_known_card(name: str, memory_bytes: int | None) -> Card:
    gib, tflops, bandwidth, link = KNOWN_CARDS[name]
    peers = NVLINK_GB_PER_SECOND.get(name, link)
    return Card(name, memory_bytes or int(gib * GIB), tflops, bandwidth * 1e9, link * 1e9, peers * 1e9)


def _normalize(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("geforce")
