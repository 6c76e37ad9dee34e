"""The layout of a run's folder: every file and folder in it by name, spelled here and nowhere else."""

import re
from dataclasses import dataclass
from pathlib import Path

_CHECKPOINT_NAME = re.compile(r"step-(\d{6,})")
_AVERAGE_NAME = re.compile(r"average-[01](\.\d+)?")


@dataclass(frozen=True, slots=True)
class EvaluationFolder:
    """The files of one evaluation of a run: questions, replies of each side (`base`, `tuned`), and report.

    `shared` is the folder of another evaluation whose base's replies and losses serve this one, too.
    """

    path: Path
    shared: Path | None = None

    @property
    def settings(self) -> Path:
        """The settings that, besides the questions, decide the figures."""
        return self.path / "settings.json"

    @property
    def tasks(self) -> Path:
        """The questions, one a line."""
        return self.path / "tasks.jsonl"

    @property
    def judgements(self) -> Path:
        """The verdicts of a judge model."""
        return self.path / "judgements.jsonl"

    @property
    def rows(self) -> Path:
        """Every question with both replies and their scores."""
        return self.path / "rows.jsonl"

    @property
    def report(self) -> Path:
        """The figures: base, tuned and difference, with intervals."""
        return self.path / "report.json"

    def completions(self, side: str) -> Path:
        """Return the file of a side's replies, saved as they come."""
        return self._side(side) / "completions.jsonl"

    def budget_answers(self, side: str) -> Path:
        """Return the file of a side's answers to exams' questions within budgets of reasoning."""
        return self.path / side / "budgets.jsonl"

    def losses(self, side: str) -> Path:
        """Return the file of a side's losses on the held-out rows."""
        return self._side(side) / "losses.json"

    def speed(self, side: str) -> Path:
        """Return the file that says how many replies of a side were generated last on this machine, and how long."""
        return self._side(side) / "speed.json"

    def _side(self, side: str) -> Path:
        return (self.shared if self.shared and side == "base" else self.path) / side


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's folder, or any folder that may be one (see `is_run`)."""

    path: Path

    @property
    def is_run(self) -> bool:
        """Return True if a run was started here: its recipe is the first file that it writes."""
        return self.recipe.is_file()

    @property
    def recipe(self) -> Path:
        """The recipe that the run follows, resolved."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions, device, settings and fingerprints; the last file written before the first step."""
        return self.path / "environment.json"

    @property
    def data_summary(self) -> Path:
        """Counts of the rows that were read, repaired, dropped and held out."""
        return self.path / "data.json"

    @property
    def rounds(self) -> Path:
        """What the tries of each round of `think` were worth, where the run is trained on such rows."""
        return self.path / "rounds.json"

    @property
    def own_answers(self) -> Path:
        """The base's own answers that the run is trained on, by their entry of the cache, which may be emptied."""
        return self.path / "own-answers.json"

    @property
    def row_digests(self) -> Path:
        """The digest and `file:line` of each training row."""
        return self.path / "rows.txt"

    @property
    def held_out_texts(self) -> Path:
        """The texts of the held-out rows, for the page."""
        return self.path / "held-out.jsonl"

    @property
    def metrics(self) -> Path:
        """The journal of losses, speed and events."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """The journal of replies to held-out questions."""
        return self.path / "samples.jsonl"

    @property
    def row_losses(self) -> Path:
        """The journal of each held-out row's loss."""
        return self.path / "losses.jsonl"

    @property
    def journals(self) -> tuple[Path, Path, Path]:
        """The files that grow with the run; a checkpoint records their lengths."""
        return self.metrics, self.samples, self.row_losses

    @property
    def chat_rows(self) -> Path:
        """Rows that people made of replies on the chat page, by a thumb or a correction."""
        return self.path / "rows-from-chat.jsonl"

    @property
    def votes(self) -> Path:
        """Votes of people who compared base and tuned on the chat page, with the names hidden."""
        return self.path / "votes.jsonl"

    @property
    def feedback_lock(self) -> Path:
        """Held while a server writes those rows or votes."""
        return self.path / ".feedback.lock"

    @property
    def lock(self) -> Path:
        """Held while a process trains here."""
        return self.path / ".lock"

    @property
    def process(self) -> Path:
        """The machine and the number of the process that trains here; true while the lock is held."""
        return self.path / ".process.json"

    def mark(self, number: int) -> Path:
        """Return a file by which ranks find out whether they see one folder; what a crash leaves is a partial file."""
        return self.path / f".shared.{number}.partial"

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Return the folder of one step's checkpoint."""
        return self.checkpoints / f"step-{step:06d}"

    @property
    def last(self) -> Path:
        """The pointer to the checkpoint from which the run resumes."""
        return self.path / "last"

    @property
    def best(self) -> Path:
        """The pointer to the checkpoint with the lowest eval loss."""
        return self.path / "best"

    @property
    def evaluated(self) -> Path:
        """The last step with a complete evaluation, and the lengths of the journals after it."""
        return self.path / "evaluated.json"

    @property
    def final(self) -> Path:
        """The model that the run ends with, as a plain model folder."""
        return self.path / "final"

    @property
    def card(self) -> Path:
        """The model card where `final/` has one that people edited, which is left as it is."""
        return self.path / "model-card.md"

    @property
    def exports(self) -> Path:
        """The folder of all exports, each in a folder by its target's name."""
        return self.path / "export"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    def evaluation(self, *, thinking: bool = True, average: str | None = None) -> EvaluationFolder:
        """Return the folder of an evaluation; the one without thinking is inside the other.

        `average` names an average's folder; its evaluation shares the base's replies.
        """
        own = self.path / "eval"
        mode = Path() if thinking else Path("no-thinking")
        return EvaluationFolder(own / average / mode, own / mode) if average else EvaluationFolder(own / mode)

    def average(self, weight: float) -> Path:
        """Return the folder of a model between base and tuned, by the weight of the tuned one."""
        return self.path / f"average-{weight:g}"

    @property
    def averaging(self) -> EvaluationFolder:
        """The replies by which a weight is chosen; the sides are the base and each weight."""
        return EvaluationFolder(self.path / "averaging")

    @property
    def curve(self) -> Path:
        """The figures of each weight between base and tuned, and the one that was chosen."""
        return self.averaging.path / "curve.json"

    @property
    def averaged(self) -> Path:
        """The model of one weight while it is asked."""
        return self.averaging.path / "model.partial"

    @property
    def exam_record(self) -> Path:
        """The record of the exams' sets as they were first fetched, to which every evaluation of the run is held."""
        return self.path / "eval" / "exams.json"

    @property
    def harness(self) -> Path:
        """The folder of what lm-eval and EvalScope wrote."""
        return self.path / "eval" / "harness"

    @property
    def harness_results(self) -> Path:
        """The figures read back from lm-eval and EvalScope."""
        return self.path / "eval" / "harness.json"

    def tracker(self, name: str) -> Path:
        """Return the folder of a tracker's own files."""
        return self.path / name

    def tracker_log(self, name: str) -> Path:
        """Return the file to which a tracker's process and its libraries print."""
        return self.path / f"{name}.log"

    def tracker_id(self, name: str) -> Path:
        """Return the file with the run's id at a tracker."""
        return self.tracker(name) / "id"


def checkpoint_step(name: str) -> int | None:
    """Parse the step from the name of a checkpoint's folder; None for any other name."""
    found = _CHECKPOINT_NAME.fullmatch(name)
    return int(found[1]) if found else None


def find_run(folder: Path) -> tuple[RunFolder, str | None]:
    """Return the run of a folder: itself, or that beside which an average of its models stands, with its name."""
    beside = RunFolder(folder.parent)
    if not RunFolder(folder).is_run and _AVERAGE_NAME.fullmatch(folder.name) and beside.is_run:
        return beside, folder.name
    return RunFolder(folder), None
