"""Replies under the oldest and the newest release of transformers that are allowed: the cache's name differs."""

from pathlib import Path

import pytest
from support.releases import install_release, run_with_release

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
FILES = (
    "inference/test_kv_cache.py",
    "inference/test_engine.py",
    "model/test_compile.py",
    "checkpoint/test_base_files.py",
)


@pytest.mark.parametrize("requirement", ["transformers==5.17.0", "transformers>=5.24,<6"])
def test_replies_are_right_under_the_oldest_and_the_newest_release(tmp_path_factory, requirement):
    folder = install_release(tmp_path_factory.mktemp("release"), requirement)
    code = "import transformers; print(transformers.__file__)"
    assert str(folder) in run_with_release(folder, "-c", code)
    options = ("-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-W", "error::FutureWarning")
    printed = run_with_release(folder, *options, *(str(TESTS / file) for file in FILES))
    assert " passed" in printed
