"""Choice of a run's setting: all are predicted, and the best that fits is taken: quality first, then speed."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from thinktune.config import MemoryTierName, Strategy, TrainConfig
from thinktune.config.recipe_keys import recipe_key
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
    speed_range,
    tokens_per_second,
)

FREE_MEMORY_MARGIN = 0.05  # of the card, left free: sizes are rounded up, and freed memory is fragmented


CPU_MIN_BATCH_TOKENS = 1024  # with very short rows, the overhead of Python would show


SPEED_TOLERANCE = 0.995  # of the fastest: among those, clipping by the true norm and larger batches are preferred


REFERENCE_CARD = "H100"  # ranks settings for a card of which only the memory is known


@dataclass(frozen=True, slots=True)
class Option:
    """A setting and its predictions: bytes, and tokens per second if the card's speed is known.

    `speed_range` are the tokens per second of a poor and of a good case. `ranking_score` ranks settings on any card.
    `volume` is what each card sends in a step.
    """

    setting: Setting
    peaks: MemoryPeaks
    tokens_per_second: float | None
    speed_range: tuple[float, float] | None
    ranking_score: float
    volume: CommunicationVolume

    @property
    def needed_bytes(self) -> int:
        """Bytes on the card, with those of its driver."""
        return self.peaks.device_bytes + CONTEXT_BYTES


@dataclass(frozen=True, slots=True)
class Plan:
    """The best option that fits, or else the smallest, per tier and for an update after or inside the backward pass.

    For many cards, `throughputs` has the chosen option's speed over each network.
    """

    card: Card
    options: tuple[Option, ...]
    chosen: Option | None
    reason: str
    ranks: int = 1
    per_node: int = 1
    throughputs: tuple[Throughput, ...] = ()


def cpu_default(train: TrainConfig, longest_row_tokens: int) -> Setting:
    """Return the setting for a CPU, where nothing is planned: fp32, all activations kept, the smallest batches.

    Nothing is padded there, so a larger batch is no faster and takes more memory.
    """
    return Setting(
        pick_memory_tier(train, torch.device("cpu")),
        bool(train.update_in_backward),
        stated_budget(train),
        train.batch_tokens or max(CPU_MIN_BATCH_TOKENS, longest_row_tokens),
        offload_activations=bool(train.offload_activations),
    )


def stated_budget(train: TrainConfig) -> float:
    """Return the activation budget of a recipe that is not planned: 1, unless it says otherwise."""
    if train.activation_budget is None:
        return 0.0 if train.offload_activations else 1.0
    return train.activation_budget


def make_plan(
    train: TrainConfig, workload: Workload, card: Card, strategy: Strategy | Literal["auto"] | None = None
) -> Plan:
    """Predict all settings that the recipe leaves open, and choose one; `strategy` may fix that of many cards.

    Quality comes first: the best tier that fits in any way. Then an update after the backward pass before one inside
    it, then the strategies in their order, then speed.
    """
    tiers, strategies = candidate_tiers(train), _candidate_strategies(workload, strategy)
    tried: list[tuple[Option, ...]] = []
    for asked in _by_offloading(train):
        options = tuple(option for tier in tiers for option in _best_of_tier(asked, workload, card, tier, strategies))
        for tier in tiers:
            fitting = [option for option in options if option.setting.memory == tier and fits(option, card)]
            if chosen := _fastest(fitting):
                reason, speeds = _explain_choice(chosen, card, train), _throughputs(workload, chosen, card)
                return Plan(card, options, chosen, reason, workload.ranks, workload.per_node, speeds)
        tried.append(options)
    options = min(tried, key=lambda options: _smallest(options).needed_bytes)
    return Plan(card, options, None, _explain_no_fit(options, card), workload.ranks, workload.per_node)


def _by_offloading(train: TrainConfig) -> list[TrainConfig]:
    """Return the recipe's section with the ways that it leaves open: inputs of layers on the card, then on the host.

    The second is tried where nothing fits by the first: no card has confirmed it yet.
    """
    if train.offload_activations is not None:
        return [train]
    ways = (False,) if train.activation_budget else (False, True)
    return [train.model_copy(update={"offload_activations": way}) for way in ways]


def _throughputs(workload: Workload, option: Option, card: Card) -> tuple[Throughput, ...]:
    """Predict the speed of an option over each assumed network; over one if all cards are in one machine."""
    if workload.ranks == 1 or workload.fp32:
        return ()
    networks = assumed_networks(card)[: None if workload.ranks > workload.per_node else 1]
    found = (predict_throughput(workload, option.setting, card, network) for network in networks)
    return tuple(each for each in found if each)


def fallback(train: TrainConfig, workload: Workload, card: Card, failed: Setting) -> tuple[Option, bool] | None:
    """Choose another option after an OOM, and report whether the run can be resumed with it; None if nothing fits.

    The failure corrects the predictions: the option is predicted to take less, by the margin, than was predicted for
    the setting that failed. The search is first within its tier, where batches and activations may change in a run;
    then within what the recipe leaves open; then among all.
    """
    available = min(card.memory_bytes, memory_peaks(workload, failed).device_bytes + CONTEXT_BYTES)
    resumable: dict[str, Any] = {"activation_budget": None, "offload_activations": None, "batch_tokens": None}
    resumable |= {"memory": failed.memory, "update_in_backward": failed.update_in_backward}
    anything = dict.fromkeys(resumable) | {"memory": "auto"}
    for changes in (resumable, {}, anything):
        smaller = make_plan(
            train.model_copy(update=changes), workload, replace(card, memory_bytes=available), failed.strategy
        )
        if chosen := smaller.chosen:
            return chosen, changes == resumable
    return None


def as_overrides(option: Option, names: Sequence[str]) -> str:
    """Format values of an option as overrides on the command line; `names` are fields of the recipe's `train`."""
    values = asdict(option.setting)
    return " ".join(f"{recipe_key(f'train.{name}')}={str(values[name]).lower()}" for name in names)


