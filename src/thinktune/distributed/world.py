"""World of a process: its rank, exchange between ranks, and reports of the first error."""

import json
import os
import pickle
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
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from thinktune.distributed.heartbeat import FAILED_KEY, Heartbeat
from thinktune.distributed.rendezvous import join_rendezvous
from thinktune.distributed.sharding import ParallelDims
from thinktune.errors import Stopped, UserError, shorten_error

Value = TypeVar("Value")


SILENCE_TIMEOUT_SECONDS = 600.0  # after which a rank gives up waiting; THINKTUNE_TIMEOUT_SECONDS changes it
FIRST_ERROR_WAIT_SECONDS = 5.0  # in which a rank that lost the others looks for the one that failed first


class DisagreementError(UserError):
    """Ranks of one run that were given different things; raised on all of them at once."""


@dataclass(frozen=True, slots=True)
class World:
    """One process among `size`, the `local_rank`-th of the `per_node` on its machine.

    With one process nothing is exchanged: each method returns the value itself. All ranks must make the same calls in
    the same order. `gloo_group` carries values between hosts, so that nothing waits for a device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    per_node: int = 1
    gloo_group: dist.ProcessGroup | None = None
    heartbeat: Heartbeat | None = None

    @property
    def is_main(self) -> bool:
        """Return True on the rank that prints and writes for all."""
        return self.rank == 0

    def mesh(self, parallel_dims: ParallelDims, device: torch.device) -> DeviceMesh:
        """Return the device mesh (replicate, shard), or (shard,) without replicas."""
        if parallel_dims.strategy == "shard":
            return init_device_mesh(device.type, (parallel_dims.shards,), mesh_dim_names=("shard",))
        return init_device_mesh(
            device.type, (parallel_dims.replicas, parallel_dims.shards), mesh_dim_names=("replicate", "shard")
        )

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place; the host does not wait for it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.gloo_group)
        return found

    def broadcast(self, value: Value) -> Value:
        """Return the main rank's value."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.gloo_group)
        return values[0]

    def broadcast_tensor(self, tensor: Tensor) -> Tensor:
        """Overwrite a tensor by the main rank's, in place; the host does not wait for it."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return True if the flag is set on any rank."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.gloo_group)
        return bool(found)

    def barrier(self) -> None:
        """Wait until all ranks are here, however long the others work."""
        if self.size > 1:
            assert self.heartbeat is not None
            self.heartbeat.barrier()
            # So that no rank exits, and closes the store, before all have seen that all are here.
            dist.barrier(group=self.gloo_group)

    def run_on_all(self, work: Callable[[], Value]) -> Value:
        """Return the result of `work` on this rank; where it fails on one rank, raise on all.

        All raise the failed rank's error. `work` must not exchange anything between ranks. All wait for it, however
        long it takes.
        """
        if self.size == 1:
            return work()
        try:
            result, failure = work(), None
        except Exception as error:
            result, failure = None, error
        self.barrier()
        for error in self.all_gather(_as_portable(failure) if failure else None):
            if error:
                raise error
        return result  # pyright: ignore[reportReturnType]

    def run_on_main(self, work: Callable[[], Value]) -> Value:
        """Return the result of the main rank's `work` on all ranks; where it fails, raise its error on all.

        What one rank does for all must not fail on it alone: it would skip the exchanges that the others wait in.
        """
        return self.broadcast(self.run_on_all(work if self.is_main else _do_nothing))  # pyright: ignore[reportReturnType]

    @contextmanager
    def local_main_first(self) -> Generator[None]:
        """Run the block on local rank 0 first, then on the machine's other ranks, which find its files.

        Where it fails on one rank, the others exit by SystemExit: the failed one reports.
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
        """Wait for all ranks, and exit where another one has failed and this one has not."""
        self.barrier()
        if any(self.all_gather(error is not None)) and not error:
            raise _exit_after_peer()


def _do_nothing() -> None:
    pass


