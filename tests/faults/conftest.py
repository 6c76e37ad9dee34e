"""Fixtures of fault tests: a list of tested faults and their cost, printed at the end, and disks of a chosen size."""

import os
import subprocess

import pytest

TRIED: list[tuple[str, str, str]] = []


@pytest.fixture
def tried(request):
    """Record a fault that a test caused, and what it cost: `tried("SIGTERM in step 4", "nothing")`."""

    def note(what, lost="nothing"):
        TRIED.append((request.node.name, what, lost))

    return note


def pytest_terminal_summary(terminalreporter):
    """Print which faults were tested and what was lost."""
    if TRIED:
        terminalreporter.section("faults tested, and what was lost")
        for _, what, lost in TRIED:
            terminalreporter.write_line(f"{what}: lost {lost}")


@pytest.fixture
def disk(tmp_path):
    """Return a function that mounts a disk of so many bytes in memory; skip where that is not allowed."""
    mounted = []

    def make(size):
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "thinktune-test", str(place)]
        try:
            made = subprocess.run(options, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no disk of a chosen size: there is no mount command ({error})")
        if made.returncode:
            pytest.skip(f"no disk of a chosen size: mounts are not allowed here ({made.stderr.strip()})")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def full():
    """Return a function that fills a disk to the last byte; it is freed at the end."""
    files = []

    def fill(place):
        path = place / "other-file"
        files.append(path)
        with path.open("wb", buffering=0) as file:
            for size in (2**20, 4096, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
            os.fsync(file.fileno())

    yield fill
    for path in files:
        path.unlink(missing_ok=True)
