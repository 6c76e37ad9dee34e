"""Code of a model's own: it runs only where the user trusts it, and travels with what is trained."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.model_folders import WEIGHTS, edit, make_folder
from support.runs import quiet, settings
from transformers import AutoModelForCausalLM

from thinktune.checkpoint.base_files import BaseFiles
from thinktune.commands.check import check_recipe
from thinktune.errors import UserError
from thinktune.model.admission import AdmittedModel, meta_model, read_config
from thinktune.model.folder import stored_tensors
from thinktune.model.loading import load_admitted
from thinktune.model.proof import ModelTraits
from thinktune.model.stored_weights import match_weights
from thinktune.train import train

CODE = {
    "configuration_odd.py": """
from transformers import Qwen3Config


class OddConfig(Qwen3Config):
    model_type = "odd"
""",
    "modeling_odd.py": """
from transformers import Qwen3ForCausalLM

from .configuration_odd import OddConfig


class OddForCausalLM(Qwen3ForCausalLM):
    config_class = OddConfig
""",
}


def own_code(folder: Path) -> None:
    names = {"AutoConfig": "configuration_odd.OddConfig", "AutoModelForCausalLM": "modeling_odd.OddForCausalLM"}
    edit(folder, "config.json", model_type="odd", auto_map=names, architectures=["OddForCausalLM"])
    for name, text in CODE.items():
        (folder / name).write_text(text)


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    """Keep the copies that transformers makes of such code, one place for a process, out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
        patch.syspath_prepend(cache)
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
            patch.delitem(sys.modules, name)  # an earlier test's, which looks in another place
        yield


@pytest.fixture
def folder(start, tmp_path):
    return make_folder(start, tmp_path / "model", own_code)


def load(folder):
    config = read_config(folder, trust_remote_code=True)
    whole = meta_model(folder, config, torch.float32, trust_remote_code=True)
    admitted = AdmittedModel(config, match_weights(whole, stored_tensors(folder), folder), (), ModelTraits())
    return load_admitted(folder, admitted, torch.device("cpu"), trust_remote_code=True)


def test_untrusted_code_is_refused_with_the_line_that_trusts_it(folder, tree):
    said = []
    for verb in (check_recipe, train):
        with pytest.raises(UserError) as refused:
            verb(settings(tree, model={"name": str(folder)}), quiet)
        said.append(refused.value.faults)
    assert said[0] == said[1]
    assert "of type odd, which has its own Python code; set model.trust_remote_code: true if you trust" in said[0][0]


def test_trusted_code_is_what_the_weights_are_loaded_into(folder, start):
    model = load(folder)
    assert type(model).__name__ == "OddForCausalLM"
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(start)(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_code_travels_with_a_checkpoint_which_loads_by_it(folder, tmp_path):
    load(folder).save_pretrained(tmp_path / "saved")
    BaseFiles.read(folder).write(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert type(again).__name__ == "OddForCausalLM"
    stored = load_file(tmp_path / "saved" / WEIGHTS)
    assert all(torch.equal(parameter, stored[name]) for name, parameter in again.named_parameters())


def test_trusted_code_is_ready_and_trains(folder, tree):
    model = {"name": str(folder), "trust_remote_code": True}
    recipe = settings(tree, model=model, train={"epochs": 1}, generate={"sample_questions": 0})
    assert check_recipe(recipe, quiet)[1]["verdict"] == "ready"
    assert (train(recipe, quiet) / "final" / "modeling_odd.py").is_file()
