"""Wheels for a bare machine with a card: Python 3.12, torch 2.11 and transformers 5.17 are there, and no network.

    python benchmarks/card_wheels.py [--folder FOLDER] [--without-peers]

Fills a folder that git ignores with what such a machine lacks: pydantic with its parts, and the peers. Install them
there with `python3 -m pip install --no-index --no-deps --target SITE FOLDER/*.whl`, and put SITE on PYTHONPATH. Nothing
else is fetched: the needs of these that are not listed come with torch, transformers or pytest.
"""

import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

OURS = (  # what we import and transformers does not need
    "pydantic==2.14.4",
    "pydantic-core==2.50.5",
    "annotated-types==0.8.0",
    "typing-inspection==0.4.5",
    "typing-extensions==4.16.0",  # pydantic wants it so new
)
PEERS = (
    "trl==1.16.0",
    "datasets==5.2.0",
    "dill==0.4.1",
    "multiprocess==0.70.19",
    "liger-kernel==0.8.5",
)
# pip takes a wheel only if its platform is named exactly.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("benchmark-results/wheels"))
    parser.add_argument("--python", default="3.12", help="the machine's Python")
    parser.add_argument("--without-peers", action="store_true", help="leave out what only the peers need")
    arguments = parser.parse_args()
    wanted = [*OURS, *(() if arguments.without_peers else PEERS)]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for old in arguments.folder.glob("*.whl"):  # two versions of one package stop the whole installation
        old.unlink()
    subprocess.run(command(wanted, arguments.folder, arguments.python), check=True)
    files = sorted(arguments.folder.glob("*.whl"))
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"{len(files)} wheels, {size:.1f} MiB, in {arguments.folder}")
    if len(files) != len(wanted):
        sys.exit(f"{len(wanted)} were wanted")


def command(wanted: list[str], folder: Path, python: str) -> list[str]:
    """Return the command that downloads them for another Python than this one."""
    made = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    made += ["--python-version", python, "--implementation", "cp"]
    return [*made, *(part for platform in PLATFORMS for part in ("--platform", platform)), *wanted]


if __name__ == "__main__":
    main()
