"""Other releases of transformers, installed in a folder of their own that a process puts before this environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def install_release(folder: Path, requirement: str) -> Path:
    """Install a release with what it depends on, torch aside; skips the test where that cannot be had."""
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), requirement]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{requirement} cannot be installed here: {done.stderr.strip()[-200:]}")
    return folder


def run_with_release(folder: Path, *arguments: str) -> str:
    """Run Python with a release of `install_release`; returns what it printed."""
    paths = [str(folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
