"""Which setting a run takes: each is predicted, and the best that fits is taken: quality first, then speed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from thinktune.config import MemoryTierName, Strategy, TrainConfig
from thinktune.optim import candidate_tiers, pick_memory_tier
from thinktune.planner.activation_budgets import ACTIVATION_BUDGETS
from thinktune.planner.communication import CommunicationVolume
from thinktune.planner.hardware import GIB, Card, find_card
from thinktune.planner.memory import CONTEXT_BYTES, MemoryPeaks, Setting, Workload, memory_peaks
from thinktune.planner.speed import (
    Throughput,
    assumed_networks,
    largest_step_volume,
    predict_throughput,
    ranking_score,
    tokens_per_second,
)

FREE_MEMORY_MARGIN = 0.05  # of the card, left free: sizes are rounded up, and freed memory is not always whole


CPU_MIN_BATCH_TOKENS = 1024  # rows may be so short that Python's share would show


SPEED_TOLERANCE = 0.98  # as fast as the fastest: what clips by the true norm, and takes less memory, is taken then


REFERENCE_CARD = "H100"  # ranks settings for a card of which only the memory is known


@dataclass(frozen=True, slots=True)
class Option:
    """A setting with what is predicted of it: bytes, and tokens a second where the card's speed is known.

    `ranking_score` ranks settings, on any card. `volume` is what each card sends in a step.
    """

    setting: Setting
    peaks: MemoryPeaks
    tokens_per_second: float | None
    ranking_score: float
    volume: CommunicationVolume

    @property
    def needed_bytes(self) -> int:
        """Bytes on the card, with what its driver takes."""
        return self.peaks.device_bytes + CONTEXT_BYTES


@dataclass(frozen=True, slots=True)
class Plan:
    """For each tier, with the update after and inside the backward pass, the best that fits or else the smallest.

    Of many cards, `throughputs` tells how fast the chosen one is over each network.
    """

    card: Card
    options: tuple[Option, ...]
    chosen: Option | None
    reason: str
    ranks: int = 1
    per_node: int = 1
    throughputs: tuple[Throughput, ...] = ()


def cpu_default(train: TrainConfig, longest_row_tokens: int) -> Setting:
    """The setting on a CPU, where nothing is planned: fp32, all activations, and batches as small as rows allow.

    There, where nothing is padded, a larger batch is no faster and holds more memory.
    """
    budget = 1.0 if train.activation_budget is None else train.activation_budget
    return Setting(
        pick_memory_tier(train, torch.device("cpu")),
        bool(train.update_in_backward),
        budget,
        train.batch_tokens or max(CPU_MIN_BATCH_TOKENS, longest_row_tokens),
    )


def make_plan(
    train: TrainConfig, workload: Workload, card: Card, strategy: Strategy | Literal["auto"] | None = None
) -> Plan:
    """Predict all settings that the recipe leaves open, and take one; of many cards, by `strategy` or the first fit.

    Quality first: the best tier that fits in any way. Then the update after the backward pass before that inside it,
    then the strategies in their order, then the fastest.
    """
    best: list[Option] = []
    for memory in candidate_tiers(train):
        best += _best_of_tier(train, workload, card, memory, _candidate_strategies(workload, strategy))
    for memory in candidate_tiers(train):
        if chosen := _fastest([option for option in best if option.setting.memory == memory and fits(option, card)]):
            found = (
                (predict_throughput(workload, chosen.setting, card, network) for network in assumed_networks(card))
                if workload.ranks > 1
                else ()
            )
            paces = tuple(each for each in found if each)[: None if workload.ranks > workload.per_node else 1]
            return Plan(
                card,
                tuple(best),
                chosen,
                _explain_choice(chosen, card, train),
                workload.ranks,
                workload.per_node,
                paces,
            )
    return Plan(card, tuple(best), None, _explain_no_fit(best, card), workload.ranks, workload.per_node)


def fallback(train: TrainConfig, workload: Workload, card: Card, failed: Setting) -> tuple[Option, bool] | None:
    """What to take where a setting proved too large for a card: an option, and whether the same run can go on with it.

    The failure shows what the predictions are worth here: what is named takes less, by the margin, than the setting
    that failed was predicted to take. First in its tier, where batches and activations may change within a run; then
    as the recipe leaves it open; then any. None where nothing fits.
    """
    room = min(card.memory_bytes, memory_peaks(workload, failed).device_bytes + CONTEXT_BYTES)
    opened: dict[str, Any] = {"activation_budget": None, "batch_tokens": None}
    kept = {"memory": failed.memory, "update_in_backward": failed.update_in_backward}
    free = {"memory": "auto", "update_in_backward": None}
    for changes in (opened | kept, {}, opened | free):
        smaller = make_plan(
            train.model_copy(update=changes), workload, replace(card, memory_bytes=room), failed.strategy
        )
        if chosen := smaller.chosen:
            return chosen, changes == opened | kept
    return None


def as_overrides(option: Option, names: Sequence[str]) -> str:
    """An option's setting, or some of it, as a recipe or a command says it."""
    values = asdict(option.setting)
    return " ".join(f"train.{name}={str(values[name]).lower()}" for name in names)


