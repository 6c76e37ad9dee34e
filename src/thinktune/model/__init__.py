"""Transformers' own models over packed batches: loading, forward passes and losses."""

from thinktune.model.batch import Batch, pack
from thinktune.model.device import pick_device, pick_precision
from thinktune.model.forward import LossReport, evaluate_loss
from thinktune.model.loading import load_model, read_config

__all__ = ["Batch", "LossReport", "evaluate_loss", "load_model", "pack", "pick_device", "pick_precision", "read_config"]
