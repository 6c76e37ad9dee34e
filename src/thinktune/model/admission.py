"""Admission of a model folder: one function says, before any row is read, whether it can be trained, and why not.

`check` and `train` both begin with `admit`, so they refuse the same folders in the same words. Loading begins with
`admit_model`, the part of it that needs no tokenizer.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from thinktune.data import Prepared
from thinktune.errors import UserError, shorten_error
from thinktune.hub.admitted_folders import note_admitted, was_admitted
from thinktune.library_output import captured_output
from thinktune.model.folder import (
    FIELD,
    INDEX,
    SINGLE_FILE,
    list_some,
    read_raw_config,
    refuse_other_folders,
    refuse_quantized,
    stored_tensors,
)
from thinktune.model.generation_config import read_generation_config
from thinktune.model.proof import ModelTraits, Refuted, prove_class, refuse_uncomputable
from thinktune.model.protocols import ModelConfig
from thinktune.model.stored_weights import MatchedWeights, has_own_head, match_weights, refuse_non_finite_files
from thinktune.model.text_part import has_other_modalities, is_part, left_out_note, text_config, text_values
from thinktune.model.weight_names import wrapper_names
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.model_template import OWN, read_tokenizer_with_notes
from thinktune.verdicts import identify_folder

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
SUPPORTED_DTYPES = (None, torch.float32, torch.bfloat16, torch.float16, torch.float64)  # `final/` is written in it
APART = "which does not keep packed rows apart, so rows are padded instead, which takes more time"
MAX_LAYERS = 10_000  # transformers makes a list of them before any weight is looked at

# Outputs that a configuration may ask for and nobody reads. Classes collect them by hooks, through which the compiler
# does not see; `final/` keeps what the base's file says.
COLLECTED_OUTPUTS = ("output_router_logits", "output_hidden_states", "output_attentions")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class AdmittedModel:
    """A model folder that loads: its configuration, its weights, and a line for each thing in it that is not used."""

    config: ModelConfig
    weights: MatchedWeights
    notes: tuple[str, ...]
    traits: ModelTraits


@dataclass(frozen=True, slots=True)
class Admitted:
    """A model folder that can be trained, with its tokenizer; `notes` as in AdmittedModel."""

    config: ModelConfig
    tokenizer: ChatTokenizer
    weights: MatchedWeights
    notes: tuple[str, ...]
    traits: ModelTraits


def admit(
    folder: Path,
    *,
    trust_remote_code: bool = False,
    read_weights: bool = True,
    template: str = OWN,
    read: tuple[ChatTokenizer, tuple[str, ...]] | None = None,
) -> Admitted:
    """Admit a folder for training: its files, configuration, weights, generation settings and tokenizer.

    Raises one UserError with everything that is wrong. With `read_weights` every weight is read once, to refuse those
    that are not finite, unless the same files were admitted before; all else reads headers only. `template` is the
    recipe's `model.template`; `read`, where the tokenizer was read before with its notes, spares that.
    """
    before = None if trust_remote_code else identify_folder(folder)  # code of its own may read anything
    read_weights = read_weights and not (before and was_admitted(folder))
    config = _admit_config(folder, trust_remote_code)
    faults: list[str] = []
    model = _collect(faults, lambda: _admit_weights(folder, config, trust_remote_code))
    _collect(faults, lambda: read_generation_config(folder))
    read = read or _collect(
        faults, lambda: read_tokenizer_with_notes(folder, trust_remote_code=trust_remote_code, template=template)
    )
    tokenizer, template_notes = read or (None, ())
    if tokenizer:
        _collect(faults, lambda: _refuse_small_vocabulary(tokenizer, config, folder))
    if model and read_weights:
        _collect(faults, lambda: refuse_non_finite_files(model.weights, folder))
    if faults or not model or not tokenizer:
        raise UserError(faults)
    if read_weights:
        note_admitted(folder, before)
    return Admitted(config, tokenizer, model.weights, (*model.notes, *template_notes), model.traits)


def admit_model(folder: Path, *, trust_remote_code: bool = False) -> AdmittedModel:
    """Admit a folder's model: whole, unquantized, of a class that is proved to keep rows apart.

    Reads headers only. Raises one UserError with everything that is wrong; no exception of a library leaves it, and no
    code of the folder runs unless it is trusted.
    """
    config = _admit_config(folder, trust_remote_code)
    faults: list[str] = []
    model = _collect(faults, lambda: _admit_weights(folder, config, trust_remote_code))
    _collect(faults, lambda: read_generation_config(folder))
    if faults or not model:
        raise UserError(faults)
    return model


def read_config(folder: Path, *, trust_remote_code: bool = False) -> ModelConfig:
    """Read the configuration in a model's local folder: of its text part, where it is a model of several modalities.

    Raises UserError where transformers cannot read it, and where it has no text part that is a causal language model.
    """
    try:
        with captured_output():
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
            found = text_config(config)
    except Exception as error:  # whatever its parsers raise, or the folder's own code
        raise _config_error(folder, error) from error
    if found is None:
        raise UserError(
            f"{FIELD}: {folder} is a model of images or sound ({config.model_type}), and transformers "
            f"{transformers.__version__} has no language model for its text part; use a text model"
        )
    if found is not config:
        _settle_tied_head(found, folder, trust_remote_code)
    for name in COLLECTED_OUTPUTS:
        if getattr(found, name, False):
            setattr(found, name, False)
    return found


def _settle_tied_head(config: Any, folder: Path, trust_remote_code: bool) -> None:
    """Set whether a text part's head is tied by what is stored; weights that cannot be read are refused elsewhere."""
    tied = config.tie_word_embeddings
    try:
        config.tie_word_embeddings = False
        own = has_own_head(
            meta_model(folder, config, torch.float32, trust_remote_code=trust_remote_code), stored_tensors(folder)
        )
    except UserError:
        own = None
    config.tie_word_embeddings = tied if own is None else not own


