"""A run's journal to SwanLab and TensorBoard, by processes of their own."""

from thinktune.tracking.trackers import run_trackers, update_trackers

__all__ = ["run_trackers", "update_trackers"]
