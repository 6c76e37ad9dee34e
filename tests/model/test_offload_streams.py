"""Copies of layer inputs on streams of their own race with nothing: neither with layers nor with memory used again."""

import gc

import pytest
import torch
from support.stream_races import Races, Stream
from torch._subclasses.fake_tensor import FakeTensorMode

from thinktune.model.long_rows.activation_offload import ActivationOffloader, OffloadedInput

META = torch.device("meta")


@pytest.fixture
def races(monkeypatch):
    found = Races("meta")
    monkeypatch.setattr(torch.accelerator, "current_stream", found.current_stream)
    return found


def offloader_of(races):
    """Make an offloader as on a card, whose streams are the detector's."""
    made = ActivationOffloader(META)
    made._to_host, made._to_device = Stream(races), Stream(races)
    return made


def forward(races, offloader, layers):
    """Run layers that each read their input, whose copy has begun, and write the next."""
    kept = []
    states = torch.empty(1, 8, 4, device=META)
    races.use(states, "embedding", writes=True)
    for _ in range(layers):
        kept.append(offloader.pack(states))
        made = torch.empty_like(states)
        races.use(states, "a forward pass", writes=False)
        races.use(made, "a forward pass", writes=True)
        states = made
    return kept


def backward(races, offloader, kept, layers):
    for _ in range(layers):
        found = offloader.unpack(kept.pop())
        races.use(found, "a backward pass", writes=False)
        del found


def passes(races, offloader):
    """Two steps, then one that is given up after two layers, and one more."""
    for layers in (9, 9):
        backward(races, offloader, forward(races, offloader, layers), layers)
    backward(races, offloader, forward(races, offloader, 9), 2)
    gc.collect()
    backward(races, offloader, forward(races, offloader, 4), 4)
    gc.collect()


def test_no_copy_races_with_layers_or_with_memory_that_is_used_again(races):
    with FakeTensorMode(), races:
        passes(races, offloader_of(races))
    assert races.found == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("release", "reuse while a copy to the host"),
        pytest.param("__del__", "reuse while a copy to the device", marks=pytest.mark.slow),
        pytest.param("_copy", "a copy to the host while", marks=pytest.mark.slow),
    ],
)
def test_the_detector_sees_what_it_is_for(races, monkeypatch, broken, said):
    """Without the wait before memory is let go, or before a copy begins, there are races."""

    def let_go(packed):
        packed.copied = packed.on_device = None

    def copy_at_once(offloader, source, target, stream):
        with stream:
            target.copy_(source)
        return stream.record_event()

    owner = ActivationOffloader if broken == "_copy" else OffloadedInput
    instead = {"release": let_go, "__del__": lambda packed: None, "_copy": copy_at_once}[broken]
    monkeypatch.setattr(owner, broken, instead)
    with FakeTensorMode(), races:
        passes(races, offloader_of(races))
    assert any(line.startswith(said) for line in races.found), races.found
