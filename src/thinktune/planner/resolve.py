"""Resolve a recipe's `auto` settings before anything is loaded: a plan for the card, and tokens of a batch."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from thinktune.config import Recipe, TrainConfig
from thinktune.config.recipe_keys import recipe_key
from thinktune.data import Prepared, StepRows, Subset
from thinktune.data.batch_shapes import BatchShapes, plan_shapes
from thinktune.data.packing import balance, padded_tokens
from thinktune.distributed import SINGLE, World
from thinktune.errors import UserError, shorten_error
from thinktune.model import ModelConfig
from thinktune.model.attention import has_attention_dropout
from thinktune.model.long_rows.context_parallel import context_fault, require_ranks
from thinktune.model.low_precision.float8 import pick_scaling
from thinktune.model.proof import ModelTraits
from thinktune.model.transforms import can_compile
from thinktune.planner.hardware import Card, Cluster, card_from_driver, find_cluster
from thinktune.planner.memory import Setting, Workload, most_batch_sizes
from thinktune.planner.plan import Plan, cpu_default, describe_setting, make_plan, no_fit_fault, stated_budget
from thinktune.planner.steps import RunSteps
from thinktune.progress import Say
from thinktune.run.reading import read_environment

CHANGEABLE_SETTINGS = ("activation_budget", "offload_activations", "batch_tokens")  # those that a run may change

ANY_ACCELERATOR = torch.device("meta")  # stands for any accelerator: a plan is made without one


class UnpredictedModelError(UserError):
    """A model whose memory and speed cannot be predicted, because its class cannot be traced without memory."""


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """All that a run's setting depends on but its ranks: recipe, rows, steps, the admitted model, and the device."""

    recipe: Recipe
    prepared: Prepared
    steps: Sequence[StepRows]
    config: ModelConfig
    traits: ModelTraits
    device: torch.device

    @property
    def step_lengths(self) -> list[list[int]]:
        """Tokens of each row of each step."""
        sizes: list[int] = self.prepared.train.lengths.tolist()
        return [[sizes[row] for row in step.rows] for step in self.steps]


def evaluation_batch_tokens(
    recipe: Recipe, rows: Subset, device: torch.device, planned_tokens: int | None = None
) -> int:
    """Return the tokens of one forward pass without gradients: the recipe's, or the plan's, or a default.

    On the CPU the default is the batch size of `plan.cpu_default` for these rows.
    """
    if device.type == "cpu" or recipe.train.batch_tokens:
        return cpu_default(recipe.train, int(rows.lengths.max())).batch_tokens
    return planned_tokens or max(4096, recipe.max_tokens)


