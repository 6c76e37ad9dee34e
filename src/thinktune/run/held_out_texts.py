"""Texts of a run's held-out rows, so that the page can show the rows whose losses it lists."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from thinktune.files import write_json_lines
from thinktune.run.folder import RunFolder
from thinktune.run.reading import AnyObject, Record, read_lines

MAX_ROWS = 5000  # of a run, that texts are kept of
MAX_CHARACTERS = 4000  # of each text; a page shows no more

AGAIN = "delete the file: the page then shows these rows without their text"


@dataclass(frozen=True, slots=True)
class RowText:
    """Text of a held-out row: its question, and its own reasoning and answer."""

    question: str
    reasoning: str
    answer: str


class _Line(AnyObject):
    row: str
    question: str
    reasoning: str
    answer: str


def write_held_out_texts(run: Path, rows: Iterable[tuple[str, RowText]]) -> None:
    """Write the text of the first `MAX_ROWS` rows by `file:line`, each at most `MAX_CHARACTERS` long."""
    kept = [
        {"row": name, **{key: value[:MAX_CHARACTERS] for key, value in asdict(text).items()}} for name, text in rows
    ]
    write_json_lines(RunFolder(run).held_out_texts, kept[:MAX_ROWS])


def read_held_out_texts(run: Path, names: Collection[str]) -> dict[str, RowText]:
    """Read the texts of the rows with these names, as far as they are known.

    Runs of earlier releases kept none: there the samples, which have a few rows' texts, must do. Raises UserError where
    the file is damaged.
    """
    lines = read_lines(RunFolder(run).held_out_texts, _Line, AGAIN)
    return {line["row"]: _text(line) for line in lines if line["row"] in names}


def texts_of_samples(samples: Iterable[Record]) -> Mapping[str, RowText]:
    """Return the texts of the rows that were asked as samples."""
    return {
        str(sample.get("row")): RowText(
            str(sample.get("question", "")),
            str(sample.get("reference_reasoning", "")),
            str(sample.get("reference_answer", "")),
        )
        for sample in samples
    }


def _text(line: Record) -> RowText:
    return RowText(line["question"], line["reasoning"], line["answer"])
