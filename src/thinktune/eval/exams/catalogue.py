"""Catalogue of public exams: which sets of questions each has, where they are on the hubs, and how they are read."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from thinktune.errors import UserError
from thinktune.eval.task_layouts import TaskLayout

Hub = Literal["huggingface", "modelscope"]
HUBS: tuple[Hub, ...] = ("huggingface", "modelscope")
ARCHIVE = ".zip"  # what a part's path begins with, as in rows.zip/part

_SUBJECT = "{subject}"


@dataclass(frozen=True, slots=True)
class ExamFile:
    """A file of a repository that holds questions, the part of it if it is an archive, and their subject, if known."""

    name: str
    part: str = ""
    subject: str = ""


class Place(BaseModel):
    """A repository of one hub, and patterns of its files with questions, in the order in which they are tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str
    files: tuple[str, ...]


class ExamSet(BaseModel):
    """One public set of questions: its title, language (ISO 639-1) and split, where it is, and how it is read.

    `subjects` are those that are asked, all if there are none; they are values of `kind_column`, or parts of the files'
    names. `several` is whether more than one option may be right.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    language: str
    split: str
    licence: str = ""
    places: dict[Hub, Place]
    layout: TaskLayout | None = None
    subjects: tuple[str, ...] = ()
    kind_column: str | None = None
    several: bool = False


class Catalogue(BaseModel):
    """All exams, each the names of its sets, and all sets by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exams: dict[str, tuple[str, ...]]
    sets: dict[str, ExamSet]

    @model_validator(mode="after")
    def _check_names(self) -> "Catalogue":
        unknown = {name for names in self.exams.values() for name in names} - {*self.sets}
        if unknown:
            raise ValueError(f"exams name unknown sets: {', '.join(sorted(unknown))}")
        return self


@cache
def read_catalogue() -> Catalogue:
    """Read the catalogue that comes with thinktune."""
    text = files("thinktune.eval.exams").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return Catalogue.model_validate(yaml.safe_load(text))


def find_sets(names: Sequence[str]) -> dict[str, ExamSet]:
    """Return the sets of exams, or single sets, by name, each once; raises UserError with every unknown name."""
    catalogue = read_catalogue()
    if unknown := [name for name in names if name not in catalogue.exams and name not in catalogue.sets]:
        known = f"known exams are {', '.join(catalogue.exams)}; you can also name their sets: "
        raise UserError(f"--exam: does not know {', '.join(unknown)}; {known}{', '.join(catalogue.sets)}")
    wanted = [one for name in names for one in catalogue.exams.get(name, (name,))]
    return {name: catalogue.sets[name] for name in dict.fromkeys(wanted)}


def choose_files(exam_set: ExamSet, place: Place, names: Collection[str]) -> list[ExamFile]:
    """Choose the files of a repository that hold a set's questions: those of the first pattern that fits.

    Of an archive it is the archive itself, whose `part` is still a pattern. Returns [] if no pattern has a file for
    every subject.
    """
    by_row = exam_set.kind_column is not None
    subjects = () if by_row else exam_set.subjects
    for pattern in place.files:
        archive, _, part = pattern.partition(f"{ARCHIVE}/")
        if part:
            if archive + ARCHIVE in names:
                return [ExamFile(archive + ARCHIVE, part)]
            continue
        found = match_subjects(pattern, sorted(names), subjects)
        if found:
            return [ExamFile(name, "", subject) for name, subject in found.items()]
    return []


def match_subjects(pattern: str, names: Sequence[str], subjects: Sequence[str]) -> dict[str, str]:
    """Return the names that fit a pattern, each with its subject; {} unless every wanted subject has one."""
    before, marked, after = pattern.partition(_SUBJECT)
    if not marked:
        return {name: "" for name in names if fnmatchcase(name, pattern)}
    whole = re.compile(f"{_to_regex(before)}(?P<subject>[^/]+?){_to_regex(after)}")
    found = {name: match["subject"] for name in names if (match := whole.fullmatch(name))}
    kept = {name: subject for name, subject in found.items() if not subjects or subject in subjects}
    return kept if {*subjects} <= {*kept.values()} else {}


def _to_regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", "[^/]*")
