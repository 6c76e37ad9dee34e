"""Parts of a run's page that are made of its records: the answer, progress, settings, and rows with their text."""
