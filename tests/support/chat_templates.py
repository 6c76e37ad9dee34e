"""Chat templates of our own writing, one of each kind that open models have, and what must be true of each."""

import copy
import re
from dataclasses import dataclass
from typing import Literal

from tokenizers import AddedToken

from thinktune.demo.tiny_model import make_tokenizer
from thinktune.inference.replies import Detokenizer, SpecialTokens
from thinktune.inference.requests import SamplingParams
from thinktune.tokenization import Example, TokenKind, Turn
from thinktune.tokenization.chat_template import render, render_prompt

TEXTS = 3 * ["What does the heart pump? It pumps blood.\n\n", "think>\n", "Reasoning: a muscle.", "心脏泵血液。"]
SPECIAL = re.compile(r"<[^<>\s{}%'\"]+>|\[/?[A-Z]+\]")  # what in a template is a token of its model


@dataclass(frozen=True, slots=True)
class Kind:
    """A template, the eos of its tokenizer, the other tokens that end generation, and what must be measured."""

    template: str
    eos: str
    end: str  # under `think`
    tags: tuple[str, str] = ("<think>", "</think>")
    own: Literal["right", "refused"] = "refused"
    stops: tuple[str, ...] = ()
    refused: str = ""  # a part of the sentence with which `think` refuses it
    plain: tuple[str, ...] = ()  # of its marks, those that are no tokens


def _turns(turn: str, prompt: str, reply: str = "") -> str:
    reply = reply or turn
    return (
        "{%- for m in messages -%}{%- if m.role == 'assistant' -%}" + reply + "{%- else -%}" + turn + "{%- endif -%}"
        "{%- endfor -%}{%- if add_generation_prompt -%}" + prompt + "{%- endif -%}"
    )


_CHATML = "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}"
_CHATML_PROMPT = "{{- '<|im_start|>assistant\\n' -}}"
_OFF = "enable_thinking is defined and not enable_thinking"
_HEADER = "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' -}}"
_CHANNELS = (
    "{%- if m.reasoning_content -%}{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.reasoning_content + "
    "'<|end|>' -}}{%- endif -%}{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' -}}"
)
_MARKED = (
    "{{- '<|BOT|>' -}}{%- if m.reasoning_content -%}{{- '<|THOUGHT|>' + m.reasoning_content + '<|/THOUGHT|>' -}}"
    "{%- endif -%}{{- '<|TEXT|>' + m.content + '<|/TEXT|><|TURN|>' -}}"
)
_STRIPPED = (
    "{%- set c = m.content -%}{%- if '</think>' in c -%}{%- set c = c.split('</think>')[-1] -%}{%- endif -%}"
    "{{- '<|Bot|>' + c + eos_token -}}"
)

KINDS = {
    "drops the reasoning": Kind(_turns(_CHATML, _CHATML_PROMPT), "<|im_end|>", "<|im_end|>"),
    "base, whose eos ends a document": Kind(_turns(_CHATML, _CHATML_PROMPT), "<|endoftext|>", "<|im_end|>"),
    "opens in the prompt and strips": Kind(
        _turns("{{- '<|User|>' + m.content -}}", "{{- '<|Bot|><think>\\n' -}}", _STRIPPED), "<|eos|>", "<|eos|>"
    ),
    "headers, end of turn in the generation configuration": Kind(
        _turns(_HEADER, "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}"),
        "<|end_of_text|>",
        "<|eot_id|>",
        stops=("<|eot_id|>", "<|end_of_text|>"),
        plain=("<think>", "</think>"),
    ),
    "ends at the next turn": Kind(
        _turns(
            "{{- '<|' + m.role + '|>\\n' + m.content -}}",
            "{{- '<|assistant|>' -}}",
            "{{- '<|assistant|>\\n<think>' + m.reasoning_content | default('') + '</think>\\n' + m.content -}}",
        )
        + "{#- <|user|> <|system|> -#}",
        "<|endoftext|>",
        "<|user|>",
        stops=("<|endoftext|>", "<|user|>"),
    ),
    "special tags, and marks around the answer": Kind(
        _turns("{{- '<|ASK|>' + m.content + '<|TURN|>' -}}", "{{- '<|BOT|><|THOUGHT|>' -}}", _MARKED),
        "<|TURN|>",
        "<|TURN|>",
        ("<|THOUGHT|>", "<|/THOUGHT|>"),
        own="right",
    ),
    "known special tags, left out of replies": Kind(
        "{{- '[SYS]Think as in [THINK]why[/THINK]answer[/SYS]' -}}"
        + _turns("{{- '[INST]' + m.content + '[/INST]' -}}", "", "{{- m.content + eos_token -}}"),
        "</s>",
        "</s>",
        ("[THINK]", "[/THINK]"),
    ),
    "an opening tag of two words": Kind(
        _turns(
            "{{- '<|turn>' + m.role + '\\n' + m.content + '<turn|>\\n' -}}",
            "{{- '<|turn>model\\n' -}}",
            "{{- '<|turn>model\\n' -}}{%- if m.reasoning_content -%}{{- '<|channel>thought\\n' + m.reasoning_content + "
            "'\\n<channel|>' -}}{%- endif -%}{{- m.content + '<turn|>\\n' -}}",
        ),
        "<eos>",
        "<turn|>",
        ("<|channel>thought", "<channel|>"),
        own="right",
        stops=("<eos>", "<turn|>"),
    ),
    "channels": Kind(
        _turns(
            "{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' -}}", "{{- '<|start|>assistant' -}}"
        ).replace(
            "{%- if m.role == 'assistant' -%}", "{%- if m.role == 'assistant' -%}" + _CHANNELS + "{%- elif false -%}"
        ),
        "<|return|>",
        "",
        refused="a form that is not known",
    ),
    "ends no reply": Kind(
        _turns("{{- m.role + ': ' + m.content + '\\n\\n' -}}", "{{- 'assistant:' -}}"), "<|endoftext|>", "<|endoftext|>"
    ),
    "a switch of its own": Kind(
        _turns(_CHATML, _CHATML_PROMPT + "{%- if " + _OFF + " -%}{{- '<think>\\n\\n</think>\\n' -}}{%- endif -%}"),
        "<|im_end|>",
        "<|im_end|>",
    ),
    "opens with a sentence": Kind(
        _turns(
            "{{- '<|' + m.role + '|>\\n' + m.content + '\\n' -}}",
            "{{- '<|assistant|>\\nMy reasoning:\\n' -}}",
            "{{- '<|assistant|>\\n' -}}{%- if m.reasoning_content -%}{{- m.reasoning_content + '\\n[ANSWER]\\n' -}}"
            "{%- endif -%}{{- m.content + '<|end|>\\n' -}}",
        ),
        "<|end|>",
        "<|end|>",
        ("My reasoning:", "[ANSWER]"),
    ),
    "wants tools": Kind(
        "{%- for tool in tools -%}{{- tool -}}{%- endfor -%}" + _turns(_CHATML, _CHATML_PROMPT),
        "<|im_end|>",
        "",
        refused="it fails on a plain question",
    ),
}

