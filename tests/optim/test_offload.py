"""Offloaded states: equal to resident ones bit for bit, and never more on the device than the buffers hold."""

import pytest
import torch
from support.optimizers import SmallModel, all_equal, all_tensors, settings, take_steps, take_steps_in_backward
from torch.utils._python_dispatch import TorchDispatchMode

from thinktune.optim import adamw
from thinktune.optim.offload import BUFFER_COUNT, zero_blocks_on_host
from thinktune.optim.optimizer import Optimizer
from thinktune.optim.quantization import EIGHT_BIT

CHUNK = 512


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("chunk", [CHUNK, 2**15])
def test_offloaded_states_equal_resident_ones_bit_for_bit(in_backward, chunk, monkeypatch):
    monkeypatch.setattr(adamw, "CPU_CHUNK_ELEMENTS", chunk)
    found = []
    for memory in ("8bit", "8bit-streamed"):
        model = SmallModel()
        optimizer = Optimizer(model, settings(memory, update_in_backward=in_backward))
        (take_steps_in_backward if in_backward else take_steps)(model, optimizer, range(1, 8))
        found.append((all_tensors(model, optimizer), list(optimizer.state_dict())))
    assert found[0][1] == found[1][1]
    assert all_equal(found[0][0], found[1][0])


def test_a_run_may_be_resumed_with_its_states_in_another_place():
    """What one tier saved, the other restores."""
    model = SmallModel()
    optimizer = Optimizer(model, settings("8bit"))
    take_steps(model, optimizer, range(1, 4))
    other = SmallModel()
    for mine, its in zip(other.parameters(), model.parameters(), strict=True):
        mine.data = its.detach().clone()
    restored = Optimizer(other, settings("8bit-streamed"))
    for name, kept in restored.state_dict().items():
        kept.copy_(optimizer.state_dict()[name])
    take_steps(model, optimizer, [4])
    take_steps(other, restored, [4])
    assert all_equal(all_tensors(model, optimizer), all_tensors(other, restored))


class HostCopies(TorchDispatchMode):
    """Follow copies of the host's states: how many tensors are on the device at once, and in how many buffers."""

    def __init__(self, host):
        super().__init__()
        self.host = {tensor.untyped_storage().data_ptr() for tensor in host}
        self.on_device, self.peak, self.buffers, self.copies = set(), 0, set(), 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket.__name__ == "copy_":
            target, source = (tensor.untyped_storage().data_ptr() for tensor in args[:2])
            if source in self.host:
                assert target not in self.on_device, "a chunk was overwritten before it went back"
                self.on_device.add(target)
                self.buffers.add(target)
                self.copies += 1
            elif target in self.host:
                self.on_device.remove(source)
            self.peak = max(self.peak, len(self.on_device))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("in_backward", [False, True])
def test_the_device_holds_no_more_than_the_buffers(in_backward, monkeypatch):
    monkeypatch.setattr(adamw, "CPU_CHUNK_ELEMENTS", CHUNK)
    model = SmallModel()
    optimizer = Optimizer(model, settings("8bit-streamed", update_in_backward=in_backward))
    host = [tensor for name, tensor in optimizer.state_dict().items() if "codes" in name or "scales" in name]
    with HostCopies(host) as copied:
        (take_steps_in_backward if in_backward else take_steps)(model, optimizer, [1, 2])
    tensors = 4  # a chunk's codes and scales, of both moments
    chunks = -(-model.matrix.numel() // CHUNK) + 1
    assert chunks > 4 * BUFFER_COUNT
    assert copied.copies == 2 * chunks * tensors
    assert not copied.on_device
    assert 0 < copied.peak <= BUFFER_COUNT * tensors
    assert len(copied.buffers) == BUFFER_COUNT * tensors
    moments = [moment for buffer in optimizer._offloader._buffers for moment in buffer.moments]
    assert all(len(moment.scales) * moment.block_size == CHUNK for moment in moments)


def test_host_blocks_are_in_host_memory_and_their_codebook_on_the_device():
    made = zero_blocks_on_host(EIGHT_BIT, 1000, torch.device("meta"), signed=True)
    assert (made.codes.device.type, made.scales.device.type, made.codebook.device.type) == ("cpu", "cpu", "meta")
    assert (made.codes.shape, made.scales.shape) == ((4, 256), (4,))
    assert not made.codes.any()
    assert not torch.count_nonzero(made.scales)
