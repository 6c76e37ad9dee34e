"""The compiler keeps what attention computed under half a budget: it knows that attention is not free."""

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._subclasses.fake_tensor import FakeTensorMode

from thinktune.demo.tiny_model import ModelShape
from thinktune.model.transforms import apply_activation_budget, compile_layers
from thinktune.planner.layer_calls import TRACE_ATTENTION, model_without_memory, register_trace_attention

TOKENS, ROWS, LONGEST = 256, 4, 128
SHAPE = ModelShape(hidden_size=128, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=384)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._functorch.config.activation_memory_budget = 1.0
    torch._dynamo.reset()


def attentions(name, budget):
    """How often each pass of a layer runs attention forward, on tensors without memory."""
    graphs = []

    def keep(module, _):
        graphs.append(module)
        return make_boxed_func(module.forward)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, partition_fn=min_cut_rematerialization_partition)
    register_trace_attention()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model_without_memory(SHAPE.config(64), torch.bfloat16, torch.device("cpu"), name).train()
        apply_activation_budget(model, budget, compiled=True)
        compile_layers(model, backend)
        states = torch.empty(1, TOKENS, SHAPE.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        output = model.model.layers[0].forward(
            states,
            attention_mask=None,
            position_ids=torch.empty(1, TOKENS, dtype=torch.int64),
            position_embeddings=(torch.empty(1, TOKENS, SHAPE.head_dim, dtype=torch.bfloat16),) * 2,
            use_cache=False,
            cu_seqlens=torch.empty(ROWS + 1, dtype=torch.int32),
            max_seqlen=LONGEST,
        )
        output.backward(torch.empty_like(output))
    assert len(graphs) == 2
    names = [[str(node.target) for node in graph.graph.nodes] for graph in graphs]
    return [sum("att" in each and "backward" not in each for each in called) for called in names]


@pytest.mark.parametrize("name", ["thinktune_varlen", "thinktune_rows", TRACE_ATTENTION])
def test_half_a_budget_keeps_attention(name):
    """By each kernel's operator, and by the one that stands for them where the plan counts memory."""
    assert attentions(name, 0.5) == [1, 0]
