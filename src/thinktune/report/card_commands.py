"""Commands that use a model, as its card gives them: those of its form, with its name, prompt, sampling and mode."""

import shlex
from dataclasses import dataclass
from typing import Literal

from thinktune.report.card_facts import CardFacts
from thinktune.report.html import BilingualText


@dataclass(frozen=True, slots=True)
class Command:
    """A command or a few lines of Python, and what they do."""

    title: BilingualText
    text: str
    language: Literal["sh", "python"] = "sh"


def default_commands(facts: CardFacts, repository: tuple[str, str] | None = None) -> list[Command]:
    """Return the commands for a folder in the form that it has, typed inside it, or for a repository on a hub."""
    if facts.weights:
        return [_llama_server(facts, repository)]
    if not facts.config:
        return []
    return [*([] if repository else [_chat()]), _transformers(facts, repository), _vllm(facts, repository)]


def _chat() -> Command:
    return Command(
        BilingualText(
            "In the terminal, or on a page with an OpenAI-compatible API",
            "在终端里对话，或打开网页（同时提供 OpenAI 兼容接口）",
        ),
        "thinktune chat .\nthinktune serve .",
    )


def _transformers(facts: CardFacts, repository: tuple[str, str] | None) -> Command:
    hub, place = repository or ("huggingface", ".")
    package = "modelscope" if hub == "modelscope" else "transformers"
    trusted = ", trust_remote_code=True" if facts.recipe and facts.recipe.model.trust_remote_code else ""
    system = facts.recipe.data.system if facts.recipe else None
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": "…"}]
    switch = ", enable_thinking=True" if facts.data.get("has_thinking_switch") else ""
    tokens = facts.recipe.generate.max_new_tokens if facts.recipe else 2048
    return Command(
        BilingualText("In Python, with transformers 4.57 or later", "用 Python（transformers 4.57 及以上）"),
        f"""\
from {package} import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({place!r}{trusted})
model = AutoModelForCausalLM.from_pretrained({place!r}, dtype="auto"{trusted})
messages = {messages!r}
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True{switch}, return_dict=True, return_tensors="pt"
)
output = model.generate(**prompt, max_new_tokens={tokens})
print(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]))""",
        "python",
    )


def _vllm(facts: CardFacts, repository: tuple[str, str] | None) -> Command:
    hub, place = repository or ("huggingface", ".")
    source = "VLLM_USE_MODELSCOPE=True " if hub == "modelscope" else ""
    trusted = " --trust-remote-code" if facts.recipe and facts.recipe.model.trust_remote_code else ""
    return Command(
        BilingualText("Served by vLLM (not tested with this model)", "用 vLLM 提供服务（未在此模型上试过）"),
        f"{source}vllm serve {shlex.quote(place)} --served-model-name {shlex.quote(facts.name)}{trusted}",
    )


def _llama_server(facts: CardFacts, repository: tuple[str, str] | None) -> Command:
    if repository and repository[0] == "huggingface":
        source = f"-hf {shlex.quote(repository[1])}"
    else:
        source = f"-m {shlex.quote(facts.weights[0])}"
    return Command(
        BilingualText("Served by llama.cpp (not tested with this model)", "用 llama.cpp 提供服务（未在此模型上试过）"),
        f"llama-server {source} --jinja --alias {shlex.quote(facts.name)}",
    )
