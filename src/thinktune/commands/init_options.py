"""What the user said to `init`, refused before anything heavy is loaded where it cannot be what was meant."""

from dataclasses import dataclass
from pathlib import Path

from thinktune.config.schema import Hub
from thinktune.errors import UserError
from thinktune.files import ROW_FILE_ENDINGS
from thinktune.run.environment import shell_command

RECIPE_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What the user said: rows, here or on a hub, and where given a model, its hub, a card and the recipe's file."""

    rows: Path
    model: str | None = None
    hub: Hub = "modelscope"
    card: str | None = None
    output: Path | None = None


def refuse_options(options: InitOptions) -> None:
    """Raise UserError with every option that names no rows, no model, or a file that is there already."""
    faults = [_rows_fault(options.rows), _output_fault(options.output)]
    faults.append(model_fault(options.model) if options.model is not None else None)
    if found := list(filter(None, faults)):
        raise UserError(found)


def _rows_fault(rows: Path) -> str | None:
    if rows.suffix.lower() in RECIPE_ENDINGS and rows.is_file():
        return (
            f"{rows}: is a recipe, but a file of rows is expected; {shell_command('check', rows)} shows what it trains"
        )
    if are_here(rows) or _could_be_on_a_hub(rows):
        return None
    return (
        f"{rows}: is not a file or folder here; name your rows, as in thinktune init rows.jsonl, or a data set on "
        "a hub, as in OWNER/NAME"
    )


def are_here(rows: Path) -> bool:
    """Return True for a file or folder on this machine, or a glob of files."""
    return rows.exists() or any(letter in str(rows) for letter in "*?[")


def _could_be_on_a_hub(rows: Path) -> bool:
    """Return True for OWNER/NAME; a folder that is here, or an ending of files of rows, means that a file was meant."""
    owner, *names = rows.as_posix().split("/")
    is_file_name = rows.name.lower().endswith(ROW_FILE_ENDINGS)
    return len(names) == 1 and owner not in ("", ".", "..", "~") and not is_file_name and not Path(owner).exists()


def _output_fault(output: Path | None) -> str | None:
    if output is None or not output.exists():
        return None
    return f"--output: {output} already exists and is not overwritten; name another file, or move that one"


def model_fault(name: str) -> str | None:
    """Say what is wrong with a model's name that is neither a folder here nor a name on a hub; None if nothing is."""
    if Path(name).expanduser().exists() or name.count("/") == 1:
        return None
    return f"--model: {name!r} is not a folder here, and a name on a hub is OWNER/NAME, as in Qwen/Qwen3-1.7B"
