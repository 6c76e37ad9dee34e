"""The whole pipeline in minutes on a CPU, with a small model made on the spot."""

from thinktune.demo.pipeline import demo

__all__ = ["demo"]
