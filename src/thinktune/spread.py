"""How a run is spread over many cards: copies of the whole, shares of one, or copies whose shares stay on a machine."""

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["replicate", "shard", "hybrid"]


@dataclass(frozen=True, slots=True)
class Spread:
    """`ranks` processes, one a card, `per_node` of them on each machine.

    `replicate`: every rank keeps all weights and states, and gradients are summed over all. `shard`: every rank keeps
    1/ranks of weights, gradients and states (ZeRO, Rajbhandari et al., 2020). `hybrid`: a machine's ranks share one
    copy, and gradients of the shares are summed over machines.
    """

    strategy: Strategy = "replicate"
    ranks: int = 1
    per_node: int = 1

    @property
    def shards(self) -> int:
        """Into how many parts weights and states are cut."""
        match self.strategy:
            case "replicate":
                return 1
            case "shard":
                return self.ranks
            case "hybrid":
                return self.per_node

    @property
    def replicas(self) -> int:
        """How many copies of all parts there are; replicas x shards = ranks."""
        return self.ranks // self.shards
