"""Errors that users read, and secrets redacted from what they read."""

import os
import re
from collections.abc import Sequence


class UserError(Exception):
    """One or more mistakes in the user's input, each a sentence with place, value and remedy.

    The command line prints them without a traceback and exits with 2.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type["UserError"], tuple[list[str]]]:
        """Pickle with all faults, so that the error can cross processes."""
        return type(self), (self.faults,)


class UpstreamError(UserError):
    """Failure of an upstream server: it is unreachable, fails or refuses us, through no fault of the request."""


class Stopped(Exception):  # noqa: N818 - not an error: it was requested
    """A run stopped on request, with all steps saved; the text says how far it is.

    The command line prints it and exits with `EXIT_CODE`, which tells a script to start the same command again.
    """

    EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: "temporary failure; try again"
    TIME_LIMIT = "train.time_limit"  # the reason, where it was no signal

    @property
    def exit_code(self) -> int:
        """Return `EXIT_CODE`, or 0 after a time limit under a torchrun that would restart the run for ever.

        After a signal to one process alone, as when a machine is taken away, torchrun should restart the others.
        """
        may_start_again = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
        return 0 if may_start_again and str(self).startswith(self.TIME_LIMIT) else self.EXIT_CODE


def shorten_error(error: BaseException, max_characters: int = 300) -> str:
    """Return the text of another library's error on one line, cut to `max_characters`."""
    return " ".join(str(error).split())[:max_characters] or type(error).__name__


_SECRET_NAMES = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)S?$", re.IGNORECASE)


_SECRET_PATTERNS = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|ms-[0-9a-f]{8}-[0-9a-f-]{20,})")


MIN_SECRET_CHARACTERS = 8  # a shorter environment variable is more likely a word than a secret


def redact(text: str) -> str:
    """Replace every token or key in a text by three asterisks."""
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value.strip()) >= MIN_SECRET_CHARACTERS:
            text = text.replace(value.strip(), "***")
    return _SECRET_PATTERNS.sub("***", text)
