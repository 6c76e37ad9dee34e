"""Rows in the studio: raw ones as a long list, files that are dropped, one row's tokens, and doubts."""

from thinktune.studio.rows.routes import add_rows_routes

__all__ = ["add_rows_routes"]
