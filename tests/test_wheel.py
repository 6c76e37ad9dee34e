"""What `pip install` gets: every file of the package, whose types are read, in an environment that has no clone."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parent.parent
BESIDE_THE_PACKAGE = {
    "LICENSE",
    "README.md",
    "README.zh.md",
    "CHANGELOG.md",
    "pyproject.toml",
    "PKG-INFO",
    ".gitignore",
}
IMPORTS = "import thinktune, thinktune.cli, thinktune.commands, thinktune.demo, thinktune.export, thinktune.serve, thinktune.studio, thinktune.train; "
READS = "from importlib.resources import files; [files('thinktune.demo').joinpath(name).read_text() for name in ('base.yaml', 'facts.jsonl')]; "
PLACE = "print(thinktune.__file__)"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the source distribution, and the wheel from that alone; return both."""
    if not shutil.which("pyproject-build", path=str(Path(sys.executable).parent)):
        pytest.skip("the package `build` is not installed here")
    folder = tmp_path_factory.mktemp("built")
    environment = {name: value for name, value in os.environ.items() if name not in ("PIP_CONSTRAINT", "PYTHONPATH")}
    run([sys.executable, "-m", "build", "--outdir", folder, ROOT], environment)
    [source], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Install the wheel alone into a new environment, which finds all else in this one's packages."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", built[1]])
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(f"{Path(typer.__file__).parents[1]}\n", encoding="utf-8")
    return folder


def run(command, environment=None, cwd=None) -> str:
    clean = {name: value for name, value in (environment or os.environ).items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], env=clean, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of_the_package() -> set[str]:
    files = (path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT / "src").as_posix() for path in files}


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[1]).namelist()
    assert {name for name in names if ".dist-info/" not in name} == files_of_the_package()
    assert "thinktune/py.typed" in names
    kinds = {Path(name).suffix for name in names}
    assert kinds >= {".jinja", ".jsonl", ".yaml", ".js", ".css", ".html", ".svg", ".typed", ".txt"}


def test_the_source_distribution_has_what_an_installation_needs_and_is_small(built):
    with tarfile.open(built[0]) as source:
        names = [name.partition("/")[2] for name in source.getnames()]
    assert {name.removeprefix("src/") for name in names if name.startswith("src/")} == files_of_the_package()
    assert {name for name in names if not name.startswith("src/")} == BESIDE_THE_PACKAGE
    assert built[0].stat().st_size < 2_000_000


def test_its_description_says_what_a_registry_shows(built):
    with zipfile.ZipFile(built[1]) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        facts = Parser().parsestr(wheel.read(name).decode())
    assert facts["Name"] == "thinktune"
    assert facts["License-Expression"] == "Apache-2.0"
    assert all(facts[name] for name in ("Author", "Keywords", "Summary"))
    assert "Typing :: Typed" in facts.get_all("Classifier")
    assert facts.get_payload().startswith("# thinktune")


def test_the_installed_command_and_imports_work_away_from_the_clone(installed, tmp_path):
    command = installed / "bin" / "thinktune"
    assert run([command, "--version"], cwd=tmp_path).strip().endswith("0.1.0")
    assert "train" in run([command, "--help"], cwd=tmp_path)
    place = run([installed / "bin" / "python", "-c", IMPORTS + READS + PLACE], cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(installed)


def test_a_type_checker_reads_the_installed_types(installed, tmp_path):
    pyright = Path(sys.executable).with_name("pyright")
    if not pyright.is_file():
        pytest.skip("pyright is not installed here")
    (tmp_path / "uses.py").write_text(
        'import thinktune\n\nreveal_type(thinktune.train("mine.yaml"))\n', encoding="utf-8"
    )
    found = run([pyright, "--pythonpath", installed / "bin" / "python", "uses.py"], cwd=tmp_path)
    assert 'is "Path"' in found
