"""Rows before the model: prepared while torch is not loaded, so that their faults are told seconds after the start."""

from dataclasses import dataclass

from thinktune.config import Recipe
from thinktune.data.pipeline import Prepared, prepare_with_faults
from thinktune.errors import UserError
from thinktune.hub import locate_model
from thinktune.hub.admitted_folders import was_admitted
from thinktune.progress import Say
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.model_template import read_tokenizer_with_notes


@dataclass(frozen=True, slots=True)
class RowsFirst:
    """A recipe's prepared rows, and the tokenizer that made them with its notes (`read_tokenizer_with_notes`)."""

    prepared: Prepared
    tokenizer: ChatTokenizer
    notes: tuple[str, ...]


def prepare_rows_first(recipe: Recipe, say: Say) -> RowsFirst | None:
    """Prepare a recipe's rows, if its model folder was admitted before as it is now; else its faults are told first.

    None then, and where the folder's own code may run. Raises UserError as `prepare_with_faults` does.
    """
    source = locate_model(recipe)
    if recipe.model.trust_remote_code or not was_admitted(source):
        return None
    tokenizer, notes = read_tokenizer_with_notes(source, template=recipe.model.template)
    return RowsFirst(prepare_with_faults(recipe, tokenizer, say), tokenizer, notes)


def prepare_new_run(recipe: Recipe, say: Say) -> None:
    """Prepare the rows of a run that has no folder yet, as `prepare_rows_first`; the run finds them in the cache.

    Of one that has, whether it may go on is said before its rows are read. Raises UserError as `prepare` does.
    """
    if recipe.run_folder.exists():
        return
    first = prepare_rows_first(recipe, say)
    if first and first.prepared.stop_reasons:
        raise UserError(first.prepared.stop_reasons)
