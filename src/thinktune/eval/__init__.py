"""Base against tuned: tasks, grading and statistics here, whole evaluations in `eval.runner`."""

from thinktune.eval.comparison import Measure, comparison_tables, find_measure
from thinktune.eval.scoring import score_completions
from thinktune.eval.tasks import Task

__all__ = ["Measure", "Task", "comparison_tables", "find_measure", "score_completions"]
