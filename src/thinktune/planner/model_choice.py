"""Choice of a base model for a card: the largest Qwen3 that it trains without rounding its weights."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Qwen3Config

from thinktune.config import TrainConfig
from thinktune.optim import TIERS
from thinktune.planner.hardware import GIB, Card
from thinktune.planner.layer_calls import META
from thinktune.planner.memory import Workload
from thinktune.planner.plan import Plan, make_plan

# Tiers whose weights keep every update whole.
BEST_TIERS = tuple(name for name, tier in TIERS.items() if tier.remainder or tier.weights == torch.float32)
LEAST_BYTES_PER_PARAMETER = 8  # in those tiers, of weights and AdamW's state; a card with less is not even planned for
ASSUMED_LONGEST_ROW_TOKENS = 2048
ASSUMED_ROW_TOKENS = 1200
ASSUMED_LABEL_SHARE = 0.9  # of the tokens


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A published Qwen3: its name on both hubs, its sizes as its configuration states them, and its parameters."""

    name: str
    parameters: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    tied: bool = True

    def config(self) -> Any:
        """Return the configuration (a Qwen3Config) that transformers makes a model from."""
        return Qwen3Config(
            vocab_size=151_936,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40_960,
            tie_word_embeddings=self.tied,
        )

    @property
    def download_gib(self) -> float:
        """Size of its weights in bf16, in GiB."""
        return self.parameters * 2 / GIB


# The sizes that one card trains, the largest first: those that were trained to think already, so that a few hundred
# rows need not teach it.
KNOWN_MODELS = (
    KnownModel("Qwen/Qwen3-14B", 14_768_307_200, 5120, 17_408, 40, 40, tied=False),
    KnownModel("Qwen/Qwen3-8B", 8_190_735_360, 4096, 12_288, 36, 32, tied=False),
    KnownModel("Qwen/Qwen3-4B", 4_022_468_096, 2560, 9728, 36, 32),
    KnownModel("Qwen/Qwen3-1.7B", 1_720_574_976, 2048, 6144, 28, 16),
    KnownModel("Qwen/Qwen3-0.6B", 596_049_920, 1024, 3072, 28, 16),
)


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model with the reason for it, in words."""

    model: KnownModel
    reason: str


def choose_model(card: Card | None) -> ModelChoice:
    """Choose a model for a card, or for the CPU (None): the largest whose plan has one of the best tiers.

    Where none has, the smallest. A plan counts with rows of up to 2,048 tokens and a step of the usual size.
    """
    smallest = KNOWN_MODELS[-1]
    if card is None:
        return ModelChoice(
            smallest, "the smallest, because this machine has no card; --card NAME plans for another one"
        )
    for model in KNOWN_MODELS:
        if model.parameters * LEAST_BYTES_PER_PARAMETER > card.memory_bytes:
            continue
        chosen = plan_for(model, card).chosen
        if chosen and chosen.setting.memory in BEST_TIERS:
            return ModelChoice(model, f"the largest Qwen3 that {card.name} trains without rounding its weights")
    found = plan_for(smallest, card)
    if found.chosen:
        tier = found.chosen.setting.memory
        return ModelChoice(
            smallest, f"the smallest, which {card.name} trains in the memory tier {tier}; none fits in full"
        )
    return ModelChoice(smallest, f"the smallest; {found.reason}")


def plan_for(model: KnownModel, card: Card) -> Plan:
    """Plan a run of usual rows for a card."""
    train = TrainConfig()
    workload = Workload(
        model.config(),
        META,
        False,
        True,
        train.tokens_per_step or ASSUMED_LONGEST_ROW_TOKENS,
        ASSUMED_LONGEST_ROW_TOKENS,
        ASSUMED_LABEL_SHARE,
        [ASSUMED_ROW_TOKENS],
    )
    return make_plan(train, workload, card)
