"""A run: opened from a recipe, described in its folder, and refused where the folder holds another one."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thinktune.checkpoint import saving
from thinktune.checkpoint import store as checkpoint
from thinktune.config import Recipe
from thinktune.data import Prepared, StepRows, Subset, prepare, read_tokenizer
from thinktune.data import summary as account
from thinktune.data.packing import plan_steps
from thinktune.data.tokenizer import tokenizer_state
from thinktune.distributed import SINGLE, ParallelDims, World
from thinktune.errors import UserError
from thinktune.files import write_json
from thinktune.hub import repository as hub
from thinktune.model import load_model, pick_device, read_config
from thinktune.model import transforms as layers
from thinktune.model.attention import set_attention
from thinktune.model.batch import pick_padding
from thinktune.model.loading import count_parameters, load_sharded_model
from thinktune.optim import TIERS, Optimizer
from thinktune.planner import Setting, resolve_setting
from thinktune.planner import disk_space as disk
from thinktune.planner.plan import with_setting
from thinktune.progress import Say
from thinktune.run import RunFolder, describe_environment
from thinktune.run import journal as track
from thinktune.run import resume as ground
from thinktune.train.state import Run

if TYPE_CHECKING:
    from thinktune.distributed import World


def refuse_unshared_folder(folder: Path, world: "World", step: int) -> None:
    """Raise UserError where ranks do not find the same in the run's folder, because its disk is not everybody's."""
    found = world.all_gather((folder.is_dir(), step))
    if others := [rank for rank, each in enumerate(found) if each != found[0]]:
        raise UserError(
            f"runs_folder: {folder} is not the same for rank {others[0]} as for rank 0; name one on a disk that all "
            "machines see"
        )


ASSUMED_DISK_BYTES_PER_SECOND = 100e6  # bytes a second


def open_run(recipe: Recipe, say: Say, command: Sequence[str], world: World = SINGLE) -> Run:
    """Everything up to the first step: rows, steps, model, optimizer, and the folder with what describes the run.

    Of many ranks each machine's first one downloads and makes tokens, and the first of all writes. Raises UserError
    before anything is written where the recipe, the data or the model is at fault, and where the folder holds a run of
    another recipe or of other data.
    """
    folder = recipe.run_folder
    changed = ground.recipe_changes(recipe, folder)
    with world.local_main_first():
        source = hub.locate_model(recipe)
        tokenizer, prepared = _read_rows(recipe, source, say)
    last = checkpoint.find_checkpoint(folder, "last")
    refuse_unshared_folder(folder, world, last.step if last else 0)
    if last:
        world.run_on_all(lambda: checkpoint.verify(last, with_state=True) if world.is_main else None)
    device, steps = pick_device(), plan_steps(recipe, prepared)
    _seed_and_set_determinism(recipe, device)
    setting = world.broadcast(resolve_setting(recipe, prepared, steps, source, device, say, world))
    trusted = recipe.model.trust_remote_code
    needed = disk.disk_requirements(read_config(source, trust_remote_code=trusted), setting.memory)
    disk.require_disk_space(folder, needed)
    model = _load_model(recipe, last.folder if last else source, device, setting, world)
    refuse_small_vocabulary(model, prepared)
    update = Optimizer(model, with_setting(recipe.train, setting))
    lengths = np.concatenate([prepared.train.lengths, prepared.validation.lengths])
    pad = pick_padding(device, tokenizer, lengths, setting.batch_tokens)
    done = last.step if last else 0
    tokens_left = _tokens_left(steps, prepared.train)
    run = Run(
        recipe, folder, prepared, tokenizer, model, update, steps, tokens_left, setting, done, say, pad, world=world
    )
    run.slowest_save = needed.checkpoint_bytes / ASSUMED_DISK_BYTES_PER_SECOND
    _configure_layers(run)
    _resume_or_record(run, last, _environment(run, source, command), changed)
    where = f"{world.size} x {device.type} ({setting.strategy})" if world.size > 1 else str(run.device)
    say(f"{count_parameters(model):,} parameters on {where}, {len(steps)} steps, run folder {folder}")
    return run


def _load_model(recipe: Recipe, folder: Path, device: torch.device, setting: Setting, world: World) -> Any:
    """The model in its tier's type; of many ranks each one's share."""
    dtype, trusted = TIERS[setting.memory].load_dtype, recipe.model.trust_remote_code
    if world.size == 1:
        return load_model(folder, device, dtype, trust_remote_code=trusted)
    if setting.strategy == "hybrid" and world.size % world.per_node:
        raise UserError(
            f"train.strategy: is hybrid, and {world.size} ranks are no whole number of machines with {world.per_node} "
            "each; start as many on each machine, or set train.strategy: shard"
        )
    mesh = world.mesh(ParallelDims(setting.strategy, world.size, world.per_node), device)
    float8 = recipe.train.precision == "fp8"
    return load_sharded_model(folder, mesh, device, dtype, trust_remote_code=trusted, float8=float8)


def _read_rows(recipe: Recipe, source: Path, say: Say) -> tuple[Any, Prepared]:
    """The tokenizer and the rows as tokens, told of; raises UserError where the run's folder was made with others."""
    tokenizer = read_tokenizer(source, trust_remote_code=recipe.model.trust_remote_code)
    ground.refuse_other_tokenizer(_tokenizer_fingerprint(tokenizer), recipe.run_folder)
    prepared = prepare(recipe, tokenizer, say)
    ground.refuse_other_data(prepared.fingerprint, prepared.train.digest_lines(), recipe.run_folder)
    for line in account.summary_lines(prepared.summary):
        say(line)
    return tokenizer, prepared


