"""AdamW in every memory tier, and the learning rate's schedule."""

from thinktune.optim.lr_schedule import learning_rate_factor
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer

__all__ = ["TIERS", "Optimizer", "learning_rate_factor"]
