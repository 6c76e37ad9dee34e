"""What a recipe leaves open, settled before anything is loaded: rows of a step, tokens of a batch, memory by plan."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from thinktune.config import Recipe
from thinktune.data import Prepared, StepRows, Subset
from thinktune.data.packing import balance
from thinktune.distributed import SINGLE, World
from thinktune.errors import UserError
from thinktune.files import read_json
from thinktune.model import read_config
from thinktune.model.flops import mean_context
from thinktune.model.transforms import can_compile
from thinktune.planner.hardware import Card, Cluster, card_from_driver, find_cluster
from thinktune.planner.memory import Setting, Workload
from thinktune.planner.plan import Plan, cpu_default, make_plan
from thinktune.planner.plan import describe_setting as in_words
from thinktune.progress import Say
from thinktune.run import RunFolder

ANY_ACCELERATOR = torch.device("meta")  # stands for any: a plan is drawn without one


def evaluation_batch_tokens(
    recipe: Recipe, rows: Subset, device: torch.device, planned_tokens: int | None = None
) -> int:
    """Tokens in one forward pass without gradients: as the recipe or the run's plan says, else what suits the device.

    On the CPU that is `plan.cpu_default`'s size, for these rows.
    """
    if device.type == "cpu" or recipe.train.batch_tokens:
        return cpu_default(recipe.train, int(rows.lengths.max())).batch_tokens
    return planned_tokens or max(4096, recipe.data.max_tokens)


def resolve_setting(
    recipe: Recipe,
    prepared: Prepared,
    steps: Sequence[StepRows],
    source: Path,
    device: torch.device,
    say: Say,
    world: World = SINGLE,
) -> Setting:
    """What the run's folder says that it began with, or what suits the CPU, or what is planned for the accelerator.

    What the recipe says now of batches and of activations counts also in a run that began otherwise. Raises UserError
    where nothing fits, and where weights shall move inside the backward pass but a step takes several batches.
    """
    setting, size = _recorded_setting(recipe)
    if setting and size != world.size and device.type != "cpu":
        # Other cards, another plan; but what weights and states are kept as is the run's.
        same = {"memory": setting.memory, "update_in_backward": setting.update_in_backward}
        recipe, setting = recipe.model_copy(update={"train": recipe.train.model_copy(update=same)}), None
    if setting is None and device.type == "cpu":
        setting = cpu_default(recipe.train, int(prepared.train.lengths.max()))
    elif setting is None:
        plan = plan_run(recipe, prepared, steps, source, device, ranks=world.size, per_node=world.per_node)
        if plan.chosen is None:
            raise UserError(f"train.memory: {plan.reason}")
        say(f"plan for {plan.card.name}: {in_words(plan.chosen.setting)} ({plan.reason})")
        setting = plan.chosen.setting
    if recipe.train.strategy != "auto":
        setting = replace(setting, strategy=recipe.train.strategy)
    if setting.update_in_backward:
        _require_one_batch(steps, prepared.train, setting.batch_tokens, world.size)
    return setting


def _recorded_setting(recipe: Recipe) -> tuple[Setting | None, int]:
    """What a run that goes on began with, and on how many ranks; none for a new one."""
    facts = RunFolder(recipe.run_folder).environment
    kept = read_json(facts) if facts.is_file() else {}
    names = [each.name for each in fields(Setting)]
    if not all(name in kept for name in names):
        return None, 0
    now = {name: getattr(recipe.train, name) for name in ("activation_budget", "batch_tokens")}
    changed = {name: value for name, value in now.items() if value is not None}
    return replace(Setting(**{name: kept[name] for name in names}), **changed), kept["world_size"]


def pick_card(recipe: Recipe, device: torch.device) -> Card:
    """The card to plan for: the one that the recipe names, else the one at hand."""
    return find_cluster(recipe.plan.card).card if recipe.plan.card else local_card(device)


def local_card(device: torch.device) -> Card:
    """The card at hand, with what is free on it and what this process holds of it already."""
    module: Any = torch.get_device_module(device)
    if device.type == "mps":  # which shares the machine's memory, and tells what it may take of it
        return card_from_driver("mps", module.recommended_max_memory())
    room = module.mem_get_info(device)[0] + module.memory_reserved(device)
    return card_from_driver(module.get_device_name(device), room)


def sample_shape(recipe: Recipe, rows: Subset, samplings: int = 1) -> tuple[int, int]:
    """How many samples are written side by side at most, and the tokens of the longest of them with its prompt.

    `samplings` is in how many ways each question is answered. A plan counts one of them: where there is no room for more
    replies side by side, the others wait.
    """
    replies = min(recipe.generate.batch_rows, samplings * min(recipe.generate.sample_questions, len(rows)))
    return (replies, int(rows.lengths.max()) + recipe.generate.max_new_tokens) if replies else (0, 0)


def plan_run(
    recipe: Recipe,
    prepared: Prepared,
    steps: Sequence[StepRows],
    source: Path,
    device: torch.device,
    *,
    ranks: int | None = None,
    per_node: int = 1,
) -> Plan:
    """The plan of a run for its cards: from the model's configuration and the rows, before anything is loaded.

    `ranks` cards, `per_node` on each machine; none means as many as the recipe names. Planned on a machine without an
    accelerator, layers are taken to be compiled where the run will be.
    """
    train = recipe.train
    if train.update_in_backward and train.batch_tokens:
        _require_one_batch(steps, prepared.train, train.batch_tokens, ranks or 1)
    card = pick_card(recipe, device)
    if ranks is None:
        named = find_cluster(recipe.plan.card) if recipe.plan.card else Cluster(card)
        ranks, per_node = named.ranks, named.per_node
    config = read_config(source, trust_remote_code=recipe.model.trust_remote_code)
    job = replace(make_workload(recipe, prepared, steps, config, device), ranks=ranks, per_node=per_node)
    return make_plan(train, job, card, train.strategy)


def make_workload(
    recipe: Recipe, prepared: Prepared, steps: Sequence[StepRows], config: Any, device: torch.device
) -> Workload:
    """What a run asks of an accelerator."""
    rows = prepared.train
    replies, tokens = sample_shape(recipe, prepared.validation)
    return Workload(
        config=config,
        device=ANY_ACCELERATOR,
        fp32=recipe.train.precision == "fp32",
        compiled=device.type == "cpu" or can_compile(device),
        step_tokens=_largest_step_tokens(steps, rows),
        longest_row_tokens=int(rows.lengths.max()),
        label_fraction=float(rows.label_tokens.sum() / rows.lengths.sum()),
        mean_context_tokens=mean_context(rows.lengths),
        sample_rows=replies,
        sample_tokens=tokens,
    )


def _require_one_batch(steps: Sequence[StepRows], rows: Subset, capacity: int, ranks: int) -> None:
    """Raise UserError where a rank needs more than one forward pass a step, so that its gradients must be kept."""
    largest = max((rows.lengths[list(dealt.rows)] for dealt in steps), key=lambda lengths: int(lengths.sum()))
    if any(len(groups) > 1 for groups in balance(largest.tolist(), capacity, ranks)):
        each = f" over {ranks} ranks" if ranks > 1 else ""
        raise UserError(
            f"train.update_in_backward: a step of {largest.sum()} tokens{each} takes several batches of {capacity}, "
            "and only one is possible; lower train.rows_per_step or train.tokens_per_step, or set train.batch_tokens: "
            f"{largest.sum() if ranks == 1 else -(-largest.sum() // ranks) + largest.max()}"
        )


def _largest_step_tokens(steps: Sequence[StepRows], rows: Subset) -> int:
    return max((int(rows.lengths[list(dealt.rows)].sum()) for dealt in steps), default=0)
