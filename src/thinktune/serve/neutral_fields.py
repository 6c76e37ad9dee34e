"""Fields that clients send and that ask for nothing, and the unknown ones that bind: the first pass, the last do not.

Clients send more than they want: null for each option of their library, the neutral value of each slider, who asks,
what to cache, and the fields of a former reply. None of it changes the text. What would change it and is not offered is
never left out in silence: the response has a warning, or, where its form depends on it, there is a refusal.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function, no_info_before_validator_function

Json = dict[str, Any]
NeutralValues = Mapping[str, Sequence[Any]]

MAX_UNKNOWN_FIELDS = 20  # of one object that are named in a refusal or a warning

# What would give the response another form or another guarantee: without it, the client would read what is not there.
# Any other unknown option is left out, and the response says so.
BINDING_FIELDS = frozenset([
    "n", "best_of", "logprobs", "top_logprobs", "prompt_logprobs", "n_probs", "echo", "suffix", "return_token_ids",
    "response_format", "json_schema", "grammar", "regex", "ebnf", "structured_outputs", "guided_json", "guided_regex",
    "guided_choice", "guided_grammar", "modalities", "audio", "images", "files", "attachments", "input_audio", "video",
    "continue_final_message", "use_beam_search", "tools", "functions", "tool_calls", "function_call", "mcp_servers",
    "structural_tag",
])  # fmt: skip

# Who asks, what is cached, counted or queued, and what only shapes an option that is refused unless it is neutral.
REQUEST_FIELDS_WITHOUT_EFFECT = frozenset([
    "user", "user_id", "session_id", "chat_id", "conversation_id", "message_id", "request_id", "trace_id",
    "id", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "cache_prompt", "cache_salt", "cache_control", "id_slot", "slot_id", "keep_alive",
    "priority", "provider_specific_fields", "timings_per_token", "parallel_tool_calls", "repeat_last_n",
    "mirostat_tau", "mirostat_eta", "xtc_threshold", "dry_base", "dry_allowed_length", "dry_penalty_last_n",
    "dry_sequence_breakers", "dynatemp_exponent", "smoothing_curve",
])  # fmt: skip

# Options of OpenAI, vLLM, SGLang, llama.cpp and their like that are not offered, or not everywhere, with what happens
# where they are not.
NEUTRAL_REQUEST_VALUES: NeutralValues = {
    "n": [1],
    "best_of": [1],
    "num_beams": [1],
    "use_beam_search": [False],
    "modalities": [["text"]],
    "verbosity": ["medium"],
    "logprobs": [False],
    "top_logprobs": [0],
    "n_probs": [0],
    "echo": [False],
    "frequency_penalty": [0],
    "presence_penalty": [0],
    "repetition_penalty": [1],
    "repeat_penalty": [1],
    "encoder_repetition_penalty": [1],
    "length_penalty": [1],
    "no_repeat_ngram_size": [0],
    "min_p": [0],
    "top_a": [0],
    "tfs": [1],
    "tfs_z": [1],
    "typical_p": [1],
    "typical": [1],
    "epsilon_cutoff": [0],
    "eta_cutoff": [0],
    "penalty_alpha": [0],
    "mirostat": [0],
    "mirostat_mode": [0],
    "xtc_probability": [0],
    "dry_multiplier": [0],
    "dynatemp_range": [0],
    "smoothing_factor": [0],
    "min_tokens": [0],
    "min_length": [0],
    "min_new_tokens": [0],
    "ignore_eos": [False],
    "skip_special_tokens": [True],
    "spaces_between_special_tokens": [True],
    "include_stop_str_in_output": [False],
    "add_generation_prompt": [True],
    "continue_final_message": [False],
    "add_special_tokens": [False],
    "return_token_ids": [False],
    "separate_reasoning": [True],
    "stream_reasoning": [True],
    "usage": [{"include": True}, {"include": False}],
}

# What a message carries for its keeper: a reply as a library or a page has stored it.
MESSAGE_FIELDS_WITHOUT_EFFECT = frozenset([
    "id", "object", "index", "model", "created", "created_at", "createdAt", "updated_at", "updatedAt",
    "timestamp", "time", "date", "status", "weight", "finish_reason", "stop_reason", "native_finish_reason",
    "logprobs", "usage", "metadata", "meta", "info", "provider", "provider_specific_fields", "annotations",
    "citations", "thinking_blocks", "reasoning_details", "reasoning_signature", "signature",
    "encrypted_content", "cache_control", "phase",
])  # fmt: skip

# An object or a list without content, an empty text and null ask for nothing, whatever their name.
NOTHING: Json = {
    "anyOf": [
        {"type": "null"},
        {"type": "string", "maxLength": 0},
        {"type": "array", "maxItems": 0},
        {"type": "object", "maxProperties": 0},
    ]
}


def is_neutral(value: Any, neutral_values: Sequence[Any]) -> bool:
    """Return True for nothing, and for one of some values."""
    if value is None or value in ("", [], {}):
        return True
    # Python's True equals 1; JSON's true does not.
    return any(value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in neutral_values)


@dataclass(frozen=True, slots=True, eq=False)  # `typing` would take 0 for False, and one annotation for the other
class NeutralOnly:
    """Annotation of a field that one surface offers and another does not: there, only its neutral values pass."""

    neutral_values: tuple[Any, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._refuse, handler(source))

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        nothing = {**NOTHING}  # pydantic adds to what it is given
        return {"anyOf": [{"enum": [*self.neutral_values]}, nothing]} if self.neutral_values else nothing

    def _refuse(self, value: Any) -> Any:
        if is_neutral(value, self.neutral_values):
            return value
        shown = " or ".join(map(json.dumps, self.neutral_values))
        sentence = f"only {shown} is supported here; leave it out" if shown else "is not supported here; leave it out"
        raise PydanticCustomError("neutral", "{sentence}", {"sentence": sentence})


class OrNothing:
    """Annotation of an optional field: an empty value is the same as null."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler(source)
        return no_info_before_validator_function(lambda value: None if value in ("", [], {}) else value, inner)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        return {"anyOf": [handler(core_schema), *NOTHING["anyOf"]]}


