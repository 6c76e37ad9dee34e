"""Schema of a recipe: frozen sections, validated on construction. `docs/recipe.md` is made from it."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    field_validator,
    model_validator,
)

from thinktune.config.average_rule import AverageRule
from thinktune.config.loss_weights import Part, resolve_weights
from thinktune.config.mlflow_address import MlflowAddress
from thinktune.config.recipe_keys import of_replay, of_source
from thinktune.config.replay import BUNDLED, BUNDLED_ROWS, Answers, Replay, read_replay
from thinktune.config.row_faults import HANDED_PHRASES, resolve_policies
from thinktune.config.section import Section
from thinktune.files import expand_home

DEFAULT_TOKENS_PER_STEP = 16_384  # about 20 of the medical rows

Strategy = Literal["replicate", "shard", "hybrid"]
Hub = Literal["modelscope", "huggingface"]
LRSchedule = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "fp32", "bf16", "fp8", "fp8-row"]
SwanlabMode = Literal["off", "auto", "cloud", "local", "offline"]
WandbMode = Literal["off", "auto", "cloud", "offline"]
MemoryTierName = Literal["fp32", "exact", "exact-bf16", "8bit", "8bit-streamed", "4bit"]
Duration = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smh]$")]
FailurePolicy = Literal["skip", "stop"]
AveragingFactor = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what every random generator takes
SHARE_TOLERANCE = 1e-6  # of shares that add up to 1
EngineChoice = Literal["auto", "here", "vllm"]


class ModelSource(Section):
    """The base model."""

    name: str
    """A local folder or, with `hub`, the name of a repository there."""
    hub: Hub | None = None
    """Where `name` is looked up; None means a local folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None means its main branch."""
    trust_remote_code: bool = False
    """Run the Python files in the model's folder. They are not inspected."""
    template: str = "own"
    """The chat template: the model's `own`; `think`, which keeps the model's own prompt and writes each reply as
    reasoning in think tags, the answer, and the token that ends a turn; or the path of a Jinja file."""

    @field_validator("template")
    @classmethod
    def _template_is_named(cls, template: str) -> str:
        if not template.strip():
            raise ValueError("is empty; write own, think, or the path of a Jinja file")
        return template


def _check_names(value: Any) -> Any:
    """Return a name, or a tuple of names; raise ValueError with one sentence for anything else."""
    if value is None or (isinstance(value, str) and value):
        return value
    if not isinstance(value, list | tuple):
        problem = "is empty" if value == "" else f"is {json.dumps(value, default=repr)[:60]}, not a text"
        raise ValueError(f"{problem}; write a name, or several in brackets, as in [instruction, question]")
    names: list[Any] = list(value)
    if not names or not all(isinstance(name, str) and name for name in names):
        shown = json.dumps(names, ensure_ascii=False, default=repr)[:60]
        raise ValueError(f"is {shown}; write a name or more in the brackets, as in [instruction, question]")
    return tuple(names)


Names = Annotated[str | tuple[str, ...] | None, BeforeValidator(_check_names)]


def _check_roles(value: Any) -> Any:
    """Return names by role; raise ValueError with one sentence for every mistake."""
    if not isinstance(value, dict):
        raise ValueError(f"is {json.dumps(value, default=repr)[:60]}; write it as in {{user: 学员, assistant: 教练}}")
    roles: dict[str, Any] = {}
    mistakes: list[str] = []
    for role, names in value.items():
        try:
            roles[role] = _check_names(names)
        except ValueError as error:
            mistakes.append(f"{role} {error}")
        if role not in get_args(Speaker):
            mistakes.append(f"{role} is not a role; write {', '.join(get_args(Speaker))}")
        elif names is None:
            mistakes.append(f"{role} is empty; write a name, or leave it out")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return roles


Speaker = Literal["user", "assistant", "system"]
Roles = Annotated[dict[Speaker, str | tuple[str, ...]], BeforeValidator(_check_roles)]


