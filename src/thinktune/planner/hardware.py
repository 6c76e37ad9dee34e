"""Cards and clusters: memory, peak arithmetic, and bandwidth of memory and links."""

import re
from dataclasses import dataclass

from thinktune.errors import UserError
from thinktune.planner.card_sheets import (
    CARD_SHEETS,
    MIN_CUDA_13_CAPABILITY,
    OTHER_ACCELERATORS,
    VARIANT_WORDS,
    CardSheet,
)

GIB = 2**30


DEFAULT_LINK_GB_PER_SECOND = 12  # to the host, for an unknown card
SAME_SIZE = 0.15  # of a card's memory: makers round up, and drivers keep some
_SIZE = r"([0-9]+(?:\.[0-9]+)?)\s*(GiB|GB|G)"


@dataclass(frozen=True, slots=True)
class Card:
    """A card, named or local; what is not known of its speed is None."""

    name: str
    memory_bytes: int
    tflops: float | None = None  # dense bf16, as the maker states it; see CardSheet
    memory_bytes_per_second: float | None = None
    host_bytes_per_second: float = DEFAULT_LINK_GB_PER_SECOND * 1e9  # in each direction
    peer_bytes_per_second: float = DEFAULT_LINK_GB_PER_SECOND * 1e9  # to the machine's other cards, in each direction
    note: str | None = None  # what a plan for it has to say besides

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
    """Find the card that a recipe names, or make one of a given size (`24GiB`, `24 GB`).

    Names are taken as people write them: `rtx4090`, `4090D`, `A100-SXM4-80GB`, `4090 48G`. A size beside a name chooses
    among cards of that name, or is the memory of a card that was given more. Raises UserError if the text is neither.
    """
    if size := re.fullmatch(_SIZE, text.strip(), re.IGNORECASE):
        return Card(text.strip(), _size_bytes(size))
    if maker := next((maker for part, maker in OTHER_ACCELERATORS.items() if part in text.lower()), None):
        raise UserError(_describe_other_accelerator(text, maker))
    exact = next((name for name in CARD_SHEETS if _normalize(name) == _normalize(text)), None)
    if exact:
        return _make_known_card(exact, None)
    size = re.search(rf"(?<![\s_-])[\s_-]{_SIZE}\s*$", text, re.IGNORECASE)
    named = text[: size.start()] if size else text
    names = _names_like(named) or _names_like(re.sub(r"[\s_-]pcie\b", "", named, flags=re.IGNORECASE))
    if not names:
        raise UserError(
            f"plan.card: {text!r} is not a known card; give its memory instead, as in 24GiB, "
            f"or one of {', '.join(CARD_SHEETS)}"
        )
    if size is not None and not float(size[1]):
        raise UserError(f"plan.card: {text!r} has a memory of 0; write its memory, as in 24GiB")
    if size is None:
        return _make_known_card(min(names, key=len), None)
    wanted = float(size[1])
    same = [name for name in names if abs(CARD_SHEETS[name].gib - wanted) < SAME_SIZE * wanted]
    name = min(same or names, key=len)
    return _make_known_card(name, None if same else _size_bytes(size))


def _names_like(text: str) -> list[str]:
    """List the known cards whose name begins or ends so, with or without RTX; a number is a part of each name."""
    wanted = _normalize(text)
    if len(wanted) < 2 or not re.search(r"[0-9]", wanted):
        return []
    names = {name: _normalize(name) for name in CARD_SHEETS}
    return [
        name
        for name, own in names.items()
        if own.startswith(wanted) or own.removeprefix("rtx").startswith(wanted) or own.endswith(wanted)
    ]


def _size_bytes(size: re.Match[str]) -> int:
    return int(float(size[1]) * (10**9 if size[2].upper() == "GB" else GIB))


def _describe_other_accelerator(text: str, maker: str) -> str:
    return (
        f"plan.card: {text!r} is not a CUDA card ({maker}), and thinktune was never run on one: with the maker's "
        "build of torch a run would start, without thinktune's own kernels, and neither memory nor speed is "
        "known. What works: checking the rows with its memory instead of its name, as in plan.card=64GiB; and "
        "using models trained elsewhere, because final/ is a plain transformers folder that the maker's own "
        "engines load"
    )


def card_from_driver(name: str, memory_bytes: int) -> Card:
    """Return the card that a driver names, with the memory that is free on it."""
    known = _match_driver_name(name)
    return _make_known_card(known, memory_bytes) if known else Card(name, memory_bytes)


def peak_bf16_tflops(name: str) -> float | None:
    """Return the dense bf16 TFLOP/s that a card's maker states, given its driver's name; None for an unknown card."""
    known = _match_driver_name(name)
    return CARD_SHEETS[known].bf16_tflops if known else None


def mfu(tokens_per_second: float, flops_per_token: float, name: str) -> float | None:
    """Compute the model FLOPs utilization, a fraction of the card's peak (Chowdhery et al., PaLM, 2022)."""
    peak = peak_bf16_tflops(name)
    return None if peak is None else tokens_per_second * flops_per_token / (peak * 1e12)


def _match_driver_name(name: str) -> str | None:
    """Find the longest known name whose words are all in a driver's name; None if it is another variant."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    found = [
        known
        for known in CARD_SHEETS
        if words >= (own := set(known.lower().split())) and not (words - own) & VARIANT_WORDS
    ]
    return max(found, key=len, default=None)


def _make_known_card(name: str, memory_bytes: int | None) -> Card:
    sheet = CARD_SHEETS[name]
    link = sheet.link_gb_per_second
    return Card(
        name,
        memory_bytes or int(sheet.gib * GIB),
        sheet.bf16_tflops,
        sheet.memory_gb_per_second * 1e9,
        link * 1e9,
        (sheet.peer_gb_per_second or link) * 1e9,
        _describe_limits(name, sheet),
    )


def _describe_limits(name: str, sheet: CardSheet) -> str | None:
    """Say what a plan for a card without bf16 tensor cores counts with, and what else is in the way there."""
    if sheet.multiplies_bf16:
        return None
    is_old = sheet.capability < MIN_CUDA_13_CAPABILITY
    old = "; torch for CUDA 13 no longer supports it: install torch for CUDA 12" if is_old else ""
    return (
        f"{name} has no bf16 tensor cores: bf16 runs at most as fast as fp32 ({sheet.bf16_tflops:g} TFLOP/s), and "
        f"the predicted speeds assume that; a run there is slow, and was never tested{old}"
    )


def _normalize(name: str) -> str:
    """Return a name without its maker, its bus and all that is no letter or digit."""
    plain = re.sub(
        r"\b(nvidia|geforce|tesla|graphics card)\b|[\s_-](sxm[0-9]?|hbm[0-9]e?)(?![a-z0-9])", " ", name.lower()
    )
    return re.sub(r"[^a-z0-9]", "", plain).removeprefix("nvidia").removeprefix("geforce").removeprefix("tesla")
