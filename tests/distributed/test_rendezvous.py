"""Rendezvous and heartbeat: an id for each start, an address that others reach, and waits that end."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from thinktune.distributed import heartbeat
from thinktune.distributed.heartbeat import FAILED_KEY, Heartbeat
from thinktune.distributed.rendezvous import _start_id, find_interface, outgoing_address

TIMEOUT = timedelta(seconds=30)


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)


def start(store, late, size=3):
    """Return the start ids of so many ranks; the `late` one arrives a moment after the others."""

    def one(rank):
        time.sleep(0.3 * (rank == late))
        return _start_id(store.clone(), rank, size, TIMEOUT)

    with ThreadPoolExecutor(size) as ranks:
        return set(ranks.map(one, range(size)))


def test_every_start_in_one_store_has_an_id_that_all_its_ranks_share(store):
    names = [start(store, late) for late in (0, 1, 2, 0)]
    assert [len(name) for name in names] == [1, 1, 1, 1]
    assert len(set.union(*names)) == 4


def test_a_rank_gives_up_where_rank_0_does_not_arrive(store):
    start(store, 0)
    with pytest.raises(dist.DistStoreError, match="rank 0 did not arrive within 1 s"):
        _start_id(store.clone(), 1, 3, timedelta(seconds=1))


def test_address_and_interface_towards_another_machine():
    assert outgoing_address("localhost").startswith("127.")
    assert outgoing_address("no.such.machine.invalid") == ""
    assert find_interface("192.0.2.77") is None
    if sys.platform == "linux":
        assert find_interface("127.0.0.1") == "lo"


@pytest.fixture
def heartbeats(store, monkeypatch):
    monkeypatch.setattr(heartbeat, "INTERVAL_SECONDS", 0.1)
    made = [Heartbeat(store, rank, 2, 1.0) for rank in range(2)]
    yield made
    for beat in made:
        beat.stop()


def test_a_barrier_waits_as_long_as_the_other_rank_works(heartbeats):
    """Three times as long as a rank may be silent."""
    for _ in range(2):
        waiting = threading.Thread(target=heartbeats[0].barrier)
        waiting.start()
        waiting.join(3.0)
        assert waiting.is_alive()
        heartbeats[1].barrier()
        waiting.join(10.0)
        assert not waiting.is_alive()


def test_a_barrier_ends_where_the_other_rank_is_gone(heartbeats):
    heartbeats[1].stop()
    with pytest.raises(dist.DistStoreError, match="no heartbeat of rank 1 for 1 s"):
        heartbeats[0].barrier()


def test_a_barrier_ends_where_another_rank_has_failed(heartbeats, store):
    store.set(FAILED_KEY, "1")
    with pytest.raises(dist.DistStoreError, match="another rank has failed"):
        heartbeats[0].barrier()
