"""How clients ask for thinking: every dialect in one table, to three knobs, the mode, the budget and the effort.

Sources: OpenAI's `reasoning_effort` and `reasoning.effort`; vLLM's and SGLang's `chat_template_kwargs`; DashScope's
`enable_thinking` and `thinking_budget`; Anthropic's and DeepSeek's `thinking`; OpenRouter's `reasoning`; Ollama's
`think`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from thinktune.serve.neutral_fields import ClientModel, NeutralValues

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "default", "auto"]
NOT_AN_EFFORT = ("default", "auto")  # the model's own choice
OURS = "reasoning_budget"  # its 0 closes the reasoning at once, in the mode with thinking

# Shares of a reply's tokens for reasoning, where the model has no levels of its own; from medium on it decides itself.
EFFORT_SHARES = {"minimal": 0.1, "low": 0.2}

EffortUse = Literal["level", "budget", "pass on"]

Budget = Annotated[int, Field(ge=-1)]  # in tokens; -1 is no budget, and 0 no thinking


class ThinkingSwitch(ClientModel):
    """The object form of `thinking`."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"display", "keep", "clear_thinking"})
    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    enabled: bool | None = None
    budget_tokens: Budget | None = None


class ReasoningOptions(ClientModel):
    """The object `reasoning`."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"summary", "generate_summary", "context"})
    enabled: bool | None = None
    effort: Effort | None = None
    max_tokens: Budget | None = None
    exclude: bool | None = None
    """Leave the reasoning out of the response; it is written all the same."""


class TemplateOptions(ClientModel):
    """Switches of the model's own chat template."""

    neutral_values: ClassVar[NeutralValues] = {"add_generation_prompt": [True], "preserve_thinking": [True, False]}
    enable_thinking: bool | None = None
    thinking: bool | None = None
    thinking_budget: Budget | None = None
    reasoning_effort: Effort | None = None


def _kind(value: Any) -> str:
    """Tell the forms of a field apart by what is given, so that a fault inside an object is not said to be its form."""
    return "dict" if isinstance(value, dict | ClientModel) else "str" if isinstance(value, str) else "bool"


class ThinkingFields(ClientModel):
    """The fields of a request that say how much to think; null is the same as leaving one out."""

    enable_thinking: bool | None = None
    thinking: (
        Annotated[
            Annotated[bool, Tag("bool")] | Annotated[Effort, Tag("str")] | Annotated[ThinkingSwitch, Tag("dict")],
            Discriminator(_kind),
        ]
        | None
    ) = None
    think: Annotated[Annotated[bool, Tag("bool")] | Annotated[Effort, Tag("str")], Discriminator(_kind)] | None = None
    reasoning: (
        Annotated[Annotated[bool, Tag("bool")] | Annotated[ReasoningOptions, Tag("dict")], Discriminator(_kind)] | None
    ) = None
    reasoning_effort: Effort | None = None
    reasoning_budget: Budget | None = None
    """Number of tokens after which the reasoning is closed for the model."""
    thinking_budget: Budget | None = None
    thinking_token_budget: Budget | None = None
    include_reasoning: bool | None = None
    """False leaves the reasoning out of the response; it is written all the same."""
    chat_template_kwargs: TemplateOptions | None = None


@dataclass(frozen=True, slots=True)
class ThinkingControls:
    """What a request asks for: `thinking` on or off; after how many tokens to close it; how hard; whether to show it.

    None is what the model does by itself. `contradiction` is a sentence where two fields name two modes.
    """

    thinking: bool = True
    budget_tokens: int | None = None
    effort: str | None = None
    is_hidden: bool = False
    contradiction: str | None = None
    named_by: str | None = field(default=None, compare=False)  # the field that names the mode

    def reasoning_limit(self, reply_tokens: int, effort_use: EffortUse) -> int | None:
        """Return the most tokens of reasoning in a reply of so many.

        A share of them is no budget for another server: one that does not know it would overrun it, and be refused.
        """
        if self.budget_tokens is not None or effort_use != "budget" or self.effort not in EFFORT_SHARES:
            return self.budget_tokens
        return max(1, round(EFFORT_SHARES[self.effort] * reply_tokens))


