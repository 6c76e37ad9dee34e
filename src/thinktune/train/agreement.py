"""What all ranks must agree on before the first step: recipe, software, model, rows, and the run that they resume."""

import json
import os
import secrets
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from thinktune.checkpoint import Checkpoint
from thinktune.checkpoint.manifest import HASH_THREADS, MANIFEST, checksum
from thinktune.checkpoint.store import TRAINER_STATE_FILE
from thinktune.config import Recipe
from thinktune.config.recipe_keys import any_source_key, recipe_key
from thinktune.data import Prepared, StepRows
from thinktune.distributed import World
from thinktune.distributed.agreement import name_ranks, refuse_differences
from thinktune.distributed.world import DisagreementError
from thinktune.files import read_json
from thinktune.hub.fingerprint import file_digest
from thinktune.planner import Setting
from thinktune.run import RunFolder, resume

# Settings that may differ between machines: where things are (their content is compared), and what rank 0 alone reads.
MACHINE_SETTINGS = (
    "runs_folder",
    *resume.PLACES,
    "data.ignore",
    "plan.",
    "track.",
    "serve.",
)
# Variables by which libraries choose other arithmetic; everything else in the environment is a machine's own affair.
ARITHMETIC_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "TORCHDYNAMO_DISABLE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_COMPILE_DISABLE",
)
MODEL_CONFIGS = ("config.json", "generation_config.json")
WRITERS_NOTES = ("_name_or_path", "transformers_version")  # of a configuration; nothing reads them
SAME_RECIPE = "start all ranks with the same recipe and the same settings on the command line"
SAME_SOFTWARE = "install the same versions on all machines"
SAME_ENVIRONMENT = "set it to the same value on all machines, or on none"
SAME_MODEL = "give all machines the same model"
SAME_RUN = "use one runs_folder, on a disk that all machines share"


def refuse_other_recipe(recipe: Recipe, world: World) -> None:
    """Raise DisagreementError on all ranks where one follows another recipe or runs other software.

    Costs one exchange, before anything is read. Paths, and what only rank 0 reads, may differ.
    """
    settings = {
        recipe_key(key): value
        for key, value in resume.flatten_settings(recipe.model_dump(mode="json")).items()
        if not any_source_key(key).startswith(MACHINE_SETTINGS)
    }
    # The rows themselves are compared.
    settings = {
        key: "a file" if key.endswith(".validation") and isinstance(value, str) else value
        for key, value in settings.items()
    }
    software = {
        **{name: _installed(name) for name in ("thinktune", "torch", "transformers")},
        "thinktune's own code": resume.code_fingerprint(python=""),
    }
    environment = {f"the variable {name}": os.environ.get(name) for name in ARITHMETIC_VARIABLES}
    refuse_differences(world, {SAME_RECIPE: settings, SAME_SOFTWARE: software, SAME_ENVIRONMENT: environment})


def refuse_other_inputs(
    world: World, source: Path, tokenizer_fingerprint: str, last: Checkpoint | None, device: torch.device
) -> None:
    """Raise DisagreementError on all ranks where one starts from another model, or resumes from another checkpoint.

    Weights are compared byte by byte, but read only where ranks do not see the very same files.
    """
    if world.size == 1:
        return
    model = {f"model.name: {key}": value for key, value in _read_configs(source).items()}
    model["model.name: its tokenizer and chat template"] = tokenizer_fingerprint
    if last:  # the base's weights are not read
        states = [last.folder / name for name in (MANIFEST, TRAINER_STATE_FILE)]
        resumed = {"runs_folder: the last checkpoint": [last.step, *(checksum(file)["sha256"] for file in states)]}
    else:
        resumed = {"runs_folder: the last checkpoint": None}
        model |= {f"model.name: {name}": digest for name, digest in _compare_weights(world, source).items()}
    device_kind = {"the kind of device": device.type}
    refuse_differences(world, {SAME_MODEL: model, SAME_RUN: resumed, "start all ranks on the same kind": device_kind})


