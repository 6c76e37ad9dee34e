"""Weights between base and tuned: asked, drawn as a curve of domain against general, and one of them chosen."""