def fits(option: Option, card: Card) -> bool:
    """Whether a card holds a setting with the margin to spare."""
    return option.needed_bytes <= card.memory_bytes * (1 - FREE_MEMORY_MARGIN)


def with_setting(train: TrainConfig, setting: Setting) -> TrainConfig:
    """The recipe's section with nothing of the setting left open."""
    return train.model_copy(update=asdict(setting))


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain values."""
    return {
        "card": plan.card.name,
        "card_gib": round(plan.card.memory_gib, 2),
        "ranks": plan.ranks,
        "per_node": plan.per_node,
        "options": [
            asdict(option.setting)
            | {f"{name}_gib": round(size / GIB, 2) for name, size in asdict(option.peaks).items()}
            | {
                "needed_gib": round(option.needed_bytes / GIB, 2),
                "sent_inside_gib": round(option.volume.intra_node / GIB, 2),
                "sent_between_gib": round(option.volume.inter_node / GIB, 2),
                "predicted_tokens_per_second": option.tokens_per_second and round(option.tokens_per_second),
                "fits": fits(option, plan.card),
                "chosen": option == plan.chosen,
            }
            for option in plan.options
        ],
        "why": plan.reason,
        "networks": [asdict(each) for each in plan.throughputs],
    }


def describe_setting(setting: Setting) -> str:
    """A setting in one line."""
    inside = ", each weight moved inside the backward pass" if setting.update_in_backward else ""
    spread = "" if setting.strategy == "replicate" else f", strategy {setting.strategy}"
    return (
        f"memory tier {setting.memory}{inside}, activation budget {setting.activation_budget:g}, "
        f"batches of {setting.batch_tokens:,} tokens{spread}"
    )


def _candidate_strategies(workload: Workload, strategy: Strategy | Literal["auto"] | None) -> tuple[Strategy, ...]:
    """Whole copies while they fit; else shares, of one copy a machine before those of one copy in all."""
    if strategy not in (None, "auto"):
        return (strategy,)
    if workload.ranks == 1:
        return ("replicate",)
    # Of one card a machine, a copy a machine is a whole copy a card.
    return ("replicate", "hybrid", "shard") if 1 < workload.per_node < workload.ranks else ("replicate", "shard")


def _best_of_tier(
    train: TrainConfig, workload: Workload, card: Card, memory: MemoryTierName, strategies: Sequence[Strategy]
) -> list[Option]:
    """The best option with the update after the backward pass and that inside it, by one strategy.

    The first by which the former fits; else the first by which the latter does; else the one that needs least.
    """
    found: list[list[Option]] = []
    rows = workload.chunk_rows(card.memory_bytes)
    for strategy in strategies:
        found.append([])
        for inside in _fixed_or_free(train.update_in_backward, (False, True)):
            settings = [
                replace(each, chunk_rows=rows)
                for each in _candidate_settings(train, workload, memory, inside, strategy)
            ]
            if options := [_predict_option(workload, setting, card) for setting in settings]:
                fitting = [option for option in options if fits(option, card)]
                found[-1].append(_fastest(fitting) or _smallest(options))

    def rank(options: list[Option]) -> tuple[int, int]:
        fitting = [place for place, option in enumerate(options) if fits(option, card)]
        return (
            (fitting[0], 0) if fitting else (len(options), min((option.needed_bytes for option in options), default=0))
        )

    return min(found, key=rank)


def _candidate_settings(
    train: TrainConfig, workload: Workload, memory: MemoryTierName, inside: bool, strategy: Strategy
) -> list[Setting]:
    """Budgets and sizes of batches; a step that is moved inside the backward pass must be one batch."""
    budgets = [budget for budget in ACTIVATION_BUDGETS if budget in workload.layers_by_budget]
    if train.activation_budget is not None:
        budgets = [train.activation_budget]
    sizes = [train.batch_tokens] if train.batch_tokens else _candidate_batch_tokens(workload)
    return [
        Setting(memory, inside, budget, size, strategy)
        for size in sizes
        for budget in budgets
        if not inside or size >= workload.rank_tokens
    ]


def _candidate_batch_tokens(workload: Workload) -> list[int]:
    """A card's part of a step in one batch, in two, in four, down to the longest row; rounded up for its sake."""
    sizes: list[int] = []
    parts = 1
    while not sizes or sizes[-1] > _round_up_tokens(workload.longest_row_tokens):
        sizes.append(
            max(_round_up_tokens(-(-workload.rank_tokens // parts)), _round_up_tokens(workload.longest_row_tokens))
        )
        parts *= 2
    return sizes


def _round_up_tokens(tokens: int) -> int:
    return -(-tokens // 128) * 128


def _fixed_or_free(fixed: bool | None, free: tuple[bool, ...]) -> tuple[bool, ...]:
    return free if fixed is None else (fixed,)


def _predict_option(workload: Workload, setting: Setting, card: Card) -> Option:
    known = tokens_per_second(workload, setting, card)
    speed = ranking_score(workload, setting, card if known else find_card(REFERENCE_CARD)) or 0.0
    return Option(setting, memory_peaks(workload, setting), known, speed, largest_step_volume(workload, setting))


def _fastest(options: Sequence[Option]) -> Option | None:
    if not options:
        return None
    top = max(option.ranking_score for option in options)
    near = [option for option in options if option.ranking_score >= SPEED_TOLERANCE * top]
    return min(near, key=lambda option: (option.setting.update_in_backward, option.needed_bytes))


def _smallest(options: Sequence[Option]) -> Option:
    return min(options, key=lambda option: option.needed_bytes)


def _explain_choice(chosen: Option, card: Card, train: TrainConfig) -> str:
    memory = chosen.setting.memory
    named = "is the recipe's tier" if train.memory != "auto" else "is the best tier that fits"
    return (
        f"{memory} {named}: {chosen.needed_bytes / GIB:.1f} of {card.memory_gib:.1f} GiB with {FREE_MEMORY_MARGIN:.0%} left free; "
        f"of its settings that fit, this one is predicted to be the fastest"
    )


def _explain_no_fit(options: Sequence[Option], card: Card) -> str:
    least = _smallest(options)
    room = least.needed_bytes / (1 - FREE_MEMORY_MARGIN) / GIB
    return (
        f"nothing fits {card.name} ({card.memory_gib:.1f} GiB); the least is {describe_setting(least.setting)}, which takes a card "
        f"of {room:.1f} GiB: lower data.max_tokens or the size of a step, or take a smaller model"
    )
