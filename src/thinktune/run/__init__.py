"""The run folder: its layout, journal, lock and environment, and the diagnosis of what the journal shows."""

from thinktune.run.diagnosis import Diagnosis, diagnose_run
from thinktune.run.environment import describe_environment
from thinktune.run.folder import EvaluationFolder, RunFolder
from thinktune.run.journal import Record, read_metrics
from thinktune.run.resume import lock_run

__all__ = [
    "Diagnosis",
    "EvaluationFolder",
    "Record",
    "RunFolder",
    "describe_environment",
    "diagnose_run",
    "lock_run",
    "read_metrics",
]