class ColumnsConfig(Section):
    """Names of the columns; a column that is not named here is found by its usual names, and `check` shows it."""

    question: Names = None
    """The user's question. Like the columns below, it is detected by its usual names if it is not set. Several columns,
    as in `[question, options]`, are joined by lines; `input.question` is a key of the objects in `input`."""
    reasoning: Names = None
    """The reasoning before the answer. If there is no such column, think tags inside the answer are read. Beside
    messages, it is the last reply's; `messages.inner_voice` is a key of the messages themselves."""
    answer: Names = None
    """The answer."""
    system: Names = None
    """A system prompt for this row."""
    messages: str | None = None
    """A whole conversation, as a list of messages."""
    roles: Roles = Field(default={})
    """Who speaks in messages, where they have other names than the usual ones: `{user: 学员, assistant: [教练, 助教]}`.
    Also keys, in messages that hold each speaker's text under a key."""
    keypoint: str | None = None
    """A short text that a correct answer contains. It is used for grading and is never trained."""
    mode: str | None = None
    """Whether this row is answered with reasoning: on or off, true or false, or `chat_template_kwargs`."""
    label: str | None = None
    """Whether the row's reply is a good one: true or false, or 1 or 0. The fault `marked_bad` decides about the others.
    Columns named `label` or `kto_tag` that contain true and false are detected."""


class DataConfig(Section):
    """The training rows."""

    name: str
    """A file, folder or glob of rows (JSON in any form, CSV, Parquet, Arrow, Excel, zip, also compressed) or, with
    `hub`, a name there."""
    hub: Hub | None = None
    """Where `name` is looked up; None means a local path."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None means its main branch."""
    files: str | None = None
    """Which files of a folder, data set or zip archive, or which sheets of a workbook, to read: a glob such as
    `train*.jsonl`."""
    rows: str | None = None
    """The key under which the rows are, where a file is one JSON object with several lists, as in `train` or
    `result.data`. One list is found without it."""
    license: str | None = None
    """The licence of the rows, such as cc-by-4.0, for the model card. None: the card says that none is named."""
    columns: ColumnsConfig = ColumnsConfig()
    """Names of the columns."""
    ignore: tuple[str, ...] = ()
    """Columns that are left out on purpose. Any other unused column full of text stops the run."""
    think_tags: tuple[str, str] | None = None
    """The marks around the reasoning at the start of the rows' replies, such as [<plan>, </plan>], where they are
    unusual. Think tags and other usual forms are detected without it."""
    system: str | None = None
    """The system prompt before every question, without white space at its ends."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Where `data` is a list: this source's share of the tokens that are trained (0 to 1). Its rows are repeated, or
    only some of them taken, until it has this share. None: every row once an epoch; such sources share the rest."""
    answers: Answers = "rows"
    """Where `data` is a list, of a source beside your own rows: whose answers are trained, as in `data.replay.answers`.
    Its `validation` is then 0."""
    replay: Replay | None = None
    """General rows beside these, against forgetting: a share, as in 0.1, or the settings below."""
    validation: float | str = Field(default=0.1, union_mode="left_to_right")
    """The share of rows held out for evaluation (0 to 0.5), or a file of separate rows."""
    split: Literal["hash", "shuffle"] = "hash"
    """How held-out rows are chosen: by a hash of the question (stable when rows are added), or by shuffling all
    rows."""
    seed: Seed = 42
    """Seed of the train/validation split."""
    max_tokens: Count = 2048
    """Tokens of the longest row that is trained, prompt and reply together."""
    silent_share: float = Field(default=0, ge=0, lt=1)
    """The share of the rows with reasoning that are trained without it, in the chat template's mode without thinking
    (0 to 1), so that the model keeps this mode, too. Rows that name their own mode are never chosen."""
    faults: dict[str, str] = Field(default={}, validate_default=True)
    """What happens to rows with a fault, by fault. The table below lists all faults."""
    handed_phrases: tuple[str, ...] = HANDED_PHRASES
    """Phrases that show that the reasoning was given the answer (fault `handed_answer`)."""

    @field_validator("system")
    @classmethod
    def _no_space_at_its_ends(cls, system: str | None) -> str | None:
        return (system or "").strip() or None

    @field_validator("replay", mode="before")
    @classmethod
    def _a_share_is_short_for_replay(cls, value: Any) -> Any:
        return read_replay(value)

    @field_validator("think_tags")
    @classmethod
    def _two_marks(cls, tags: tuple[str, str] | None) -> tuple[str, str] | None:
        if tags and (not all(tag.strip() for tag in tags) or tags[0] == tags[1]):
            raise ValueError(f"think_tags is {list(tags)}; write two different marks, the opening and the closing one")
        return tags

    @field_validator("faults")
    @classmethod
    def _every_fault_has_its_policy(cls, chosen: dict[str, str]) -> dict[str, str]:
        return resolve_policies(chosen)

    @model_validator(mode="after")
    def _share_is_a_share(self) -> Self:
        if isinstance(self.validation, float) and not 0 <= self.validation <= 0.5:
            raise ValueError(f"validation is {self.validation:g}; a share is between 0 and 0.5")
        return self


