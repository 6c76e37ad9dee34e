"""The layout of an act's folder: every file in it by name, spelled here and nowhere else."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ActFolder:
    """The folder of one act; its name is the act's id."""

    path: Path

    @property
    def record(self) -> Path:
        """What the act is: verb, arguments, what it is about, and when it was started."""
        return self.path / "act.json"

    @property
    def stdout(self) -> Path:
        """What the verb printed."""
        return self.path / "stdout"

    @property
    def stderr(self) -> Path:
        """What it printed for people beside that: notices and errors."""
        return self.path / "stderr"

    @property
    def progress(self) -> Path:
        """How far it is; whole or absent."""
        return self.path / "progress.json"

    @property
    def lock(self) -> Path:
        """Held by the act's process while it lives."""
        return self.path / "lock"

    @property
    def process(self) -> Path:
        """The numbers of its processes, true while the lock is held."""
        return self.path / "process.json"

    @property
    def stop(self) -> Path:
        """Written when somebody asked it to stop."""
        return self.path / "stop.json"

    @property
    def exit(self) -> Path:
        """Its exit code and when it ended; whole or absent."""
        return self.path / "exit.json"
