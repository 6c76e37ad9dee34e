"""Two hosts train one run: a process is killed, the network between them is cut, and nothing is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TWO_HOSTS = Path(__file__).parent / "two_hosts.py"


@pytest.mark.slow
def test_two_hosts_lose_a_process_and_their_wire_and_end_as_if_undisturbed(tmp_path, tried):
    if not shutil.which("ip") or not shutil.which("unshare") or os.geteuid() != 0:
        pytest.skip("network namespaces need root, and the commands `ip` and `unshare`")
    options = {"capture_output": True, "text": True, "check": False, "timeout": 1500}
    if subprocess.run(["ip", "netns", "add", f"tried{os.getpid()}"], **options).returncode:
        pytest.skip("network namespaces are not allowed here")
    subprocess.run(["ip", "netns", "delete", f"tried{os.getpid()}"], **options)
    made = subprocess.run([sys.executable, str(TWO_HOSTS), str(tmp_path)], **options)
    assert made.stdout.startswith("{"), made.stderr[-2000:]
    ledger = json.loads(made.stdout.splitlines()[-1])
    assert (made.returncode, ledger["broken"]) == (0, [])
    assert len(ledger["tried"]) == 3
    assert len(ledger["equal"]) == 2
    for what in ledger["tried"]:
        tried(what)
    left = subprocess.run(["ip", "netns", "list"], **options).stdout
    assert not [line for line in left.splitlines() if line.startswith("tt")], "namespaces are left"
