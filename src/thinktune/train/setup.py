"""Opening of a run: data, model and plan by a recipe, checked against its folder."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from thinktune.checkpoint import saving, store
from thinktune.checkpoint.base_files import BaseFiles
from thinktune.config import Recipe
from thinktune.data import Prepared, StepRows, Subset, prepare, summary
from thinktune.data.own_answers.entry import keep_own_answers
from thinktune.data.packing import account_for_sources, plan_steps
from thinktune.distributed import SINGLE, ParallelDims, World
from thinktune.errors import UserError, redact_all
from thinktune.eval.averaging.questions import describe_cost, few_rows_fault
from thinktune.files import write_json
from thinktune.hub import repository
from thinktune.hub.card_metadata import read_license
from thinktune.hub.fingerprint import weights_fingerprint
from thinktune.inference.generation_proof import require_generation
from thinktune.model import CausalLM, pick_device, pick_precision, transforms
from thinktune.model.admission import Admitted, admit, context_fault
from thinktune.model.attention import has_attention_dropout, set_attention
from thinktune.model.batch import Padding
from thinktune.model.device import device_name, runs_triton
from thinktune.model.folder import list_some
from thinktune.model.forward import refuse_leaks
from thinktune.model.loading import count_parameters, load_model, load_sharded_model
from thinktune.model.long_rows import context_parallel
from thinktune.model.long_rows.activation_offload import offload_layer_inputs
from thinktune.model.long_rows.tiled_mlp import tile_mlps
from thinktune.model.low_precision.float8 import apply_float8, pick_scaling, require_float8
from thinktune.model.proof import model_traits
from thinktune.model.stored_weights import MatchedWeights
from thinktune.optim import TIERS, Optimizer
from thinktune.planner import PlanInputs, Setting, disk_space, resolve_setting
from thinktune.planner.plan import with_setting
from thinktune.planner.resolve import batch_shapes, holds_casts
from thinktune.progress import Bar, Say, no_bar
from thinktune.run import RunFolder, base_model, describe_environment, journal, resume
from thinktune.run.held_out_texts import MAX_ROWS, RowText, write_held_out_texts
from thinktune.run.thought_folder import read_rounds
from thinktune.tokenization import ChatTokenizer, Example
from thinktune.tokenization.tokenizer import tokenizer_state
from thinktune.train import agreement
from thinktune.train.context import RunContext
from thinktune.train.final_model import stored_as
from thinktune.train.joined_linear import join_products, joining_pays
from thinktune.train.objective import objective_lines, unlearned_fault
from thinktune.train.own_answers import make_own_answers
from thinktune.train.state import CheckpointClock, Run, TrainState

ASSUMED_DISK_BYTES_PER_SECOND = 100e6  # until a checkpoint has been timed


def open_run(recipe: Recipe, say: Say, command: Sequence[str], *, bar: Bar = no_bar, world: World = SINGLE) -> Run:
    """Open a run: do everything up to the first step, and describe the run in its folder.

    Of many ranks, each machine's first one downloads, checks weights and tokenizes, and the main rank writes. Raises
    UserError before anything is written where the recipe, the data or the model is at fault, and where the folder holds
    a run of another recipe or of other data.
    """
    folder = recipe.run_folder
    agreement.refuse_other_recipe(recipe, world)
    changes = world.run_on_main(lambda: resume.recipe_changes(recipe, folder))  # other ranks may have other paths
    with world.local_main_first():
        source = repository.locate_model(recipe)
        last = store.find_checkpoint(folder, "last")
        # A run that resumes takes its weights from its checkpoint, which has a checksum.
        admitted = _admit(recipe, source, read_weights=world.local_rank == 0 and last is None)
    prepared = _read_rows(recipe, admitted, say, world)
    device, steps = pick_device(), plan_steps(recipe, prepared)
    agreement.refuse_unshared_folder(folder, world)
    agreement.refuse_other_inputs(world, source, _tokenizer_fingerprint(admitted.tokenizer), last, device)
    agreement.refuse_other_rows(world, prepared, steps)
    weights = world.run_on_main(lambda: _check_weights(source, folder))
    resume.refuse_other_data(prepared.fingerprint, prepared.train.digest_lines(), folder, changes)
    if last:
        world.run_on_main(lambda: _verify_last(last, folder))
    _seed_and_set_determinism(recipe, device)
    inputs = PlanInputs(recipe, prepared, steps, admitted.config, admitted.traits, device)
    setting = world.broadcast(resolve_setting(inputs, say, world))
    agreement.refuse_other_machines(world, setting)
    needed = disk_space.disk_requirements(admitted.config, setting.memory, averages=recipe.train.average is not None)
    disk_space.require_disk_space(folder, needed)
    model = _load_model(recipe, last.folder if last else source, device, setting, world)
    compiled = _compiles(model, world)
    optimizer = _make_optimizer(recipe, model, setting, compiled=compiled)
    share = _configure_layers(inputs, model, setting, world, compiled=compiled)
    shapes = batch_shapes(inputs, setting, world.size // share.size)
    context = RunContext(
        recipe=recipe,
        folder=folder,
        prepared=prepared,
        tokenizer=admitted.tokenizer,
        base_files=BaseFiles.read(source, admitted.tokenizer, stored_as(admitted.weights, source)),
        model=model,
        optimizer=optimizer,
        steps=steps,
        tokens_left=_tokens_left(steps, prepared.train),
        setting=setting,
        say=say,
        bar=bar,
        pad=Padding(admitted.tokenizer.pad_token_id or 0, shapes) if shapes else None,
        compiled=compiled,
        world=world,
        share=share,
    )
    clock = CheckpointClock(needed.checkpoint_bytes / ASSUMED_DISK_BYTES_PER_SECOND)
    environment = _environment(context, admitted, command) | {"weights_fingerprint": weights}
    environment |= {f"model_{key}": value for key, value in read_license(source).items()}
    run = _resume_or_record(context, clock, last, environment, changes)
    _announce(context)
    return run


def _announce(context: RunContext) -> None:
    """Say what is trained where, and what averaging will cost after the last step."""
    world, recipe = context.world, context.recipe
    where = f"{world.size} x {context.device.type} ({context.setting.strategy})" if world.size > 1 else context.device
    parameters, steps = count_parameters(context.model), len(context.steps)
    context.say(f"{parameters:,} parameters on {where}, {steps} steps, run folder {context.folder}")
    if recipe.train.average is not None:
        context.say(describe_cost(recipe, context.prepared))


def _admit(recipe: Recipe, source: Path, *, read_weights: bool) -> Admitted:
    """Admit the model's folder; raise UserError where the run had another tokenizer."""
    trusted, template = recipe.model.trust_remote_code, recipe.model.template
    admitted = admit(source, trust_remote_code=trusted, read_weights=read_weights, template=template)
    resume.refuse_other_tokenizer(_tokenizer_fingerprint(admitted.tokenizer), recipe.run_folder)
    if recipe.train.average is not None:
        _refuse_other_pieces(admitted.weights, source)
    return admitted