def refuse_other_rows(world: World, prepared: Prepared, steps: Sequence[StepRows]) -> None:
    """Raise DisagreementError on all ranks where one has other rows, naming the first; or other steps."""
    if world.size == 1:
        return
    found = world.all_gather((socket.gethostname(), prepared.fingerprint))
    if others := [rank for rank, (_, fingerprint) in enumerate(found) if fingerprint != found[0][1]]:
        lines = [*prepared.train.digest_lines(), *prepared.validation.digest_lines()]
        counts = f"{len(prepared.train):,} to train on and {len(prepared.validation):,} held out"
        gathered = world.all_gather((counts, lines) if world.rank in (0, others[0]) else None)
        (our_counts, ours), (their_counts, theirs) = gathered[0] or ("", []), gathered[others[0]] or ("", [])
        hosts = [host for host, _ in found]
        raise DisagreementError(
            f"data.name: {name_ranks(others, hosts)} read other rows ({their_counts}) than {name_ranks([0], hosts)} "
            f"({our_counts}){_describe_first_difference(theirs, ours)}; give all machines the same rows"
        )
    planned = json.dumps([[step.rows, step.label_tokens] for step in steps])
    digest = blake2b(planned.encode(), digest_size=8).hexdigest()
    refuse_differences(world, {SAME_SOFTWARE: {"the rows of each step": [len(steps), digest]}})


def refuse_unshared_folder(folder: Path, world: World) -> None:
    """Raise DisagreementError on all ranks where the run's folder is not on a disk that all of them share."""
    if world.size == 1:
        return
    name = world.run_on_main(lambda: _write_mark(folder))
    found = world.all_gather((socket.gethostname(), str(folder), (folder / name).is_file()))
    if world.is_main:
        (folder / name).unlink(missing_ok=True)
    if others := [rank for rank, (_, _, is_there) in enumerate(found) if not is_there]:
        hosts = [host for host, _, _ in found]
        raise DisagreementError(
            f"runs_folder: {found[others[0]][1]} on {name_ranks(others, hosts)} is not the folder "
            f"{found[0][1]} of {name_ranks([0], hosts)}; {SAME_RUN}"
        )


def refuse_other_machines(world: World, setting: Setting) -> None:
    """Raise DisagreementError on all ranks where machines that hold a copy of the weights each have unequal ranks."""
    if setting.strategy == "hybrid":
        remedy = "start the same number of ranks on each machine, or set train.strategy: shard"
        refuse_differences(world, {remedy: {"train.strategy: the number of ranks on a machine": world.per_node}})


def _installed(name: str) -> str:
    """Return a package's version, and that of the code that was loaded where it is another."""
    loaded = str(import_module(name).__version__)
    try:
        return ", loaded ".join(dict.fromkeys((version(name), loaded)))
    except PackageNotFoundError:  # this package itself, where it runs from its source tree
        return loaded


def _read_configs(source: Path) -> dict[str, Any]:
    """Read each setting of a model's configuration files, without what their writer noted about itself."""
    found: dict[str, Any] = {}
    for name in MODEL_CONFIGS:
        try:
            settings = resume.flatten_settings(read_json(source / name))
        except (OSError, ValueError, AttributeError):  # not there, or nothing that loads
            continue
        found |= {f"{key} in {name}": value for key, value in settings.items() if key not in WRITERS_NOTES}
    return found


def _compare_weights(world: World, source: Path) -> dict[str, Any]:
    """Return a checksum of each file of weights, by name; none where all ranks see the very same files.

    Of the ranks that see the same ones, the first reads them, and the others wait for it.
    """
    files = sorted(source.glob("*.safetensors"))
    stats = [file.stat() for file in files]
    mine = (socket.gethostname(), [(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats])
    first = world.all_gather(mine).index(mine)
    is_reader = first == world.rank
    if not world.any(first > 0):
        return {}
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        read = world.run_on_all(lambda: [*pool.map(file_digest, files)] if is_reader else [])
    names = [file.name for file in files]
    return dict(zip(*world.all_gather((names, read))[first], strict=True))


def _describe_first_difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """Name the first row that differs, from two lists of `digest file:line`."""
    for their, our in zip(theirs, ours, strict=False):
        if their.split(" ", 1)[0] != our.split(" ", 1)[0]:
            return f"; the first that differs is {their.split(' ', 1)[1]}, where rank 0 has {our.split(' ', 1)[1]}"
    return ""


def _write_mark(folder: Path) -> str:
    """Write an empty file that a rank finds only if it sees the same folder; return its name."""
    name = RunFolder(folder).mark(secrets.randbelow(10**12)).name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    return name
