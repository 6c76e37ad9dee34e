"""Ranks of one world as processes of this machine, forked from a server that has everything imported."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command line sets it; read when torch is loaded
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "thinktune.train.loop",
        "thinktune.demo.tiny_model",
        "thinktune.train.launcher",
        "support.many_ranks",
        "support.cli_ranks",
        "support.rank_faults",
    ]
)
SECONDS = 240
_STORES: list[dist.Store] = []  # as under torchrun, they outlive their ranks


def run_ranks(size: int, work: Callable[..., Any], *args: Any, per_node: int | None = None) -> list[Any]:
    """Return the results of `work`, a function of a module, on so many ranks; raise an error of any of them."""
    started = start_ranks(size, work, *args, per_node=per_node)
    found = [pipe.recv() if pipe.poll(SECONDS) else ("silent", None) for _, pipe in started]
    for process, _ in started:
        process.join(10)
        process.kill()
    for outcome, result in found:
        assert outcome == "returned", result or f"a rank was silent for {SECONDS} s"
    return [result for _, result in found]


def start_ranks(size: int, work: Callable[..., Any], *args: Any, per_node: int | None = None) -> list[tuple[Any, Any]]:
    """Start so many ranks; return each one's process, and the pipe that brings the result of its work."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _STORES.append(store)
    started: list[tuple[Any, Any]] = []
    for rank in range(size):
        receiver, sender = _CONTEXT.Pipe()
        environment = {
            "RANK": rank,
            "WORLD_SIZE": size,
            "LOCAL_RANK": rank % (per_node or size),
            "MASTER_PORT": store.port,
        }
        environment |= {
            "LOCAL_WORLD_SIZE": per_node or size,
            "MASTER_ADDR": "127.0.0.1",
            "THINKTUNE_TIMEOUT_SECONDS": 60,
        }
        environment |= {"TORCHELASTIC_USE_AGENT_STORE": True, "THINKTUNE_CACHE": os.environ["THINKTUNE_CACHE"]}
        process = _CONTEXT.Process(target=_run_rank, args=(environment, sender, work, args))
        process.start()
        sender.close()
        started.append((process, receiver))
    return started


def _run_rank(environment: dict[str, Any], pipe: Any, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    try:
        pipe.send(("returned", work(*args)))
    except BaseException:
        pipe.send(("raised", traceback.format_exc()))
