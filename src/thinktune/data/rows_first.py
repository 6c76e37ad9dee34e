"""Rows before the model: prepared while torch is not loaded, so that their faults are told seconds after the start."""

from dataclasses import dataclass
from pathlib import Path

from thinktune.config import Recipe
from thinktune.data.pipeline import Prepared, is_small, prepare_with_faults
from thinktune.data.reading import sources
from thinktune.errors import UserError
from thinktune.hub import find_in_cache, locate_model
from thinktune.hub.admitted_folders import was_admitted
from thinktune.progress import Say
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.model_template import read_tokenizer_with_notes
from thinktune.tokenization.tokenizer import tokenizer_state


@dataclass(frozen=True, slots=True)
class RowsFirst:
    """A recipe's prepared rows, its model's folder, and the tokenizer with its notes (`read_tokenizer_with_notes`).

    Of a folder that is not `known`, the tokenizer is the likely one (`load_tokenizer`), and `prepared` may be what is
    wrong with the rows, to be told with the folder's own faults.
    """

    source: Path
    prepared: Prepared | UserError
    tokenizer: ChatTokenizer
    notes: tuple[str, ...]
    known: bool

    def agrees(self, tokenizer: ChatTokenizer) -> bool:
        """Return True if the rows are those that another tokenizer makes."""
        if tokenizer is self.tokenizer:
            return True
        same = self.tokenizer.stop_tokens == tokenizer.stop_tokens and self.tokenizer.eos_token == tokenizer.eos_token
        return same and tokenizer_state(self.tokenizer) == tokenizer_state(tokenizer)


def prepare_rows_first(recipe: Recipe, say: Say) -> RowsFirst | None:
    """Prepare a recipe's rows, if its model folder was admitted before as it is now, or if they are local and few.

    None where they are many, whose model's faults are told first, and where the folder's own code may run. The hub is
    not asked whether it has another model by now: who goes on asks it, and compares `source`. Raises UserError as
    `prepare_with_faults` does, of a folder that was admitted before.
    """
    source = _find_model(recipe)
    if source is None or recipe.model.trust_remote_code:
        return None
    known = was_admitted(source)
    try:
        if not known and not _are_few(recipe):
            return None
        tokenizer, notes = read_tokenizer_with_notes(source, template=recipe.model.template, likely=not known)
    except UserError:
        if known:
            raise
        return None  # it is told with the folder's other faults
    try:
        return RowsFirst(source, prepare_with_faults(recipe, tokenizer, say), tokenizer, notes, known)
    except UserError as error:
        if known:
            raise
        return RowsFirst(source, error, tokenizer, notes, known)
    except Exception:  # an unlikely tokenizer after all, of which the libraries may say anything
        if known:
            raise
        return None


def _are_few(recipe: Recipe) -> bool:
    """Return True if the rows are on this machine and read in seconds."""
    if any(source.hub is not None for source in recipe.sources):
        return False
    alone = map(recipe.of_source, range(len(recipe.sources)))
    return is_small([file for source in alone for file in sources.find_files(source)])


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
    run. Raises UserError as `prepare` does, of a folder that was admitted before; of another, the run says it.
    """
    if recipe.run_folder.exists() or any(source.hub is not None for source in recipe.sources):
        return
    first = prepare_rows_first(recipe, say)
    if first is None or not first.known or isinstance(first.prepared, UserError):
        return
    # A hub may have another model by now, with other tokens: the run asks it, and says what is wrong then.
    if first.prepared.stop_reasons and recipe.model.hub is None:
        raise UserError(first.prepared.stop_reasons)