def meta_model(folder: Path, config: ModelConfig, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:
    """Build a folder's model on the meta device, without weights; raises UserError where its class cannot."""
    try:
        with torch.device("meta"), captured_output():
            return AutoModelForCausalLM.from_config(
                copy.deepcopy(config),  # transformers notes the dtype in it
                dtype=dtype,
                attn_implementation="thinktune_rows",
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:
        raise _config_error(folder, error) from error


def _config_error(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{FIELD}: {folder / 'config.json'} is not a working configuration ({shorten_error(error)}); download the "
        "model again, or correct it"
    )


def _collect(faults: list[str], work: Callable[[], Result]) -> Result | None:
    """Return the result of `work`, or add what it refuses to `faults` and return None."""
    try:
        return work()
    except UserError as error:
        faults += error.faults
        return None


def _admit_config(folder: Path, trust_remote_code: bool) -> ModelConfig:
    """Read the configuration of a folder that holds a text model; raises UserError for any other folder."""
    refuse_other_folders(folder)
    raw = read_raw_config(folder)
    _refuse_other_class(raw, folder, trust_remote_code)
    refuse_quantized(raw, folder)
    _refuse_wrong_values(text_values(raw), folder)
    config = read_config(folder, trust_remote_code=trust_remote_code)
    _refuse_other_dtype(config, folder)
    return config


def _refuse_other_class(raw: dict[str, Any], folder: Path, trust_remote_code: bool) -> None:
    """Raise UserError where transformers does not know the folder's class, or only its own code does and may not run.

    Also for a class that writes no text; of a model of several modalities, the text part's own class decides.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{FIELD}: {folder / 'config.json'} names no model_type; name a complete transformers folder")
    if kind in CONFIG_MAPPING:
        if text_values(raw) is not raw or has_other_modalities(raw):
            return
        if raw.get("is_encoder_decoder") or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise UserError(
                f"{FIELD}: {folder} is of type {kind}, which is not a causal language model; use a model that "
                "continues a text"
            )
        return
    if not raw.get("auto_map"):
        raise UserError(
            f"{FIELD}: {folder} is of type {kind}, which transformers {transformers.__version__} does not know; "
            "install a release that does (pip install -U transformers), or use another model"
        )
    if not trust_remote_code:
        raise UserError(
            f"{FIELD}: {folder} is of type {kind}, which has its own Python code; set model.trust_remote_code: "
            "true if you trust that code, or use another model"
        )


def _refuse_wrong_values(raw: dict[str, Any], folder: Path) -> None:
    """Raise UserError with every size in a configuration that is no positive whole number, and what else cannot be."""
    path = folder / "config.json"
    faults: list[str] = []
    if (weights := raw.get("transformers_weights")) not in (None, SINGLE_FILE, INDEX):
        faults.append(
            f"{FIELD}: {path} names {weights!r} as the file of its weights, which thinktune does not read; rename "
            f"it to {SINGLE_FILE}, and remove transformers_weights"
        )
    epsilon = raw.get("rms_norm_eps", 0.0)
    if _is_number(epsilon) and not (math.isfinite(epsilon) and epsilon >= 0):
        faults.append(f"{FIELD}: {path}: rms_norm_eps is {epsilon}; it must be 0 or more; download the model again")
    faults += [
        f"{FIELD}: {path}: {name} is {raw[name]!r}; it must be a whole number of 1 or more; download the model again"
        for name in SIZES
        if raw.get(name) is not None and (type(raw[name]) is not int or raw[name] < 1)
    ]
    if not faults and raw.get("num_hidden_layers", 1) > MAX_LAYERS:
        faults.append(
            f"{FIELD}: {path}: num_hidden_layers is {raw['num_hidden_layers']}; no model has more than "
            f"{MAX_LAYERS:,}; download the model again"
        )
    if faults:
        raise UserError(faults)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_other_dtype(config: ModelConfig, folder: Path) -> None:
    """Raise UserError for a dtype in which no trained model is written."""
    if config.dtype not in SUPPORTED_DTYPES:
        raise UserError(
            f"{FIELD}: {folder / 'config.json'}: dtype is {str(config.dtype).removeprefix('torch.')}; thinktune "
            "trains float32, bfloat16 or float16; use the unquantized model, or correct it"
        )


def _prove(folder: Path, model: Any) -> ModelTraits:
    """Prove the class of a model without weights on a small twin; raises UserError where it cannot be trained."""
    try:
        with captured_output():
            traits = prove_class(type(model), model.config)
            refuse_uncomputable(type(model), model.config)
    except Refuted as error:
        raise UserError([fault.replace(f"{FIELD}: ", f"{FIELD}: {folder} ", 1) for fault in error.faults]) from error
    except Exception as error:
        raise _config_error(folder, error) from error
    return traits


def _admit_weights(folder: Path, config: ModelConfig, trust_remote_code: bool) -> AdmittedModel:
    """Match the stored weights with the model that the configuration describes."""
    stored = stored_tensors(folder)
    if config.num_hidden_layers > len(stored):
        raise UserError(
            f"{FIELD}: the weights in {folder} are incomplete: its config.json says {config.num_hidden_layers:,} "
            f"layers, and it holds {len(stored):,} tensors; download the model again"
        )
    model = meta_model(folder, config, torch.float32, trust_remote_code=trust_remote_code)
    traits = _prove(folder, model)
    raw = read_raw_config(folder)
    part = is_part(config, raw)
    weights = match_weights(model, stored, folder, is_part=part, wrapper=wrapper_names(raw) if part else ())
    class_name = type(model).__name__
    notes = _notes(config, class_name, weights, folder)
    if part:
        notes = (left_out_note(raw["model_type"], class_name, weights.unread, folder),)
    if not traits.packed:
        notes = (*notes, f"{FIELD}: {folder} is of type {config.model_type}, {APART}")
    return AdmittedModel(config, weights, notes, traits)


def _notes(config: ModelConfig, class_name: str, weights: MatchedWeights, folder: Path) -> tuple[str, ...]:
    """Return a line for each thing in a folder that is not used as it is."""
    notes: list[str] = []
    named: list[str] = getattr(config, "architectures", None) or [class_name]
    if class_name not in named and not getattr(config, "auto_map", None):
        notes.append(f"{FIELD}: {folder} was saved as {named[0]}; it is trained as {class_name}, with a head for text")
    if weights.unread:
        notes.append(
            f"{FIELD}: {len(weights.unread)} tensors in {folder} are not used, because {class_name} has none of that "
            f"name ({list_some(weights.unread)})"
        )
    return tuple(notes)


def _refuse_small_vocabulary(tokenizer: ChatTokenizer, config: ModelConfig, folder: Path) -> None:
    """Raise UserError where the tokenizer knows tokens that the model has no embedding for."""
    largest = max(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= config.vocab_size:
        raise UserError(
            f"{FIELD}: {folder}: its tokenizer has tokens up to {largest}, but the model has {config.vocab_size} "
            "tokens, so they do not belong together; name a complete model folder"
        )


def context_fault(prepared: Prepared, config: ModelConfig) -> str | None:
    """Return the sentence for rows that are longer than the model's context, or than rope that is the same for all.

    A model is not made for positions beyond it, and neither samples nor `eval` could ask such a row's question. Rope of
    the kind longrope changes for a whole batch once one of its rows is longer than the original context.
    """
    longest = max((int(rows.lengths.max(initial=0)) for rows in (prepared.train, prepared.validation)), default=0)
    original = _longrope_tokens(config)
    if original and original < longest <= config.max_position_embeddings:
        return (
            f"data.max_tokens: the longest row has {longest:,} tokens; beyond {original:,} the rope of type "
            f"{config.model_type} changes for all rows of a batch, so they would train differently; set "
            f"data.max_tokens: {original}"
        )
    if longest <= config.max_position_embeddings:
        return None
    return (
        f"data.max_tokens: the longest row has {longest:,} tokens, and the model's context has "
        f"{config.max_position_embeddings:,}; set data.max_tokens: {config.max_position_embeddings}, so that "
        "longer rows count as too_long"
    )


def _longrope_tokens(config: ModelConfig) -> int | None:
    """Return the tokens beyond which rope of the kind longrope changes, None for any other."""
    values = config.to_dict()
    rope: Any = values.get("rope_parameters") or values.get("rope_scaling") or {}
    layers = [rope, *(each for each in rope.values() if isinstance(each, dict))]
    found = [each for each in layers if (each.get("rope_type") or each.get("type")) == "longrope"]
    original = [each.get("original_max_position_embeddings") for each in found]
    original += [values.get("original_max_position_embeddings")] if found else []
    return min((int(each) for each in original if each), default=None)
