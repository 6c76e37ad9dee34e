"""Replay: general rows beside the user's own, against forgetting, and whose answers are trained."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from thinktune.config.section import Section

BUNDLED = "bundled"  # what a recipe calls the rows of this package
BUNDLED_ROWS = "bundled:general"  # the name of a source that holds them

Answers = Literal["rows", "own", "own-sampled"]


def _check_share(value: Any) -> Any:
    """Return a share of all tokens; raise ValueError with one sentence for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"is {value!r}; write a share between 0 and 1, as in 0.1")
    return float(value)


class Replay(Section):
    """General rows that are trained beside your own. A number alone, as in `replay: 0.1`, is the share."""

    share: Annotated[float, BeforeValidator(_check_share)]
    """The share of the tokens that are trained (0 to 1) which these rows have. They are repeated, or only some of them
    taken, until they have it."""
    rows: str = BUNDLED
    """The `bundled` rows, or a file, folder or glob of your own. None of them is held out."""
    answers: Answers = "rows"
    """Whose answers are trained: those of the `rows`; the base model's `own`, which it writes to their questions once,
    before training, thinking and not where it has both modes; or `own-sampled`, sampled with the model's own
    settings instead of taking the likeliest token each time."""


def read_replay(value: Any) -> Any:
    """Return a section's values; a number alone is its share. Raises ValueError where a value is neither."""
    if value is None or isinstance(value, dict | Replay):
        return value
    try:
        return {"share": _check_share(value)}
    except ValueError as error:
        raise ValueError(f"{error}, or settings such as {{share: 0.1, answers: own}}; or leave it out") from None
