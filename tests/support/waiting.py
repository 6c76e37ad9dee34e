"""Wait for what happens in another thread or process."""

import time


def wait_until(happens, seconds):
    """Return what `happens()` returns once it is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, happens
        time.sleep(0.01)
    return found
