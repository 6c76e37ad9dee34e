"""Trackers: separate processes that send a run's journal to SwanLab, W&B, MLflow and TensorBoard."""

from thinktune.tracking.trackers import run_trackers, update_trackers

__all__ = ["run_trackers", "update_trackers"]
