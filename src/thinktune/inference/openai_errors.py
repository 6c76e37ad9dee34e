"""Failures of OpenAI-compatible servers, one sentence each: whether to try again, and whether they may have cost."""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from thinktune.errors import UpstreamError, UserError

if TYPE_CHECKING:
    from openai import APIError

API_KEY_VARIABLES = ("THINKTUNE_ENDPOINT_KEY", "OPENAI_API_KEY")  # the first that is set holds the key
MAX_ERROR_CHARACTERS = 300
TEMPORARY_STATUSES = (408, 409, 429)  # and all from 500 on
MAY_HAVE_COST_STATUSES = (408, 504, 524)  # a gateway gave up on a reply that the server may have gone on with


class BrokenReplyError(Exception):
    """A reply that failed after the server had accepted the request; another attempt may succeed."""


class TemporaryError(UpstreamError):
    """A failure after which the same request may succeed.

    `may_have_cost`: the server may have worked, and may bill, for the request that failed. `wait_seconds` is how long
    it asks us to wait, None where it does not say.
    """

    def __init__(
        self, faults: str | Sequence[str], *, may_have_cost: bool = True, wait_seconds: float | None = None
    ) -> None:
        super().__init__(faults)
        self.may_have_cost, self.wait_seconds = may_have_cost, wait_seconds


def failed_request(error: "APIError", url: str, model: str, key: str | None) -> UserError:
    """Return the error to raise for a request that was not accepted: one sentence for each kind."""
    retries = int(error.request.headers.get("x-stainless-retry-count", 0))
    tried = f" (tried {retries + 1} times)" if retries else ""
    status, text = status_of(error), clean(error_text(error), key)
    match status:
        case None:
            sentence = f"{url}: {text}{tried}; check that the server is running"
            return TemporaryError(sentence, may_have_cost=not _was_never_connected(error))
        case 401 | 403:
            problem = "refuses the key" if key else "asks for a key"
            return UpstreamError(f"{url}: {problem} ({status}); set {API_KEY_VARIABLES[0]} in the environment")
        case 402:
            return UpstreamError(
                f"{url}: asks for payment (402: {text}); top up the account, then run the same command"
            )
        case 404:
            return UpstreamError(
                f"{url}: has no model {model!r}, or no /chat/completions (404: {text}); "
                "look at its /models, and write the address as in http://127.0.0.1:8000/v1"
            )
        case _ if status >= 500 or status in TEMPORARY_STATUSES:
            return TemporaryError(
                f"{url}: answers {status}: {text}{tried}",
                may_have_cost=status in MAY_HAVE_COST_STATUSES,
                wait_seconds=_retry_after_seconds(error),
            )
        case _:
            return UserError(f"{url}: refuses the request ({status}): {text}")


def status_of(error: "APIError") -> int | None:
    """Return the HTTP status, or None where no answer came."""
    return getattr(error, "status_code", None)


def error_text(error: Exception) -> str:
    """Return the server's message, in whichever form it comes, or else the transport's own error."""
    body: Any = getattr(error, "body", None)
    if body:
        return str(body["message"] if isinstance(body, dict) and "message" in body else body)
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


def clean(text: str, key: str | None) -> str:
    """Return a server's text on one line, short, and without the key, which it may repeat."""
    text = text.replace(key, "***") if key else text
    return " ".join(text.split())[:MAX_ERROR_CHARACTERS]


def _was_never_connected(error: Exception) -> bool:
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol")


def _retry_after_seconds(error: "APIError") -> float | None:
    """Return the time of the Retry-After header, given in seconds or as a date; None without a readable one."""
    response = getattr(error, "response", None)
    value = response.headers.get("retry-after") if response is not None else None
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