def resolve_setting(inputs: PlanInputs, say: Say, world: World = SINGLE) -> Setting:
    """Return the setting that the run's folder recorded, or the default of the CPU, or a plan for the accelerator.

    The recipe's batch size and activation budget override those recorded. Raises UserError if nothing fits, or if an
    update inside the backward pass is asked for and a step takes several batches.
    """
    recipe, rows, context = inputs.recipe, inputs.prepared.train, _context_parallel(inputs)
    setting, cards = _recorded_setting(recipe)
    if setting and cards != (world.size, context) and inputs.device.type != "cpu":
        # Other cards need another plan, and so does another share of a batch; the formats of weights and states stay.
        same = {"memory": setting.memory, "update_in_backward": setting.update_in_backward}
        recipe, setting = recipe.model_copy(update={"train": recipe.train.model_copy(update=same)}), None
    if setting is None and inputs.device.type == "cpu":
        setting = cpu_default(recipe.train, int(rows.lengths.max()))
    elif setting is None:
        setting = _planned_setting(replace(inputs, recipe=recipe), say, world)
    if recipe.train.strategy != "auto":
        setting = replace(setting, strategy=recipe.train.strategy)
    if setting.update_in_backward:
        require_one_batch(inputs, setting.batch_tokens, max(1, world.size // context))
    return setting


def _context_parallel(inputs: PlanInputs) -> int:
    """Return how many ranks share a batch's tokens; raises UserError for a model whose tokens they cannot share."""
    size = inputs.recipe.train.context_parallel
    if fault := context_fault(inputs.config, size, inputs.traits.rows):
        raise UserError(fault)
    return size


def _planned_setting(inputs: PlanInputs, say: Say, world: World) -> Setting:
    try:
        plan = plan_run(inputs, world)
    except UnpredictedModelError:
        if (stated := stated_setting(inputs.recipe.train, world.size)) is None:
            raise
        say(describe_stated(stated))
        return stated
    if plan.chosen is None:
        raise UserError(no_fit_fault(plan))
    say(f"plan for {plan.card.name}: {describe_setting(plan.chosen.setting)} ({plan.reason})")
    return plan.chosen.setting


def stated_setting(train: TrainConfig, ranks: int) -> Setting | None:
    """Return the setting of a recipe that names its memory tier and batch size, for a model that cannot be predicted.

    None where it leaves one of them open. Whatever else it leaves open has its plain value: all activations are kept,
    and each of many cards keeps a shard.
    """
    if train.memory == "auto" or not train.batch_tokens:
        return None
    strategy = train.strategy if train.strategy != "auto" else "replicate" if ranks == 1 else "shard"
    return Setting(
        train.memory,
        bool(train.update_in_backward),
        stated_budget(train),
        train.batch_tokens,
        strategy,
        offload_activations=bool(train.offload_activations),
    )


def describe_stated(setting: Setting) -> str:
    """Describe a setting that was not planned in one line."""
    return f"the memory of this model cannot be predicted; using the recipe's settings: {describe_setting(setting)}"


@contextmanager
def predicting(config: ModelConfig, recipe: Recipe) -> Generator[None]:
    """Turn whatever a class raises that cannot be traced without memory into an UnpredictedModelError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UnpredictedModelError(
            f"train.memory: the memory of a model of type {config.model_type} cannot be predicted "
            f"({shorten_error(error)}); set train.memory (exact, or 8bit to use less) and "
            f"{recipe_key('train.batch_tokens')} ({recipe.max_tokens} or more)"
        ) from error


def _recorded_setting(recipe: Recipe) -> tuple[Setting | None, tuple[int, int]]:
    """Return the setting that a run was started with, its ranks, and how many share a batch; None for a new run."""
    older: dict[str, Any] = {"offload_activations": False}  # which older runs do not name
    recorded = older | read_environment(recipe.run_folder)
    names = [each.name for each in fields(Setting)]
    if not all(name in recorded for name in names):
        return None, (0, 0)
    wanted = {name: getattr(recipe.train, name) for name in CHANGEABLE_SETTINGS}
    changes = {name: value for name, value in wanted.items() if value is not None}
    if changes.get("offload_activations"):
        changes["activation_budget"] = 0.0
    elif changes.get("activation_budget"):
        changes["offload_activations"] = False
    cards = recorded.get("world_size") or 0, recorded.get("context_parallel") or 1
    return replace(Setting(**{name: recorded[name] for name in names}), **changes), cards


def pick_card(recipe: Recipe, device: torch.device) -> Card:
    """Return the card to plan for: the one that the recipe names, or else the local one."""
    return find_cluster(recipe.plan.card).card if recipe.plan.card else local_card(device)


def local_card(device: torch.device) -> Card:
    """Return the local card, with the memory that is free on it or reserved by this process."""
    module: Any = torch.get_device_module(device)
    if device.type == "mps":  # shares the machine's memory, and reports how much it may use
        return card_from_driver("mps", module.recommended_max_memory())
    available = module.mem_get_info(device)[0] + module.memory_reserved(device)
    return card_from_driver(module.get_device_name(device), available)


def sample_shape(recipe: Recipe, rows: Subset, samplings: int = 1) -> tuple[int, int]:
    """Return how many samples are generated at once at most, and the tokens of the longest with its prompt.

    `samplings` is the number of replies to each question. A plan counts one: if more do not fit at once, the others
    wait.
    """
    replies = min(recipe.generate.batch_rows, samplings * min(recipe.generate.sample_questions, len(rows)))
    return (replies, int(rows.lengths.max()) + recipe.generate.max_new_tokens) if replies else (0, 0)


def plan_run(inputs: PlanInputs, world: World | None = None) -> Plan:
    """Plan a run for its cards, from the model's configuration and the rows, before anything is loaded.

    Raises UnpredictedModelError where the model's class cannot be traced.

    Without a `world` it is planned for as many cards as the recipe names. On a machine without an accelerator, layers
    are assumed to be compiled where the run will be.
    """
    recipe, train = inputs.recipe, inputs.recipe.train
    context = _context_parallel(inputs)
    card = pick_card(recipe, inputs.device)
    if world:
        cluster = Cluster(card, world.size, world.per_node)
    else:
        cluster = find_cluster(recipe.plan.card) if recipe.plan.card else Cluster(card, context, context)
    require_ranks(context, cluster.ranks)
    if train.update_in_backward and train.batch_tokens:
        require_one_batch(inputs, train.batch_tokens, world.size // context if world else 1)
    workload = make_workload(inputs, cluster.ranks, cluster.per_node)
    with predicting(inputs.config, recipe):
        return make_plan(train, workload, card, train.strategy)


def make_workload(inputs: PlanInputs, ranks: int = 1, per_node: int = 1) -> Workload:
    """Describe a run as a plan for an accelerator sees it."""
    recipe, rows = inputs.recipe, inputs.prepared.train
    replies, tokens = sample_shape(recipe, inputs.prepared.validation)
    # As the layers of a run are.
    compiled = inputs.traits.compiles and not has_attention_dropout(inputs.config)
    lengths = inputs.step_lengths
    return Workload(
        config=inputs.config,
        device=ANY_ACCELERATOR,
        fp32=recipe.train.precision == "fp32",
        compiled=compiled and (inputs.device.type == "cpu" or can_compile(inputs.device)),
        step_tokens=max(map(sum, lengths), default=0),
        longest_row_tokens=int(rows.lengths.max()),
        label_fraction=float(rows.label_tokens.sum() / rows.lengths.sum()),
        row_lengths=rows.lengths,
        sample_rows=replies,
        sample_tokens=tokens,
        ranks=ranks,
        per_node=per_node,
        logits=inputs.traits.logits,
        steps=RunSteps.of(lengths, ranks // recipe.train.context_parallel, packed=inputs.traits.packed),
        context=recipe.train.context_parallel,
        float8=pick_scaling(recipe.train.precision),
    )


def holds_casts(inputs: PlanInputs, setting: Setting, ranks: int = 1) -> bool:
    """Return True for a run in fp8 that casts its weights once a step and keeps the casts, which the plan counts."""
    return pick_scaling(inputs.recipe.train.precision) is not None and make_workload(inputs, ranks).holds_casts(setting)


def batch_shapes(inputs: PlanInputs, setting: Setting, ranks: int = 1) -> BatchShapes | None:
    """Return the shapes to which a run pads its batches; None on the CPU, where padding costs as much as real tokens.

    Rows that run apart are padded to the longest of their batch.
    """
    if inputs.device.type == "cpu" or not inputs.traits.packed:
        return None
    held_out: list[int] = inputs.prepared.validation.lengths.tolist()
    sizes = most_batch_sizes(inputs.config)
    return plan_shapes(inputs.step_lengths, held_out, setting.batch_tokens, ranks, sizes)


def require_one_batch(inputs: PlanInputs, capacity: int, ranks: int = 1) -> None:
    """Raise UserError if a rank needs several forward passes per step, so that gradients would have to be kept."""
    steps, packed = inputs.step_lengths, inputs.traits.packed
    largest = max(steps, key=sum if packed else lambda lengths: padded_tokens(lengths, ranks))
    if any(len(groups) > 1 for groups in balance(largest, capacity, ranks, packed=packed)):
        tokens, over_ranks = sum(largest), f" over {ranks} ranks" if ranks > 1 else ""
        enough = tokens if ranks == 1 else -(-tokens // ranks) + max(largest)
        apart = "" if packed else ", where each row is padded to the longest,"
        raise UserError(
            f"expert.update_in_backward: a step of {tokens} tokens{over_ranks}{apart} needs several batches of "
            f"{capacity}, but it must be one batch; lower expert.rows_per_step or train.tokens_per_step, or set "
            f"expert.batch_tokens: {enough if packed else padded_tokens(largest, ranks)}"
        )