def _as_portable(error: Exception) -> Exception:
    """Return an error that other processes can read: the error itself, or one with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error class that cannot be made from its own arguments
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


SINGLE = World()


def is_distributed() -> bool:
    """Return True if torchrun, or a launcher like it, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def init_distributed(device: torch.device) -> World:
    """Join the other ranks, if there are any; `device` is this rank's own.

    Tensors travel by the device's own backend (NCCL, HCCL, Gloo, as torch knows them), values of hosts by Gloo. Raises
    UserError where the others cannot be reached.
    """
    if not is_distributed():
        return World()
    timeout = timedelta(seconds=float(os.environ.get("THINKTUNE_TIMEOUT_SECONDS", SILENCE_TIMEOUT_SECONDS)))
    kinds = {"cpu": "gloo", device.type: dist.get_default_backend_for_device(device)}
    backend = ",".join(f"{kind}:{backend}" for kind, backend in kinds.items())
    try:
        store, rank, size = join_rendezvous(timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        gloo_group: Any = dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        text = (
            f"{_describe_rank(os.environ['RANK'], os.environ['WORLD_SIZE'])}: cannot reach the other ranks "
            f"({shorten_error(error, 200)}); check that all machines were started with the same options and can "
            "reach each other by name"
        )
        _report_to_torchrun(text)
        raise UserError(text) from error
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(rank, size, local_rank, per_node, gloo_group, Heartbeat(store, rank, size, timeout.total_seconds()))


@contextmanager
def raise_checkpoint_cause() -> Generator[None]:
    """Raise what went wrong on a rank in place of torch's CheckpointException.

    That one is no Exception, so that nobody would take a full disk for one.
    """
    try:
        yield
    except CheckpointException as failed:
        raise next(iter(failed.failures.values()))[0] from None


def destroy_distributed() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def report_first_error(world: World) -> Generator[None]:
    """Report only the first failing rank's error, prefixed with its rank and host.

    The ranks that fail because of it are silent. Raises what the block raised, as UserError where the rank lost the
    others and none reports why; SystemExit where another rank reports.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if world.size == 1:
            raise
        if isinstance(error, DisagreementError):
            _report_to_torchrun(shorten_error(error))
            if world.is_main:
                raise
            raise SystemExit(2) from None
        lost = not isinstance(error, UserError) and _is_lost_peer(error)
        if not _reports_error(is_main=world.is_main, lost_peers=lost):
            raise _exit_after_peer() from None
        place = _describe_rank(world.rank, world.size)
        _report_to_torchrun(f"{place}: {shorten_error(error)}")
        if lost:
            raise UserError(
                f"{place}: lost the other ranks ({shorten_error(error, 200)}); check the machines that print "
                "nothing and the network between them, then run the same command to resume from the last "
                "checkpoint"
            ) from error
        if isinstance(error, UserError):
            raise (error if world.is_main else UserError([f"{place}: {fault}" for fault in error.faults])) from None
        error.add_note(place)
        raise


def _exit_after_peer() -> SystemExit:
    """Return the exit of a rank after a peer failed; wait first, so that torchrun reports the peer."""
    time.sleep(FIRST_ERROR_WAIT_SECONDS)
    return SystemExit(1)


def _describe_rank(rank: int | str, size: int | str) -> str:
    return f"rank {rank} of {size} on {socket.gethostname()}"


def _report_to_torchrun(text: str) -> None:
    """Write the error that torchrun's summary shows for this process, where torchrun has started it."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        message = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
        Path(path).write_text(json.dumps({"message": message}), encoding="utf-8")


def _is_lost_peer(error: BaseException) -> bool:
    """Return True if a collective failed because another rank is gone or silent."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _is_gloo_error(str(error)))


def _is_gloo_error(text: str) -> bool:
    """Return True for the text of an error of Gloo, which has no error class of its own."""
    return any(word in text for word in ("gloo", "Connection closed by peer", "monitoredBarrier", "Timed out waiting"))


def _reports_error(*, is_main: bool, lost_peers: bool) -> bool:
    """Return True if this rank reports its error: the first to fail, or rank 0 if all fail alike.

    With `lost_peers` the cause is on another rank, which may need a moment to report it. Where the machine that holds
    the store is lost too, this rank reports for itself.
    """
    claimed: list[bool] = []
    wait = FIRST_ERROR_WAIT_SECONDS if lost_peers else 0.0 if is_main else 1.0
    # In a thread: over a broken network connection the store never answers, and has no timeout of its own.
    claiming = threading.Thread(target=lambda: claimed.append(_claim_first_error(wait)), daemon=True)
    claiming.start()
    claiming.join(wait + FIRST_ERROR_WAIT_SECONDS)
    return claimed[0] if claimed else True


def _claim_first_error(wait: float) -> bool:
    """Claim the report of the first error; False if another rank claims it in `wait` seconds."""
    try:
        store: Any = dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            if store.check([FAILED_KEY]):
                return False
            time.sleep(0.1)
        return store.add(FAILED_KEY, 1) == 1
    except Exception:
        return True