def fits(option: Option, card: Card) -> bool:
    """Return True if an option fits a card with the margin left free."""
    return option.needed_bytes <= card.memory_bytes * (1 - FREE_MEMORY_MARGIN)


def with_setting(train: TrainConfig, setting: Setting) -> TrainConfig:
    """Return the recipe's section with all values of a setting filled in."""
    return train.model_copy(update=asdict(setting))


def no_fit_fault(plan: Plan) -> str:
    """Return why a run cannot start on the card of a plan that chose nothing, and what to do."""
    return f"train.memory: {plan.reason}"


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values."""
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
                "predicted_range": option.speed_range and [round(speed) for speed in option.speed_range],
                "fits": fits(option, plan.card),
                "chosen": option == plan.chosen,
            }
            for option in plan.options
        ],
        "why": plan.reason,
        "networks": [asdict(each) for each in plan.throughputs],
    } | ({"card_note": plan.card.note} if plan.card.note else {})


def describe_setting(setting: Setting) -> str:
    """Describe a setting in one line."""
    inside = ", each weight updated inside the backward pass" if setting.update_in_backward else ""
    offloaded = ", inputs of layers in host memory and MLPs in tiles" if setting.offload_activations else ""
    strategy = "" if setting.strategy == "replicate" else f", strategy {setting.strategy}"
    return (
        f"memory tier {setting.memory}{inside}, activation budget {setting.activation_budget:g}{offloaded}, "
        f"at most {setting.batch_tokens:,} tokens in a batch{strategy}"
    )


def _candidate_strategies(workload: Workload, strategy: Strategy | Literal["auto"] | None) -> tuple[Strategy, ...]:
    """List the strategies, best first: replicas, then one sharded copy per machine, then one in all."""
    if strategy not in (None, "auto"):
        return (strategy,)
    if workload.ranks == 1:
        return ("replicate",)
    # With one card per machine, hybrid would be replicate.
    return ("replicate", "hybrid", "shard") if 1 < workload.per_node < workload.ranks else ("replicate", "shard")


def _best_of_tier(
    train: TrainConfig, workload: Workload, card: Card, memory: MemoryTierName, strategies: Sequence[Strategy]
) -> list[Option]:
    """Predict a tier's best options for an update after and inside the backward pass, both by the same strategy.

    That is the first strategy by which the former fits, or else the latter; or else the one that needs least memory.
    """
    found: list[list[Option]] = []
    rows = workload.chunk_rows(card.memory_bytes)
    for strategy in strategies:
        found.append([])
        for inside in (False, True) if train.update_in_backward is None else (train.update_in_backward,):
            settings = [
                replace(each, chunk_rows=rows)
                for each in _candidate_settings(train, workload, memory, inside, strategy)
            ]
            if options := [_predict_option(workload, setting, card) for setting in settings]:
                fitting = [option for option in options if fits(option, card)]
                found[-1].append(_with_range(workload, _fastest(fitting) or _smallest(options), card))

    def rank(options: list[Option]) -> tuple[int, int]:
        if fitting := [index for index, option in enumerate(options) if fits(option, card)]:
            return fitting[0], 0
        return len(options), min((option.needed_bytes for option in options), default=0)

    return min(found, key=rank)


def _candidate_settings(
    train: TrainConfig, workload: Workload, memory: MemoryTierName, inside: bool, strategy: Strategy
) -> list[Setting]:
    """List all budgets and batch sizes; an update inside the backward pass needs a step of one batch."""
    budgets = [budget for budget in ACTIVATION_BUDGETS if budget in workload.layers_by_budget]
    if train.activation_budget is not None:
        budgets = [train.activation_budget]
    offloads = bool(train.offload_activations)
    budgets = [0.0] if offloads else budgets
    sizes = [train.batch_tokens] if train.batch_tokens else _candidate_batch_tokens(workload)
    return [
        Setting(memory, inside, budget, size, strategy, offload_activations=offloads)
        for size in sizes
        for budget in budgets
        if not inside or size >= workload.one_batch_tokens
    ]


def _candidate_batch_tokens(workload: Workload) -> list[int]:
    """List a card's part of a step in one batch, in two, in four, down to the longest row; rounded up to fit it."""
    sizes: list[int] = []
    smallest, batches = _round_up_tokens(workload.longest_row_tokens), 1
    while not sizes or sizes[-1] > smallest:
        sizes.append(max(_round_up_tokens(-(-workload.one_batch_tokens // batches)), smallest))
        batches *= 2
    return sizes


def _round_up_tokens(tokens: int) -> int:
    return -(-tokens // 128) * 128


def _predict_option(workload: Workload, setting: Setting, card: Card) -> Option:
    known = None if workload.fp32 else tokens_per_second(workload, setting, card)  # cards' peaks are those of bf16
    score = ranking_score(workload, setting, card if card.tflops else find_card(REFERENCE_CARD)) or 0.0
    return Option(setting, memory_peaks(workload, setting), known, None, score, largest_step_volume(workload, setting))


def _with_range(workload: Workload, option: Option, card: Card) -> Option:
    """Fill in the speed of the poor and of the good case, where one is known."""
    known = option.tokens_per_second and speed_range(workload, option.setting, card)
    return replace(option, speed_range=known or None)


def _fastest(options: Sequence[Option]) -> Option | None:
    if not options:
        return None
    best = max(option.ranking_score for option in options)
    near = [option for option in options if option.ranking_score >= SPEED_TOLERANCE * best]
    return min(
        near, key=lambda option: (option.setting.update_in_backward, -option.setting.batch_tokens, option.needed_bytes)
    )


def _smallest(options: Sequence[Option]) -> Option:
    return min(options, key=lambda option: option.needed_bytes)


def _explain_choice(chosen: Option, card: Card, train: TrainConfig) -> str:
    why = "is the recipe's tier" if train.memory != "auto" else "is the best tier that fits"
    return (
        f"{chosen.setting.memory} {why}: {chosen.needed_bytes / GIB:.1f} of {card.memory_gib:.1f} GiB with "
        f"{FREE_MEMORY_MARGIN:.0%} left free; of the settings that fit, this is predicted to be the fastest"
    )


def _explain_no_fit(options: Sequence[Option], card: Card) -> str:
    smallest = _smallest(options)
    needed = math.ceil(10 * smallest.needed_bytes / (1 - FREE_MEMORY_MARGIN) / GIB) / 10  # a card of it must do
    return (
        f"nothing fits {card.name} ({card.memory_gib:.1f} GiB); the smallest setting is "
        f"{describe_setting(smallest.setting)}, which needs a card of {needed:.1f} GiB: lower data.max_tokens or the "
        "size of a step, or use a smaller model"
    )
