"""The verb pilot: learning rate and epochs by short runs over a grid."""

from thinktune.commands.pilot.output import run_pilot

__all__ = ["run_pilot"]
