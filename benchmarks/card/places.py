"""Folders of the stages' results, weights and jobs; without torch, for the process that leads."""

from dataclasses import dataclass
from pathlib import Path

TOKENS_PER_STEP, TUTORIAL_ROWS = 32_768, 4


@dataclass(frozen=True)
class Places:
    """Folders of the results and of the work, and whether everything is tiny and on the CPU."""

    out: Path
    work: Path
    tiny: bool

    def flags(self) -> list[str]:
        """Return the options that every stage of ours takes."""
        return ["--staged", *(["--tiny"] if self.tiny else [])]


def model_folder(work: Path, size: str) -> Path:
    """Return where the weights of a size are."""
    return work / f"model-{size}"


def job_folder(work: Path, size: str, name: str) -> Path:
    """Return where a job of a size is."""
    return work / f"job-{size}-{name}"
