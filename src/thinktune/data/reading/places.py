"""Places of rows: `rows.jsonl:3` for a line, counted from 1, and `rows.json[2]` for an element of a list, from 0."""


def line_place(name: str, line: int) -> str:
    """Return the place of the row that begins at a line of a file."""
    return f"{name}:{line}"


def element_place(name: str, index: int) -> str:
    """Return the place of an element that shares its line with others."""
    return f"{name}[{index}]"


def split_place(place: str) -> tuple[str, int]:
    """Split a place into the file's name and one number: its line, or -1 minus the index of its element."""
    if place.endswith("]"):
        name, _, index = place[:-1].rpartition("[")
        return name, -1 - int(index)
    name, _, line = place.rpartition(":")
    return name, int(line)


def join_place(name: str, number: int) -> str:
    """Join what `split_place` has split."""
    return line_place(name, number) if number >= 0 else element_place(name, -1 - number)
