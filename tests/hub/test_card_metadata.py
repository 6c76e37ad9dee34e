"""What a model's own card says of it is read as it stands, and nothing is concluded from what it does not say."""

import json
from pathlib import Path

import pytest

from thinktune.hub.card_metadata import hub_license, license_files, read_front_matter, read_license, repository_name


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: apache-2.0\n---\n# A\n", {"license": "apache-2.0"}),
        ("\ufeff---\r\nlicense: MIT License\r\n---\r\n# A", {"license": "MIT License"}),
        (
            "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: https://x.example/L\n---\n",
            {"license": "other", "license_name": "qwen-research", "license_link": "https://x.example/L"},
        ),
        ("# No metadata, but this line: license: mit\n---\nlicense: mit\n---\n", {}),
        ("---\nlicense: [a\n---\n", {}),
        ("---\nlicense:\n- mit\n---\n", {}),
        ("---\n- license\n---\n", {}),
        ("---\nlicense: ''\n---\n", {}),
        ("---\nwhen: 2026-99-99\nlicense: mit\n---\n", {}),
        ("---\nlicense: mit\n", {}),
        ("", {}),
    ],
)
def test_a_licence_is_read_from_the_front_matter(tmp_path: Path, card: str, license) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert read_license(tmp_path) == license


def test_a_configuration_names_it_where_the_card_does_not_and_a_file_holds_the_terms(tmp_path: Path) -> None:
    assert read_license(tmp_path) == {}
    (tmp_path / "LICENSE.txt").write_text("Apache License\nVersion 2.0")
    assert read_license(tmp_path) == {"license_link": "LICENSE.txt"}
    (tmp_path / "config.json").write_text(json.dumps({"license": "mit"}))
    assert read_license(tmp_path) == {"license": "mit"}
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: llama3.2\n---\n")
    (tmp_path / "NOTICE").write_text("Built with it.")
    assert read_license(tmp_path) == {"license": "other", "license_name": "llama3.2", "license_link": "LICENSE.txt"}
    assert [file.name for file in license_files(tmp_path)] == ["LICENSE.txt", "NOTICE"]
    (tmp_path / "config.json").write_text("[" * 100_000)
    (tmp_path / "README.md").unlink()
    assert read_license(tmp_path) == {"license_link": "LICENSE.txt"}


def test_a_card_that_is_no_text_or_a_folder_has_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    assert read_front_matter(tmp_path / "README.md") == {}
    (tmp_path / "card").write_bytes(b"---\nlicense: \xff\xfe\n---\n")
    assert read_front_matter(tmp_path / "card")["license"]
    bomb = "---\na: &a [x]\n" + "".join(f"b{n}: &b{n} [*{'a' if n == 0 else f'b{n - 1}'}, x]\n" for n in range(50))
    (tmp_path / "card").write_text(f"{bomb}license: mit\n---\n")
    assert read_front_matter(tmp_path / "card")["license"] == "mit"


@pytest.mark.parametrize(
    ("named", "as_hubs_read_it"),
    [
        ({"license": "apache-2.0"}, {"license": "apache-2.0"}),
        ({"license": "Apache  License 2.0"}, {"license": "apache-2.0"}),
        ({"license": "GLM-4 LICENSE"}, {"license": "other", "license_name": "glm-4-license"}),
        ({"license": "模型许可"}, {"license": "other", "license_name": "other"}),
        ({"license": "other"}, {}),
        ({"license_link": "LICENSE"}, {}),
        ({}, {}),
    ],
)
def test_a_licence_is_written_as_hubs_take_it(named, as_hubs_read_it) -> None:
    assert hub_license(named) == as_hubs_read_it


@pytest.mark.parametrize(
    ("name", "hub", "repository"),
    [
        ("Qwen/Qwen3-1.7B", "modelscope", "Qwen/Qwen3-1.7B"),
        ("Qwen/Qwen3-1.7B", None, None),  # a local folder, whatever it is called
        ("/h/.cache/huggingface/hub/models--Qwen--Qwen3-1.7B/snapshots/abc", None, "Qwen/Qwen3-1.7B"),
        ("/h/.cache/modelscope/models/Qwen--Qwen3-1.7B/snapshots/master", None, "Qwen/Qwen3-1.7B"),
        ("/data/models--mine", None, None),
    ],
)
def test_a_repository_is_known_by_the_recipe_or_a_clients_cache(name: str, hub: str | None, repository) -> None:
    assert repository_name(name, hub) == repository
