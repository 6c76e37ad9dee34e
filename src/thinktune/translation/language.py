"""Language of the terminal: what the user asked for, or what the system's locale says."""

import os
from collections.abc import Mapping
from typing import Literal

Language = Literal["en", "zh"]

LANGUAGE_VARIABLE = "THINKTUNE_LANG"  # `--lang` sets it, so that processes started from here speak the same language

# In the order of POSIX: the first that is set decides, and `C` is English.
_LOCALE_VARIABLES = (LANGUAGE_VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG")


def find_language(environment: Mapping[str, str] = os.environ) -> Language:
    """Return Chinese where the first variable that is set names it (`zh`, `zh_CN.UTF-8`), English otherwise."""
    named = next(filter(None, (environment.get(variable) for variable in _LOCALE_VARIABLES)), "")
    return "zh" if named.lower().startswith("zh") else "en"