def _refuse_other_pieces(weights: MatchedWeights, source: Path) -> None:
    """Raise UserError where the base is known beforehand to store weights in other pieces than the tuned model will."""
    if weights.is_part and weights.sources:
        raise UserError(
            f"train.average: {source} stores {list_some(sorted(weights.sources))} differently from its text part "
            "alone, so the two cannot be averaged yet; leave train.average out"
        )


def _load_model(recipe: Recipe, folder: Path, device: torch.device, setting: Setting, world: World) -> Any:
    """Load the model in its tier's dtype; with many ranks, this rank's shard.

    Raises GenerationError where models will have to reply after the last step, and the class cannot.
    """
    model = _load_share(recipe, folder, device, setting, world)
    if recipe.train.average is not None:
        require_generation(model)
    return model


def _load_share(recipe: Recipe, folder: Path, device: torch.device, setting: Setting, world: World) -> Any:
    dtype, trusted = TIERS[setting.memory].load_dtype, recipe.model.trust_remote_code
    context_parallel.require_ranks(recipe.train.context_parallel, world.size)
    if world.size == 1:
        return load_model(folder, device, dtype, trust_remote_code=trusted)
    if setting.strategy == "hybrid" and world.size % world.per_node:
        raise UserError(
            f"train.strategy: is hybrid, and {world.size} ranks do not fill whole machines with {world.per_node} "
            "each; start the same number on each machine, or set train.strategy: shard"
        )
    mesh = world.mesh(ParallelDims(setting.strategy, world.size, world.per_node), device)
    return load_sharded_model(folder, mesh, device, dtype, trust_remote_code=trusted)