@dataclass(slots=True)
class LeftOut:
    """Context of a validation that leaves out unknown fields, unless they bind, and the number of those left out."""

    count: int = 0


class ClientModel(BaseModel):
    """Base of what clients send: fields that ask for nothing are left out, and other unknown ones are a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
    without_effect: ClassVar[frozenset[str]] = frozenset()
    neutral_values: ClassVar[NeutralValues] = {}

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_asks_for_nothing(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        fields: Json = data
        names = cls.field_names()
        known = {name: value for name, value in fields.items() if name in names}
        asked = [(name, value) for name, value in fields.items() if name not in known and cls._asks(name, value)]
        if isinstance(info.context, LeftOut):
            binding = {name: value for name, value in asked if name in BINDING_FIELDS}
            info.context.count += len(asked) - len(binding)
            return known | binding
        return known | dict(asked[:MAX_UNKNOWN_FIELDS])

    @classmethod
    def field_names(cls) -> set[str]:
        """Return the names of the fields as clients send them."""
        return {field.alias or name for name, field in cls.model_fields.items()}

    @classmethod
    def _asks(cls, name: str, value: Any) -> bool:
        """Return True if an unknown field asks for something."""
        return name not in cls.without_effect and not is_neutral(value, cls.neutral_values.get(name, ()))

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> Json:
        described = handler(core_schema)
        schema = handler.resolve_ref_schema(described)
        # What is not named here is left out with a warning, but for what binds.
        schema["additionalProperties"] = True
        binding = {
            name: {"anyOf": [{"enum": [*cls.neutral_values.get(name, ())]}, NOTHING]}
            for name in BINDING_FIELDS - cls.without_effect
        }
        schema["properties"] = (
            {name: {} for name in sorted(cls.without_effect | cls.neutral_values.keys())}
            | dict(sorted(binding.items()))
            | schema.get("properties", {})
        )
        return described
