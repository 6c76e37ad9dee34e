"""What fits a card, and how fast it runs, before anything is loaded."""

from thinktune.planner.memory import Setting
from thinktune.planner.plan import as_overrides, fallback
from thinktune.planner.resolve import plan_run, resolve_setting

__all__ = ["Setting", "as_overrides", "fallback", "plan_run", "resolve_setting"]
