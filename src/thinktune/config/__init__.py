"""What a recipe may say: its schema, how it is read, and the catalogue of row faults."""

from thinktune.config.loading import load_recipe
from thinktune.config.row_faults import ROW_FAULTS
from thinktune.config.schema import DataConfig, MemoryTierName, Recipe, Strategy, TrackConfig, TrainConfig

__all__ = [
    "ROW_FAULTS",
    "DataConfig",
    "MemoryTierName",
    "Recipe",
    "Strategy",
    "TrackConfig",
    "TrainConfig",
    "load_recipe",
]
