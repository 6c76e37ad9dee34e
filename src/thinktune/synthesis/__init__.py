"""Reasoning for rows that have none, by a teacher: asked within a budget, graded, and kept with its provenance."""

from thinktune.synthesis.ledger import parse_price
from thinktune.synthesis.selection import SelectionRules, Try, Verdict, select

__all__ = ["SelectionRules", "Try", "Verdict", "parse_price", "select"]
