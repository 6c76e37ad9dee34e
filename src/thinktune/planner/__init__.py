"""Plan of a run, before anything is loaded: what fits a card, and how fast it trains."""

from thinktune.planner.memory import Setting
from thinktune.planner.plan import as_overrides, fallback
from thinktune.planner.resolve import PlanInputs, plan_run, resolve_setting

__all__ = ["PlanInputs", "Setting", "as_overrides", "fallback", "plan_run", "resolve_setting"]