def read_controls(fields: ThinkingFields) -> ThinkingControls:
    """Read all dialects of a request.

    A mode that is named goes before one that an effort or a budget implies, and of two that are named the one that is
    closer to the template counts; an explicit budget goes before an effort.
    """
    budgets, efforts = list(_budgets(fields)), list(_efforts(fields))
    asked = [
        *_modes(fields),
        *((name, effort != "none") for name, effort in efforts),
        *((name, False) for name, budget in budgets if budget == 0 and name != OURS),
    ]
    thinking = asked[0][1] if asked else True
    opposed = next((name for name, value in asked if value != thinking), None)
    contradiction = None
    if opposed:
        word = "on" if thinking else "off"
        contradiction = f"{opposed}: contradicts {asked[0][0]}, which takes precedence; thinking is {word}"
    options = fields.reasoning
    hidden = fields.include_reasoning is False or (isinstance(options, ReasoningOptions) and bool(options.exclude))
    if not thinking:
        budget = next((budget for name, budget in budgets if name == OURS and budget >= 0), None)
        return ThinkingControls(False, budget, None, hidden, contradiction, asked[0][0])
    budget = next((budget for name, budget in budgets if budget > 0 or (budget == 0 and name == OURS)), None)
    effort = next((effort for _, effort in efforts if effort != "none"), None)
    return ThinkingControls(True, budget, effort, hidden, contradiction, asked[0][0] if asked else None)


def _modes(fields: ThinkingFields) -> Iterator[tuple[str, bool]]:
    """Yield (field, on or off) of what names a mode, what is closest to the template first."""
    template, switch, options = fields.chat_template_kwargs, fields.thinking, fields.reasoning
    given: list[tuple[str, Any]] = [
        ("chat_template_kwargs.enable_thinking", template and template.enable_thinking),
        ("chat_template_kwargs.thinking", template and template.thinking),
        ("enable_thinking", fields.enable_thinking),
        ("thinking", switch),
        ("think", fields.think),
        ("reasoning", options),
    ]
    if isinstance(switch, ThinkingSwitch):
        given.append(("thinking.enabled", switch.enabled))
        if switch.type not in (None, "auto"):
            given.append(("thinking.type", switch.type != "disabled"))
    if isinstance(options, ReasoningOptions):
        given.append(("reasoning.enabled", options.enabled))
    return ((name, value) for name, value in given if isinstance(value, bool))


def _budgets(fields: ThinkingFields) -> Iterator[tuple[str, int]]:
    """Yield (field, tokens) of what names a budget."""
    template, switch, options = fields.chat_template_kwargs, fields.thinking, fields.reasoning
    given: list[tuple[str, int | None]] = [
        (OURS, fields.reasoning_budget),
        ("chat_template_kwargs.thinking_budget", template and template.thinking_budget),
        ("thinking_budget", fields.thinking_budget),
        ("thinking_token_budget", fields.thinking_token_budget),
        ("thinking.budget_tokens", switch.budget_tokens if isinstance(switch, ThinkingSwitch) else None),
        ("reasoning.max_tokens", options.max_tokens if isinstance(options, ReasoningOptions) else None),
    ]
    return ((name, value) for name, value in given if value is not None)


def _efforts(fields: ThinkingFields) -> Iterator[tuple[str, str]]:
    """Yield (field, level) of what names an effort, but for the model's own choice."""
    template, options = fields.chat_template_kwargs, fields.reasoning
    given: list[tuple[str, Any]] = [
        ("chat_template_kwargs.reasoning_effort", template and template.reasoning_effort),
        ("reasoning_effort", fields.reasoning_effort),
        ("reasoning.effort", options.effort if isinstance(options, ReasoningOptions) else None),
        ("thinking", fields.thinking),
        ("think", fields.think),
    ]
    return ((name, value) for name, value in given if isinstance(value, str) and value not in NOT_AN_EFFORT)
