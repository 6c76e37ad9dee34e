"""The states of torch's random generators, of which only a model with dropout draws."""

import torch
from torch import Tensor

PREFIX = "random/"  # of their names among those of an update's state


def states(device: torch.device) -> dict[str, Tensor]:
    """The state of the host's generator, and of the device's."""
    found = {f"{PREFIX}cpu": torch.get_rng_state()}
    if device.type != "cpu":
        found[f"{PREFIX}{device.type}"] = torch.get_device_module(device).get_rng_state()
    return found


def restore(kind: str, state: Tensor, device: torch.device) -> None:
    """Set the generator of a kind of device; that of another kind than this one is left alone."""
    if kind == "cpu":
        torch.set_rng_state(state)
    elif kind == device.type:
        torch.get_device_module(device).set_rng_state(state)
