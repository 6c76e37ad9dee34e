"""A run: opened from a recipe, described in its folder, and refused where the folder holds another one."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig

from thinktune import account, checkpoint, hub, track
from thinktune.environment import describe
from thinktune.errors import UserError
from thinktune.files import read_json, write_json, write_whole
from thinktune.knobs import Recipe
from thinktune.model import count_parameters, load_model, pick_device, pick_precision, recompute_activations
from thinktune.optim import TIERS, Update, learning_rate_share, pick_memory
from thinktune.pack import Step, deal
from thinktune.parallel import World
from thinktune.prepare import Prepared, prepare
from thinktune.progress import Bar, Say, no_bar
from thinktune.recipe import check, dump
from thinktune.step import StepReport
from thinktune.store import Rows
from thinktune.tokens import read_tokenizer


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
    capacity: int
    done: int
    say: Say
    world: World = field(default_factory=World)
    pending: list[StepReport] = field(default_factory=list[StepReport])
    started: float = 0.0
    trained_tokens: int = 0
    logged: tuple[float, int] = (0.0, 0)  # seconds and tokens at the last line of metrics
    opened: float = field(default_factory=time.monotonic)
    sampled_seconds: float = 0.0
    sampled_tokens_per_second: float | None = None
    bar: Bar = no_bar
    refused_in_a_row: int = 0

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
    device = pick_device()
    model = load_model(last.folder if last else source, device, TIERS[pick_memory(recipe.train, device)].loaded)
    if recipe.train.recompute:
        recompute_activations(model)
    refuse_small_vocabulary(model, prepared)
    update = Update(model, recipe.train)
    steps = deal_steps(recipe, prepared)
    capacity = batch_capacity(recipe, prepared.train, model.device)
    if recipe.train.update_in_backward:
        _refuse_many_batches(steps, prepared.train, capacity)
    done = last.step if last else 0
    tokens_left = _tokens_left(steps, prepared.train)
    run = Run(recipe, folder, prepared, tokenizer, model, update, steps, tokens_left, capacity, done, say)
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


def batch_capacity(recipe: Recipe, rows: Rows, device: torch.device) -> int:
    """Tokens in one forward pass: as the recipe says, else what suits the device.

    An accelerator wants much work at a time. On the CPU, where nothing is padded, a larger batch is no faster and
    holds more memory, so the longest row sets the size, unless rows are so short that Python's share would show.
    """
    if recipe.train.batch_tokens is not None:
        return recipe.train.batch_tokens
    if device.type == "cpu":
        return max(1024, int(rows.lengths.max()))
    return max(4096, recipe.data.max_tokens)


def _tokens_left(steps: Sequence[Step], rows: Rows) -> list[int]:
    lengths = rows.lengths
    sizes = [int(lengths[list(dealt.rows)].sum()) for dealt in steps]
    return [*reversed([0, *accumulate(reversed(sizes))])]


def evaluation_interval(recipe: Recipe, steps: Sequence[Step]) -> int:
    """Steps between two evaluations: as the recipe says, or four an epoch."""
    return recipe.train.evaluate_every_steps or max(1, math.ceil(len(steps) / recipe.train.epochs / 4))


def _refuse_many_batches(steps: Sequence[Step], rows: Rows, capacity: int) -> None:
    """Raise UserError where a step needs more than one forward pass, so that its gradients would have to be kept."""
    largest = max((int(rows.lengths[list(dealt.rows)].sum()) for dealt in steps), default=0)
    if largest > capacity:
        raise UserError(
            f"train.update_in_backward: a step of {largest} tokens takes several batches of {capacity}, and only one "
            f"is possible; lower train.rows_per_step or train.tokens_per_step, or set train.batch_tokens: {largest}"
        )


def _describe(run: Run, source: Path, command: Sequence[str]) -> None:
    dtype = AutoConfig.from_pretrained(source, local_files_only=True).dtype or torch.float32
    facts = describe(command) | {
        "model": run.recipe.model.name,
        "model_dtype": str(dtype).removeprefix("torch."),
        "parameters": count_parameters(run.model),
        "device": str(run.device),
        "precision": str(run.precision).removeprefix("torch."),
        "memory": run.update.memory,
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
    changed = [
        f"{key} (was {before[key]!r}, is {now[key]!r})"
        for key in now
        if before.get(key) != now[key] and not key.startswith("track.")  # which decides nothing of the result
    ]
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
