"""Context of an open run: recipe, data, model and plan, fixed from the first step to the last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from thinktune.checkpoint.base_files import BaseFiles
from thinktune.config import Recipe
from thinktune.data import Prepared, StepRows, Subset
from thinktune.data.dealing import base_row_mask, has_shares
from thinktune.data.packing import balance
from thinktune.distributed import SINGLE, World
from thinktune.model import Batch, CausalLM, pick_precision
from thinktune.model.batch import Padding, collate
from thinktune.model.long_rows.context_parallel import WHOLE, ContextShare
from thinktune.model.loss import Objective
from thinktune.model.proof import model_traits
from thinktune.optim import Optimizer, learning_rate_factor
from thinktune.planner import PlanInputs, Setting
from thinktune.planner.resolve import evaluation_batch_tokens
from thinktune.progress import Bar, Say, no_bar
from thinktune.tokenization import ChatTokenizer
from thinktune.train.objective import make_objective

MOST_EVALUATIONS = 40  # of a run whose recipe names no interval


def evaluation_interval_steps(recipe: Recipe, steps: Sequence[StepRows]) -> int:
    """Return the steps between two evaluations: as the recipe sets it, or four evaluations an epoch, up to 40 in all.

    Each writes a checkpoint and samples: few rows in many epochs would spend more on them than on training.
    """
    usual = math.ceil(len(steps) / min(4 * recipe.train.epochs, MOST_EVALUATIONS))
    return recipe.train.evaluate_every_steps or max(1, usual)


@dataclass(frozen=True, slots=True)
class RunContext:
    """Inputs of a run that no step replaces; model and optimizer change in place. Steps count from 1."""

    recipe: Recipe
    folder: Path
    prepared: Prepared
    tokenizer: ChatTokenizer
    base_files: BaseFiles
    model: CausalLM
    optimizer: Optimizer
    steps: Sequence[StepRows]
    tokens_left: Sequence[int]  # to train on, after so many steps
    setting: Setting
    say: Say
    bar: Bar = no_bar
    pad: Padding | None = None  # target shapes of batches, on an accelerator
    compiled: bool = False
    world: World = SINGLE
    share: ContextShare = WHOLE  # of the tokens of each batch

    @property
    def groups(self) -> int:
        """Number of groups of ranks: each has batches of its own, of which its ranks have a share each."""
        return self.world.size // self.share.size

    @property
    def capacity(self) -> int:
        """Tokens in one forward pass."""
        return self.setting.batch_tokens

    @property
    def evaluation_capacity(self) -> int:
        """Tokens in one forward pass over held-out rows; padded, these have the shapes that layers are compiled for."""
        rows = self.prepared.validation
        if self.pad or not len(rows):
            return self.capacity
        return evaluation_batch_tokens(self.recipe, rows, self.device, self.capacity)

    @property
    def plan_inputs(self) -> PlanInputs:
        """What the run's setting was planned from."""
        traits = model_traits(self.model)
        return PlanInputs(self.recipe, self.prepared, self.steps, self.model.config, traits, self.device)

    @property
    def packed(self) -> bool:
        """Whether rows share a sequence; else each is an entry of a batch, padded to its longest."""
        return model_traits(self.model).packed

    @property
    def objective(self) -> Objective:
        """What a step minimizes."""
        return make_objective(self.recipe.train)

    @property
    def chunk_rows(self) -> int | None:
        """Rows of logits that exist at a time; None for what suits the device."""
        return self.setting.chunk_rows

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @property
    def precision(self) -> torch.dtype:
        """Dtype of the arithmetic."""
        return pick_precision(self.recipe.train.precision, self.device, self.optimizer.memory)

    def is_evaluation_step(self, step: int) -> bool:
        """Return True if an evaluation follows this step."""
        return step % evaluation_interval_steps(self.recipe, self.steps) == 0 or step == len(self.steps)

    def epoch(self, step: int) -> float:
        """Return how often the training rows were seen after this step."""
        passed = self.steps[:step]
        if has_shares(self.recipe):
            rows = sum(planned.epoch_rows or 0 for planned in passed)
            return round(rows / int(base_row_mask(self.recipe, self.prepared.train).sum()), 4)
        rows = sum(len(planned.rows) for planned in passed)
        return round(rows / len(self.prepared.train.lengths), 4)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        settings = self.recipe.train
        factor = learning_rate_factor(step, len(self.steps), settings.warmup_fraction, settings.schedule)
        return settings.learning_rate * factor

    def label_weight(self, step: int) -> float:
        """Return the sum of the weights of a step's labels, on all ranks: what divides its loss."""
        planned = self.steps[step - 1]
        reasoning = self.prepared.train.reasoning_tokens(planned.rows)
        return self.objective.summed_weight(planned.label_tokens, reasoning)

    def row_sources(self, step: int) -> list[str]:
        """Return file and line of a step's rows."""
        return self.prepared.train.sources(self.steps[step - 1].rows)

    def step_batches(self, step: int) -> list[Batch]:
        """Pack this rank's batches of a step, each in the smallest shape that holds it; copy them to the device."""
        rows = self.prepared.train
        groups = self._rank_groups(rows, self.steps[step - 1].rows, self.capacity)
        sizes = [self.capacity] * len(groups)
        if self.pad:
            sizes = [self.pad.shapes.smallest(int(rows.lengths[group].sum())) for group in groups]
        return [
            self.share.slice(self._with_sources(collate(rows.replies(group), size, self.pad), group)).to(self.device)
            for group, size in zip(groups, sizes, strict=True)
        ]

    def _with_sources(self, batch: Batch, group: Sequence[int]) -> Batch:
        """Say of which source each label of a batch of training rows is, where there are several."""
        if not self.recipe.is_mixture:
            return batch
        rows = self.prepared.train
        owners = np.repeat(rows.source_numbers_at(group), rows.label_tokens[list(group)])
        return replace(batch, label_sources=torch.from_numpy(owners))

    def batch_of_each_shape(self, known: Batch) -> list[Batch]:
        """Return a batch of each shape of the run, ascending, on the device: a known one, the others padding alone."""
        if not self.pad:
            return [known]
        empty = (self.share.slice(collate([], size, self.pad)) for size in self.pad.shapes.tokens)
        return [known if batch.ids.shape == known.ids.shape else batch.to(self.device) for batch in empty]

    def rank_batches(self, rows: Subset, chosen: Sequence[int], capacity: int) -> list[Batch]:
        """Pack this rank's share of the chosen rows; every rank gets the same number of batches, all of one shape."""
        groups = self._rank_groups(rows, chosen, capacity)
        return [self.share.slice(collate(rows.replies(group), capacity, self.pad)) for group in groups]

    def _rank_groups(self, rows: Subset, chosen: Sequence[int], capacity: int) -> list[list[int]]:
        """Return this rank's batches as indices of `rows`; a batch may be empty."""
        lengths: list[int] = rows.lengths[list(chosen)].tolist()
        groups = balance(lengths, capacity, self.groups, packed=self.packed)[self.world.rank // self.share.size]
        return [[chosen[index] for index in group] for group in groups]
