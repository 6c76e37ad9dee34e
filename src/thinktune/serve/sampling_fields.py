"""How clients ask for sampling: the fields of a request, under the names of OpenAI, vLLM and their like."""

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, StringConstraints, model_validator

from thinktune.inference import SamplingParams
from thinktune.inference.requests import MAX_LOGIT_BIAS, MAX_PENALTY, MAX_TOP_LOGPROBS
from thinktune.serve.neutral_fields import NOTHING, ClientModel, Json

MAX_CHOICES = 96  # as many replies as are written or wait at a time
MAX_BIASES = 1024

Value = TypeVar("Value")

Penalty = Annotated[float, Field(ge=-MAX_PENALTY, le=MAX_PENALTY)]
Share = Annotated[float, Field(ge=0, le=1)]


def _require_token(name: str) -> str:
    if not re.fullmatch("0|[1-9][0-9]{0,8}", name):
        raise ValueError(f"{name!r} is not the number of a token")
    return name


def _read_whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_read_whole_number)]  # JSON has one kind of number: 1.0 is 1
TokenId = Annotated[str, StringConstraints(max_length=100), AfterValidator(_require_token)]
Bias = Annotated[float, Field(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)]


class SamplingFields(ClientModel):
    """The fields of a request that say how its tokens are drawn; null is the same as leaving one out."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Share | None = None
    """Tokens that are less likely than this share of the likeliest are not drawn."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    """By it the logits of tokens of the prompt and the reply are divided, negative ones multiplied."""
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIASES)] | None = None
    logprobs: bool | None = None
    """The log probability of each token of `content`, as the model gave it, before any option above."""
    top_logprobs: Annotated[Count, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    n: Annotated[Count, Field(ge=1, le=MAX_CHOICES)] | None = None
    """How many replies; each is that of the same request alone with the seed one higher than the last one's."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields: Json = data
        return {name: value for name, value in fields.items() if value not in ("", [], {}) or name not in OWN}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> Json:
        described = super().__get_pydantic_json_schema__(core_schema, handler)
        properties = handler.resolve_ref_schema(described)["properties"]
        for name in OWN:
            properties[name] = {"anyOf": [properties[name], NOTHING]}
        return described


OWN = frozenset(SamplingFields.model_fields)


def read_sampling(
    fields: SamplingFields, usual: SamplingParams, *, max_new_tokens: int, seed: int, stop: tuple[str, ...]
) -> SamplingParams:
    """Return the parameters that a request asks for; `usual` has those that it leaves out.

    `seed` counts where it names none.
    """
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        temperature=_given(fields.temperature, usual.temperature),
        top_p=_given(fields.top_p, usual.top_p),
        top_k=max(0, _given(fields.top_k, usual.top_k)),
        seed=_given(fields.seed, seed),
        stop=stop,
        frequency_penalty=_given(fields.frequency_penalty, usual.frequency_penalty),
        presence_penalty=_given(fields.presence_penalty, usual.presence_penalty),
        repetition_penalty=_given(fields.repetition_penalty, usual.repetition_penalty),
        min_p=_given(fields.min_p, usual.min_p),
        logit_bias=tuple((int(token), bias) for token, bias in (fields.logit_bias or {}).items()),
        top_logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
    )


def _given(value: Value | None, usual: Value) -> Value:
    return usual if value is None else value
