"""Streamed states: equal to resident ones bit for bit, and never more on the device than the stated chunks."""

import pytest
import torch
from support.optimizers import Small, everything, same, settings, take, take_inside
from torch.utils._python_dispatch import TorchDispatchMode

from thinktune.optim import adamw
from thinktune.optim.offload import BUFFER_COUNT, zero_blocks_on_host
from thinktune.optim.optimizer import Optimizer
from thinktune.optim.quantization import EIGHT_BIT

CHUNK = 512


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("chunk", [CHUNK, 2**15])
def test_streamed_is_resident_bit_for_bit(inside, chunk, monkeypatch):
    monkeypatch.setattr(adamw, "CPU_CHUNK_ELEMENTS", chunk)
    found = []
    for memory in ("8bit", "8bit-streamed"):
        model = Small()
        update = Optimizer(model, settings(memory, update_in_backward=inside))
        (take_inside if inside else take)(model, update, range(1, 8))
        found.append((everything(model, update), list(update.state_dict())))
    assert found[0][1] == found[1][1]
    assert same(found[0][0], found[1][0])


def test_a_run_may_go_on_with_its_states_in_another_place():
    """What one of the two saved, the other takes up."""
    model = Small()
    update = Optimizer(model, settings("8bit"))
    take(model, update, range(1, 4))
    other = Small()
    for mine, its in zip(other.parameters(), model.parameters(), strict=True):
        mine.data = its.detach().clone()
    again = Optimizer(other, settings("8bit-streamed"))
    for name, kept in again.state_dict().items():
        kept.copy_(update.state_dict()[name])
    take(model, update, [4])
    take(other, again, [4])
    assert same(everything(model, update), everything(other, again))


class Crossings(TorchDispatchMode):
    """Follows copies between the host's states and everything else: what is on the device, and in how many places."""

    def __init__(self, host):
        super().__init__()
        self.host = {tensor.untyped_storage().data_ptr() for tensor in host}
        self.here, self.most, self.places, self.crossed = set(), 0, set(), 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket.__name__ == "copy_":
            target, source = (tensor.untyped_storage().data_ptr() for tensor in args[:2])
            if source in self.host:
                assert target not in self.here, "a chunk was overwritten before it went back"
                self.here.add(target)
                self.places.add(target)
                self.crossed += 1
            elif target in self.host:
                self.here.remove(source)
            self.most = max(self.most, len(self.here))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("inside", [False, True])
def test_the_device_holds_no_more_than_the_stated_chunks(inside, monkeypatch):
    monkeypatch.setattr(adamw, "CPU_CHUNK_ELEMENTS", CHUNK)
    model = Small()
    update = Optimizer(model, settings("8bit-streamed", update_in_backward=inside))
    host = [tensor for name, tensor in update.state_dict().items() if "codes" in name or "scales" in name]
    with Crossings(host) as crossings:
        (take_inside if inside else take)(model, update, [1, 2])
    tensors = 4  # a chunk's codes and scales, of both moments
    chunks = -(-model.matrix.numel() // CHUNK) + 1
    assert chunks > 4 * BUFFER_COUNT
    assert crossings.crossed == 2 * chunks * tensors
    assert not crossings.here
    assert 0 < crossings.most <= BUFFER_COUNT * tensors
    assert len(crossings.places) == BUFFER_COUNT * tensors
    rooms = [place for moments in update._offloader._buffers for place in moments.moments]
    assert all(len(room.scales) * room.block_size == CHUNK for room in rooms)


def test_host_states_take_the_hosts_memory_and_leave_the_levels_on_the_device():
    made = zero_blocks_on_host(EIGHT_BIT, 1000, torch.device("meta"), signed=True)
    assert (made.codes.device.type, made.scales.device.type, made.codebook.device.type) == ("cpu", "cpu", "meta")
    assert (made.codes.shape, made.scales.shape) == ((4, 256), (4,))
    assert not made.codes.any()
    assert not torch.count_nonzero(made.scales)
