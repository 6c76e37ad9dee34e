"""Transformers' own models over packed batches: loading, forward passes and losses."""

from thinktune.model.admission import read_config
from thinktune.model.batch import Batch, pack
from thinktune.model.device import pick_device, pick_precision
from thinktune.model.forward import evaluate_loss
from thinktune.model.protocols import CausalLM, ModelConfig

__all__ = ["Batch", "CausalLM", "ModelConfig", "evaluate_loss", "pack", "pick_device", "pick_precision", "read_config"]
