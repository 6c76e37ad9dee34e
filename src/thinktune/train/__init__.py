"""A recipe to a tuned model."""

from thinktune.train.launcher import device_count, launch_workers, process_group
from thinktune.train.loop import train
from thinktune.train.state import evaluation_interval_steps

__all__ = ["device_count", "evaluation_interval_steps", "launch_workers", "process_group", "train"]
