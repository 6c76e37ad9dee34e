"""How a recipe says which weight between base and tuned model is chosen (`train.average`)."""

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator


def _check_average(value: Any) -> Any:
    """Return how a weight between base and tuned is chosen; raise ValueError with one sentence for anything else."""
    known = value is None or value == "curve" or isinstance(value, bool)  # true is refused by every section
    if not known and not (isinstance(value, int | float) and 0 <= value <= 100):
        raise ValueError(
            f"is {json.dumps(value, default=repr)[:60]}; write how many percentage points of general questions may "
            "be lost (0 to 100), as in 5, or write curve"
        )
    return value


AverageRule = Annotated[float | Literal["curve"] | None, BeforeValidator(_check_average)]
