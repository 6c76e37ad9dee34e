"""What a card of many holds at its peak, predicted and counted: a small Qwen3 under FSDP2 on gloo, on the CPU.

`python benchmarks/ranks_memory.py [--tokens 64]`: four ranks as two machines of two, weights in bf16, a forward and
backward pass of one batch and of two. Every live storage of a rank is counted, those that FSDP2 frees and takes again
too; what gloo copies for itself, which other backends do not, is left out. No optimizer state:
`tests/planner/test_trace.py` counts it.
"""

import multiprocessing
import weakref
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp._fully_shard import _fsdp_param, _fsdp_param_group
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3Config

from thinktune.demo.tiny_model import random_model
from thinktune.distributed.sharding import ParallelDims
from thinktune.distributed.world import World
from thinktune.model.device import pick_device
from thinktune.model.forward import set_replica_all_reduce
from thinktune.model.loading import apply_fsdp
from thinktune.model.loss import linear_cross_entropy
from thinktune.optim import TIERS
from thinktune.planner.communication import shard_shape
from thinktune.planner.memory import Setting, Workload, memory_peaks

RANKS, PER_NODE = 4, 2
CASES = [
    (way, tied, batches) for way in ("replicate", "shard", "hybrid") for tied in (True, False) for batches in (1, 2)
]
BF16 = torch.bfloat16


def config(tied: bool) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=3000,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        tie_word_embeddings=tied,
        pad_token_id=None,
    )


class Live(TorchDispatchMode):
    """The most bytes of live storages; their sizes are asked anew each time, as FSDP2 changes them."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._known = 0, {}

    def see(self, tensor: torch.Tensor) -> None:
        """Know of a tensor's storage."""
        storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
        self._known[storage._cdata] = weakref.ref(storage)

    def count(self) -> None:
        """Add up what is alive now."""
        alive = {name: storage for name, made in self._known.items() if (storage := made()) is not None}
        self._known = {name: self._known[name] for name in alive}
        self.peak = max(self.peak, sum(storage.nbytes() for storage in alive.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.name() != "aten::split.Tensor":  # by which gloo looks at its own copy
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor) and not isinstance(tensor, DTensor):
                    self.see(tensor)
        self.count()
        return made


def measured(way: Any, tied: bool, batches: int, tokens: int) -> int:
    """The peak of this rank."""
    model = random_model(config(tied), torch.device("cpu"), BF16).train()
    apply_fsdp(model, World().mesh(ParallelDims(way, RANKS, PER_NODE), torch.device("cpu")))
    ids, live = torch.arange(tokens), Live()

    def loss() -> torch.Tensor:
        states = model.model(input_ids=ids.view(1, -1), use_cache=False).last_hidden_state[0]
        return linear_cross_entropy(states, model.lm_head.weight, ids, scale=1.0, dtype=BF16)[0]

    def alloc(tensor: torch.Tensor) -> None:
        real(tensor)
        live.see(tensor)
        live.count()

    real = _fsdp_param.alloc_storage
    _fsdp_param.alloc_storage = _fsdp_param_group.alloc_storage = alloc
    with live:
        for weight in model.parameters():
            live.see(weight.to_local())
        for number in range(1, batches + 1):
            set_replica_all_reduce(model, enabled=number == batches)
            model.with_unsharded_root(loss).backward()
    _fsdp_param.alloc_storage = _fsdp_param_group.alloc_storage = real
    return live.peak


def predicted(way: Any, tied: bool, batches: int, tokens: int) -> int:
    step = tokens * RANKS * batches
    job = Workload(
        config(tied), torch.device("cpu"), False, False, step, tokens, 1.0, tokens / 2, ranks=RANKS, per_node=PER_NODE
    )
    setting = Setting("8bit", False, 1.0, tokens, way)
    shapes = [shard_shape(shape, job.parallel_dims(setting).shards) for shape in job.shapes]
    return memory_peaks(job, setting).train - TIERS["8bit"].moments_bytes(shapes)[0]


def work(rank: int, folder: Path, tokens: int, found: Any) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    peaks_of = [measured(*case, tokens) for case in CASES]
    if rank == 0:
        found.put(peaks_of)
    dist.destroy_process_group()


def main() -> None:
    """One row a case."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    tokens = parser.parse_args().tokens
    assert pick_device().type == "cpu", "counted on the CPU alone"
    fork = multiprocessing.get_context("fork")
    found = fork.Queue()
    with TemporaryDirectory() as folder:
        workers = [fork.Process(target=work, args=(rank, Path(folder), tokens, found)) for rank in range(RANKS)]
        for worker in workers:
            worker.start()
        counted = found.get(timeout=300)
        for worker in workers:
            worker.join()
    print("| strategy | head | batches | counted | predicted | |\n|---|---|---:|---:|---:|---:|")
    for (way, tied, batches), peak in zip(CASES, counted, strict=True):
        guess = predicted(way, tied, batches, tokens)
        sizes = f"{peak / 1e6:.1f} MB | {guess / 1e6:.1f} MB | {guess / peak - 1:+.0%}"
        print(f"| {way} | {'tied' if tied else 'untied'} | {batches} | {sizes} |")


if __name__ == "__main__":
    main()
