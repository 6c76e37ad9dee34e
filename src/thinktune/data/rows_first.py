"""Rows before the model: prepared while torch is not loaded, so that their faults are told seconds after the start."""

from dataclasses import dataclass
from pathlib import Path

from thinktune.config import Recipe
from thinktune.data.pipeline import Prepared, prepare_with_faults
from thinktune.errors import UserError
from thinktune.hub import find_in_cache, locate_model
from thinktune.hub.admitted_folders import was_admitted
from thinktune.progress import Say
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.model_template import read_tokenizer_with_notes


@dataclass(frozen=True, slots=True)
class RowsFirst:
    """A recipe's prepared rows, its model's folder, and the tokenizer with its notes (`read_tokenizer_with_notes`)."""

    source: Path
    prepared: Prepared
    tokenizer: ChatTokenizer
    notes: tuple[str, ...]


def prepare_rows_first(recipe: Recipe, say: Say) -> RowsFirst | None:
    """Prepare a recipe's rows, if its model folder was admitted before as it is now; else its faults are told first.

    None then, and where the folder's own code may run. The hub is not asked whether it has another model by now: who
    goes on asks it, and compares `source`. Raises UserError as `prepare_with_faults` does.
    """
    source = _find_model(recipe)
    if source is None or recipe.model.trust_remote_code or not was_admitted(source):
        return None
    tokenizer, notes = read_tokenizer_with_notes(source, template=recipe.model.template)
    return RowsFirst(source, prepare_with_faults(recipe, tokenizer, say), tokenizer, notes)


def _find_model(recipe: Recipe) -> Path | None:
    """Find a model's folder on this machine; None where it is not known to be whole."""
    model = recipe.model
    if model.hub is None:
        return locate_model(recipe)
    try:
        return find_in_cache(model.name, model.hub, model.revision, "model")
    except Exception:  # the clients raise many kinds: it must be downloaded, or the hub asked
        return None


def prepare_new_run(recipe: Recipe, say: Say) -> None:
    """Prepare the rows of a run that has no folder yet, as `prepare_rows_first`; the run finds them in the cache.

    Of one that has, whether it may go on is said before its rows are read; and a hub's rows are asked for once, by the
    run. Raises UserError as `prepare` does.
    """
    if recipe.run_folder.exists() or any(source.hub is not None for source in recipe.sources):
        return
    first = prepare_rows_first(recipe, say)
    # A hub may have another model by now, with other tokens: the run asks it, and says what is wrong then.
    if first and first.prepared.stop_reasons and recipe.model.hub is None:
        raise UserError(first.prepared.stop_reasons)
