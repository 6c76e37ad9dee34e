"""Choose, among the names of a folder or an archive, the files that hold rows."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from thinktune.errors import UserError
from thinktune.files import ROW_FILE_ENDINGS

READABLE = "JSON, JSON lines, CSV, TSV, Parquet, Arrow, .xlsx, .zip, and text files as .gz, .bz2, .xz or .zst"


# Files that hubs and libraries put next to the rows; they describe the data set and contain no rows.
METADATA_FILES = {
    *("dataset_infos.json", "dataset_info.json", "configuration.json", "config.json", "dataset_dict.json"),
}


STATE_FILE = "state.json"  # of a folder that datasets.save_to_disk has written


CACHE_FILE = re.compile(r"(cache|tmp)-?[0-9a-z_]+\.arrow")  # what datasets.map leaves beside the rows


UNSAID_SUFFIXES = ("", ".txt", ".text", ".dat", ".data", ".log")


def choose_row_files(names: Sequence[str], read: Callable[[str], bytes], where: str) -> list[str]:
    """Choose the files of rows among names with slashes, in their order.

    `read` gives the bytes of one. Of a data set that `datasets` has saved, only its own shards are chosen. Raises
    UserError, with `where`, if one of these is missing or cannot be understood.
    """
    visible = [name for name in names if not _is_hidden(name)]
    shards: dict[str, set[str]] = {}
    for name in visible:
        if PurePosixPath(name).name == STATE_FILE:
            folder = name.removesuffix(STATE_FILE)
            if (found := _shards(read(name), where, name)) is not None:
                shards[folder] = {folder + shard for shard in found}
    if missing := sorted(set().union(*shards.values()) - set(visible)):
        raise UserError(f"{where}: lacks {missing[0]}, a part of a saved data set; copy it again")
    chosen: list[str] = []
    for name in visible:
        folder, base = name.rpartition("/")[0], PurePosixPath(name).name
        folder = f"{folder}/" if folder else ""
        if folder in shards:
            if name in shards[folder]:
                chosen.append(name)
        elif name.lower().endswith(ROW_FILE_ENDINGS) and base not in METADATA_FILES and not CACHE_FILE.fullmatch(base):
            chosen.append(name)
    return chosen


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _shards(raw: bytes, where: str, name: str) -> list[str] | None:
    """Return the files that hold the rows of a saved data set, by its state; None if the file is no such state."""
    try:
        state = json.loads(raw)
        if not isinstance(state, dict) or "_data_files" not in state:
            return None
        files = [shard["filename"] for shard in state["_data_files"]]
        selected = state.get("_indices_data_files")
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if selected:
        raise UserError(f"{where}: {name} selects some of its rows by indices; save it again after flatten_indices()")
    return [str(shard) for shard in files]
