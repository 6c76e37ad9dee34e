"""Keeps tokens and keys out of what is written: those of the environment, and what has the shape of one."""

import os
import re

_NAMES = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)S?$", re.IGNORECASE)
_SHAPES = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|ms-[0-9a-f]{8}-[0-9a-f-]{20,})")
FEWEST = 8  # characters; a shorter value of the environment is more likely a word than a secret


def mask(text: str) -> str:
    """A text in which each token or key is three stars."""
    for name, value in os.environ.items():
        if _NAMES.search(name) and len(value.strip()) >= FEWEST:
            text = text.replace(value.strip(), "***")
    return _SHAPES.sub("***", text)
