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

from thinktune.distributed.heartbeat import FAILED_KEY, Heartbeat
from thinktune.distributed.rendezvous import join_rendezvous
from thinktune.distributed.sharding import ParallelDims
from thinktune.errors import Stopped, UserError, shorten_error

Value = TypeVar("Value")


SILENCE_TIMEOUT_SECONDS = (
    600.0  # of silence, after which a rank gives the others up; or what THINKTUNE_TIMEOUT_SECONDS says
)


FIRST_ERROR_WAIT_SECONDS = 5.0  # in which a rank that lost the others looks for the one whose error came first


@dataclass(frozen=True, slots=True)
class World:
    """One process among `size`, the `local_rank`-th of the `per_node` on its machine.

    With one process nothing is exchanged: each answer is the value itself. All ranks must ask the same, in the same
    order. `gloo_group` carries what processes tell each other beside the arithmetic, so that nothing waits for a device;
    `heartbeat` their signs of life.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    per_node: int = 1
    gloo_group: Any = None
    heartbeat: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.rank == 0

    def mesh(self, parallel_dims: ParallelDims, device: torch.device) -> DeviceMesh:
        """The ranks as a grid of copies by shares; without copies a row of shares."""
        if parallel_dims.strategy == "shard":
            return init_device_mesh(device.type, (parallel_dims.shards,), mesh_dim_names=("shard",))
        return init_device_mesh(
            device.type, (parallel_dims.replicas, parallel_dims.shards), mesh_dim_names=("replicate", "shard")
        )

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of a device's tensor over all ranks, in place; the host does not wait for it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, value: Value) -> list[Value]:
        """Everybody's value, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.gloo_group)
        return found

    def broadcast(self, value: Value) -> Value:
        """What the first rank says."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0, group=self.gloo_group)
        return said[0]

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.gloo_group)
        return bool(found)

    def barrier(self) -> None:
        """Until all ranks are here, however long the others work."""
        if self.size > 1:
            self.heartbeat.barrier()
            dist.barrier(
                group=self.gloo_group
            )  # so that none leaves, and takes the store along, before all have seen it

    def run_on_all(self, work: Callable[[], Value]) -> Value:
        """What some work gives on this rank; where it fails on one rank it fails on all, with that one's error.

        The work must ask nothing of the others. They wait for it, however long it takes.
        """
        try:
            made, failed = work(), None
        except Exception as error:
            made, failed = None, error
        self.barrier()
        for error in self.all_gather(failed):
            if error:
                raise error
        return made  # pyright: ignore[reportReturnType]

    @contextmanager
    def local_main_first(self) -> Generator[None]:
        """A block that each machine's first rank goes through before its others do, who find its files then.

        Where it fails on one of them, the others end by SystemExit: that one speaks.
        """
        if self.local_rank > 0:
            self._exit_if_peer_failed(None)
        try:
            yield
        except Exception as error:
            if self.local_rank == 0:
                self._exit_if_peer_failed(error)
            raise
        if self.local_rank == 0:
            self._exit_if_peer_failed(None)

    def _exit_if_peer_failed(self, error: Exception | None) -> None:
        """Wait for everybody, and end where another one has failed and this one has not."""
        self.barrier()
        if any(self.all_gather(error is not None)) and not error:
            raise _exit_after_peer()


SINGLE = World()


def is_distributed() -> bool:
    """Whether torchrun, or another of its kind, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def init_distributed(device: torch.device) -> World:
    """Meet the other ranks, if there are any; `device` is this rank's own.

    The collectives of its kind carry tensors (NCCL, HCCL, Gloo, as torch knows them), Gloo what the hosts say. Raises
    UserError where the others are not to be reached.
    """
    if not is_distributed():
        return World()
    timeout = timedelta(seconds=float(os.environ.get("THINKTUNE_TIMEOUT_SECONDS", SILENCE_TIMEOUT_SECONDS)))
    kinds = {"cpu": "gloo", device.type: dist.get_default_backend_for_device(device)}
    backend = ",".join(f"{kind}:{backend}" for kind, backend in kinds.items())
    try:
        store, rank, size = join_rendezvous(timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        host = dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        text = (
            f"{_describe_rank(os.environ['RANK'], os.environ['WORLD_SIZE'])}: does not reach the other ranks "
            f"({shorten_error(error, 200)}); look whether all machines were started, with the same options, and whether they "
            "reach each other by name"
        )
        _report_to_torchrun(text)
        raise UserError(text) from error
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(rank, size, local_rank, per_node, host, Heartbeat(store, rank, size, timeout.total_seconds()))


def destroy_distributed() -> None:
    """Let the others go, where all is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def report_first_error(world: World) -> Generator[None]:
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
        lost = not isinstance(error, UserError) and _is_lost_peer(error)
        if not _reports_error(is_main=world.is_main, lost_peers=lost):
            raise _exit_after_peer() from None
        place = _describe_rank(world.rank, world.size)
        _report_to_torchrun(f"{place}: {shorten_error(error)}")
        if lost:
            raise UserError(
                f"{place}: lost the other ranks ({shorten_error(error, 200)}); look at the machines that say nothing, and at "
                "the network between them; the same command goes on from the last checkpoint"
            ) from error
        if isinstance(error, UserError):
            raise (error if world.is_main else UserError([f"{place}: {fault}" for fault in error.faults])) from None
        error.add_note(place)
        raise


def _exit_after_peer() -> SystemExit:
    """How a rank ends that another one took along: after that one, for torchrun ends all when the first has ended."""
    time.sleep(FIRST_ERROR_WAIT_SECONDS)
    return SystemExit(1)


def _describe_rank(rank: int | str, size: int | str) -> str:
    return f"rank {rank} of {size} on {socket.gethostname()}"


def _report_to_torchrun(text: str) -> None:
    """Leave what torchrun's own summary is to say of this process, where torchrun has started it."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
        Path(path).write_text(json.dumps({"message": told}), encoding="utf-8")


def _is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone or silent."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _is_gloo_error(str(error)))


def _is_gloo_error(text: str) -> bool:
    """Whether a RuntimeError is Gloo's: it raises no kind of its own."""
    return any(word in text for word in ("gloo", "Connection closed by peer", "monitoredBarrier", "Timed out waiting"))


def _reports_error(*, is_main: bool, lost_peers: bool) -> bool:
    """Whether this rank's error is the one to be told: the first one, and of a common one the first rank's.

    A rank that lost the others is `lost_peers`: the cause is somebody else's, who may need a moment to say so. Where the
    machine that keeps what ranks tell each other is lost as well, this one speaks for itself.
    """
    heard: list[bool] = []
    wait = FIRST_ERROR_WAIT_SECONDS if lost_peers else 0.0 if is_main else 1.0
    asking = threading.Thread(target=lambda: heard.append(_claim_first_error(wait)), daemon=True)
    asking.start()
    asking.join(
        wait + FIRST_ERROR_WAIT_SECONDS
    )  # over a broken wire the store does not answer, and has no limit of its own
    return heard[0] if heard else True


def _claim_first_error(wait: float) -> bool:
    """Ask for so many seconds whether another rank's error came before; if not, this one's stands there."""
    try:
        store: Any = dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
        ends = time.monotonic() + wait
        while time.monotonic() < ends:
            if store.check([FAILED_KEY]):
                return False
            time.sleep(0.1)
        return store.add(FAILED_KEY, 1) == 1
    except Exception:
        return True
