"""Base against tuned: tasks, grading, statistics and scoring; whole evaluations are in `eval.runner`, with torch."""

from thinktune.eval.comparison import Measure, comparison_tables, find_measure
from thinktune.eval.scoring import score_completions
from thinktune.eval.tasks import Task

__all__ = ["Measure", "Task", "comparison_tables", "find_measure", "score_completions"]
