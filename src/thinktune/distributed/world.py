"""The world a run lives in: one process, or many that torchrun started; its rank, and what ranks tell each other."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from thinktune.distributed.heartbeat import FAILED, Pulse
from thinktune.distributed.rendezvous import meet
from thinktune.distributed.sharding import Spread
from thinktune.errors import Stopped, UserError, brief

Value = TypeVar("Value")


TIMEOUT_SECONDS = 600.0  # of silence, after which a rank gives the others up; or what THINKTUNE_TIMEOUT_SECONDS says


HEARING_SECONDS = 5.0  # in which a rank that lost the others looks for the one whose error came first


@dataclass(frozen=True, slots=True)
class World:
    """One process among `size`, the `local_rank`-th of the `per_node` on its machine.

    With one process nothing is exchanged: each answer is the value itself. All ranks must ask the same, in the same
    order. `host` carries what processes tell each other beside the arithmetic, so that nothing waits for a device;
    `pulse` their signs of life.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    per_node: int = 1
    host: Any = None
    pulse: Any = None

    @property
    def leads(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.rank == 0

    def mesh(self, spread: Spread, device: torch.device) -> DeviceMesh:
        """The ranks as a grid of copies by shares; without copies a row of shares."""
        if spread.strategy == "shard":
            return init_device_mesh(device.type, (spread.shards,), mesh_dim_names=("shard",))
        return init_device_mesh(device.type, (spread.replicas, spread.shards), mesh_dim_names=("replicate", "shard"))

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a device's tensor over all ranks, in place; the host does not wait for it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Value) -> list[Value]:
        """Everybody's value, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.host)
        return found

    def agree(self, value: Value) -> Value:
        """What the first rank says."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0, group=self.host)
        return said[0]

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.host)
        return bool(found)

    def wait(self) -> None:
        """Until all ranks are here, however long the others work."""
        if self.size > 1:
            self.pulse.wait()
            dist.barrier(group=self.host)  # so that none leaves, and takes the store along, before all have seen it

    def together(self, work: Callable[[], Value]) -> Value:
        """What some work gives on this rank; where it fails on one rank it fails on all, with that one's error.

        The work must ask nothing of the others. They wait for it, however long it takes.
        """
        try:
            made, failed = work(), None
        except Exception as error:
            made, failed = None, error
        self.wait()
        for error in self.gather(failed):
            if error:
                raise error
        return made  # pyright: ignore[reportReturnType]

    @contextmanager
    def one_a_machine(self) -> Generator[None]:
        """A block that each machine's first rank goes through before its others do, who find its files then.

        Where it fails on one of them, the others end by SystemExit: that one speaks.
        """
        if self.local_rank > 0:
            self._hear_of(None)
        try:
            yield
        except Exception as error:
            if self.local_rank == 0:
                self._hear_of(error)
            raise
        if self.local_rank == 0:
            self._hear_of(None)

    def _hear_of(self, error: Exception | None) -> None:
        """Wait for everybody, and end where another one has failed and this one has not."""
        self.wait()
        if any(self.gather(error is not None)) and not error:
            raise _taken_along()


ALONE = World()


def is_many() -> bool:
    """Whether torchrun, or another of its kind, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: torch.device) -> World:
    """Meet the other ranks, if there are any; `device` is this rank's own.

    The collectives of its kind carry tensors (NCCL, HCCL, Gloo, as torch knows them), Gloo what the hosts say. Raises
    UserError where the others are not to be reached.
    """
    if not is_many():
        return World()
    timeout = timedelta(seconds=float(os.environ.get("THINKTUNE_TIMEOUT_SECONDS", TIMEOUT_SECONDS)))
    kinds = {"cpu": "gloo", device.type: dist.get_default_backend_for_device(device)}
    backend = ",".join(f"{kind}:{backend}" for kind, backend in kinds.items())
    try:
        store, rank, size = meet(timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        host = dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        text = (
            f"{_place(os.environ['RANK'], os.environ['WORLD_SIZE'])}: does not reach the other ranks "
            f"({brief(error, 200)}); look whether all machines were started, with the same options, and whether they "
            "reach each other by name"
        )
        _tell_torchrun(text)
        raise UserError(text) from error
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(rank, size, local_rank, per_node, host, Pulse(store, rank, size, timeout.total_seconds()))


def leave() -> None:
    """Let the others go, where all is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def named(world: World) -> Generator[None]:
    """Have the rank speak whose error came first, by name; the others, whom it took along, say nothing of their own.

    Raises what the block raised, as UserError where the rank lost the others and nobody says why; SystemExit where
    another rank speaks.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if world.size == 1:
            raise
        lost = not isinstance(error, UserError) and _is_loss(error)
        if not _is_first(leads=world.leads, patient=lost):
            raise _taken_along() from None
        place = _place(world.rank, world.size)
        _tell_torchrun(f"{place}: {brief(error)}")
        if lost:
            raise UserError(
                f"{place}: lost the other ranks ({brief(error, 200)}); look at the machines that say nothing, and at "
                "the network between them; the same command goes on from the last checkpoint"
            ) from error
        if isinstance(error, UserError):
            raise (error if world.leads else UserError([f"{place}: {fault}" for fault in error.faults])) from None
        error.add_note(place)
        raise


def _taken_along() -> SystemExit:
    """How a rank ends that another one took along: after that one, for torchrun ends all when the first has ended."""
    time.sleep(HEARING_SECONDS)
    return SystemExit(1)


def _place(rank: int | str, size: int | str) -> str:
    return f"rank {rank} of {size} on {socket.gethostname()}"


def _tell_torchrun(text: str) -> None:
    """Leave what torchrun's own summary is to say of this process, where torchrun has started it."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
        Path(path).write_text(json.dumps({"message": told}), encoding="utf-8")


def _is_loss(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone or silent."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _is_glooms(str(error)))


def _is_glooms(text: str) -> bool:
    """Whether a RuntimeError is Gloo's: it raises no kind of its own."""
    return any(word in text for word in ("gloo", "Connection closed by peer", "monitoredBarrier", "Timed out waiting"))


def _is_first(*, leads: bool, patient: bool) -> bool:
    """Whether this rank's error is the one to be told: the first one, and of a common one the first rank's.

    A rank that lost the others is `patient`: the cause is somebody else's, who may need a moment to say so. Where the
    machine that keeps what ranks tell each other is lost as well, this one speaks for itself.
    """
    heard: list[bool] = []
    wait = HEARING_SECONDS if patient else 0.0 if leads else 1.0
    asking = threading.Thread(target=lambda: heard.append(_comes_first(wait)), daemon=True)
    asking.start()
    asking.join(wait + HEARING_SECONDS)  # over a broken wire the store does not answer, and has no limit of its own
    return heard[0] if heard else True


def _comes_first(wait: float) -> bool:
    """Ask for so many seconds whether another rank's error came before; if not, this one's stands there."""
    try:
        store: Any = dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
        ends = time.monotonic() + wait
        while time.monotonic() < ends:
            if store.check([FAILED]):
                return False
            time.sleep(0.1)
        return store.add(FAILED, 1) == 1
    except Exception:
        return True
