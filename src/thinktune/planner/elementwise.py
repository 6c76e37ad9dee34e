"""Bytes that the fused kernels of a compiled layer move: all but matrix products and attention.

The compiler fuses what lies between two of those into kernels that read and write each stored tensor once. Held to the
bytes that torch 2.11's own compiler reads and writes in the code it generates for Qwen3's sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from thinktune.planner.long_rows import is_tiled

MATMUL_OPS = ("mm", "addmm", "bmm", "_grouped_mm", "grouped_mm_fallback")


VIEW_OPS = (
    *("view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze"),
    *("slice", "select", "split", "split_with_sizes", "alias", "detach", "as_strided", "unbind"),
)


CONVERSIONS = ("convert_element_type", "_to_copy")


def node_bytes(node: Node) -> int:
    """Return the bytes of a node's tensors; 0 where it has none."""
    value = node.meta.get("val")
    if isinstance(value, Sequence):
        return sum(part.numel() * part.element_size() for part in value if isinstance(part, torch.Tensor))
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def attention_name(node: Node) -> str:
    """Return the name of a node's stand-in for attention, `attend` or `attend_backward`; empty for any other node."""
    name = _operator(node)
    return name if "attend" in name else ""


def is_matmul_or_attention(node: Node) -> bool:
    """Return True for a kernel that no other operation is fused into."""
    return _operator(node) in MATMUL_OPS or bool(attention_name(node)) or is_tiled(node)


def elementwise_bytes(graph: GraphModule, tokens: int) -> int:
    """Count the bytes that the kernels of a forward or backward graph read and write, but for products and attention.

    A kernel is made of operations that hand on to each other what no product and no attention makes, and of others that
    read the same large tensor. It reads each tensor from outside once, and writes what is used outside. A sum over the
    `tokens` of a row reads its tensors once more.
    """
    [last] = [node for node in graph.graph.nodes if node.op == "output"]
    returned = {_source(node) for node in last.all_input_nodes}
    moved = 0
    for kernel in _find_kernels(graph):
        written = {node for node in kernel.nodes if node in returned or _is_used_outside(node, kernel.nodes)}
        moved += sum(kernel.reads().values()) + sum(map(node_bytes, written))
        sums = (node for node in kernel.nodes if _sums_tokens(node, tokens))
        moved += sum(_read_again(node, kernel.nodes, written) for node in sums)
    return moved


@dataclass(slots=True, eq=False)
class _Kernel:
    """Operations that are fused, and how many products one after the other come before them: at least and at most."""

    nodes: set[Node]
    earliest: int
    latest: int

    def fits(self, other: "_Kernel") -> bool:
        """Return True if no product lies between the two."""
        return max(self.earliest, other.earliest) <= min(self.latest, other.latest)

    def join(self, other: "_Kernel") -> None:
        """Take over the operations of another kernel."""
        self.nodes |= other.nodes
        self.earliest, self.latest = max(self.earliest, other.earliest), min(self.latest, other.latest)

    def reads(self) -> dict[Node, int]:
        """Return the bytes of each tensor that is read."""
        read: dict[Node, int] = {}
        for node in self.nodes:
            for source in node.all_input_nodes:
                if (stored := _source(source)) not in self.nodes and not _is_constant(stored):
                    read[stored] = max(read.get(stored, 0), min(node_bytes(source), node_bytes(stored)))
        return read

    def shares_largest(self, other: "_Kernel") -> bool:
        """Return True if both read the largest tensor that one of them reads."""
        mine, theirs = self.reads(), other.reads()
        largest = max((*mine.values(), *theirs.values()), default=0)
        return any(mine[source] == largest for source in mine.keys() & theirs.keys())


def _find_kernels(graph: GraphModule) -> list[_Kernel]:
    """Return the fused kernels of a graph."""
    earliest, latest = _levels(graph)
    kernel_of: dict[Node, _Kernel] = {}
    for node in filter(_is_fused, graph.graph.nodes):
        kernel = _Kernel({node}, earliest[node], latest[node])
        for source in map(_source, node.all_input_nodes):
            if (former := kernel_of.get(source)) and former is not kernel and kernel.fits(former):
                kernel.join(former)
        for each in kernel.nodes:
            kernel_of[each] = kernel
    found: list[_Kernel] = []
    for kernel in dict.fromkeys(kernel_of.values()):
        for other in found:
            if kernel.fits(other) and kernel.shares_largest(other):
                other.join(kernel)
                break
        else:
            found.append(kernel)
    return found


def _levels(graph: GraphModule) -> tuple[dict[Node, int], dict[Node, int]]:
    """Count for each node the products and attentions that come before it, one after the other: least and most."""
    earliest: dict[Node, int] = {}
    for node in graph.graph.nodes:
        before = (earliest[source] for source in node.all_input_nodes)
        earliest[node] = max(before, default=0) + is_matmul_or_attention(node)
    latest: dict[Node, int] = {}
    for node in reversed(graph.graph.nodes):
        after = (latest[user] - is_matmul_or_attention(user) for user in node.users)
        latest[node] = min(after, default=max(earliest.values()))
    return earliest, latest


def _sums_tokens(node: Node, tokens: int) -> bool:
    """Return True for a sum over the tokens, as in the gradient of a norm's weight."""
    return _operator(node) == "sum" and tokens not in _shape(node) and tokens in _shape(node.all_input_nodes[0])


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _read_again(node: Node, kernel: set[Node], written: set[Node]) -> int:
    """Count what a sum over the tokens reads: it is a kernel of its own, beside the one that goes along each token."""
    sources, waiting, seen = dict[Node, int](), [node], set[Node]()
    while waiting:
        for each in waiting.pop().all_input_nodes:
            source = _source(each)
            if source not in kernel or source in written:
                sources[source] = max(sources.get(source, 0), min(node_bytes(each), node_bytes(source)))
            elif source not in seen:
                seen.add(source)
                waiting.append(source)
    return sum(sources.values())


def _is_fused(node: Node) -> bool:
    is_kernel = is_matmul_or_attention(node) or _is_view(node) or _operator(node) == "getitem"
    return node.op == "call_function" and not is_kernel and node_bytes(node) > 0 and not _is_constant(node)


def _is_constant(node: Node) -> bool:
    return node.op == "call_function" and not node.all_input_nodes


def _is_view(node: Node) -> bool:
    if _operator(node) == "getitem":  # of what a product or attention made it is a tensor of its own
        return _is_view(node.all_input_nodes[0])
    if _operator(node) in CONVERSIONS:  # a wider number is made again wherever it is read
        return node_bytes(node) > node_bytes(node.all_input_nodes[0])
    return _operator(node) in VIEW_OPS


def _source(node: Node) -> Node:
    """Return the node whose memory a view shows, or a conversion to wider numbers reads."""
    while _is_view(node):
        node = node.all_input_nodes[0]
    return node


def _is_used_outside(node: Node, kernel: set[Node]) -> bool:
    """Return True if a product, attention or another kernel uses a node, or a view of it."""
    users = list(node.users)
    while users:
        user = users.pop()
        if _is_view(user):
            users += user.users
        elif user not in kernel and user.op != "output":
            return True
    return False


def _operator(node: Node) -> str:
    """Return the name of a node's operator without its namespace and overload; empty for what is no call."""
    if node.op != "call_function":
        return ""
    parts = str(node.target).split(".")
    if len(parts) > 1:
        return parts[1]
    return getattr(node.target, "__name__", "")
