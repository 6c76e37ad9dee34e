"""Surfaces of the API beside chat completions: what each asks for, and what its replies are sent as."""
