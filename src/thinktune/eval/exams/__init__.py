"""Public exams: fetched by name from a hub, held to the record of their first fetch, and scored with their licence."""

from thinktune.eval.exams.exam import ExamRequest

__all__ = ["ExamRequest"]
