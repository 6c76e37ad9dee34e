"""Cards and clusters: memory, peak arithmetic, and bandwidth of memory and links."""

import re
from dataclasses import dataclass

from thinktune.errors import UserError

GIB = 2**30


# GiB as the driver reports them; dense bf16 TFLOP/s as the maker states them (None: not looked up); GB/s of the card's
# memory; GB/s to the host in one direction (PCIe, as built).
KNOWN_CARDS: dict[str, tuple[float, float | None, int, int]] = {
    "H200": (140.4, 989.0, 4800, 55),
    "H200 NVL": (140.4, 835.0, 4800, 55),
    "H100": (79.6, 989.0, 3350, 55),
    "H100 NVL": (93.6, 835.0, 3900, 55),
    "H100 PCIe": (79.6, 756.0, 2000, 55),
    "H800": (79.6, 989.0, 3350, 55),
    "H20": (95.6, 148.0, 4000, 55),
    "A100": (40.0, 312.0, 1555, 25),  # of all cards that a name may mean, a plan takes the smallest
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


VARIANT_WORDS = {
    "laptop",
    "mobile",
    "max",
    "ti",
    "super",
    "d",
    "ada",
    "sff",
}  # each makes a name another card


DEFAULT_LINK_GB_PER_SECOND = 12  # to the host, for an unknown card


# GB/s from one card to the others of its machine in one direction (NVLink), as the makers state them. Cards not listed
# use the link to the host.
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
    """A card, named or local; what is not known of its speed is None."""

    name: str
    memory_bytes: int
    tflops: float | None = None  # dense bf16, as the maker states it
    memory_bytes_per_second: float | None = None
    host_bytes_per_second: float = DEFAULT_LINK_GB_PER_SECOND * 1e9  # in each direction
    peer_bytes_per_second: float = DEFAULT_LINK_GB_PER_SECOND * 1e9  # to the machine's other cards, in each direction

    @property
    def memory_gib(self) -> float:
        """Memory in GiB."""
        return self.memory_bytes / GIB


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cards of one kind: `ranks` of them, `per_node` in each machine."""

    card: Card
    ranks: int = 1
    per_node: int = 1


def find_cluster(text: str) -> Cluster:
    """Parse the cards that a recipe names: one (`H100`, `24GiB`), one machine (`8xH100`) or several (`4x8xH100`).

    Raises UserError if the card is unknown or a number is zero.
    """
    parts = re.fullmatch(r"\s*(?:([0-9]+)\s*[x×]\s*)?(?:([0-9]+)\s*[x×]\s*)?(.+?)\s*", text, re.IGNORECASE)
    first, second, name = parts.groups() if parts else (None, None, text)
    machines, per_node = (1, int(first or 1)) if second is None else (int(first or 1), int(second))
    if not machines * per_node:
        raise UserError(
            f"plan.card: {text!r} is not a card; write how many cards a machine has, as in 8xH100, "
            "or how many machines and how many cards in each, as in 4x8xH100"
        )
    return Cluster(find_card(name), machines * per_node, per_node)


def find_card(text: str) -> Card:
    """Find the card that a recipe names (`rtx4090`, `H200`), or make one of a given size (`24GiB`, `24 GB`).

    Raises UserError if the text is neither.
    """
    if size := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(GiB|GB|G)", text.strip(), re.IGNORECASE):
        unit = 10**9 if size[2].upper() == "GB" else GIB
        return Card(text.strip(), int(float(size[1]) * unit))
    names = [name for name in KNOWN_CARDS if _normalize(text) in _normalize(name)]
    if not names:
        raise UserError(
            f"plan.card: {text!r} is not a known card; give its memory instead, as in 24GiB, "
            f"or one of {', '.join(KNOWN_CARDS)}"
        )
    return _make_known_card(min(names, key=len), None)


def card_from_driver(name: str, memory_bytes: int) -> Card:
    """Return the card that a driver names, with the memory that is free on it."""
    known = _match_driver_name(name)
    return _make_known_card(known, memory_bytes) if known else Card(name, memory_bytes)


def peak_bf16_tflops(name: str) -> float | None:
    """Return the dense bf16 TFLOP/s that a card's maker states, given its driver's name; None for an unknown card."""
    known = _match_driver_name(name)
    return KNOWN_CARDS[known][1] if known else None


def mfu(tokens_per_second: float, flops_per_token: float, name: str) -> float | None:
    """Compute the model FLOPs utilization, a fraction of the card's peak (Chowdhery et al., PaLM, 2022)."""
    peak = peak_bf16_tflops(name)
    return None if peak is None else tokens_per_second * flops_per_token / (peak * 1e12)


def _match_driver_name(name: str) -> str | None:
    """Find the longest known name whose words are all in a driver's name; None if it is a variant."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    found = [known for known in KNOWN_CARDS if words >= set(known.lower().split())]
    return max(found, key=len) if found and not words & VARIANT_WORDS else None


def _make_known_card(name: str, memory_bytes: int | None) -> Card:
    gib, tflops, bandwidth, link = KNOWN_CARDS[name]
    peers = NVLINK_GB_PER_SECOND.get(name, link)
    return Card(name, memory_bytes or int(gib * GIB), tflops, bandwidth * 1e9, link * 1e9, peers * 1e9)


def _normalize(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("geforce")
