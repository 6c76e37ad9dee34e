"""Checkpoints, whole or absent: found and verified here without torch, saved and restored in `checkpoint.saving`."""

from thinktune.checkpoint.store import (
    Checkpoint,
    find_checkpoint,
    model_warning,
    require_run_folder,
    resolve_model_folder,
    verify,
)

__all__ = ["Checkpoint", "find_checkpoint", "model_warning", "require_run_folder", "resolve_model_folder", "verify"]
