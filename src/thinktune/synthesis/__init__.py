"""Reasoning for rows that have none: a teacher's tries, and which of them are kept."""

from thinktune.synthesis.selection import SelectionRules, Try, Verdict, select

__all__ = ["SelectionRules", "Try", "Verdict", "select"]
