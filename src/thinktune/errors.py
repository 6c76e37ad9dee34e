"""The one error a user is meant to read."""

import os
import re
from collections.abc import Sequence


class UserError(Exception):
    """One or more faults of the user's, each a sentence with place, value and remedy.

    The command line prints them without a traceback and exits with 2.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type["UserError"], tuple[list[str]]]:
        """All faults, also where the error comes from another process."""
        return type(self), (self.faults,)


class UpstreamError(UserError):
    """A server that replies are asked of is gone, fails, or will not have us: no fault of the request."""


class Stopped(Exception):  # noqa: N818 - no error: it was asked for
    """A run that was asked to stop and stands whole on the disk; its text says how far it is.

    The command line prints it and exits with `EXIT_CODE`, so that a script knows: start the same command again.
    """

    EXIT_CODE = 75  # "temporary failure; try again", as sysexits.h has it
    TIME_LIMIT = "train.time_limit"  # the reason, where it was no signal

    @property
    def exit_code(self) -> int:
        """`EXIT_CODE`; 0 under a torchrun that would start anew, and so never end, what its time limit has stopped.

        After a signal to one process alone, as from a machine that is taken away, torchrun is to start the others anew.
        """
        may_start_again = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
        return 0 if may_start_again and str(self).startswith(self.TIME_LIMIT) else self.EXIT_CODE


def shorten_error(error: BaseException, max_characters: int = 300) -> str:
    """What another library's error says, on one line of at most so many characters."""
    return " ".join(str(error).split())[:max_characters] or type(error).__name__


_SECRET_NAMES = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)S?$", re.IGNORECASE)


_SECRET_PATTERNS = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|ms-[0-9a-f]{8}-[0-9a-f-]{20,})")


MIN_SECRET_CHARACTERS = 8  # characters; a shorter value of the environment is more likely a word than a secret


def redact(text: str) -> str:
    """A text in which each token or key is three stars."""
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value.strip()) >= MIN_SECRET_CHARACTERS:
            text = text.replace(value.strip(), "***")
    return _SECRET_PATTERNS.sub("***", text)
