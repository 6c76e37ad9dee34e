"""Output of other libraries: none of it reaches the user of a command; our own lines and real errors all do."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.noisy_libraries import NOISE, plant
from support.runs import small_tree

import thinktune
from thinktune.files import write_json
from thinktune.library_output import QUIET_ENVIRONMENT, set_environment

NOISY = """
import logging, os, sys, warnings
from thinktune.library_output import captured_output, silence_libraries
silence_libraries()
def make_noise():
    warnings.warn("noise"); warnings.warn("noise", FutureWarning)
    warnings.simplefilter("always")
    warnings.warn("noise")
    logging.getLogger("library").warning("noise")
    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger("library").info("noise")
    from tqdm import tqdm
    for _ in tqdm(range(3), desc="noise"): pass
"""


def python(code, **environment):
    command = [sys.executable, "-c", code]
    inherited = {name: value for name, value in os.environ.items() if name not in QUIET_ENVIRONMENT}
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False)


def test_warnings_records_and_progress_bars_of_libraries_are_not_shown():
    done = python(NOISY + "make_noise(); print('ours')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ours\n", "")


def test_our_own_warnings_and_errors_of_libraries_are_shown():
    own = str(Path(thinktune.__file__).with_name("model") / "attention.py")
    code = f"exec(compile('import warnings; warnings.warn(\"no kernel\")', {own!r}, 'exec'), {{'__name__': 'thinktune.model.attention'}})"
    done = python(NOISY + "make_noise()\n" + code + "\nlogging.getLogger('library').error('lost a card')\n1 / 0")
    assert done.returncode == 1
    assert done.stderr.startswith("warning: no kernel\n")
    assert "lost a card" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "noise" not in re.sub(r'File "<string>".*', "", done.stderr)


def test_what_is_written_while_libraries_are_imported_is_dropped_unless_the_import_fails():
    write = "print('noise'); print('noise', file=sys.stderr); os.write(1, b'noise'); os.write(2, b'noise: no CUDA')"
    done = python(f"{NOISY}\nprint('before')\nwith captured_output():\n    {write}\nprint('after')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "before\nafter\n", "")
    done = python(f"{NOISY}\nwith captured_output():\n    {write}\n    import no_such_module")
    assert done.stdout == ""
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr
    assert "noise: no CUDA" in done.stderr


def test_a_crash_of_a_library_that_is_imported_is_told():
    done = python(f"{NOISY}\nwith captured_output():\n    os.abort()")
    assert done.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in done.stderr


@pytest.mark.parametrize(
    ("own", "segments"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, None),  # which torch reads before the other, and alone
        ({"PYTORCH_HIP_ALLOC_CONF": "max_split_size_mb:64"}, None),
    ],
)
def test_a_command_asks_for_segments_that_grow_unless_the_user_asks_for_others(monkeypatch, own, segments):
    monkeypatch.setattr("os.environ", {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name})
    os.environ.update(own)
    set_environment()
    assert os.environ.get("PYTORCH_ALLOC_CONF") == segments
    assert {name: os.environ[name] for name in own} == own


@pytest.mark.parametrize("variable", ["THINKTUNE_LIBRARY_OUTPUT", "TORCH_LOGS"])
def test_who_asks_for_it_sees_everything(variable):
    done = python(f"{NOISY}\nmake_noise()\nwith captured_output():\n    os.write(2, b'C code')", **{variable: "1"})
    assert done.stderr.count("UserWarning: noise") == 2
    assert "WARNING:library:noise" in done.stderr or "noise\n" in done.stderr
    assert "100%" in done.stderr
    assert "C code" in done.stderr


def test_closed_streams_and_no_room_for_temporary_files_are_no_reason_to_stop():
    code = f"{NOISY}\nwith captured_output():\n    os.write(2, b'noise')\nprint('ours')"
    command = f'{sys.executable} -c "$CODE" 2>&-'
    done = subprocess.run(["bash", "-c", command], env=os.environ | {"CODE": code}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") or done.stdout == "ours\n"
    code = f"import tempfile\ndef full(*_, **__): raise OSError(28, 'No space left on device')\ntempfile.TemporaryFile = full\n{code}"
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ours\n", "")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a recipe and a small finished run, and libraries that make noise."""
    folder = tmp_path_factory.mktemp("noisy")
    tree = small_tree(folder)
    tree["generate"] = {"max_new_tokens": 6, "sample_questions": 1, "evaluate_tokens": 6}
    write_json(folder / "mine.yaml", tree)  # JSON is YAML
    return folder, plant(folder / "planted")


def run(made, *arguments, **options):
    folder, environment = made
    command = [sys.executable, "-m", "thinktune", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment | {"THINKTUNE_CACHE": str(folder / "cache")}, capture_output=True, text=True,
        encoding="utf-8", check=False, **options,
    )  # fmt: skip


def assert_quiet(done, *stderr):
    assert NOISE not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert all(any(line.startswith(known) for known in stderr) for line in done.stderr.splitlines()), done.stderr


def test_check_prints_its_facts_and_nothing_of_libraries(made):
    done = run(made, "check", "mine.yaml", "--json")
    assert_quiet(done, "mine.yaml: ")
    assert done.stdout.startswith("{\n")
    assert done.stdout.endswith("}\n")


def test_the_planted_noise_is_heard_by_who_asks_for_it(made):
    folder, environment = made
    done = run((folder, environment | {"THINKTUNE_LIBRARY_OUTPUT": "1"}), "report", "nowhere")
    assert NOISE in done.stdout + done.stderr


@pytest.mark.slow
def test_no_verb_shows_anything_of_libraries(made):
    folder, environment = made
    done = run(made, "train", "mine.yaml")
    assert_quiet(done)
    small = folder / "runs" / "small"
    assert done.stdout.splitlines()[-1].strip().endswith(f"thinktune chat {small}")  # by Python, if not on the path
    for arguments in (["eval", small, "--no-probe"], ["eval", small, "--no-probe", "--regrade"], ["report", small]):
        assert_quiet(run(made, *arguments))
    done = run(made, "chat", small, input="heart?\n/quit\n")
    assert_quiet(done)
    assert done.stdout.startswith("/think: reasoning on or off")
    command = [sys.executable, "-m", "thinktune", "serve", str(small), "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        lines = [server.stdout.readline() for _ in range(5)]
        server.send_signal(signal.SIGINT)
        rest, errors = server.communicate(timeout=120)
    assert lines[0].startswith("starting")
    assert lines[1].startswith("tuned: ")
    assert lines[3].startswith("page: http://")
    assert NOISE not in "".join(lines) + rest + errors
    assert errors == ""


@pytest.mark.slow
def test_no_rank_shows_anything_of_libraries(made):
    folder, environment = made
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "thinktune", "train"]
    done = subprocess.run(
        [*command, "mine.yaml", "name=ranks", "generate.sample_questions=0"], cwd=folder,
        env=environment | {"THINKTUNE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heard = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if NOISE in line]
    assert all(" torch" in line or "numpy" in line for line in heard), heard  # by torchrun itself, which is not ours


@pytest.mark.slow
def test_the_demo_shows_nothing_of_libraries_before_its_first_lines(made):
    folder, environment = made
    command = [sys.executable, "-m", "thinktune", "demo", "runs/demo"]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        lines = [demo.stdout.readline() for _ in range(12)]
        demo.send_signal(signal.SIGINT)
        rest, errors = demo.communicate(timeout=120)
    assert NOISE not in "".join(lines) + rest + errors