def _resume_or_record(
    run: Run, last: checkpoint.Checkpoint | None, environment: dict[str, Any], changed: list[str]
) -> None:
    """Set the run where its folder says it is, or describe it there; what changed under it is told and recorded."""
    folder = run.folder
    run.world.barrier()  # from here on what all have read is written
    changed = [*changed, *ground.environment_changes(environment, folder)]
    journals = checkpoint.evaluated_journal_lengths(folder, run.done)
    run.evaluated = journals is not None
    if last:
        run.restored_state = checkpoint.read_trainer_state(last)
        run.saved = run.done
        saving.restore(last, run.optimizer)
        run.say(f"goes on after step {run.done} of {len(run.steps)} ({last.folder})")
    run.world.barrier()
    if not run.world.is_main:
        return
    track.rewind(folder, journals or (run.restored_state["journals"] if run.restored_state else {}))
    if changed or not RunFolder(folder).environment.is_file():
        ground.record_recipe(run.recipe, folder)  # first: it marks the folder as a run
        write_json(RunFolder(folder).data_summary, run.prepared.summary)
        ground.record_rows(run.prepared.train.digest_lines(), folder)
        write_json(RunFolder(folder).environment, environment)  # last: it says that the others are there
    if changed:
        text = f"goes on with a change: {', '.join(changed)}"
        track.append(RunFolder(folder).metrics, [{"kind": "event", "step": run.done, "text": text}])
        run.say(text)


def _configure_layers(run: Run) -> None:
    """Make the model's layers what the recipe and the device ask for: their arithmetic, attention, memory and code."""
    settings = run.recipe.train
    if settings.precision == "fp8" and run.world.size == 1:  # of many ranks each had it before its share was cut
        layers.apply_float8(run.model)
    set_attention(run.model, run.precision)
    # Rows with dropout are attended to one by one, which the compiler would follow and compile anew for each batch.
    run.compiled = layers.can_compile(run.device) and not run.model.config.attention_dropout
    layers.apply_activation_budget(run.model, run.setting.activation_budget, run.compiled)
    if run.compiled:
        layers.compile_layers(run.model)


def refuse_small_vocabulary(model: Any, prepared: Prepared) -> None:
    """Raise UserError where the tokenizer writes tokens that the model has no row for."""
    largest = prepared.summary["largest_token"]
    if largest >= (size := model.get_input_embeddings().num_embeddings):
        raise UserError(
            f"model.name: its tokenizer writes token {largest}, the model knows {size}; they do not belong together"
        )


def _tokens_left(steps: Sequence[StepRows], rows: Subset) -> list[int]:
    lengths = rows.lengths
    sizes = [int(lengths[list(dealt.rows)].sum()) for dealt in steps]
    return [*reversed([0, *accumulate(reversed(sizes))])]


def _environment(run: Run, source: Path, command: Sequence[str]) -> dict[str, Any]:
    """What environment.json says."""
    trusted = run.recipe.model.trust_remote_code
    config = read_config(source, trust_remote_code=trusted)
    return describe_environment(command) | {
        "model": run.recipe.model.name,
        "model_dtype": str(config.dtype or torch.float32).removeprefix("torch."),
        "parameters": count_parameters(run.model),
        "device": str(run.device),
        "precision": str(run.precision).removeprefix("torch."),
        **asdict(run.setting),
        "world_size": run.world.size,
        "steps": len(run.steps),
        "code": ground.code_fingerprint(),
        "tokenizer_fingerprint": _tokenizer_fingerprint(run.tokenizer),
        "data_fingerprint": run.prepared.fingerprint,
    }


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    return blake2b(tokenizer_state(tokenizer).encode(), digest_size=16).hexdigest()


def _seed_and_set_determinism(recipe: Recipe, device: torch.device) -> None:
    """What decides a run's bits beside its inputs: the random generators' seed, and the operations allowed."""
    if recipe.train.precision == "fp8":
        layers.require_float8(device)
    torch.manual_seed(recipe.train.seed)
    if recipe.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is made
    torch.use_deterministic_algorithms(recipe.train.deterministic)
