"""Numbers in the query of an address."""

from starlette.requests import Request

from thinktune.http import ApiError

MOST = 2**31


def read_count(request: Request, name: str, default: int, most: int = MOST) -> int:
    """Read a whole number of a query, 0 or more and at most `most`; raises ApiError (400) for anything else."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise ApiError(400, f"{name}: is {text[:40]!r}; give a whole number, 0 or more")
    return min(int(text), most)
