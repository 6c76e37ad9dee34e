"""Rendezvous of ranks: one store for each start, and addresses that other machines can reach."""

import os
import socket
import struct
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

GLOO_INTERFACE_ENV = "GLOO_SOCKET_IFNAME"
SIOCGIFADDR = 0x8915  # Linux: the address of an interface


def join_rendezvous(timeout: timedelta) -> tuple[Any, int, int]:
    """Return the store of this start, this process's rank, and the number of ranks.

    Sets Gloo's network interface where ranks are on several machines. Raises DistError where the others do not arrive
    within the timeout.
    """
    store: Any
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    # After a restart torchrun gives the same store, with the addresses of processes that are gone.
    store = PrefixStore(f"thinktune/{_start_id(store, rank, size, timeout)}", store)
    if GLOO_INTERFACE_ENV not in os.environ and size > int(os.environ.get("LOCAL_WORLD_SIZE", size)):
        interface = find_interface(_reachable_address(store, rank, size))
        if interface:
            os.environ[GLOO_INTERFACE_ENV] = interface
    return store, rank, size


def _start_id(store: Any, rank: int, size: int, timeout: timedelta) -> str:
    """Return an id that all ranks of this start share and no earlier start had.

    The number of restarts would not do: machines may count differently.
    """
    mine, key = uuid4().hex, "thinktune/start"
    if rank == 0:
        store.set(key, mine)
        for other in range(1, size):
            store.set(f"{mine}/go/{other}", store.get(f"{mine}/here/{other}"))
        return mine
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        start = store.get(key).decode()  # perhaps of an earlier start, whose rank 0 is not there to answer
        store.set(f"{start}/here/{rank}", mine)
        go = f"{start}/go/{rank}"
        if store.check([go]) and store.get(go).decode() == mine:
            return start
        time.sleep(0.05)
    raise dist.DistStoreError(f"rank 0 did not arrive within {timeout.total_seconds():.0f} s")


def _reachable_address(store: Any, rank: int, size: int) -> str:
    """Return the address of this machine that the other machines reach.

    On Debian and Ubuntu a machine's own name resolves to a loopback address, which Gloo would use.
    """
    mine = outgoing_address(os.environ["MASTER_ADDR"])
    store.set(f"address/{rank}", mine)
    if mine.startswith("127."):  # on the main machine; the last rank is on another one
        mine = outgoing_address(store.get(f"address/{size - 1}").decode())
    return mine


def outgoing_address(other: str) -> str:
    """Return the local address of packets to another machine, or an empty text; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets, suppress(OSError):
        packets.connect((other, 9))
        return packets.getsockname()[0]
    return ""


def find_interface(address: str) -> str | None:
    """Return the name of the network interface with an IPv4 address; None if it is not listed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                reply = fcntl.ioctl(packets, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(reply[20:24]) == address:
                    return name
    return None
