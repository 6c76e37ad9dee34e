"""Reasoning for rows that have none, by a teacher: asked within a budget, graded, and kept with its provenance."""

from thinktune.synthesis.ledger import parse_price

__all__ = ["parse_price"]
