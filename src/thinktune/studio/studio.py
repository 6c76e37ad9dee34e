"""What each screen's routes are given: the folder, the acts, and the limits of requests."""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from thinktune.http import Limits
from thinktune.studio.acts import Acts
from thinktune.studio.folder import StudioFolder


@dataclass(frozen=True, slots=True)
class Studio:
    """A studio over one folder, which is its state."""

    folder: StudioFolder
    acts: Acts
    limits: Limits
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Proves that an address of a page in the folder came from this process."""
    is_closing: Callable[[], bool] = lambda: False
    """Whether the server is ending; streams then end by themselves."""
    stopped_processes: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    """Runs that a terminal started and that were asked to stop, by name and number of process: a second Ctrl-C would
    end them without saving."""
    starting: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while an act is started, so that of two starts of one training the second is refused."""