REASONING, ANSWER = "First I look at it.\n\nThen I think 再想 twice.", "The answer is **42**.\n\n- really"
ROWS = {
    "one turn": (Turn("user", "What is it?"), Turn("assistant", ANSWER, REASONING)),
    "system": (Turn("system", "Be kind."), Turn("user", "What is it?"), Turn("assistant", ANSWER, REASONING)),
    "two turns": (
        Turn("user", "Hi"),
        Turn("assistant", "Hello.", "greet"),
        Turn("user", "What is it?"),
        Turn("assistant", ANSWER, REASONING),
    ),
    "no reasoning": (Turn("user", "What is it?"), Turn("assistant", ANSWER)),
}


def tokenizer_of(template, eos, stops=(), plain=(), base=None):
    """Make a tokenizer with a template's marks as special tokens, as its model's own has them."""
    tokenizer = copy.deepcopy(base) if base else make_tokenizer(TEXTS, 400)
    marks = {*SPECIAL.findall(template), eos, *stops} - {"<think>", "</think>", *plain}
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in sorted(marks)])
    if plain:
        tokenizer = _without(tokenizer, plain)
    tokenizer.eos_token, tokenizer.chat_template, tokenizer.stop_tokens = eos, template, stops
    tokenizer.bos_token = "<|endoftext|>" if "bos_token" in template else None
    return tokenizer


def _without(tokenizer, marks):
    """Return the tokenizer without some of its added tokens, which are then plain characters."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] not in marks]
    # The ids of the others must be as before.
    tree["added_tokens"] = sorted(tree["added_tokens"], key=lambda token: token["id"])
    made = Tokenizer.from_str(json.dumps(tree))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<|endoftext|>", clean_up_tokenization_spaces=False)


def written_and_read_back(tokenizer, turns):
    """Render a row, stream its reply through the detokenizer, and assert that each part is what the row says.

    Raises UserError where the row is refused.
    """
    rendered, reply = render(Example(turns, "rows:1"), tokenizer)[-1], turns[-1]
    prompt = render_prompt(turns[:-1], tokenizer, thinking=reply.has_reasoning)
    detokenizer = Detokenizer(SamplingParams(10**6), SpecialTokens.from_tokenizer(tokenizer, None), prompt)
    for token in rendered.ids[len(prompt) :].tolist():
        detokenizer.append(token)
        if detokenizer.finish_reason:
            break
    assert detokenizer.finish_reason == "end"
    read = detokenizer.completion()
    assert (read.reasoning.strip(), read.answer.strip()) == (reply.reasoning.strip(), reply.content.strip())
    assert read.closed or not reply.has_reasoning
    text = {
        kind: tokenizer.backend_tokenizer.decode(
            rendered.ids[rendered.kinds == kind].tolist(), skip_special_tokens=False
        )
        for kind in TokenKind
    }
    assert reply.reasoning in text[TokenKind.REASONING]
    assert reply.content in text[TokenKind.ANSWER]
    assert reply.content not in text[TokenKind.REASONING]
    assert text[TokenKind.END] == tokenizer.eos_token
    if not reply.has_reasoning:
        assert text[TokenKind.REASONING] == ""
