"""Marks in texts that are not part of what they say: tags, roles, placeholders, markup, traces of spreadsheets."""
