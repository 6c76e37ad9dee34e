"""Errors that users read, and secrets redacted from what they read."""

import json
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote


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
    """Return the text of another library's error on one line, without secrets, cut to `max_characters`."""
    # Masked before it is cut: half a secret has no shape that would be known.
    return redact(" ".join(str(error).split()))[:max_characters] or type(error).__name__


# `PWD`, `PATH` and `COMPASS` hold no secret, so short names count only as a whole word.
_SECRET_VARIABLES = re.compile(
    r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE)S?_?\d*$|(^|_)(PASS|PAT|AUTH|JWT)\d*$|_PWD$", re.IGNORECASE
)


MIN_SECRET_CHARACTERS = 8  # a shorter environment variable is more likely a word than a secret


# The shapes that issuers document, so that a scanner finds them.
_SECRET_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:hf|api_org)_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|ms-[0-9a-f]{8}-[0-9a-f-]{20,}"  # ModelScope
    r"|[sr]k[-_][A-Za-z0-9_-]{16,}"  # OpenAI, Anthropic, DeepSeek, OpenRouter, Stripe
    r"|gh[a-z]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl(?:pat|dt|rt|cbt|ptt)-[\w-]{20,}"  # GitHub, GitLab
    r"|(?:AKIA|ASIA|LTAI|AKID)[A-Za-z0-9]{12,}|AIza[\w-]{30,}"  # AWS, Alibaba, Tencent, Google
    r"|xox[a-z]-[\w-]{10,}|(?:npm|pypi|gsk|xai|nvapi|r8|dapi|whsec)[-_]?[A-Za-z0-9_-]{30,}"
    r"|(?<![\w-])eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*"  # JSON web token
    r")",
    re.ASCII,
)
_PRIVATE_KEYS = re.compile(r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)
_URL_PASSWORDS = re.compile(
    r"(://[^\s/:@\"']*+:)[^\s/\"']+(?=@)|(?<=http://)[^\s/:@\"']+(?=@)|(?<=https://)[^\s/:@\"']+(?=@)"
)
_PASSWORDS = re.compile(r"(?<![\w.%+/:@-])([A-Za-z][\w.%+-]*+:)[^\s/:@\"']{4,}(?=@[\w\[])")
_SECRET_OPTION = (
    r"(?:[a-z0-9_-]*[_-])?(?:token|api[_-]?key|access[_-]?key|secret|password|passwd|passphrase|pass|pat|pwd)"
)
_ASSIGNMENTS = re.compile(  # password=… in a command, a query or a setting; --password … in a command
    rf"((?<![a-z0-9_-]){_SECRET_OPTION}=|(?<!\S)--{_SECRET_OPTION}\s+)(?!\*\*\*)[^\s&\"']{{6,}}", re.IGNORECASE
)
_BEARER = re.compile(r"(\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
MASK = "***"


def redact(text: str) -> str:
    """Replace every token, key and password in a text by three asterisks.

    Known are the values of environment variables named like a secret, the shapes of common keys, JSON web tokens,
    private keys, passwords in addresses (`https://user:password@host`), and what follows `password=` and its like.
    """
    return _redact(text, _secret_values())


def redact_all(value: Any) -> Any:
    """Redact every text in a tree of dictionaries, lists and tuples, keys included; the rest is as it was."""
    secrets = _secret_values()

    def redacted(value: Any) -> Any:
        match value:
            case str():
                return _redact(value, secrets)
            case dict():
                tree: dict[Any, Any] = value
                return {redacted(key): redacted(each) for key, each in tree.items()}
            case list() | tuple():
                items: Sequence[Any] = value
                return [redacted(each) for each in items]
            case _:
                return value

    return redacted(value)


def _redact(text: str, secrets: Sequence[str]) -> str:
    for value in secrets:
        text = text.replace(value, MASK)
    text = _PRIVATE_KEYS.sub(MASK, text)
    for pattern in (_URL_PASSWORDS, _PASSWORDS, _ASSIGNMENTS, _BEARER):
        text = pattern.sub(lambda found: f"{found[1] or ''}{MASK}", text)
    return _SECRET_SHAPES.sub(MASK, text)


def _secret_values() -> list[str]:
    """List the secrets of the environment, also as a URL and as JSON write them; the longest first."""
    secrets = {
        value.strip()
        for name, value in os.environ.items()
        if _SECRET_VARIABLES.search(name) and len(value.strip()) >= MIN_SECRET_CHARACTERS
    }
    forms = {form for value in secrets for form in (value, quote(value, safe=""), json.dumps(value)[1:-1])}
    return sorted(forms, key=len, reverse=True)