Weights = Annotated[dict[Part, float], BeforeValidator(resolve_weights)]


def _replayed(own: DataConfig, replay: Replay) -> DataConfig:
    """Return the replayed rows as a source, of which none is held out.

    They are no longer than one's own rows may be, so that they need no more memory.
    """
    name = BUNDLED_ROWS if replay.rows == BUNDLED else replay.rows
    return DataConfig(name=name, share=replay.share, validation=0.0, max_tokens=own.max_tokens, answers=replay.answers)


class TrainConfig(Section):
    """How the model is trained."""

    epochs: Annotated[int, Field(gt=0, le=10_000)] = 2
    """Passes over the training rows."""
    tokens_per_step: Count | None = None
    """Tokens of a step, over all devices. None means 16,384, unless `expert.rows_per_step` is set."""
    rows_per_step: Count | None = None
    """Rows of a step, over all devices, in place of `train.tokens_per_step`."""
    loss: Literal["cross_entropy", "dft"] = "cross_entropy"
    """What is minimized: the cross entropy of the trained tokens, or dft, in which each token's cross entropy is
    multiplied by the probability that the model gives it (Dynamic Fine-Tuning, arXiv 2508.05629): tokens that the
    model finds very unlikely are hardly learned. The losses shown are cross entropy either way."""
    weights: Weights = Field(default=resolve_weights({}))
    """Weights of the parts of a reply in the loss, as in `{reasoning: 0.5, answer: 1}`; both are 1 if they are not set.
    Only their ratio counts. The token that ends a reply has the answer's weight. A part that weighs 0 is not learned;
    its loss is still shown, as all losses are, without weights."""
    learning_rate: PositiveFloat = 1e-5
    """The peak learning rate."""
    schedule: LRSchedule = "cosine"
    """Learning-rate schedule after the warm-up: cosine or linear decay to zero, or constant."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of matrices. Norms and biases never decay."""
    betas: tuple[AveragingFactor, AveragingFactor] = (0.9, 0.999)
    """AdamW's beta1 and beta2."""
    clip_norm: PositiveFloat = 1.0
    """The largest gradient norm. A larger gradient is scaled down to it."""
    seed: Seed = 42
    """Seed of the row order."""
    precision: Precision = "auto"
    """Arithmetic. Auto is bf16 on an accelerator and wherever weights are bf16 (see `train.memory`), and fp32 on the
    CPU. fp8 computes the layers' matrix products of training in 8 bits, on cards that can, with a scale a matrix;
    fp8-row has a scale a row, and gradients of weights in bf16."""
    memory: Literal["auto"] | MemoryTierName = "auto"
    """Memory tier, with its bytes per parameter for weight and AdamW state: fp32 12, exact 12 (bf16 arithmetic over an
    fp32 master), exact-bf16 8, 8bit 4, 8bit-streamed 2 (and 2 of host memory), 4bit 3. Auto is the best that fits an
    accelerator, and fp32 on the CPU."""
    update_in_backward: bool | None = None
    """Update each weight as soon as its gradient is ready, and keep no gradients; a step is then one micro-batch. None
    means that the plan decides (false on the CPU)."""
    activation_budget: float | None = Field(default=None, ge=0, le=1)
    """Activation checkpointing: the share of the layers' activations kept for the backward pass. 1 keeps all; 0 keeps
    the input of each layer and computes the rest again (a quarter more work, much less memory). None means that the
    plan decides."""
    offload_activations: bool | None = None
    """Keep the layers' inputs in host memory until the backward pass, recompute the rest there, and run each layer's
    MLP in tiles of tokens, for rows so long that nothing else fits. None means that the plan decides (false on the
    CPU)."""
    batch_tokens: Count | None = None
    """Tokens of a micro-batch (one forward pass). None means that the plan decides; on the CPU it is the longest row.
    It changes speed, not results."""
    strategy: Literal["auto"] | Strategy = "auto"
    """On many cards: replicate (each card holds all weights and states), shard (each holds a part), hybrid (the cards
    of a machine share one copy). It does not change results. Auto is replicate while that fits."""
    context_parallel: Count = 1
    """Cards that share the tokens of each batch, for rows that one card cannot hold: a divisor of the number of cards
    and of the model's attention heads. A micro-batch is then one of all these cards. It does not change results."""
    log_every_steps: Count = 10
    """Steps between two lines of metrics."""
    evaluate_every_steps: Count | None = None
    """Steps between evaluations; each writes a checkpoint and samples. None means four per epoch."""
    save_every_minutes: PositiveFloat = 30
    """Minutes between two checkpoints at most, so that a killed run loses no more. Evaluations save as well."""
    time_limit: Duration | None = None
    """Time after which the run has saved and exits with code 75, such as 3.5h, 90m or 600s. None means no limit."""
    bad_numbers: FailurePolicy = "skip"
    """After a step whose loss or gradient is not finite (it changes no weight): continue, or save and stop."""
    full_disk: FailurePolicy = "skip"
    """When the disk is too full for a checkpoint: keep training and try again with the next one, or stop."""
    deterministic: bool = False
    """On an accelerator, use only operations that always give the same bits (slower). The CPU always does."""
    stop_when_overfitting: Count | None = None
    """Stop after this many evaluations in a row that are clearly above the best one. None trains to the end."""
    average: AverageRule = None
    """Average the weights of base and tuned model when training has ended, so that less is forgotten. A number is how
    many percentage points of general questions may be lost: of the models that lose no more, `final/` becomes the best
    one on held-out rows. `curve` draws the curve and keeps the tuned weights. docs/evaluation.md says how."""

    @model_validator(mode="before")
    @classmethod
    def _default_step_size(cls, values: Any) -> Any:
        keys = ("tokens_per_step", "rows_per_step")
        unset = isinstance(values, dict) and all(values.get(key) is None for key in keys)
        return {**values, "tokens_per_step": DEFAULT_TOKENS_PER_STEP} if unset else values


