"""Package planner."""
