"""The launch files of docs/launch: linted, true to torchrun's own options, and the Slurm script's decisions tried."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from torch.distributed.run import get_args_parser

LAUNCH = Path(__file__).parents[2] / "docs" / "launch"
SLURM, KUBERNETES = LAUNCH / "slurm.sbatch", LAUNCH / "kubernetes.yaml"
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-4]", "SLURM_NNODES": "4", "SLURM_GPUS_ON_NODE": "8"}
JOB |= {"SLURM_CPUS_PER_TASK": "64"}
COMMANDS = {  # what stands in for Slurm's own
    "srun": 'trap "exit 1" TERM; echo $$ > "$PLACE/pid"; printf "%s\\n" "$@" > "$PLACE/srun"\n'
    'for _ in $(seq "$TENTHS"); do sleep 0.1; done; exit "$ENDS_WITH"',
    "scancel": 'echo "$@" > "$PLACE/scancel"; kill -TERM "$(cat "$PLACE/pid")"',
    "scontrol": 'case $1 in show) printf "node1\\nnode2\\n" ;; *) echo "$@" > "$PLACE/scontrol" ;; esac',
}


@pytest.fixture
def slurm(tmp_path):
    """Start the script where Slurm's commands are stand-ins."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)

    def start(*arguments, tenths=0, ends_with=0):
        facts = {"PATH": f"{commands}:{os.environ['PATH']}", "PLACE": tmp_path, "TENTHS": tenths}
        facts = {**JOB, **facts, "ENDS_WITH": ends_with}
        return subprocess.Popen(["bash", SLURM, *arguments], env={name: str(value) for name, value in facts.items()})

    return start


def torchrun(words):
    """Torchrun's own reading of a command, which ends the test where an option is unknown."""
    return get_args_parser().parse_args(words[words.index("torchrun") + 1 :])


def test_the_slurm_script_is_clean():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    assert subprocess.run(["bash", "-n", SLURM], check=False).returncode == 0
    linted = subprocess.run([shellcheck, SLURM], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


def test_a_finished_job_and_a_failed_one_are_not_queued_again(slurm, tmp_path):
    assert slurm("mine.yaml", "train.epochs=1").wait(20) == 0
    assert slurm("mine.yaml", ends_with=3).wait(20) == 3
    assert slurm().wait(20) != 0, "a recipe is asked for"
    assert not (tmp_path / "scontrol").exists()


def test_all_machines_start_the_same_command(slurm, tmp_path):
    slurm("a recipe.yaml", "train.epochs=1").wait(20)
    asked = torchrun((tmp_path / "srun").read_text().splitlines())
    assert (asked.nnodes, asked.nproc_per_node, asked.max_restarts) == ("4", "8", 3)
    assert (asked.rdzv_backend, asked.rdzv_endpoint, asked.rdzv_id) == ("c10d", "node1:29500", "7-0")
    assert (asked.module, asked.training_script) == (True, "thinktune")
    assert asked.training_script_args == ["train", "a recipe.yaml", "train.epochs=1"]


def test_a_job_whose_time_ends_stops_its_ranks_and_is_queued_again(slurm, tmp_path):
    job = slurm("mine.yaml", tenths=300)
    for _ in range(500):
        if not (tmp_path / "srun").exists():
            time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 1
    assert (tmp_path / "scancel").read_text().split() == ["--signal=TERM", "7"]
    assert (tmp_path / "scontrol").read_text().split() == ["requeue", "7"]


def test_the_time_to_save_ends_before_slurms():
    text = SLURM.read_text()
    told = int(text.partition("--signal=B:TERM@")[2].split()[0])
    assert int(text.partition("TORCH_ELASTIC_SHUTDOWN_TIMEOUT=")[2].split()[0]) < told


def test_the_manifests_are_kubernetes_own():
    """Against the schemas of the newest version that the checker knows; unknown fields are faults."""
    for manifest in yaml.safe_load_all(KUBERNETES.read_text()):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        broken = {**manifest, "spec": {**manifest["spec"], "no such field": 1}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_the_pods_meet_where_they_are_told_to():
    service, job = yaml.safe_load_all(KUBERNETES.read_text())
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    asked = torchrun(container["command"])
    name = job["metadata"]["name"]
    assert (service["spec"]["selector"], service["spec"]["clusterIP"]) == ({"job-name": name}, "None")
    assert pod["subdomain"] == service["metadata"]["name"]
    assert asked.rdzv_endpoint == f"{name}-0.{pod['subdomain']}:{container['ports'][0]['containerPort']}"
    assert int(asked.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(asked.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert (asked.module, asked.training_script, asked.training_script_args[0]) == (True, "thinktune", "train")
    waits = next(int(each["value"]) for each in container["env"] if each["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    assert waits < pod["terminationGracePeriodSeconds"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    shared = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "shared"]
    assert all(
        word.partition("=")[2].startswith(shared[0]) or word.startswith(shared[0]) for word in container["command"][-2:]
    )
