"""A recipe to a tuned model."""

from thinktune.train.context import evaluation_interval_steps
from thinktune.train.launcher import device_count, launch_workers, process_group
from thinktune.train.loop import train

__all__ = ["device_count", "evaluation_interval_steps", "launch_workers", "process_group", "train"]
