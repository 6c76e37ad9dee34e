"""The folder of a pilot: short runs over a grid of learning rates and epochs, and what they showed."""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from thinktune.errors import UserError
from thinktune.files import read_json, write_json
from thinktune.run.folder import RunFolder
from thinktune.run.lock import hold_lock


@dataclass(frozen=True, slots=True)
class PilotFolder:
    """The files of a pilot. Its runs are ordinary run folders inside it; another run of the recipe never meets them."""

    path: Path

    @property
    def settings(self) -> Path:
        """What all its runs share: settings of the recipe, share of the rows, fingerprints of rows and weights."""
        return self.path / "shared-settings.json"

    @property
    def rows(self) -> Path:
        """The folder of the rows that its runs are trained and evaluated on."""
        return self.path / "rows"

    def recipe(self, name: str) -> Path:
        """Return the recipe of one of its runs."""
        return self.path / "recipes" / f"{name}.yaml"

    def run(self, name: str) -> RunFolder:
        """Return the folder of one of its runs."""
        return RunFolder(self.path / name)

    def measured(self, name: str) -> Path:
        """Return the figures of one of its runs; written last, so a run that has them is done."""
        return self.path / "measured" / f"{name}.json"

    @property
    def base(self) -> Path:
        """Which questions of the probe were asked, and which of them the base answered correctly."""
        return self.path / "base.json"

    @property
    def result(self) -> Path:
        """All figures, comparisons and the recommendation."""
        return self.path / "pilot.json"

    @property
    def report(self) -> Path:
        """The page with the chart."""
        return RunFolder(self.path).report

    @contextmanager
    def locked(self) -> Generator[None]:
        """Lock the folder for this process; raises UserError where another pilot runs, or a run is in its place."""
        if RunFolder(self.path).is_run:
            raise UserError(f"{self.path}: is a run, not a pilot; give the recipe's pilot another name with name=...")
        self.path.mkdir(parents=True, exist_ok=True)
        taken = f"{self.path}: another process runs this pilot; wait for it to end, or start another with name=..."
        with hold_lock(self.path / ".pilot.lock", taken):
            yield


def pilot_folder(runs_folder: Path, name: str) -> PilotFolder:
    """Return the folder of the pilot of the recipe whose run has this name."""
    return PilotFolder(runs_folder / f"{name}-pilot")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the grid: a peak learning rate, and the epochs that its schedule spans."""

    learning_rate: float
    epochs: int

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"rate-{spell_rate(self.learning_rate)}-epochs-{self.epochs}"


@dataclass(frozen=True, slots=True)
class PilotRun:
    """What one run showed.

    `loss` is that of its final model, the best step's, on the held-out rows; None if it is not finite, or if the run
    failed, which `failure` then says. `right` says of each question of the probe whether it was right; empty
    if it was not asked. `seconds` is all that the run took, `training_seconds` its steps alone.
    """

    learning_rate: float
    epochs: int
    steps: int
    last_step: int
    best_step: int
    loss: float | None
    state: str
    trained_tokens: int
    training_seconds: float
    seconds: float
    failure: str = ""
    right: tuple[bool, ...] = ()

    @property
    def cell(self) -> Cell:
        """Its place in the grid."""
        return Cell(self.learning_rate, self.epochs)


@dataclass(frozen=True, slots=True)
class Span:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run beside the one of lowest loss.

    `difference` is its loss minus the lowest, None where it has none. It is `level` if that interval holds zero, and
    it `keeps` if its answers to the probe are not clearly fewer than those of the level run with most.
    """

    run: PilotRun
    difference: Span | None
    level: bool
    keeps: bool


LeftOutBecause = Literal["time", "worse"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A cell that was not run: no time was left, or its rate was clearly worse with fewer epochs."""

    learning_rate: float
    epochs: int
    because: LeftOutBecause


@dataclass(frozen=True, slots=True)
class PilotData:
    """What the runs were trained and evaluated on."""

    share: float
    train_rows: int
    all_train_rows: int
    held_out_rows: int
    all_held_out_rows: int
    epoch_steps: int  # of the share
    epoch_tokens: int  # of the share
    all_epoch_tokens: int


@dataclass(frozen=True, slots=True)
class PilotResult:
    """Everything that a pilot showed: `chosen` is the place of the recommended run in `runs`, None for none.

    `base_right` are the base's correct answers of `probe_questions`; `minutes` is the bound, `seconds` what was used.
    """

    name: str
    recipe: str
    overrides: Sequence[str]  # of the recipe, as typed
    learning_rate: float  # of the recipe
    epochs: int
    schedule: str
    data: PilotData
    rates: Sequence[float]
    epochs_tried: Sequence[int]
    runs: Sequence[ComparedRun]
    left_out: Sequence[LeftOut]
    chosen: int | None
    base_loss: float | None
    probe_questions: int
    base_right: int
    probe_thinking: bool
    minutes: float
    seconds: float
    finished: bool


_RUN = TypeAdapter(PilotRun)
_RIGHT = TypeAdapter(dict[str, bool])


def write_measured(file: Path, run: PilotRun) -> None:
    """Write what a run showed, whole or not at all."""
    write_json(file, asdict(run))


def read_measured(file: Path) -> PilotRun | None:
    """Read what a run showed, None where it is not measured; raises UserError where the file is damaged."""
    return _read(file, _RUN) if file.is_file() else None


def read_right(file: Path) -> dict[str, bool] | None:
    """Read which questions the base answered correctly, by the question's place; None where it was not asked."""
    return _read(file, _RIGHT) if file.is_file() else None


def _read(file: Path, kind: TypeAdapter[Any]) -> Any:
    try:
        return kind.validate_python(read_json(file))
    except (ValueError, ValidationError, RecursionError):
        raise UserError(f"{file}: is damaged; remove it, then run the same command to measure it again") from None


def write_result(folder: PilotFolder, result: PilotResult) -> None:
    """Write all figures, whole or not at all."""
    write_json(folder.result, asdict(result))


def round_rate(rate: float) -> float:
    """Round a learning rate to three digits, as it is spelled."""
    return float(f"{rate:.3g}")


def spell_rate(rate: float) -> str:
    """Spell a learning rate as recipes do: 2.5e-6."""
    power = math.floor(math.log10(rate) + 1e-9)
    mantissa = f"{rate / 10.0**power:.3g}"
    return f"{mantissa}e{power}"
