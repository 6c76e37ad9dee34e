"""Verbs of the command line as a page asks for them: checked fields in, a list of arguments out, never a text."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from thinktune.http import ApiError
from thinktune.studio.folder import StudioFolder


def _one_line(text: str) -> str:
    if any(ord(one) < 32 or ord(one) == 127 for one in text):
        raise ValueError("holds a line break or another character that no command line takes")
    return text


Text = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_one_line)]
Override = Annotated[Text, Field(pattern=r"^[A-Za-z_]\w*(\.\w+)*=")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.:@/-]*$", max_length=200)]
Overrides = Annotated[list[Override], Field(max_length=100)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Verb(BaseModel):
    """Base of the bodies of POST /studio/acts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments after `thinktune`; paths are from the folder on, and exist. Raises ApiError."""
        raise NotImplementedError

    def typed(self, folder: StudioFolder) -> list[str]:
        """Return the arguments as a person would type them."""
        return self.argv(folder, "ACT")

    def about(self) -> dict[str, str]:
        """Return what the act is about: a recipe, a run, or rows, by name."""
        held = {name: getattr(self, name, None) for name in ("recipe", "run", "rows")}
        return {name: value for name, value in held.items() if isinstance(value, str)}


class _RecipeVerb(_Verb):
    recipe: Text
    overrides: Overrides = []

    def _given(self, folder: StudioFolder) -> list[str]:
        return [_there(folder, self.recipe), *self.overrides]


class CheckVerb(_RecipeVerb):
    """The facts of a recipe before any GPU time: `check --json`, whose standard output is the facts."""

    verb: Literal["check"]
    as_json: bool = True
    fix: bool = False
    strict: bool = False
    write: Text | None = None
    doubts: Text | None = None
    price: Text | None = None

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments."""
        flags = _flags({"json": self.as_json, "fix": self.fix, "strict": self.strict})
        folders = {"write": _new(folder, self.write), "doubts": _new(folder, self.doubts)}
        return ["check", *flags, *_options({**folders, "price": self.price}), "--", *self._given(folder)]


class TrainVerb(_RecipeVerb):
    """Training, or resuming; it waits for the card."""

    verb: Literal["train"]

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments."""
        return ["train", "--wait", "--", *self._given(folder)]


class InitVerb(_Verb):
    """A recipe for rows."""

    verb: Literal["init"]
    rows: Text
    model: Text | None = None
    hub: Literal["modelscope", "huggingface"] | None = None
    card: Text | None = None
    output: Text | None = None

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments."""
        options = {"model": self.model, "hub": self.hub, "card": self.card, "output": _new(folder, self.output)}
        return ["init", "--yes", *_options(options), "--", _there(folder, self.rows)]


class _RunVerb(_Verb):
    run: Text


class EvalVerb(_RunVerb):
    """Base against tuned; models that are loaded wait for the card."""

    verb: Literal["eval"]
    tasks: Annotated[list[Text], Field(max_length=20)] = []
    exam: Annotated[list[Word], Field(max_length=20)] = []
    exam_questions: Annotated[int, Field(ge=0)] | None = None
    exam_hub: Literal["modelscope", "huggingface"] | None = None
    harness: Annotated[list[Word], Field(max_length=20)] = []
    probe: bool = True
    thinking: bool | None = None
    regrade: bool = False
    judge: Text | None = None
    temperature: Number | None = None
    seed: int | None = None

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments."""
        each = [("tasks", _there(folder, one)) for one in self.tasks]
        each += [("exam", one) for one in self.exam] + [("harness", one) for one in self.harness]
        options = {"exam-questions": self.exam_questions, "exam-hub": self.exam_hub, "judge": self.judge}
        options |= {"temperature": self.temperature, "seed": self.seed}
        modes = {None: [], True: ["--thinking"], False: ["--no-thinking"]}[self.thinking]
        flags = [*_flags({"wait": not self.regrade, "regrade": self.regrade, "no-probe": not self.probe}), *modes]
        lists = [f"--{name}={value}" for name, value in each]
        return ["eval", *flags, *lists, *_options(options), "--", _there(folder, self.run)]


class ExportVerb(_RunVerb):
    """The model as other engines load it."""

    verb: Literal["export"]
    targets: Annotated[list[Word], Field(min_length=1, max_length=20)]
    to: Text | None = None

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments."""
        return ["export", *_options({"to": _new(folder, self.to)}), "--", _there(folder, self.run), *self.targets]


