"""The verb average: a model between a run's base and its tuned model, in a folder beside `final/`."""

import math
import shutil
from pathlib import Path

from thinktune.checkpoint import require_run_folder, saving
from thinktune.checkpoint.manifest import has_unlisted_files, manifest_mismatches
from thinktune.checkpoint.store import average_weight, model_step
from thinktune.errors import UserError
from thinktune.model.folder import stored_tensors
from thinktune.planner.disk_space import spell_missing, spell_size
from thinktune.progress import Say
from thinktune.report import write_model_card
from thinktune.report.model_card import edited_card
from thinktune.run import RunFolder, lock_run
from thinktune.run.environment import shell_command
from thinktune.train.final_model import BothModels, find_both

OTHER_FILES_BYTES = 64 * 2**20  # tokenizer and configurations


def average_run(folder: Path, weight: float, say: Say) -> Path:
    """Write the average of a run's base and tuned model, and return its folder; one that is whole is not written again.

    `weight` is that of the tuned model. Raises UserError where the run has no tuned model, where its base changed,
    where another process trains in it, where the disk is too small, and where the place holds what is not ours.
    """
    _refuse_weight(weight, folder)
    require_run_folder(folder)
    place = RunFolder(folder).average(weight)
    with lock_run(folder):  # so that no checkpoint is removed meanwhile
        both = find_both(folder)
        if _is_there(place, both, weight):
            say(f"{place}: already exists, with the same weights")
        else:
            _refuse_others_files(place)
            _refuse_small_disk(place, both)
            saving.write_plain(place, both.tuned, both.form, edited_card(place), both.average(weight))
        write_model_card(place, RunFolder(folder), f"{folder.resolve().name}-{place.name}")
    say(f"average: {place} ({weight:g} of the tuned weights of step {both.tuned.step}, {1 - weight:.4g} of the base's)")
    say("next:   " + "\n        ".join(shell_command(verb, place) for verb in ("eval", "chat")))
    return place


def _refuse_weight(weight: float, folder: Path) -> None:
    if not 0 < weight < 1 or round(weight, 3) != weight:
        ends = f"0 is the base itself, 1 the tuned model ({RunFolder(folder).final}, unless that is an average)"
        raise UserError(
            f"WEIGHT: is {weight:g}; write the share of the tuned model with at most three decimals; {ends}"
        )


def _is_there(place: Path, both: BothModels, weight: float) -> bool:
    """Return True if a place holds this average whole."""
    if not place.is_dir() or manifest_mismatches(place):
        return False
    return average_weight(place) == weight and model_step(place) == both.tuned.step


def _refuse_others_files(place: Path) -> None:
    if place.is_symlink() or (place.exists() and not place.is_dir()) or (place.is_dir() and has_unlisted_files(place)):
        raise UserError(
            f"{place}: already exists and has files that thinktune did not write; move it away, then run this again"
        )


def _refuse_small_disk(place: Path, both: BothModels) -> None:
    """Raise UserError where the disk cannot hold one more model; a former one in its place stays until it is whole."""
    elements = sum(math.prod(tensor.shape) for tensor in stored_tensors(both.tuned.folder).values())
    needed = elements * both.form.dtype.itemsize + OTHER_FILES_BYTES
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise UserError(
            f"{place}: the disk has {spell_size(free)} free, and the model may need {spell_size(needed)}; free "
            f"{spell_missing(needed - free)}, then run this again"
        )
