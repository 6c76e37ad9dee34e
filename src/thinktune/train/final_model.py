"""The final model of a run as it is written: its form, its card, and its average with the base."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from thinktune.checkpoint import Checkpoint, find_checkpoint, verify
from thinktune.checkpoint.averaging import Average
from thinktune.checkpoint.base_files import StoredAs
from thinktune.checkpoint.saving import PlainForm
from thinktune.checkpoint.store import average_weight, model_step
from thinktune.config import load_recipe
from thinktune.errors import UserError
from thinktune.hub import locate_model
from thinktune.hub.fingerprint import weights_fingerprint
from thinktune.model.admission import admit_model
from thinktune.model.folder import list_some, stored_tensors
from thinktune.model.stored_weights import MatchedWeights
from thinktune.report import render_model_card
from thinktune.report.model_card import edited_card
from thinktune.run import RunFolder, diagnose_run
from thinktune.run.base_model import refuse_other_weights
from thinktune.run.diagnosis import diagnosis_record
from thinktune.run.reading import damaged, read_environment


@dataclass(frozen=True, slots=True)
class BothModels:
    """A run's base and tuned model, and the form in which a model made of them is written."""

    folder: Path  # the run's, which may have been moved since its recipe was written
    base: Path
    tuned: Checkpoint
    form: PlainForm
    places: dict[str, tuple[Path, str]]  # the base's file and name of each tensor, by its names in a checkpoint

    def average(self, weight: float) -> Average:
        """Return the average with a weight of the tuned model."""
        return Average(weight, self.places)


def find_both(folder: Path) -> BothModels:
    """Find a run's base and the best checkpoint, or `final/` in its place where that is not an average itself.

    Reads the headers of the base's weights. Raises UserError where the run has no model yet, where a file is not as it
    was written, and where the base is not the one that the run started from.
    """
    recipe = load_recipe(RunFolder(folder).recipe)
    base = locate_model(recipe)
    refuse_other_weights(weights_fingerprint(base), folder)
    tuned = _find_tuned(folder)
    verify(tuned)
    weights = admit_model(base, trust_remote_code=recipe.model.trust_remote_code).weights
    places = base_places(weights, stored_tensors(tuned.folder), folder)
    return BothModels(folder, base, tuned, final_form(folder, stored_as(weights, base), tuned.step), places)


def base_places(weights: MatchedWeights, saved: Collection[str], folder: Path) -> dict[str, tuple[Path, str]]:
    """Return the base's file and name of each tensor by the names that it may have in a checkpoint.

    Raises UserError where a weight of the base has no counterpart among the names that were `saved`: a part of a larger
    model may be stored in other pieces than the class by itself has.
    """
    if apart := sorted(name for name, sources in weights.saved_as.items() if not set(sources) & set(saved)):
        raise UserError(
            f"{folder}: its base stores {list_some(apart)} differently from the tuned model, so the two cannot be "
            "averaged yet; leave train.average out"
        )
    places: dict[str, tuple[Path, str]] = {}
    for name, sources in weights.saved_as.items():
        for source in sources:
            places.setdefault(source, (weights.stored[name].file, name))
    return places


def _find_tuned(folder: Path) -> Checkpoint:
    final = RunFolder(folder).final
    try:
        best = find_checkpoint(folder, "best")
    except UserError:  # its checkpoints were removed
        if not final.is_dir():
            raise
        best = None
    step = model_step(final)
    if best is None and step is not None and average_weight(final) == 1:
        best = Checkpoint(final, step)
    if best is None:
        raise UserError(
            f"{folder}: holds no tuned weights to average (the best checkpoint, or a final model that is not an "
            "average); run `thinktune train` until its first evaluation, or put the checkpoint back"
        )
    return best


def stored_as(weights: MatchedWeights, source: Path) -> dict[str, StoredAs]:
    """Return how the base stores each weight that is trained; empty for a part, which has its class's own names."""
    if weights.is_part:
        return {}
    main = weights.main_dtype
    own = {name: weights.dtype(name) for name in weights.saved_as}
    return {
        name: StoredAs(
            weights.stored[name].file.relative_to(source).as_posix(), sources, own[name] if own[name] != main else None
        )
        for name, sources in weights.saved_as.items()
    }


def final_form(folder: Path, stored: dict[str, StoredAs], step: int) -> PlainForm:
    """Return the form of a run's final model: the base's dtype and files, and the diagnosis of the run."""
    return PlainForm(_base_dtype(folder), stored, {"step": step, "diagnosis": diagnosis_record(diagnose_run(folder))})


def card_text(folder: Path, tuned: Path) -> str:
    """Return the card of a new final model: people's own, where they edited that of the former one."""
    run = RunFolder(folder)
    if own := edited_card(run.final):
        return own
    try:
        return render_model_card(tuned, run).text
    except UserError:  # a damaged record of the run; who writes it again says which
        return render_model_card(tuned, None, run.path.name).text


def _base_dtype(folder: Path) -> torch.dtype:
    name = read_environment(folder).get("model_dtype")
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise damaged(RunFolder(folder).environment, ValueError(f"model_dtype is {name!r}"))
    return found
