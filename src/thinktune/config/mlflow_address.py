"""How a recipe names an MLflow server (`track.mlflow`)."""

import json
import re
from typing import Annotated, Any

from pydantic import BeforeValidator


def _check_mlflow(value: Any) -> Any:
    """Return an MLflow server's address, auto, or None for off; raise ValueError with a sentence for all else."""
    if value is None or (isinstance(value, str) and (value == "auto" or re.match(r"https?://\S+$|databricks", value))):
        return value
    if value in ("off", False):
        return None
    raise ValueError(f"is {json.dumps(value, default=repr)[:60]}; write http://HOST:PORT, auto, or off")


MlflowAddress = Annotated[str | None, BeforeValidator(_check_mlflow)]
