"""Rows to labelled tokens, and labelled tokens to optimizer steps."""

from thinktune.data.dataset import Prepared, Subset
from thinktune.data.packing import StepRows
from thinktune.data.pipeline import prepare

__all__ = ["Prepared", "StepRows", "Subset", "prepare"]