def _check_weights(source: Path, folder: Path) -> str:
    """Return the fingerprint of the base model's weights; raise UserError where the run was started from others."""
    found = weights_fingerprint(source)
    base_model.refuse_other_weights(found, folder)
    return found


def _verify_last(last: store.Checkpoint, folder: Path) -> None:
    """Raise UserError where the checkpoint, or a line of the journals, is not as it was written."""
    store.verify(last, with_state=True)
    journal.read_metrics(folder)
    journal.read_samples(folder)
    journal.read_row_losses(folder)


def _read_rows(recipe: Recipe, admitted: Admitted, say: Say, world: World) -> Prepared:
    """Say what is not used of the model, make own answers that are not there, and tokenize the rows.

    All ranks must call; of each machine, the first one tokenizes.
    """
    for note in admitted.notes:
        say(note)
    make_own_answers(recipe, admitted.tokenizer, say, world)
    with world.local_main_first():
        prepared = prepare(recipe, admitted.tokenizer, say)
        faults = (
            context_fault(prepared, admitted.config),
            unlearned_fault(recipe.train, prepared.train),
            few_rows_fault(recipe, prepared.validation),
        )
        if found := [fault for fault in faults if fault]:
            raise UserError(found)
    for line in (*summary.summary_lines(prepared.summary), *objective_lines(recipe.train, prepared.train)):
        say(line)
    return prepared


def _resume_or_record(
    context: RunContext,
    clock: CheckpointClock,
    last: store.Checkpoint | None,
    environment: dict[str, Any],
    changes: list[str],
) -> Run:
    """Restore the run from its last checkpoint, or record a new one; report what changed."""
    folder, world = context.folder, context.world
    step = last.step if last else 0
    world.barrier()  # from here on what all have read is written
    changes = [*changes, *resume.environment_changes(environment, folder)]
    # As rank 0 reads them: what is evaluated and what is not logged yet decides which exchanges follow.
    journals, trainer_state = world.run_on_main(lambda: _read_progress(folder, last))
    run = Run(context, TrainState(step, journals is not None, step), clock)
    if last:
        run.load_state_dict(trainer_state)
        saving.restore(last, context.optimizer)
        context.say(f"resumed after step {step} of {len(context.steps)} ({last.folder})")
    world.barrier()
    if world.is_main:
        journal.rewind(folder, journals or trainer_state["journals"])
        _record_run(context, environment, changes, step)
    return run


def _read_progress(folder: Path, last: store.Checkpoint | None) -> tuple[dict[str, int] | None, dict[str, Any]]:
    """Return the journals' lengths after the last checkpoint's evaluation, if it is complete, and the trainer state."""
    trainer_state: dict[str, Any] = store.read_trainer_state(last) if last else {"journals": {}}
    return store.evaluated_journal_lengths(folder, last.step if last else 0), trainer_state


def _record_run(context: RunContext, environment: dict[str, Any], changes: list[str], step: int) -> None:
    """Write the files that describe a new run, or one that resumes with changes."""
    folder = context.folder
    files = RunFolder(folder)
    if changes or not files.environment.is_file():
        resume.record_recipe(context.recipe, folder)  # first: it marks the folder as a run
        sources = account_for_sources(context.recipe, context.prepared, context.steps)
        write_json(files.data_summary, context.prepared.summary | sources)
        resume.record_rows(context.prepared.train.digest_lines(), folder)
        write_held_out_texts(folder, map(_held_out_text, context.prepared.validation.examples(MAX_ROWS)))
        # A resumed run has the same rows: what it recorded stays.
        if rounds := [made for source in context.recipe.sources for made in read_rounds(source.name)]:
            write_json(files.rounds, rounds)
        keep_own_answers(context.recipe, context.tokenizer, files.own_answers)
        write_json(files.environment, redact_all(environment))  # last: it shows that the others are there
    if changes:
        text = f"resumed with a change: {', '.join(changes)}"
        journal.append(files.metrics, [{"kind": "event", "step": step, "text": text}])
        context.say(text)


