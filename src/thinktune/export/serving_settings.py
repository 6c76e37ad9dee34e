"""What another engine must be told so that it talks to a model as it was trained: template, tags, system, sampling."""

from dataclasses import dataclass
from pathlib import Path

from thinktune.config import load_recipe
from thinktune.export.chat_form import ChatForm, FormError, measure_form, trims_turns
from thinktune.export.source import ModelSource
from thinktune.inference import SamplingParams
from thinktune.model.folder import read_raw_config
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.tags import ASK, Tags, read_form, template_text, write_probe
from thinktune.tokenization.tokenizer import load_tokenizer

USUAL_CONTEXT_TOKENS = 8192  # several turns of most conversations; an engine reserves memory for all of it


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """A model as engines are told of it.

    `form` is its chat template as texts; where there is none, `unformed` says why, as the end of a sentence. `tags` is
    None for a model that does not reason; `opened` says that the prompt opens the reasoning, `switched` that the
    template has a mode without it, `unasked` that this is the mode of an engine that asks for none, and `single_tags`
    that each tag is one token. `trimmed` says that the template takes
    white space off the ends of turns. `stops` are the texts of the tokens that end a reply.
    """

    folder: Path
    name: str
    system: str | None
    sampling: SamplingParams
    context_tokens: int
    template: str
    form: ChatForm | None
    unformed: str
    tags: Tags | None
    opened: bool
    switched: bool
    unasked: bool
    single_tags: bool
    trimmed: bool
    stops: tuple[str, ...]
    bos: str | None


def read_serving_settings(source: ModelSource) -> ServingSettings:
    """Read them from a model's folder and its run; raises UserError where tokenizer or configuration does not load."""
    tokenizer = load_tokenizer(source.folder)
    form, unformed = None, ""
    try:
        form = measure_form(tokenizer)
    except FormError as error:
        unformed = str(error)
    reasoning = read_form(tokenizer)
    tags = None
    if reasoning.foreign is None and (reasoning.written or reasoning.tags.opening in template_text(tokenizer)):
        tags = reasoning.tags
    prompts = [_prompt(tokenizer, **options) for options in ({"enable_thinking": True}, {"enable_thinking": False}, {})]
    bos = tokenizer.special_tokens_map.get("bos_token")
    return ServingSettings(
        folder=source.folder.resolve(),
        name=source.name,
        system=source.defaults.system,
        sampling=source.defaults.sampling,
        context_tokens=_context_tokens(source),
        template=template_text(tokenizer),
        form=form,
        unformed=unformed,
        tags=tags,
        opened=tags is not None and prompts[0].rstrip().endswith(tags.opening),
        switched=prompts[0] != prompts[1],
        unasked=prompts[2] != prompts[0],
        single_tags=tags is not None and {tags.opening, tags.closing} <= _vocabulary(tokenizer),
        trimmed=trims_turns(tokenizer),
        stops=tuple(dict.fromkeys((tokenizer.eos_token, *tokenizer.stop_tokens))),
        bos=str(bos) if bos else None,
    )


def _prompt(tokenizer: ChatTokenizer, **options: bool) -> str:
    return write_probe(tokenizer, ASK, add_generation_prompt=True, **options) or ""


def _vocabulary(tokenizer: ChatTokenizer) -> set[str]:
    return set(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True))


def _context_tokens(source: ModelSource) -> int:
    """Return the tokens of a conversation to make room for: those of training and a reply, at most the model's own."""
    raw = read_raw_config(source.folder)
    text = raw.get("text_config")
    parts = [raw, text] if isinstance(text, dict) else [raw]
    own = next((part["max_position_embeddings"] for part in parts if part.get("max_position_embeddings")), None)
    trained = load_recipe(source.run.recipe).max_tokens if source.run else 0
    wanted = max(USUAL_CONTEXT_TOKENS, trained + source.defaults.sampling.max_new_tokens)
    return min(wanted, own) if isinstance(own, int) else wanted
