"""Reasoning for rows that have none, by a teacher: asked within a budget, graded, and kept with its provenance."""

from thinktune.synthesis.account import account_lines
from thinktune.synthesis.ledger import parse_price
from thinktune.synthesis.selection import SelectionRules, Try, Verdict, select
from thinktune.synthesis.settings import ThinkOptions
from thinktune.synthesis.think import think

__all__ = ["SelectionRules", "ThinkOptions", "Try", "Verdict", "account_lines", "parse_price", "select", "think"]
