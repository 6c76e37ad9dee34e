"""Command lines of engines: what each is told of a model, and the script that says it."""

import json
import shutil
import subprocess

import pytest
from support.runs import small_tree_of
from support.serving import settings_of

from thinktune.checkpoint.manifest import write_manifest
from thinktune.config import loading
from thinktune.errors import UserError
from thinktune.export import find_source
from thinktune.export.engines import serving_command, serving_template, try_engine, write_serving_script
from thinktune.export.serving_settings import read_serving_settings
from thinktune.files import read_json, write_json
from thinktune.inference.requests import SamplingParams
from thinktune.tokenization.tags import Tags, write_probe
from thinktune.tokenization.tokenizer import load_tokenizer

ENGINES = ("vllm", "sglang", "mlx")
SYSTEM = 'Be kind.\nIt\'s {{ not }} a "test" \\n 你好'
ASK = {"role": "user", "content": "q"}


def option(command, name):
    words = command.words
    return words[words.index(name) + 1] if name in words else None


def test_sampling_is_named_where_an_engine_would_take_its_own(tmp_path):
    sampled = settings_of(tmp_path)
    greedy = settings_of(tmp_path, sampling=SamplingParams(100, 0.0, 0.5, 7))
    given = json.loads(option(serving_command(sampled, "vllm"), "--override-generation-config"))
    assert given == {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 512}
    given = json.loads(option(serving_command(greedy, "vllm"), "--override-generation-config"))
    assert given == {"temperature": 0, "top_p": 1, "top_k": -1, "max_new_tokens": 100}
    mlx = serving_command(sampled, "mlx")
    assert [option(mlx, name) for name in ("--temp", "--top-p", "--top-k", "--max-tokens")] == [
        "0.6",
        "0.95",
        "20",
        "512",
    ]
    assert '"temperature": 0.0' in serving_command(greedy, "sglang").notes[0]


@pytest.mark.parametrize(
    ("changes", "vllm", "sglang"),
    [
        ({}, "qwen3", "qwen3"),
        ({"opened": True, "switched": False}, "deepseek_r1", "deepseek-r1"),
        ({"opened": True}, "deepseek_r1", "qwen3"),
        ({"single_tags": False}, None, "qwen3"),
        ({"tags": Tags("<seed:think>", "</seed:think>")}, "seed_oss", None),
        ({"tags": Tags("[ODD]", "[/ODD]")}, None, None),
        ({"tags": None}, None, None),
    ],
)
def test_the_reasoning_parser_is_that_of_the_models_own_tags_or_its_lack_is_said(tmp_path, changes, vllm, sglang):
    settings = settings_of(tmp_path, **changes)
    for engine, parser in (("vllm", vllm), ("sglang", sglang)):
        command = serving_command(settings, engine)
        assert option(command, "--reasoning-parser") == parser
        said = any("inside the answer's text" in note for note in command.notes)
        assert said == (parser is None and settings.tags is not None)
    said = any("inside the answer's text" in note for note in serving_command(settings, "mlx").notes)
    assert said == bool(settings.tags and not (settings.tags.opening == "<think>" and settings.single_tags))


def test_the_system_prompt_travels_in_a_template_that_gives_way_to_another_one(start, tmp_path):
    tokenizer = load_tokenizer(start)
    own = tokenizer.chat_template
    wanted = write_probe(tokenizer, {"role": "system", "content": SYSTEM}, ASK, add_generation_prompt=True)
    other = write_probe(tokenizer, {"role": "system", "content": "x"}, ASK, add_generation_prompt=True)
    none = write_probe(tokenizer, ASK, add_generation_prompt=True)
    tokenizer.chat_template = serving_template(settings_of(tmp_path, template=own, system=SYSTEM))
    assert write_probe(tokenizer, ASK, add_generation_prompt=True) == wanted
    assert write_probe(tokenizer, {"role": "system", "content": "x"}, ASK, add_generation_prompt=True) == other
    assert write_probe(tokenizer, {"role": "system", "content": ""}, ASK, add_generation_prompt=True) == none
    tokenizer.chat_template = serving_template(
        settings_of(tmp_path, template="\n {{ messages[0].content }}", system="s")
    )
    assert write_probe(tokenizer, ASK) == "\n s"  # white space at the start of the model's own counts


