"""Collectives that really run on gloo, counted: a tiny Qwen3 under FSDP2, each rank a process. Prints JSON for a test.

`python counted_collectives.py FOLDER`. One import serves all ranks: they are forked from it.
"""

import json
import multiprocessing
import sys
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3Config

from thinktune.demo.tiny_model import random_model
from thinktune.distributed.sharding import ParallelDims
from thinktune.distributed.world import World
from thinktune.model.forward import set_replica_all_reduce
from thinktune.model.loading import apply_fsdp
from thinktune.model.transforms import apply_activation_budget

BATCHES = 2
# In the order of ranks. Strategy, ranks, of which so many on a machine, type of the weights, whether head and embedding are one, and recompute.
CASES = [
    ("replicate", 2, 2, "bfloat16", True, False),
    ("shard", 2, 2, "float32", False, True),
    ("replicate", 4, 2, "float32", True, False),
    ("shard", 4, 2, "bfloat16", True, False),
    ("hybrid", 4, 2, "bfloat16", False, True),
]


def config(*, tied: bool) -> Qwen3Config:
    """Rows that neither two nor four ranks share evenly."""
    return Qwen3Config(
        vocab_size=101,
        hidden_size=36,
        intermediate_size=50,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=10,
        tie_word_embeddings=tied,
        pad_token_id=None,
    )


class Counting(TorchDispatchMode):
    """Adds up the whole buffers of collectives by their kind, and the most bytes of sums that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = {"all_gather": 0, "reduce_scatter": 0, "all_reduce": 0, "held": 0}
        self.sums = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        match func.name().partition("::"):
            case ("c10d", _, "_allgather_base_"):
                self.bytes["all_gather"] += args[0].nbytes
            case ("c10d", _, "_reduce_scatter_base_"):
                self.bytes["reduce_scatter"] += args[1].nbytes
            case ("c10d", _, "allreduce_"):
                self.bytes["all_reduce"] += sum(tensor.nbytes for tensor in args[0])
                self.sums += [weakref.ref(tensor) for tensor in args[0]]
                alive = sum(tensor.nbytes for made in self.sums if (tensor := made()) is not None)
                self.bytes["held"] = max(self.bytes["held"], alive)
            case ("c10d", _, name):
                raise AssertionError(f"{name} is not counted")
        return func(*args, **(kwargs or {}))


def count(strategy: str, ranks: int, per_node: int, kind: str, tied: bool, recompute: bool) -> dict[str, int]:
    """What one rank hands to collectives in a step of two batches, and the weights that it keeps."""
    model = random_model(config(tied=tied), torch.device("cpu"), getattr(torch, kind)).train()
    if recompute:
        apply_activation_budget(model, 0.0, compiled=False)
    apply_fsdp(model, World().mesh(ParallelDims(strategy, ranks, per_node), torch.device("cpu")))
    ids = torch.arange(12).view(1, -1) + dist.get_rank()
    with Counting() as counting:
        for number in range(1, BATCHES + 1):
            set_replica_all_reduce(model, enabled=number == BATCHES)
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    weights = [weight.to_local() for weight in model.parameters() if isinstance(weight, DTensor)]
    return counting.bytes | {"kept": sum(weight.numel() for weight in weights)}


def work(rank: int, ranks: int, folder: Path) -> None:
    """One rank's part in all cases of its world."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / f"{ranks}"), ranks), rank=rank, world_size=ranks)
    found = [count(*case) for case in CASES if case[1] == ranks]
    (folder / f"{ranks}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def main(folder: Path) -> None:
    """Print what each rank counted, for each case."""
    fork = multiprocessing.get_context("fork")
    found = []
    for ranks in (2, 4):
        workers = [fork.Process(target=work, args=(rank, ranks, folder)) for rank in range(ranks)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found += zip(*(json.loads((folder / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)), strict=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
