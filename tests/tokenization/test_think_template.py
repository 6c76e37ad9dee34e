"""`model.template: think` keeps the model's own prompt to the byte, and its replies are read back as they were written."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from support.chat_templates import KINDS, REASONING, ROWS, TEXTS, tokenizer_of, written_and_read_back

from thinktune.demo.tiny_model import make_tokenizer
from thinktune.errors import UserError
from thinktune.tokenization import Example, Turn
from thinktune.tokenization.chat_template import render, render_prompt
from thinktune.tokenization.model_template import set_think_template
from thinktune.tokenization.tags import Tags, read_tags, template_text
from thinktune.tokenization.think_template import compose_think_template, suggest_template

EXTENDED = {name: kind for name, kind in KINDS.items() if not kind.refused}
OTHERS = {name: kind for name, kind in KINDS.items() if kind.refused}


@pytest.fixture(scope="module")
def base():
    return make_tokenizer(TEXTS, 400)


def tokenizer_for(kind, base):
    return tokenizer_of(kind.template, kind.eos, kind.stops, kind.plain, base)


def prompts(tokenizer, **options):
    asked = [{"role": "user", "content": "Why?\n"}, {"role": "assistant", "content": "So."}]
    ask = {"tokenize": False, "add_generation_prompt": True, **options}
    return [tokenizer.apply_chat_template(each, **ask) for each in (asked[:1], [*asked, asked[0]])]


@pytest.mark.parametrize("name", EXTENDED)
def test_every_row_is_written_and_read_back(name, base):
    kind = EXTENDED[name]
    tokenizer = tokenizer_for(kind, base)
    before = prompts(tokenizer), prompts(tokenizer, enable_thinking=True)
    set_think_template(tokenizer, Path("folder"))
    assert (tokenizer.eos_token, read_tags(tokenizer)) == (kind.end, Tags(*kind.tags))
    assert (prompts(tokenizer), prompts(tokenizer, enable_thinking=True)) == before
    for turns in ROWS.values():
        written_and_read_back(tokenizer, turns)


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_extended_is_refused_with_the_reason(name, base):
    kind = OTHERS[name]
    with pytest.raises(UserError, match=rf"^model\.template: think .*{kind.refused}.* model\.template: PATH"):
        set_think_template(tokenizer_for(kind, base), Path("folder"))


@pytest.mark.parametrize("name", KINDS)
def test_the_own_template_is_right_or_its_refusal_names_the_line_to_write(name, base):
    kind = KINDS[name]
    tokenizer = tokenizer_for(kind, base)
    if kind.own == "right":
        tokenizer.eos_token = kind.end  # as `read_tokenizer` makes it
        written_and_read_back(tokenizer, ROWS["one turn"])
        return
    line = r"model\.template: PATH" if kind.refused else r"write model\.template: think"
    with pytest.raises(UserError, match=line):
        render(Example(ROWS["one turn"], "rows:1"), tokenizer)


@pytest.mark.parametrize("name", EXTENDED)
def test_earlier_replies_lose_their_reasoning_however_it_is_given(name, base):
    tokenizer = tokenizer_for(EXTENDED[name], base)
    tags = read_tags(tokenizer)
    set_think_template(tokenizer, Path("folder"))
    ask = {"role": "user", "content": "Why?"}
    plain = {"role": "assistant", "content": "So."}
    inside = {"role": "assistant", "content": f"{tags.opening}{REASONING}{tags.closing}\n\nSo."}
    texts = [
        tokenizer.apply_chat_template([ask, reply, ask], tokenize=False, add_generation_prompt=True)
        for reply in (plain, plain | {"reasoning_content": REASONING}, inside)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert REASONING not in texts[0]


def test_a_reply_with_its_reasoning_in_the_content_is_written_as_one_with_a_field(base):
    tokenizer = tokenizer_for(KINDS["drops the reasoning"], base)
    set_think_template(tokenizer, Path("folder"))
    ask = {"role": "user", "content": "Why?"}
    whole = [
        tokenizer.apply_chat_template([ask, {"role": "assistant", **reply}], tokenize=False)
        for reply in (
            {"content": "So.", "reasoning_content": "because"},
            {"content": "<think>\nbecause\n</think>\n\nSo."},
        )
    ]
    assert whole[0] == whole[1]
    assert re.search(r"assistant\n<think>\nbecause\n</think>\n+So\.<\|im_end\|>\n$", whole[0])


def test_tool_calls_and_parts_of_other_messages_reach_the_own_template(base):
    template = (
        "{%- for m in messages -%}{{- m.role + ':' + (m.tool_calls | string if m.tool_calls else '') "
        "+ (m.content if m.content is string else m.content | length | string) + '<|im_end|>' -}}{%- endfor -%}"
    )
    tokenizer = tokenizer_of(template, "<|im_end|>", base=base)
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": "t"},
    ]
    before = tokenizer.apply_chat_template(messages, tokenize=False)
    set_think_template(tokenizer, Path("folder"))
    assert tokenizer.apply_chat_template(messages, tokenize=False) == before


@pytest.mark.parametrize("edge", ["\n", "  ", "\n\n", "\t{# #}\n"])
def test_white_space_at_the_ends_of_the_own_template_stays(edge, base):
    template = edge + KINDS["drops the reasoning"].template.replace("{%- for", "{% for", 1) + edge
    tokenizer = tokenizer_of(template, "<|im_end|>", base=base)
    before = prompts(tokenizer)
    tokenizer.chat_template = compose_think_template(tokenizer).text
    assert prompts(tokenizer) == before


def test_another_end_of_turn_leaves_what_the_template_writes_for_eos_token(base):
    template = "{{- eos_token -}}" + KINDS["drops the reasoning"].template
    tokenizer = tokenizer_of(template, "<|endoftext|>", base=base)
    before = prompts(tokenizer)
    set_think_template(tokenizer, Path("folder"))
    assert tokenizer.eos_token == "<|im_end|>"
    assert prompts(tokenizer) == before
    assert before[0].startswith("<|endoftext|>")


def test_a_template_of_think_is_left_as_it_is(base):
    tokenizer = tokenizer_for(KINDS["opens in the prompt and strips"], base)
    set_think_template(tokenizer, Path("folder"))
    once = template_text(tokenizer)
    set_think_template(tokenizer, Path("folder"))
    assert template_text(tokenizer) == once
    assert "PATH" in suggest_template(tokenizer)


def test_silence_is_asked_for_with_a_block_that_is_given(base):
    tokenizer = tokenizer_for(KINDS["drops the reasoning"], base)
    set_think_template(tokenizer, Path("folder"))
    thinking, silent = (
        tokenizer.backend_tokenizer.decode(
            render_prompt([Turn("user", "Why?")], tokenizer, thinking=thinking), skip_special_tokens=False
        )
        for thinking in (True, False)
    )
    assert silent.removeprefix(thinking).split() == ["<think>", "</think>"]


PUBLIC = "THINKTUNE_CHAT_TEMPLATES"
ENDS = {  # by a part of the file's name: eos of its tokenizer, then the other tokens that end generation
    "gemma4|gemma-4|diffusion_gemma": "<turn|>",
    "gemma": "<eos> <end_of_turn>",
    "r1|deepseek|spark": "<｜end▁of▁sentence｜>",
    "solar-open": "<|end|>",
    "rwkv": "<|endoftext|>",
    "amberchat|vicuna|alpaca|saiga|zephyr|solar|llama-2|mistral|devstral|llava": "</s>",
    "hermes": "<|im_end|>",
    "llama|functionary|firefunction": "<|eot_id|>",
    "glm": "<|endoftext|> <|user|> <|observation|>",
    "phi": "<|endoftext|> <|end|>",
    "minimax-m1": "<end_of_sentence>",
    "minimax": "[e~[",
    "gpt": "<|return|>",
    "seed": "<seed:eos>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "granite|chatqa": "<|end_of_text|>",
    "laguna": "</assistant>",
    "apriel": "<|end|>",
    "reka": "<sep>",
    "apertus": "<|assistant_end|>",
    "muse": "<|eot|>",
    "kimi-k3": "<|end_of_msg|>",
    "gigachat": "<|message_sep|>",
    "nemotron-nano-v2": "<SPECIAL_12>",
    "hy3": "<｜hy_eos:opensource｜>",
    "ling": "<|role_end|>",
    "smolvlm|idefics": "<end_of_utterance>",
    "openchat": "<|end_of_turn|>",
    "falcon": "<|endoftext|>",
}


def public_tokenizer(file, base):
    found = next((ends for names, ends in ENDS.items() if re.search(names, file.stem.lower())), "<|im_end|>")
    eos, *stops = found.split()
    return tokenizer_of(file.read_text(encoding="utf-8"), eos, (eos, *stops), base=base)


@pytest.mark.slow
def test_public_templates_carry_reasoning_with_think(base):
    """Of 129 public templates 115 carry it, 113 with a system prompt; of the rest each says why not."""
    folder = os.environ.get(PUBLIC)
    if not folder:
        pytest.skip(f"{PUBLIC} names no folder of public chat templates")
    files = sorted(Path(folder).glob("**/*.jinja"))
    right, own, refused = Counter(), Counter(), {}
    for file in files:
        for template, counter in (("think", right), ("own", own)):
            tokenizer = public_tokenizer(file, base)
            try:
                if template == "think":
                    set_think_template(tokenizer, file)
            except UserError as error:
                refused[file.stem] = str(error)
                continue
            for name, turns in ROWS.items():
                if (template, name) == ("own", "no reasoning"):
                    continue  # two templates write a word of their own before every answer
                try:
                    written_and_read_back(tokenizer, turns)
                    counter[name] += 1
                except UserError:
                    pass  # said to the user; what is accepted must be right
    assert (len(files), right["one turn"], right["two turns"], right["system"]) == (129, 115, 115, 113)
    assert right["no reasoning"] >= 101
    assert own["one turn"] >= 34
    assert len(refused) == 14
    reasons = ("form that is not known", "fails on a plain question", "does not write the text of a reply")
    assert all(any(reason in said for reason in reasons) for said in refused.values())