def test_a_template_that_is_silent_unless_asked_is_asked(start, tmp_path):
    silent = "{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}"
    settings = settings_of(tmp_path, template=silent, unasked=True)
    tokenizer = load_tokenizer(start)
    tokenizer.chat_template = serving_template(settings)
    assert write_probe(tokenizer, ASK) == "q<think>"
    assert write_probe(tokenizer, ASK, enable_thinking=False) == "q"
    assert serving_template(settings_of(tmp_path)) is None
    # mlx_lm 0.32 asks for silence where the tags are not tokens.
    assert option(serving_command(settings_of(tmp_path), "mlx"), "--chat-template-args") == '{"enable_thinking": true}'


@pytest.mark.parametrize("engine", ENGINES)
def test_a_runs_settings_are_in_the_script_that_serves_it(engine, start, tmp_path, monkeypatch):
    tree = small_tree_of(tmp_path, start)
    tree["data"] |= {"system": SYSTEM, "max_tokens": 200}
    recipe = loading.validate_recipe(tree, "here")
    run = tmp_path / "runs" / "my run"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(loading.dump_recipe(recipe), encoding="utf-8")
    shutil.copytree(start, run / "final")
    write_manifest(run / "final")
    folder, bin_folder = tmp_path / "export" / engine, tmp_path / "bin"
    for made in (folder, bin_folder):
        made.mkdir(parents=True)
    command = write_serving_script(find_source(run), engine, folder)
    # Programs of these names that print their words: the script must give them as they are.
    for name in ("vllm", "python", "mlx_lm.server"):
        (bin_folder / name).write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done\n')
        (bin_folder / name).chmod(0o755)
    moved = folder.rename(tmp_path / "somewhere else")
    environment = {"PATH": f"{bin_folder}:/usr/bin:/bin"}
    ran = subprocess.run(
        ["sh", str(moved / "serve.sh"), "--port", "1"], env=environment, capture_output=True, check=True
    )
    words = ran.stdout.decode().split("\0")[:-1]
    assert words[-2:] == ["--port", "1"]
    assert words[:-2] == [word.replace("$here", str(moved)) for word in command.words[1:]]
    assert str((run / "final").resolve()) in words
    template = words[words.index("--chat-template") + 1]
    text = template if engine == "mlx" else (moved / "chat_template.jinja").read_text(encoding="utf-8")
    assert text == serving_template(read_serving_settings(find_source(run)))
    assert text.endswith(load_tokenizer(start).chat_template)


def test_the_context_is_what_was_trained_with_a_reply_and_at_most_the_models_own(start, tmp_path):
    assert (
        read_serving_settings(find_source(start)).context_tokens
        == read_json(start / "config.json")["max_position_embeddings"]
    )
    wide = tmp_path / "wide"
    wide.mkdir()
    for path in start.iterdir():
        (wide / path.name).write_bytes(path.read_bytes())
    write_json(wide / "config.json", read_json(start / "config.json") | {"max_position_embeddings": 131072})
    assert read_serving_settings(find_source(wide)).context_tokens == 8192


def test_an_engine_is_tried_where_it_is_installed(tmp_path, monkeypatch):
    command = serving_command(settings_of(tmp_path), "vllm")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert try_engine(command) == "not tested, because vLLM is not installed here"
    program = tmp_path / "vllm"
    options = "--served-model-name --max-model-len --override-generation-config --reasoning-parser"
    for printed, said in (
        (options, "knows every option"),
        (options.replace("reasoning", "thinking"), "does not know --reasoning-parser"),
        ("$(exit 3) && exit 3", "failed with exit code 3"),
    ):
        program.write_text(f"#!/bin/sh\necho {printed}\n" if "exit" not in printed else "#!/bin/sh\nexit 3\n")
        program.chmod(0o755)
        assert said in try_engine(command)


def test_a_folder_without_a_tokenizer_is_refused(start, tmp_path):
    (tmp_path / "config.json").write_bytes((start / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((start / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="has no tokenizer"):
        read_serving_settings(find_source(tmp_path))
