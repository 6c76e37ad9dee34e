"""The layout of a folder of `thinktune think`, and the rounds of rejection sampling that it records."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from thinktune.files import expand_home, read_json
from thinktune.run.lock import hold_lock


@dataclass(frozen=True, slots=True)
class ThoughtFolder:
    """The files of one `think`: rows and recipe for what comes next, and the journal from which it goes on."""

    path: Path

    @property
    def rows(self) -> Path:
        """The rows with their reasoning."""
        return self.path / "thought.jsonl"

    @property
    def recipe(self) -> Path:
        """A recipe that trains on them; under the name recipe.yaml it would make the folder a run's."""
        return self.path / "train.yaml"

    @property
    def account(self) -> Path:
        """What was asked, kept and spent."""
        return self.path / "account.json"

    @property
    def verdicts(self) -> Path:
        """The decision on every try, one a line."""
        return self.path / "verdicts.jsonl"

    @property
    def replies(self) -> Path:
        """The journal of all requests and replies."""
        return self.path / "replies.jsonl"

    @property
    def settings(self) -> Path:
        """The settings that all replies share."""
        return self.path / "request.json"

    @contextmanager
    def locked(self) -> Generator[None]:
        """Lock the folder for this process; raises UserError where another one thinks in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        taken = f"{self.path}: another process is writing to it; wait for it to end, or name another folder with --to"
        with hold_lock(self.path / ".think.lock", taken):
            yield


def _is_ordered(rate: tuple[float, float, float]) -> tuple[float, float, float]:
    value, low, high = rate
    if not 0 <= low <= value <= high <= 1:
        raise ValueError("is no share within its interval")
    return rate


class Round(BaseModel):
    """What the tries of one round were worth: `pass_at` holds pass@n as value, low and high ends of its interval."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    teacher: str
    graded_questions: int
    pass_at: dict[int, Annotated[tuple[float, float, float], AfterValidator(_is_ordered)]]


Rounds = TypeAdapter(list[Round])


def read_rounds(rows: str) -> list[dict[str, Any]]:
    """Return the rounds that rows of `think` came from, oldest first, from the account beside their file.

    None for any other file, and where the account was moved or edited since then.
    """
    path = expand_home(Path(rows))
    folder = ThoughtFolder(path.parent)
    if path.name != folder.rows.name or not folder.account.is_file():
        return []
    try:
        rounds = read_json(folder.account)["rounds"]
        Rounds.validate_python(rounds)
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return []
    return rounds
