"""Rows in the studio: raw ones as a long list, dropped files, and one row's tokens."""

__all__: list[str] = []
