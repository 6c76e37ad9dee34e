"""A model's fingerprint: its content wherever it lies, and hashed again only when a file changed."""

import hashlib
import os
import shutil

import pytest

from thinktune.hub.fingerprint import MIN_REMEMBERED_BYTES, weights_fingerprint


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "model-00001-of-00002.safetensors").write_bytes(os.urandom(MIN_REMEMBERED_BYTES))
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"small")
    return folder


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read whole."""
    names, real = [], hashlib.file_digest

    def digest(file, *given):
        names.append(os.path.basename(file.name))  # noqa: PTH119
        return real(file, *given)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    return names


def test_it_is_the_same_for_a_copy_elsewhere_and_ignores_what_is_no_weight(model, tmp_path):
    first = weights_fingerprint(model)
    shutil.copytree(model, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("notes")
    (tmp_path / "link").symlink_to(model)
    assert weights_fingerprint(tmp_path / "copy") == weights_fingerprint(tmp_path / "link") == first


@pytest.mark.parametrize(
    "name", ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
)
def test_one_changed_byte_is_noticed_though_size_and_time_stay(model, name):
    first, file = weights_fingerprint(model), model / name
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights_fingerprint(model) != first


def test_a_large_file_is_read_once_as_long_as_it_is_the_same(model, hashed):
    first = weights_fingerprint(model)
    assert "model-00001-of-00002.safetensors" in hashed
    hashed.clear()
    assert weights_fingerprint(model) == first
    assert "model-00001-of-00002.safetensors" not in hashed
    os.utime(model / "model-00001-of-00002.safetensors")
    assert weights_fingerprint(model) == first
    assert "model-00001-of-00002.safetensors" in hashed


def test_a_cache_that_cannot_be_written_or_was_damaged_costs_time_alone(model, tmp_path, monkeypatch):
    first = weights_fingerprint(model)
    for remembered in (tmp_path / "cache" / "digests").iterdir():
        remembered.write_text("")
    assert weights_fingerprint(model) == first
    monkeypatch.setenv("THINKTUNE_CACHE", os.devnull)
    assert weights_fingerprint(model) == first