class PlanConfig(Section):
    """The card to plan for."""

    card: str | None = None
    """A card by its name (`rtx4090`) or its memory (`24GiB`), to plan for instead of the one in this machine. `check`
    also plans for many: `8xH100` is one machine, `4x8xH100` four machines of eight."""

    @field_validator("card", mode="before")
    @classmethod
    def _number_is_a_name(cls, card: Any) -> Any:
        return str(card) if isinstance(card, int) and not isinstance(card, bool) else card  # 4090 is what people write


class GenerateConfig(Section):
    """How replies are generated in samples, evaluation and chat."""

    max_new_tokens: Count = 2048
    """Tokens after which a reply is cut off; a cut reply is marked."""
    sample_questions: int = Field(default=3, ge=0, lt=2**31)
    """Validation questions answered at every evaluation, greedily and with the model's own sampling settings."""
    sample_share: float = Field(default=0.05, gt=0, le=1)
    """The largest share of the run's time for samples. They are cut or left out to stay below it."""
    evaluate_questions: Count = 200
    """Validation questions that `eval` asks both models."""
    evaluate_tokens: Count | None = None
    """Tokens after which `eval` cuts a reply off. None means twice the longest trained reply."""
    batch_rows: Count = 32
    """Replies generated in one batch."""


class TrackConfig(Section):
    """Trackers that get a run's metrics, besides its own folder and page."""

    swanlab: SwanlabMode = "off"
    """SwanLab: cloud (or `track.host`), local files, or offline files for a later `swanlab sync`. Auto is what
    SWANLAB_MODE says, else cloud if there is a key or a login, and offline otherwise."""
    wandb: WandbMode = "off"
    """Weights & Biases, with the package wandb: cloud (or WANDB_BASE_URL), or offline files for a later `wandb sync`.
    Auto is cloud if there is a key or a login, and offline otherwise."""
    mlflow: MlflowAddress = None
    """Address of an MLflow server, with the package mlflow-skinny, as in http://127.0.0.1:5000. Auto is what
    MLFLOW_TRACKING_URI says."""
    host: str | None = None
    """Address of your own SwanLab server. None means the public one."""
    project: str | None = None
    """Project, or experiment, at the trackers. None means what their own variables name (SWANLAB_PROJ_NAME,
    WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME), and thinktune otherwise."""
    machine: bool = False
    """Let SwanLab and W&B record the machine as well: host name, hardware and its load, command and packages."""
    tensorboard: bool = False
    """Write the same metrics for TensorBoard, into the run's folder."""


class ServeConfig(Section):
    """The chat page and the API."""

    notice: str | None = None
    """A notice that the page shows above every chat, such as 'not medical advice'."""


