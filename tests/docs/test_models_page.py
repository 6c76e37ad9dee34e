"""docs/models.md: its table is what the proof finds, in both languages."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_of_models_is_what_the_proof_finds(language):
    spec = importlib.util.spec_from_file_location("models_page", DOCS / "models_page.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    name = "models.md" if language == "en" else "models.zh.md"
    assert (DOCS / name).read_text(encoding="utf-8") == made.page(language)
