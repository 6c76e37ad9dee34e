"""The fused update on FSDP's shards: `test_fused_update.py` starts this with torchrun and TRITON_INTERPRET=1.

Two ranks share a matrix of five rows and its bias; each compares the kernels with the plain update, to the bit.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.optimizers import settings

from thinktune.distributed import local_shard
from thinktune.optim import optimizer
from thinktune.optim.optimizer import Optimizer


def train(mesh, memory, *, in_backward, fused):
    """Take three steps, of which the second has gradients that are not finite; return all that this rank keeps."""
    optimizer.can_update_fused = lambda device: fused
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(256, 5))
    fully_shard(model, mesh=mesh)
    made = Optimizer(model, settings(memory, clip_norm=1e9, update_in_backward=in_backward))
    assert (made._fused_update is not None) == fused
    norms = []
    for step in (1, 2, 3):
        made.begin_step(step, 1e-3)
        inputs = torch.randn(7, 256, generator=torch.Generator().manual_seed(step))
        loss = model(inputs.bfloat16()).float().square().sum()
        (loss * (float("nan") if step == 2 else 1)).backward()
        norms.append(made.finish_step())
    kept = [*model.parameters(), *(tensor for name, tensor in made.state_dict().items() if name != "last_norm")]
    return [local_shard(tensor.detach()).clone() for tensor in kept], torch.stack(norms)


dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
for memory in ("exact", "8bit"):
    for in_backward in (False, True):
        (plain, norms), (mine, my_norms) = (
            train(mesh, memory, in_backward=in_backward, fused=fused) for fused in (False, True)
        )
        assert len(plain[0]) == (3, 2)[dist.get_rank()]
        assert all(one.equal(other) for one, other in zip(plain, mine, strict=True)), (memory, in_backward)
        torch.testing.assert_close(my_norms, norms, rtol=1e-6, atol=0, equal_nan=True)
dist.destroy_process_group()