class PushVerb(_RunVerb):
    """The model on a hub."""

    verb: Literal["push"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", max_length=200)]
    hub: Literal["modelscope", "huggingface"]
    public: bool = False

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments."""
        flags = _flags({"public": self.public})
        return ["push", *flags, f"--hub={self.hub}", "--", _there(folder, self.run), self.name]


class ThinkVerb(_RecipeVerb):
    """Reasoning for rows that have none."""

    verb: Literal["think"]
    teacher: Text | None = None
    tries: Annotated[int, Field(ge=1)] | None = None
    keep: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None
    price: Text | None = None
    budget: Number | None = None
    temperature: Number | None = None
    seed: int | None = None
    reply_tokens: Annotated[int, Field(ge=1)] | None = None
    length: Text | None = None
    instruct: bool = False
    hints: bool = False
    shorten: bool = False
    judge: Text | None = None
    teacher_answers: bool = False
    concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None
    to: Text | None = None

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments; a teacher that is no address may be a folder below the studio's."""
        counts = ("tries", "keep", "tokens", "reply_tokens", "concurrency", "seed", "budget", "temperature")
        texts = ("price", "length", "judge", "teacher")
        options = {name.replace("_", "-"): getattr(self, name) for name in (*counts, *texts)}
        options |= {"to": _new(folder, self.to)}
        flags = {"wait": True, "instruct": self.instruct, "hints": self.hints, "shorten": self.shorten}
        flags |= {"teacher-answers": self.teacher_answers}
        return ["think", *_flags(flags), *_options(options), "--", *self._given(folder)]


class PilotVerb(_RecipeVerb):
    """Rate and epochs by short runs; they wait for the card."""

    verb: Literal["pilot"]
    rates: Text | None = None
    epochs: Text | None = None
    share: Number | None = None
    minutes: Number | None = None

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments."""
        options = {"rates": self.rates, "epochs": self.epochs, "share": self.share, "minutes": self.minutes}
        return ["pilot", "--wait", *_options(options), "--", *self._given(folder)]


class AverageVerb(_RunVerb):
    """A model between base and tuned."""

    verb: Literal["average"]
    weight: Annotated[float, Field(gt=0, lt=1)]

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments."""
        return ["average", "--", _there(folder, self.run), f"{self.weight:g}"]


class ReportVerb(_Verb):
    """A run's page again, or several runs side by side."""

    verb: Literal["report"]
    runs: Annotated[list[Text], Field(min_length=1, max_length=20)]
    price: Text | None = None

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments."""
        return ["report", *_options({"price": self.price}), "--", *(_there(folder, one) for one in self.runs)]


class ServeVerb(_RunVerb):
    """The chat page and the API of a run, on loopback, below the studio's own address."""

    verb: Literal["serve"]
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    engine: Literal["auto", "here", "vllm"] | None = None

    def argv(self, folder: StudioFolder, act: str) -> list[str]:
        """Return the arguments; the act's own name is in the root path."""
        options = {"port": self.port, "root-path": f"/chat/{act}", "engine": self.engine}
        return ["serve", *_options(options), "--", _there(folder, self.run)]

    def typed(self, folder: StudioFolder) -> list[str]:
        """Return the arguments for an address of its own."""
        return ["serve", *_options({"engine": self.engine}), "--", _there(folder, self.run)]


Verb = (
    CheckVerb
    | TrainVerb
    | InitVerb
    | EvalVerb
    | ExportVerb
    | PushVerb
    | ThinkVerb
    | PilotVerb
    | AverageVerb
    | ReportVerb
    | ServeVerb
)
_VERBS: TypeAdapter[Verb] = TypeAdapter(Annotated[Verb, Field(discriminator="verb")])


def parse_verb(body: bytes) -> Verb:
    """Parse the body of POST /studio/acts; raises ApiError (400) that names every field at fault."""
    try:
        return _VERBS.validate_json(body)
    except ValidationError as error:
        raise ApiError(400, "; ".join(map(_fault, error.errors(include_url=False)))) from None


def _fault(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"][1:]) or "verb"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {message[0].lower()}{message[1:]}"


def _there(folder: StudioFolder, name: str) -> str:
    """Return a path for the command line of what is in the folder; raises ApiError where it is not."""
    folder.resolve(name)
    return _argument(name)


def _new(folder: StudioFolder, name: str | None) -> str | None:
    if name is None:
        return None
    folder.resolve(name, new=True)
    return _argument(name)


def _argument(path: str) -> str:
    return f"./{path}" if path.startswith(("-", "~")) else path


def _options(values: Mapping[str, str | float | None]) -> list[str]:
    """Return options as --name=value, so that no value can be taken for another option; those of None are left out."""
    return [f"--{name}={_text(value)}" for name, value in values.items() if value is not None]


def _text(value: str | float) -> str:
    return str(int(value)) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else str(value)


def _flags(wanted: dict[str, bool]) -> list[str]:
    return [f"--{name}" for name, on in wanted.items() if on]
