"""Arithmetic of fewer bits than the weights have."""