class Recipe(Section):
    """A whole run: what to train, on what, and how."""

    name: str | None = None
    """The run's name. None means the recipe file's name without its ending."""
    runs_folder: Path = Path("runs")
    """The folder that holds the runs."""
    model: ModelSource
    """The base model."""
    data: DataConfig
    """The training rows. A list of such sections names several sources; docs/recipe.md says how."""
    other_sources: tuple[DataConfig, ...] = ()
    """The sources after the first, where a recipe's `data` is a list."""
    train: TrainConfig = TrainConfig()
    """How the model is trained."""
    plan: PlanConfig = PlanConfig()
    """The card to plan for."""
    generate: GenerateConfig = GenerateConfig()
    """How replies are generated."""
    track: TrackConfig = TrackConfig()
    """Trackers."""
    serve: ServeConfig = ServeConfig()
    """The chat page and the API."""

    @field_validator("runs_folder")
    @classmethod
    def _home_is_no_folder_name(cls, folder: Path) -> Path:
        try:
            return expand_home(folder)
        except OSError as error:
            raise ValueError(f"is {str(folder)!r}, but {error.strerror}; name a folder") from None

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        train = self.train
        if train.precision == "fp32" and train.memory not in ("auto", "fp32"):
            raise ValueError(
                f"train.memory is {train.memory}, which computes in bf16, but expert.precision is fp32; leave one "
                "of them out"
            )
        if train.tokens_per_step and train.rows_per_step:
            raise ValueError(
                "train.tokens_per_step, expert.rows_per_step: both set the size of a step; keep one of them"
            )
        if train.offload_activations and train.activation_budget:
            raise ValueError(
                "expert.offload_activations is true, which keeps no activations on the card, but "
                f"expert.activation_budget is {train.activation_budget:g}; leave one of them out"
            )
        if train.batch_tokens is not None and train.batch_tokens < self.max_tokens:
            raise ValueError(
                f"expert.batch_tokens is {train.batch_tokens}, less than data.max_tokens {self.max_tokens}; "
                "a row is never split, so raise the first or lower the second"
            )
        return self

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        shares = [source.share for source in self.sources]
        given = [share for share in shares if share is not None]
        if len(shares) == 1 and given:
            raise ValueError("data.share is for a source among others; leave it out, or write data as a list")
        total = sum(given)
        if len(given) == len(shares) > 1 and abs(total - 1) > SHARE_TOLERANCE:
            raise ValueError(
                f"data: the shares of its {len(shares)} sources add up to {total:g}; make that 1, or leave out the "
                "share of your own rows: they get the rest"
            )
        if len(given) < len(shares) and total >= 1 - SHARE_TOLERANCE:
            raise ValueError(
                f"data: the shares add up to {total:g} and leave nothing for the sources without one; lower them"
            )
        return self

    @model_validator(mode="after")
    def _own_answers_stand_beside_rows(self) -> Self:
        for number, source in enumerate(self.sources if self.other_sources else (self.data,)):
            place = f"data.{number}" if self.other_sources else "data"
            if source.replay and self.other_sources:
                raise ValueError(
                    f"{place}.replay: is in a list of sources; write its rows as one of them, with their share"
                )
            if source.answers != "rows" and (number == 0 or source.validation != 0):
                raise ValueError(
                    f"{place}.answers: is {source.answers}, the base's own answers, which can only be used beside "
                    "your own rows, with none held out; write data as a list, this source after the first and "
                    "with validation: 0, or write data.replay"
                )
        return self

    @property
    def sources(self) -> tuple[DataConfig, ...]:
        """All sources of rows; the first is the domain, whose system prompt chat and exams use; replay is the last."""
        replayed = (_replayed(self.data, self.data.replay),) if self.data.replay else ()
        return (self.data, *self.other_sources, *replayed)

    @property
    def is_mixture(self) -> bool:
        """True if there are several sources of rows."""
        return len(self.sources) > 1

    def key_of_source(self, number: int) -> str:
        """Return the key under which this recipe has a source."""
        return f"data.{number}" if self.other_sources else "data.replay" if number else "data"

    def in_source(self, sentence: str, number: int) -> str:
        """Return a sentence about a source with its settings named as this recipe has them."""
        if self.other_sources:
            return of_source(sentence, number)
        return of_replay(sentence) if number else sentence

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest row that any source may have."""
        return max(source.max_tokens for source in self.sources)

    def of_source(self, number: int) -> Self:
        """Return the recipe of one source alone, which is then its `data`."""
        alone = self.sources[number].model_copy(update={"share": None, "replay": None})
        return self.model_copy(update={"data": alone, "other_sources": ()})

    @property
    def run_folder(self) -> Path:
        """Return the folder of this run."""
        return self.runs_folder / (self.name or "run")
