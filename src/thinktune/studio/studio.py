"""What each screen's routes are given: the folder, the acts, and the limits of requests."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from thinktune.http import Limits
from thinktune.studio.acts import Acts
from thinktune.studio.folder import StudioFolder


@dataclass(frozen=True, slots=True)
class Studio:
    """A studio over one folder; it holds no state of its own."""

    folder: StudioFolder
    acts: Acts
    limits: Limits
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Proves that an address of a page in the folder came from this process."""
    is_closing: Callable[[], bool] = lambda: False
    """Whether the server is ending; streams then end by themselves."""
