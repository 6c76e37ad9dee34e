"""Rows that a run trains: of a source with a share only some may come, and pages and cards count those."""

from thinktune.run import Record

COUNTS = ("rows", "tokens", "learned_tokens")


def count_trained(data: Record) -> None:
    """Put what is trained where a summary of rows counts what could be, and count the rest as `left_over_rows`.

    A summary of one source, or of an earlier version, is left as it is.
    """
    for each in [data, *(data.get("sources") or [])]:
        if "trained_rows" in each:
            each["left_over_rows"] = int(each["train_rows"]) - int(each["trained_rows"])
            each.update({f"train_{name}": int(each[f"trained_{name}"]) for name in COUNTS})
