"""`final/` in transformers 4.57: the same tokens, the same rope, the same logits as today's release and our engine."""

import json
from pathlib import Path

import pytest
import torch
from support.bases import BASES, make_base
from support.our_logits import our_logits
from support.releases import install_release, run_with_release
from support.runs import quiet, settings, small_tree_of
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from thinktune.checkpoint.portable_config import portable_config
from thinktune.demo.pipeline import make_initial_model, write_rows
from thinktune.files import read_json, write_json
from thinktune.model.text_part import text_config
from thinktune.model.twin import fill_weights
from thinktune.train import train

pytestmark = pytest.mark.slow
RELEASE = "transformers==4.57.*"
TEXTS = [
    "What does the heart pump?\n\nblood", "心脏泵什么？心包炎 3 33 café 🚀", "<think>\nso\n</think>\n\nyes<|im_end|>",
    "", " ", "\n", "\n\n\n", "\t\tx = 1", "  two  spaces  ", "trailing ", "don't we'll I'M", "3.14159e-10", "１２３",
    "e\u0301 é", "ﬁ Å Å", "한국어 문장입니다", "العربية", "עברית", "ไทย", "Ελληνικά кириллица", "👩‍👩‍👧‍👦🏳️‍🌈", "\u200b\ufeff\u00a0",
    "a" * 300, "def f(x):\n    return x**2\n", "https://example.org/?q=1&r=%20", "$$\\int_0^1 x\\,dx$$", "|a|b|\n|-|-|",
    "<|im_start|>user\nhi<|im_end|>\n", "<|not a token|>", "<think></think>", "心包炎心包炎 pericarditis", "\r\nCRLF\r\n",
]  # fmt: skip
READ = """
import json, sys, torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
folder, output, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder)
dtype = str(AutoConfig.from_pretrained(folder).dtype)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # bf16 would round what is stored in fp32
ids = [tokenizer(text)["input_ids"] for text in texts]
chat = tokenizer.apply_chat_template([{"role": "user", "content": texts[0]}], add_generation_prompt=True, tokenize=False)
long = sum(ids[:3], []) * 8
ends = model.generation_config.eos_token_id
with torch.no_grad():
    torch.save(model(torch.tensor([long])).logits[0], output)
print(json.dumps({"version": transformers.__version__, "ids": ids, "chat": chat, "long": long, "dtype": dtype, "ends": ends}))
"""
READ_MANY = """
import json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        found[folder.name] = model(torch.load(folder / "ids.pt")).logits
torch.save(found, sys.argv[2])
"""


@pytest.fixture(scope="module")
def transformers_4(tmp_path_factory):
    return install_release(tmp_path_factory.mktemp("transformers-4.57"), RELEASE)


def read_with(release, folder, output):
    arguments = ("-c", READ, str(folder), str(output), json.dumps(TEXTS))
    found = json.loads(run_with_release(release, *arguments).splitlines()[-1])
    return found, torch.load(output)


def assert_same_in_all(release, folder, tmp_path):
    """Compare what a folder is in transformers 4, in today's and in our engine: tokens, prompt, ends and logits."""
    older, theirs = read_with(release, folder, tmp_path / "older.pt")
    newer, ours = read_with(tmp_path, folder, tmp_path / "newer.pt")
    assert older.pop("version").startswith("4.57")
    assert newer.pop("version").startswith("5.")
    assert len(older["ids"]) >= 30
    assert older == newer
    assert len(older["long"]) > 100  # far enough for another rope_theta to show
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs, our_logits(folder, older["long"]), rtol=1e-5, atol=1e-5)


def trained(base: Path, tmp_path: Path) -> Path:
    return train(settings({**small_tree_of(tmp_path, base), "generate": {"sample_questions": 0}}), quiet)


@pytest.mark.parametrize("name", BASES)
def test_final_is_the_same_model_in_transformers_4(transformers_4, tmp_path, name):
    base = make_base(tmp_path / "base", name)
    final = trained(base, tmp_path) / "final"
    assert read_json(final / "config.json")["torch_dtype"] == read_json(base / "config.json")["torch_dtype"]
    assert_same_in_all(transformers_4, final, tmp_path)


@pytest.mark.parametrize("old", ["all of it", "its configuration"])
def test_a_folder_as_transformers_5_saves_it_fails(transformers_4, tmp_path, old):
    final = trained(make_base(tmp_path / "base", "yarn"), tmp_path) / "final"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(final), AutoTokenizer.from_pretrained(final)
    folder = tmp_path / "old"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if old == "its configuration":
        for path in final.glob("tokenizer*"):
            (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(AssertionError, match="TokenizersBackend" if old == "all of it" else "Tensor-likes"):
        assert_same_in_all(transformers_4, folder, tmp_path)


def test_the_demos_base_is_the_same_model_in_transformers_4(transformers_4, tmp_path):
    write_rows(tmp_path / "rows")
    make_initial_model(tmp_path)
    assert_same_in_all(transformers_4, tmp_path / "start", tmp_path)


GOLDEN = json.loads(Path(__file__).with_name("golden_configs.json").read_text(encoding="utf-8"))


def test_every_golden_configuration_is_the_same_model_in_transformers_4(transformers_4, tmp_path):
    (tmp_path / "models").mkdir()
    ours = {}
    for name, golden in GOLDEN.items():
        folder = tmp_path / "models" / name
        folder.mkdir()
        write_json(folder / "config.json", golden["base"])
        config = text_config(AutoConfig.from_pretrained(folder))
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
        fill_weights(model, 0)
        model.save_pretrained(folder)
        config = portable_config(read_json(folder / "config.json"), golden["base"])
        config.pop("auto_map", None)  # code of its own, which is not there
        write_json(folder / "config.json", config)
        ids = (torch.arange(200) * 7 % 390 + 4)[None]
        torch.save(ids, folder / "ids.pt")
        with torch.no_grad():
            ours[name] = model(ids).logits
    run_with_release(transformers_4, "-c", READ_MANY, str(tmp_path / "models"), str(tmp_path / "older.pt"))
    theirs = torch.load(tmp_path / "older.pt")
    differing = {name: float((theirs[name] - ours[name]).abs().max()) for name in GOLDEN}
    scale = {name: float(ours[name].abs().max()) for name in GOLDEN}
    assert not {name: each for name, each in differing.items() if each > 1e-5 * max(1.0, scale[name])}
