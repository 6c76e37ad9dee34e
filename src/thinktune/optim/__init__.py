"""AdamW in every memory tier, and learning-rate schedules."""

from thinktune.optim.lr_schedule import learning_rate_factor
from thinktune.optim.memory_tiers import TIERS, MemoryTier, candidate_tiers, pick_memory_tier
from thinktune.optim.optimizer import Optimizer

__all__ = ["TIERS", "MemoryTier", "Optimizer", "candidate_tiers", "learning_rate_factor", "pick_memory_tier"]
