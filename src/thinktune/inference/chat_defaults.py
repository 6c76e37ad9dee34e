"""How a model is talked to where nobody says otherwise: its run's system prompt and sampling, in chat, page and API."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thinktune.config import loading as recipe
from thinktune.data import Turn
from thinktune.inference.requests import SamplingParams
from thinktune.run import RunFolder

DEFAULT_MAX_NEW_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class ChatDefaults:
    """What a conversation begins with, how replies are drawn, and what the page says above them."""

    system: str | None = None
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(DEFAULT_MAX_NEW_TOKENS))
    notice: str | None = None


def read_chat_defaults(folder: Path, model: Path) -> ChatDefaults:
    """The manners of a run or of a plain model folder; the model's own generation settings name the sampling."""
    from transformers import GenerationConfig  # imported late: it takes seconds

    trained = recipe.load_recipe(RunFolder(folder).recipe) if RunFolder(folder).is_run else None
    named = (model / "generation_config.json").is_file()
    chosen = GenerationConfig.from_pretrained(model, local_files_only=True) if named else GenerationConfig()
    sampling = SamplingParams(
        trained.generate.max_new_tokens if trained else DEFAULT_MAX_NEW_TOKENS,
        temperature=(chosen.temperature or 0.0) if chosen.do_sample else 0.0,
        top_p=chosen.top_p or 1.0,
        top_k=chosen.top_k or 0,
    )
    if trained is None:
        return ChatDefaults(sampling=sampling)
    return ChatDefaults(trained.data.system, sampling, trained.serve.notice)


def with_system_prompt(system: str | None, turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns behind their system prompt: their own where they have one (an empty one is none), else `system`.

    Earlier replies keep their reasoning; the chat template decides what the model sees of it.
    """
    if system and not any(turn.role == "system" for turn in turns):
        turns = [Turn("system", system), *turns]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content)
