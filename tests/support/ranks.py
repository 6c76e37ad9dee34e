"""Several ranks of one world as processes of this machine, forked from a server that has imported everything already."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command line has it; read where torch is loaded
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "thinktune.train.loop",
        "thinktune.demo.tiny_model",
        "thinktune.train.launcher",
        "support.many_ranks",
        "support.cli_ranks",
    ]
)
SECONDS = 240
_STORES: list[dist.Store] = []  # as under torchrun, they outlive each of their ranks


def run_ranks(size: int, work: Callable[..., Any], *given: Any, per_node: int | None = None) -> list[Any]:
    """What some work, a function of a module, gives on each of so many ranks; an error on any of them is raised."""
    started = start_ranks(size, work, *given, per_node=per_node)
    found = [pipe.recv() if pipe.poll(SECONDS) else ("silent", None) for _, pipe in started]
    for process, _ in started:
        process.join(10)
        process.kill()
    for told, made in found:
        assert told == "made", made or f"a rank said nothing for {SECONDS} s"
    return [made for _, made in found]


def start_ranks(size: int, work: Callable[..., Any], *given: Any, per_node: int | None = None) -> list[tuple[Any, Any]]:
    """Start so many ranks; each one's process, and the pipe through which it tells what came of its work."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _STORES.append(store)
    started: list[tuple[Any, Any]] = []
    for rank in range(size):
        mine, its = _CONTEXT.Pipe()
        place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank % (per_node or size), "MASTER_PORT": store.port}
        place |= {"LOCAL_WORLD_SIZE": per_node or size, "MASTER_ADDR": "127.0.0.1", "THINKTUNE_TIMEOUT_SECONDS": 60}
        place |= {"TORCHELASTIC_USE_AGENT_STORE": True, "THINKTUNE_CACHE": os.environ["THINKTUNE_CACHE"]}
        process = _CONTEXT.Process(target=_one, args=(place, its, work, given))
        process.start()
        its.close()
        started.append((process, mine))
    return started


def _one(place: dict[str, Any], pipe: Any, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    try:
        pipe.send(("made", work(*given)))
    except BaseException:
        pipe.send(("raised", traceback.format_exc()))
