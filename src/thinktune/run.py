"""A run: opened from a recipe, described in its folder, and refused where the folder holds another one."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig

from thinktune import account, checkpoint, hub, track
from thinktune.cards import Card, card_at_hand, find_card
from thinktune.environment import describe
from thinktune.errors import UserError
from thinktune.files import read_json, write_json, write_whole
from thinktune.flops import mean_context
from thinktune.knobs import Recipe
from thinktune.model import apply_activation_budget, count_parameters, load_model, pick_device, pick_precision
from thinktune.optim import TIERS, Update, learning_rate_share
from thinktune.pack import Step, deal
from thinktune.parallel import World
from thinktune.plan import Plan, decided, draw_up, usual
from thinktune.plan import say as in_words
from thinktune.predict import Job, Setting
from thinktune.prepare import Prepared, prepare
from thinktune.progress import Say
from thinktune.recipe import check, dump
from thinktune.step import StepReport
from thinktune.store import Rows
from thinktune.tokens import read_tokenizer

ACCELERATOR = torch.device("meta")  # stands for any: a plan is drawn without one


@dataclass(slots=True)
class Run:
    """A run in progress: what was decided before it, the model that it trains, and how far it is."""

    recipe: Recipe
    folder: Path
    prepared: Prepared
    tokenizer: Any
    model: Any
    update: Update
    steps: list[Step]
    tokens_left: Sequence[int]  # to train on, after so many steps
    setting: Setting
    done: int
    say: Say
    world: World = field(default_factory=World)
    pending: list[StepReport] = field(default_factory=list[StepReport])
    started: float = 0.0
    trained_tokens: int = 0
    refused_in_a_row: int = 0

    @property
    def capacity(self) -> int:
        """Tokens in one forward pass."""
        return self.setting.batch_tokens

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def precision(self) -> torch.dtype:
        """What it computes in."""
        return pick_precision(self.recipe.train.precision, self.device, self.update.memory)

    @property
    def epoch(self) -> float:
        """How many times the training rows were seen."""
        rows = sum(len(dealt.rows) for dealt in self.steps[: self.done])
        return round(rows / len(self.prepared.train.lengths), 4)

    def learning_rate(self, number: int) -> float:
        """The learning rate of a step."""
        settings = self.recipe.train
        share = learning_rate_share(number, len(self.steps), settings.warmup_fraction, settings.schedule)
        return settings.learning_rate * share


def open_run(recipe: Recipe, say: Say, command: Sequence[str]) -> Run:
    """Everything up to the first step: rows, steps, model, optimizer, and the folder with what describes the run.

    Raises UserError before anything is written where the recipe, the data or the model is at fault, and where the
    folder holds a run of another recipe or of other data.
    """
    folder = recipe.run_folder
    _refuse_other_recipe(recipe, folder)
    source = hub.locate_model(recipe)
    tokenizer = read_tokenizer(source)
    prepared = prepare(recipe, tokenizer, say)
    refuse_other_data(prepared, folder)
    for line in account.lines(prepared.account):
        say(line)
    last = checkpoint.find(folder, "last")
    device, steps = pick_device(), deal_steps(recipe, prepared)
    setting = _settle(recipe, prepared, steps, source, device, say)
    if setting.update_in_backward:
        _refuse_many_batches(steps, prepared.train, setting.batch_tokens)
    model = load_model(last.folder if last else source, device, TIERS[setting.memory].loaded)
    apply_activation_budget(model, setting.activation_budget, compiled=False)
    refuse_small_vocabulary(model, prepared)
    update = Update(model, decided(recipe.train, setting))
    tokens_left = _tokens_left(steps, prepared.train)
    done = last.step if last else 0
    run = Run(recipe, folder, prepared, tokenizer, model, update, steps, tokens_left, setting, done, say)
    track.rewind(folder, run.done)
    if last:
        checkpoint.restore(last, update)
        say(f"goes on after step {run.done} of {len(steps)} ({last.folder})")
    else:
        _describe(run, source, command)
    say(f"{count_parameters(model):,} parameters on {run.device}, {len(steps)} steps, run folder {folder}")
    return run


def refuse_small_vocabulary(model: Any, prepared: Prepared) -> None:
    """Raise UserError where the tokenizer writes tokens that the model has no row for."""
    largest = prepared.account["largest_token"]
    if largest >= (size := model.get_input_embeddings().num_embeddings):
        raise UserError(
            f"model.name: its tokenizer writes token {largest}, the model knows {size}; they do not belong together"
        )


def deal_steps(recipe: Recipe, prepared: Prepared) -> list[Step]:
    """Which rows share a step, for the whole run; neither card nor ranks have a say in it."""
    return deal(
        prepared.train.lengths,
        prepared.train.learned,
        tokens_per_step=recipe.train.tokens_per_step,
        rows_per_step=recipe.train.rows_per_step,
        epochs=recipe.train.epochs,
        seed=recipe.train.seed,
    )


def batch_capacity(recipe: Recipe, rows: Rows, device: torch.device, planned: int | None = None) -> int:
    """Tokens in one forward pass without gradients: as the recipe or the run's plan says, else what suits the device.

    On the CPU that is `plan.usual`'s size, for these rows.
    """
    if device.type == "cpu" or recipe.train.batch_tokens:
        return usual(recipe.train, int(rows.lengths.max())).batch_tokens
    return planned or max(4096, recipe.data.max_tokens)


def _settle(
    recipe: Recipe, prepared: Prepared, steps: Sequence[Step], source: Path, device: torch.device, say: Say
) -> Setting:
    """What the run's folder says that it began with, or what suits the CPU, or what is planned for the accelerator."""
    facts = recipe.run_folder / "environment.json"
    kept = read_json(facts) if facts.is_file() else {}
    names = [each.name for each in fields(Setting)]
    if all(name in kept for name in names):
        return Setting(**{name: kept[name] for name in names})
    if device.type == "cpu":
        return usual(recipe.train, int(prepared.train.lengths.max()))
    plan = plan_for(recipe, prepared, steps, source, pick_card(recipe, device))
    if plan.chosen is None:
        raise UserError(f"train.memory: {plan.why}")
    say(f"plan for {plan.card.name}: {in_words(plan.chosen.setting)} ({plan.why})")
    return plan.chosen.setting


