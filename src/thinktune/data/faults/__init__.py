"""Faults of rows: found, and repaired where a repair is sure."""
