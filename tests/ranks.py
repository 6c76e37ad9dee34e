"""Several ranks of one world as processes of this machine, forked from a server that has imported everything already."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["thinktune.train", "thinktune.small", "thinktune.launch", "many", "speaking_ranks"])
SECONDS = 240


def run_ranks(size: int, work: Callable[..., Any], *given: Any, per_node: int | None = None) -> list[Any]:
    """What some work, a function of a module, gives on each of so many ranks; an error on any of them is raised."""
    # As under torchrun, the store outlives each of its ranks.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes, processes = [], []
    for rank in range(size):
        mine, its = _CONTEXT.Pipe()
        place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank % (per_node or size), "MASTER_PORT": store.port}
        place |= {"LOCAL_WORLD_SIZE": per_node or size, "MASTER_ADDR": "127.0.0.1", "THINKTUNE_TIMEOUT_SECONDS": 60}
        place |= {"TORCHELASTIC_USE_AGENT_STORE": True, "THINKTUNE_CACHE": os.environ["THINKTUNE_CACHE"]}
        process = _CONTEXT.Process(target=_one, args=(place, its, work, given))
        process.start()
        its.close()
        pipes.append(mine)
        processes.append(process)
    found = [pipe.recv() if pipe.poll(SECONDS) else ("silent", None) for pipe in pipes]
    for process in processes:
        process.join(10)
        process.kill()
    for told, made in found:
        assert told == "made", made or f"a rank said nothing for {SECONDS} s"
    return [made for _, made in found]


def _one(place: dict[str, Any], pipe: Any, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    try:
        pipe.send(("made", work(*given)))
    except BaseException:
        pipe.send(("raised", traceback.format_exc()))
