"""Configurations of `final/`: all of the base's keys in the base's form, and what each release of transformers reads."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from thinktune.checkpoint.portable_config import portable_config
from thinktune.files import read_json, write_json
from thinktune.model.text_part import text_config

GOLDEN = json.loads(Path(__file__).with_name("golden_configs.json").read_text(encoding="utf-8"))
FORM_KEYS = {"dtype", "torch_dtype", "transformers_version", "_name_or_path"}


def read_config(folder: Path, values: dict):
    write_json(folder / "config.json", values)
    return text_config(AutoConfig.from_pretrained(folder))


def as_saved(folder: Path, base: dict) -> dict:
    """Return a base's configuration as the installed release saves it with the trained model."""
    config = read_config(folder, base)
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    config.save_pretrained(folder)
    return read_json(folder / "config.json")


def values_of(config) -> dict:
    return {key: value for key, value in config.to_dict().items() if key not in FORM_KEYS and "rope" not in key}


def ropes_of(config) -> dict:
    """Return the ropes of a configuration by kind of layer, without the older name of their kind."""
    rope = config.rope_parameters
    kinds = {"all": rope} if "rope_theta" in rope else rope
    return {name: {key: value for key, value in each.items() if key != "type"} for name, each in kinds.items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_final_has_the_bases_keys_in_its_form_and_what_older_releases_read(tmp_path, name):
    base, golden = GOLDEN[name]["base"], GOLDEN[name]["final"]
    final = portable_config(as_saved(tmp_path, base), base)
    assert {key: final.get(key, "is missing") for key in golden} == golden
    same_class = base["model_type"] == golden["model_type"] if "model_type" in golden else False
    assert not same_class or base.keys() - {"dtype", "torch_dtype"} <= golden.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_final_means_what_the_base_meant(tmp_path, name):
    base = GOLDEN[name]["base"]
    config = read_config(tmp_path, base)
    final = read_config(tmp_path, portable_config(as_saved(tmp_path, base), base))
    assert ropes_of(final) == ropes_of(config)
    theirs, ours = values_of(config), values_of(final)
    differing = {key for key in theirs if theirs[key] != ours.get(key)} - {"architectures", "partial_rotary_factor"}
    assert not differing


def test_what_no_older_key_can_say_is_not_said(tmp_path):
    base = dict(GOLDEN["olmo 3 in transformers 5's form"]["base"], model_type="gemma4_text")
    saved = {"model_type": "gemma4_text", "rope_parameters": base["rope_parameters"]}
    final = portable_config(saved, base)
    assert "rope_theta" not in final
    assert "rope_scaling" not in final


THETA = {"rope_theta": 5e6, "rope_type": "default"}


@pytest.mark.parametrize(
    ("saved", "base", "expected"),
    [
        ({"rope_parameters": THETA}, {}, {"rope_parameters": THETA, "rope_theta": 5e6, "rope_scaling": None}),
        # What a base says twice and differently: the installed release has decided, and is what was trained.
        ({"rope_parameters": THETA}, {"rope_theta": 1e4}, {"rope_parameters": THETA, "rope_theta": 5e6, "rope_scaling": None}),
        (
            {"rope_parameters": THETA | {"partial_rotary_factor": 0.5}},
            {},
            {
                "rope_parameters": THETA | {"partial_rotary_factor": 0.5},
                "rope_theta": 5e6,
                "partial_rotary_factor": 0.5,
                "rope_scaling": None,
            },
        ),
        # One rope for each kind of layer: no older form can say it.
        ({"rope_parameters": {"full_attention": THETA}}, {}, {"rope_parameters": {"full_attention": THETA}}),
        ({"rope_parameters": None}, {"n_positions": 8}, {"rope_parameters": None, "n_positions": 8}),
        # The weights are no longer quantized.
        ({"dtype": "bfloat16"}, {"quantization_config": {"bits": 8}, "torch_dtype": "float16"}, {"dtype": "bfloat16", "torch_dtype": "bfloat16"}),
        ({"hidden_size": 8, "use_cache": True}, {"use_cache": False}, {"hidden_size": 8, "use_cache": False}),
    ],
)  # fmt: skip
def test_values_that_a_base_says_twice_or_not_at_all(saved, base, expected):
    assert portable_config(saved, base) == expected
