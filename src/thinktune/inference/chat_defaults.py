"""Defaults of a conversation in chat, page and API: the run's system prompt and sampling parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thinktune.config import load_recipe
from thinktune.inference.requests import SamplingParams
from thinktune.run.folder import find_run
from thinktune.tokenization import Turn

DEFAULT_MAX_NEW_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class ChatDefaults:
    """System prompt, sampling parameters, and the notice that the page shows above the conversation."""

    system: str | None = None
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(DEFAULT_MAX_NEW_TOKENS))
    notice: str | None = None


def read_chat_defaults(folder: Path, model: Path) -> ChatDefaults:
    """Read the defaults of a run or a model folder; sampling comes from the model's generation configuration.

    Raises UserError where that has a setting that no sampler takes.
    """
    from thinktune.model.generation_config import read_generation_config  # imported late: it takes seconds

    run, _ = find_run(folder)  # an average of a run's models is talked to as the run's own
    recipe = load_recipe(run.recipe) if run.is_run else None
    config = read_generation_config(model)
    sampling = SamplingParams(
        recipe.generate.max_new_tokens if recipe else DEFAULT_MAX_NEW_TOKENS,
        temperature=(config.temperature or 0.0) if config.do_sample else 0.0,
        top_p=config.top_p or 1.0,
        top_k=config.top_k or 0,
    )
    if recipe is None:
        return ChatDefaults(sampling=sampling)
    return ChatDefaults(recipe.data.system, sampling, recipe.serve.notice)


def with_system_prompt(system: str | None, turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Put `system` before turns that have no system prompt of their own; an empty one of their own removes it.

    Earlier replies keep their reasoning; the chat template decides what the model sees of it.
    """
    if system and not any(turn.role == "system" for turn in turns):
        turns = [Turn("system", system), *turns]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content)
