"""Stage: the tests that need a card, side by side in one call of pytest; `tests.xml` and `tests.log` in a folder.

`python -m card.gpu_tests OUT [--staged]`
"""

import os
import subprocess
import sys
from argparse import ArgumentParser
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from card.turns import turns

ROOT = Path(__file__).parents[2]
SECONDS_PER_TEST, SIDE_BY_SIDE = 80, 4


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--staged", action="store_true", help="a stage of first_card.py: it waits for turns")
    arguments = parser.parse_args()
    line = turns(arguments.staged)
    line.wait("card")
    report = arguments.out / "tests.xml"
    # The project's own options would leave out what needs a card, and ask for plugins that may not be there.
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "--import-mode", "importlib", "-p", "no:cacheprovider"]
    command += [
        "-v",
        "-rfEs",
        "-m",
        "gpu",
        "--junitxml",
        str(report),
        "tests/test_gpu.py",
        "tests/test_gpu_generation.py",
    ]
    if find_spec("xdist"):
        command += ["-n", str(min(SIDE_BY_SIDE, os.cpu_count() or 1))]
    if find_spec("pytest_timeout"):
        command += ["--timeout", str(SECONDS_PER_TEST)]
    with (arguments.out / "tests.log").open("w", encoding="utf-8") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    line.find("tests", **counts(report), exit_code=code)
    sys.exit(code != 0)


def counts(report: Path) -> dict[str, object]:
    """Return how many tests passed and were skipped, and which failed with the first line of their reason."""
    if not report.is_file():
        return {"absent": "pytest wrote no report"}
    failed: dict[str, str] = {}
    skipped: dict[str, int] = {}
    passed = 0
    for case in ElementTree.parse(report).iter("testcase"):
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        left_out = case.find("skipped")
        if bad is not None:
            failed[case.get("name", "?")] = (bad.get("message") or "").split("\n")[0][:200]
        elif left_out is not None:
            reason = left_out.get("message") or ""
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


if __name__ == "__main__":
    main()