def pick_card(recipe: Recipe, device: torch.device) -> Card:
    """The card to plan for: the one that the recipe names, else the one at hand, with what is free on it."""
    if recipe.plan.card:
        return find_card(recipe.plan.card)
    module: Any = torch.get_device_module(device)
    if device.type == "mps":  # which shares the machine's memory, and tells what it may take of it
        return card_at_hand("mps", module.recommended_max_memory())
    return card_at_hand(module.get_device_name(device), module.mem_get_info(device)[0])


def plan_for(recipe: Recipe, prepared: Prepared, steps: Sequence[Step], source: Path, card: Card) -> Plan:
    """The plan of a run for a card: from the model's configuration and the rows, before anything is loaded."""
    train, rows = recipe.train, prepared.train
    if train.update_in_backward and train.batch_tokens:
        _refuse_many_batches(steps, rows, train.batch_tokens)
    job = Job(
        config=AutoConfig.from_pretrained(source, local_files_only=True),
        device=ACCELERATOR,
        fp32=train.precision == "fp32",
        compiled=False,
        step_tokens=_largest_step(steps, rows),
        longest=int(rows.lengths.max()),
        learned_share=float(rows.learned.sum() / rows.lengths.sum()),
        mean_context=mean_context(rows.lengths),
        sample_rows=recipe.generate.sample_questions,
        sample_tokens=recipe.data.max_tokens + recipe.generate.max_new_tokens,
    )
    return draw_up(train, job, card)


def _tokens_left(steps: Sequence[Step], rows: Rows) -> list[int]:
    lengths = rows.lengths
    sizes = [int(lengths[list(dealt.rows)].sum()) for dealt in steps]
    return [*reversed([0, *accumulate(reversed(sizes))])]


def evaluation_interval(recipe: Recipe, steps: Sequence[Step]) -> int:
    """Steps between two evaluations: as the recipe says, or four an epoch."""
    return recipe.train.evaluate_every_steps or max(1, math.ceil(len(steps) / recipe.train.epochs / 4))


def _refuse_many_batches(steps: Sequence[Step], rows: Rows, capacity: int) -> None:
    """Raise UserError where a step needs more than one forward pass, so that its gradients would have to be kept."""
    if (largest := _largest_step(steps, rows)) > capacity:
        raise UserError(
            f"train.update_in_backward: a step of {largest} tokens takes several batches of {capacity}, and only one "
            f"is possible; lower train.rows_per_step or train.tokens_per_step, or set train.batch_tokens: {largest}"
        )


def _largest_step(steps: Sequence[Step], rows: Rows) -> int:
    return max((int(rows.lengths[list(dealt.rows)].sum()) for dealt in steps), default=0)


def _describe(run: Run, source: Path, command: Sequence[str]) -> None:
    dtype = AutoConfig.from_pretrained(source, local_files_only=True).dtype or torch.float32
    facts = describe(command) | {
        "model": run.recipe.model.name,
        "model_dtype": str(dtype).removeprefix("torch."),
        "parameters": count_parameters(run.model),
        "device": str(run.device),
        "precision": str(run.precision).removeprefix("torch."),
        **asdict(run.setting),
        "steps": len(run.steps),
        "data_fingerprint": run.prepared.fingerprint,
    }
    write_whole(run.folder / "recipe.yaml", dump(run.recipe))  # first: it marks the folder as a run
    write_json(run.folder / "environment.json", facts)
    write_json(run.folder / "data.json", run.prepared.account)


def _refuse_other_recipe(recipe: Recipe, folder: Path) -> None:
    written = folder / "recipe.yaml"
    if not written.is_file():
        if folder.is_dir() and any(not path.name.endswith(".partial") for path in folder.iterdir()):
            raise UserError(f"{folder}: is no run of thinktune and not empty; choose another name with name=...")
        return
    former = check(yaml.safe_load(written.read_text(encoding="utf-8")), str(written))
    before, now = _flat(former.model_dump(mode="json")), _flat(recipe.model_dump(mode="json"))
    changed = [f"{key} (was {before[key]!r}, is {now[key]!r})" for key in now if before.get(key) != now[key]]
    if changed:
        raise UserError(
            f"{folder}: holds a run of another recipe; changed: {', '.join(changed)}; "
            f"go on with the former values, or start a new run with name={folder.name}-2"
        )


def refuse_other_data(prepared: Prepared, folder: Path) -> None:
    """Raise UserError where a run's folder was made with other rows, or with another chat template."""
    facts = folder / "environment.json"
    if facts.is_file() and read_json(facts)["data_fingerprint"] != prepared.fingerprint:
        raise UserError(
            f"{folder}: holds a run of other data (the rows or the chat template changed); "
            f"put them back, or start a new run with name={folder.name}-2"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