def _held_out_text(example: Example) -> tuple[str, RowText]:
    """Return a row's name and its text for people: its last question, and the reply to it."""
    reply = next((turn for turn in reversed(example.turns) if turn.role == "assistant"), None)
    return example.source, RowText(example.question, reply.reasoning if reply else "", reply.content if reply else "")


def _compiles(model: CausalLM, world: World) -> bool:
    """Return True if the layers are to be compiled, on every rank."""
    # With dropout rows are attended to one by one, for which the compiler would compile again for each batch.
    compiled = (
        model_traits(model).compiles
        and transforms.can_compile(model.device)
        and not has_attention_dropout(model.config)
    )
    compiled = compiled and transforms.fits_compiler(model)
    return not world.any(not compiled)  # compiling takes passes of its own


def _make_optimizer(recipe: Recipe, model: Any, setting: Setting, *, compiled: bool) -> Optimizer:
    """Make the optimizer, and join products of compiled layers where that pays; those of fp8 are another class's."""
    precision = pick_precision(recipe.train.precision, model.device, setting.memory)
    joins = compiled and joining_pays(setting.activation_budget) and not pick_scaling(recipe.train.precision)
    join = partial(join_products, model, precision) if joins else None
    # Triton may be there and not run, for lack of a C compiler: then nothing of it is used.
    fused = False if model.device.type == "cuda" and not runs_triton(model.device) else None
    return Optimizer(model, with_setting(recipe.train, setting), join, fused=fused)


def _configure_layers(
    inputs: PlanInputs, model: CausalLM, setting: Setting, world: World, *, compiled: bool
) -> context_parallel.ContextShare:
    """Set up the layers' arithmetic, attention and recomputation, and have them compiled.

    Returns this rank's share of each batch.
    """
    recipe = inputs.recipe
    if scaling := pick_scaling(recipe.train.precision):
        apply_float8(model, scaling, hold=holds_casts(inputs, setting, world.size))
    precision = pick_precision(recipe.train.precision, model.device, setting.memory)
    set_attention(model, precision)
    refuse_leaks(model, precision)
    share = context_parallel.share_context(model, world, recipe.train.context_parallel)
    if setting.offload_activations and precision == model.dtype:  # autocast does not reach into an operator
        tile_mlps(model)
    if compiled or not setting.offload_activations:
        transforms.apply_activation_budget(model, setting.activation_budget, compiled)
    if compiled:
        transforms.compile_layers(model)
    if setting.offload_activations:
        offload_layer_inputs(model, compiled)
    return share


def _tokens_left(steps: Sequence[StepRows], rows: Subset) -> list[int]:
    """Return the tokens that remain after 0, 1, 2, … steps."""
    lengths = rows.lengths
    sizes = [int(lengths[list(planned.rows)].sum()) for planned in steps]
    return [*reversed([0, *accumulate(reversed(sizes))])]


def _environment(context: RunContext, admitted: Admitted, command: Sequence[str]) -> dict[str, Any]:
    """Return the contents of environment.json."""
    return describe_environment(command) | {
        "model": context.recipe.model.name,
        "model_dtype": str(admitted.config.dtype or admitted.weights.main_dtype).removeprefix("torch."),
        "parameters": count_parameters(context.model),
        "device": str(context.device),
        "device_name": device_name(context.device),
        "precision": str(context.precision).removeprefix("torch."),
        **asdict(context.setting),
        "world_size": context.world.size,
        "context_parallel": context.share.size,
        "steps": len(context.steps),
        "code": resume.code_fingerprint(),
        "tokenizer_fingerprint": _tokenizer_fingerprint(context.tokenizer),
        "data_fingerprint": context.prepared.fingerprint,
    }


def _tokenizer_fingerprint(tokenizer: ChatTokenizer) -> str:
    return blake2b(tokenizer_state(tokenizer).encode(), digest_size=16).hexdigest()


def _seed_and_set_determinism(recipe: Recipe, device: torch.device) -> None:
    """Seed the random generators, and allow only deterministic operations if the recipe says so."""
    require_float8(recipe.train.precision, device)
    torch.manual_seed(recipe.train.seed)
    if recipe.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is made
    torch.use_deterministic_algorithms(recipe.train.deterministic)
