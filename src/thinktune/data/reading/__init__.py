"""Files of rows: found by their names, read by what they are."""
