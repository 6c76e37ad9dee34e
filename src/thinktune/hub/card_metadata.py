"""Read what a model's own card and files say of it: its licence, and the repository that it came from."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from thinktune.files import read_json

MAX_CARD_BYTES = 2**20  # of a card that is read; its front matter comes first


LICENSE_PATTERNS = (
    "[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*",
    "[Nn][Oo][Tt][Ii][Cc][Ee]*",
    "[Uu][Ss][Ee]_[Pp][Oo][Ll][Ii][Cc][Yy]*",
)
"""Files by which models carry their terms; many licences demand that copies do so too."""


_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


_HUB_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # as Hugging Face spells a licence


# ModelScope's names of licences, where they are not what Hugging Face calls them.
_HUB_IDS = {
    "apache license 2.0": "apache-2.0",
    "apache 2.0": "apache-2.0",
    "mit license": "mit",
    "bsd 3-clause license": "bsd-3-clause",
    "cc by 4.0": "cc-by-4.0",
    "cc by-sa 4.0": "cc-by-sa-4.0",
    "cc by-nc 4.0": "cc-by-nc-4.0",
    "cc by-nc-sa 4.0": "cc-by-nc-sa-4.0",
}


_HUGGINGFACE_CACHE = re.compile(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]")
_MODELSCOPE_CACHE = re.compile(r"[/\\]models[/\\]([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]")


def read_front_matter(card: Path) -> dict[str, Any]:
    """Read the metadata at the top of a card; {} where there is none, or where it cannot be read."""
    try:
        with card.open("rb") as file:
            found = _FRONT_MATTER.match(file.read(MAX_CARD_BYTES).decode("utf-8-sig", "replace"))
        metadata = yaml.safe_load(found[1]) if found else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        return {}
    return metadata if isinstance(metadata, dict) else {}


def read_license(folder: Path) -> dict[str, str]:
    """Read the licence that a model folder names: `license`, `license_name` and `license_link`, those that it has.

    Its card counts first, then its configuration. Where neither names one, `license_link` is the file of its terms, if
    there is one. Nothing is concluded from a text or a name: {} where nothing is said.
    """
    metadata = read_front_matter(folder / "README.md")
    named = metadata if _is_text(metadata.get("license")) else {"license": _config_license(folder)}
    found = {
        key: str(named[key]).strip() for key in ("license", "license_name", "license_link") if _is_text(named.get(key))
    }
    files = license_files(folder)
    if "license_link" not in found and files and found.get("license", "other") == "other":
        found["license_link"] = files[0].name
    return found


def license_files(folder: Path) -> list[Path]:
    """List the files of a model folder that hold its terms."""
    return sorted({path for pattern in LICENSE_PATTERNS for path in folder.glob(pattern) if path.is_file()})


def hub_license(license: dict[str, str]) -> dict[str, str]:
    """Return a licence as the front matter of a card names it on both hubs.

    What is no identifier there becomes `other` with its name, which Hugging Face demands; {} where none is named.
    """
    named = license.get("license", "")
    identifier = _HUB_IDS.get(" ".join(named.casefold().split()), named)
    if not named or (identifier == "other" and "license_name" not in license):
        return {}  # a hub refuses `other` without a name, and a name of ours would be invented
    if _HUB_ID.fullmatch(identifier):
        return license | {"license": identifier}
    slug = re.sub(r"[^a-z0-9.]+", "-", named.casefold()).strip("-")
    return {"license": "other", "license_name": slug or "other"} | {
        key: value for key, value in license.items() if key == "license_link"
    }


def repository_name(name: str, hub: str | None) -> str | None:
    """Return the `owner/name` of a model on a hub: as the recipe names it, or as a client's cache spells its folder."""
    if hub is not None:
        return name
    found = _HUGGINGFACE_CACHE.search(f"{name}/") or _MODELSCOPE_CACHE.search(f"{name}/")
    return f"{found[1]}/{found[2]}" if found else None


def _config_license(folder: Path) -> Any:
    try:
        config = read_json(folder / "config.json")
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return None
    return config.get("license") if isinstance(config, dict) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
