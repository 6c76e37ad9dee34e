"""Tuned on thinking rows alone, a small model unlearns its off-switch; a share of silent rows keeps it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import kept_modes


@pytest.mark.slow
def test_silent_rows_keep_the_switch_that_thinking_rows_alone_unlearn(tmp_path):
    base = kept_modes.make_base(tmp_path, epochs=8)
    kept_modes.keep_facts(tmp_path, 40)
    alone, mixed = (kept_modes.figures(kept_modes.tune(tmp_path, base, share, 20)) for share in (0, 0.2))
    off = "silent obeyed"
    assert alone[off]["base"]["value"] >= 0.9
    assert alone[off]["verdict"] == "worse"
    assert mixed[off]["verdict"] != "worse"
    assert mixed[off]["tuned"]["value"] > alone[off]["tuned"]["high"]
    for report in (alone, mixed):  # the on-switch, which both are tuned on, is kept
        assert report["thinking obeyed"]["tuned"]["value"] >= 0.95
        assert report["thinking right"]["tuned"]["low"] > report["silent right"]["base"]["high"]
