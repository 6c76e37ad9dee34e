"""Every knob of a run and what it means: the frozen sections of a recipe, each checked as it is made."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from thinktune.config.row_faults import HANDED_PHRASES, resolve_policies

Strategy = Literal["replicate", "shard", "hybrid"]


Hub = Literal["modelscope", "huggingface"]


LRSchedule = Literal["cosine", "linear", "constant"]


Precision = Literal["auto", "fp32", "bf16", "fp8"]


SwanlabMode = Literal["off", "auto", "cloud", "local", "offline"]


MemoryTierName = Literal["fp32", "exact", "exact-bf16", "8bit", "8bit-streamed", "4bit"]


Duration = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smh]$")]


FailurePolicy = Literal["skip", "stop"]


AveragingFactor = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen group of knobs. A key it does not know is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class ModelConfig(Section):
    """The model to start from."""

    name: str
    """A local folder, or with `hub` the name of a repository there."""
    hub: Hub | None = None
    """Where `name` is looked up; none means a local folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; none means its main branch."""
    trust_remote_code: bool = False
    """Run the Python files that the model's folder brings along; what they do is not looked at."""


class ColumnsConfig(Section):
    """Which column of the rows holds what; what is not said is found by its usual names, and shown."""

    question: str | None = None
    """What the user asks; left out, as the others here, it is found by its usual names."""
    reasoning: str | None = None
    """What the model thinks before it answers; where no column holds it, think tags inside the answer do."""
    answer: str | None = None
    """What the model answers."""
    system: str | None = None
    """The row's own system prompt."""
    messages: str | None = None
    """A whole conversation, as a list of messages."""
    keypoint: str | None = None
    """A short text that a right answer holds; used for grading only, never trained."""


class DataConfig(Section):
    """What the model learns from."""

    name: str
    """A file, folder or glob of rows (JSON lines, JSON, CSV, Parquet, also .gz), or with `hub` a name there."""
    hub: Hub | None = None
    """Where `name` is looked up; none means a local path."""
    revision: str | None = None
    """Branch, tag or commit on the hub; none means its main branch."""
    files: str | None = None
    """Which files of a folder or data set to read, as a glob such as `train*.jsonl`."""
    columns: ColumnsConfig = ColumnsConfig()
    """Which column holds what."""
    ignore: tuple[str, ...] = ()
    """Columns that are knowingly not used; any other column full of text stops the run."""
    system: str | None = None
    """The system prompt put before every question, without white space at its ends."""
    validation: float | str = Field(default=0.1, union_mode="left_to_right")
    """A share of the rows held out for evaluation (0 to 0.5), or a file of rows of its own."""
    split: Literal["hash", "shuffle"] = "hash"
    """How the share is chosen: by a hash of the question (stable when rows are added), or by shuffling all rows."""
    seed: int = 42
    """Seed of the split."""
    max_tokens: PositiveInt = 2048
    """The longest row, prompt and reply together, in tokens."""
    faults: dict[str, str] = Field(default={}, validate_default=True)
    """What happens to a row with a fault, fault by fault; the table below lists them."""
    handed_phrases: tuple[str, ...] = HANDED_PHRASES
    """Phrases by which reasoning admits that it was handed the answer, for the fault of that name."""

    @field_validator("system")
    @classmethod
    def _no_space_at_its_ends(cls, system: str | None) -> str | None:
        return (system or "").strip() or None

    @field_validator("faults")
    @classmethod
    def _every_fault_has_its_policy(cls, chosen: dict[str, str]) -> dict[str, str]:
        return resolve_policies(chosen)

    @model_validator(mode="after")
    def _share_is_a_share(self) -> Self:
        if isinstance(self.validation, float) and not 0 <= self.validation <= 0.5:
            raise ValueError(f"validation is {self.validation:g}; a share lies between 0 and 0.5")
        return self


class TrainConfig(Section):
    """How the weights move."""

    epochs: PositiveInt = 2
    """Passes over the training rows."""
    tokens_per_step: PositiveInt | None = None
    """Size of a step in tokens, over all devices; give this or `rows_per_step`."""
    rows_per_step: PositiveInt | None = None
    """Size of a step in rows, over all devices; give this or `tokens_per_step`."""
    learning_rate: PositiveFloat = 1e-5
    """The peak learning rate."""
    schedule: LRSchedule = "cosine"
    """Shape of the learning rate after the warm-up: falling to zero, or constant."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of matrices; norms and biases never decay."""
    betas: tuple[AveragingFactor, AveragingFactor] = (0.9, 0.999)
    """AdamW's two averaging factors."""
    clip_norm: PositiveFloat = 1.0
    """The largest gradient norm; a larger gradient is scaled down to it."""
    seed: int = 42
    """Seed of the row order."""
    precision: Precision = "auto"
    """Arithmetic; auto is bf16 on an accelerator and wherever weights are bf16 (see `memory`), fp32 on the CPU; fp8 has
    the layers' matrix products in 8 bits, where the card has them (needs the extra `fp8`)."""
    memory: Literal["auto"] | MemoryTierName = "auto"
    """Bytes a weight and AdamW's state: fp32 12, exact 12 (computes in bf16 over an fp32 master), exact-bf16 8, 8bit 4,
    8bit-streamed 2 (and 2 of the host's memory), 4bit 3; auto is the best that fits an accelerator, fp32 on the CPU."""
    update_in_backward: bool | None = None
    """Move each weight as soon as its gradient is there, and keep no gradient; a step must fit into one batch. None
    means that the plan decides; false on the CPU."""
    activation_budget: float | None = Field(default=None, ge=0, le=1)
    """Share of the layers' activations that is kept for the backward pass: 1 keeps all, 0 only what enters each layer
    and computes the rest again (a quarter more work, much less memory); none means what suits the device."""
    batch_tokens: PositiveInt | None = None
    """Tokens in one forward pass; none means that the plan decides, on the CPU the longest row. Changes speed, not
    results."""
    strategy: Literal["auto"] | Strategy = "auto"
    """On many cards: replicate (each keeps all weights and states), shard (each keeps its share), hybrid (a machine's
    cards share one copy); none of them changes results. Auto is replicate while that fits, as the plan says."""
    log_every_steps: PositiveInt = 10
    """Steps between two lines of metrics."""
    evaluate_every_steps: PositiveInt | None = None
    """Steps between evaluations (each writes a checkpoint and samples); none means four an epoch."""
    save_every_minutes: PositiveFloat = 30
    """The most minutes between two checkpoints, so that a killed run loses no more; evaluations bring their own."""
    time_limit: Duration | None = None
    """When to have saved and ended with exit code 75, as in 3.5h, 90m or 600s since the start; none means no limit."""
    bad_numbers: FailurePolicy = "skip"
    """After a step whose loss or gradient is not finite, which moves no weight: go on, or save and stop."""
    full_disk: FailurePolicy = "skip"
    """When a checkpoint finds no room on the disk: train on and try again with the next, or stop."""
    deterministic: bool = False
    """On an accelerator use only operations that always give the same bits, which is slower; the CPU always does."""
    stop_when_overfitting: PositiveInt | None = None
    """Stop once so many evaluations in a row stand clearly above the best one; none trains to the end."""


class PlanConfig(Section):
    """What a run is planned for."""

    card: str | None = None
    """A card by its name (`rtx4090`) or by its memory (`24GiB`), to plan for instead of the one at hand; `check` also
    plans for many, as in `8xH100` (one machine) or `4x8xH100` (four machines of eight)."""


class GenerateConfig(Section):
    """How replies are written, in samples, evaluation and chat."""

    max_new_tokens: PositiveInt = 2048
    """Where a reply is cut off; a cut reply is marked."""
    sample_questions: int = Field(default=3, ge=0)
    """How many validation questions are answered at every evaluation, greedily and with the model's own sampling."""
    sample_share: float = Field(default=0.05, gt=0, le=1)
    """The largest share of the run's time that these answers may take; they are cut or left out to stay below it."""
    evaluate_questions: PositiveInt = 200
    """How many validation questions `eval` asks both models."""
    evaluate_tokens: PositiveInt | None = None
    """Where `eval` cuts a reply off; none means twice the longest reply that was trained on."""
    batch_rows: PositiveInt = 32
    """Replies written side by side."""


class TrackConfig(Section):
    """Where a run's records go, besides its own folder and page."""

    swanlab: SwanlabMode = "off"
    """SwanLab: cloud (or `host`), local files, offline files for a later `swanlab sync`; auto is cloud where there is a
    key or a login, else offline."""
    host: str | None = None
    """Address of a SwanLab server of one's own; none means the public one."""
    project: str | None = None
    """SwanLab's project; none means SWANLAB_PROJECT, else thinktune."""
    machine: bool = False
    """Let SwanLab record the machine too: host name, hardware and its load, command and packages."""
    tensorboard: bool = False
    """Write the same records for TensorBoard, into the run's folder."""


class ServeConfig(Section):
    """How the page and the API present the model."""

    notice: str | None = None
    """A line of caution that the page shows above every chat, as in 'not medical advice'."""


class Recipe(Section):
    """A whole run."""

    name: str | None = None
    """The run's name; none means the recipe file's stem."""
    runs_folder: Path = Path("runs")
    """Where runs are written."""
    model: ModelConfig
    """What to start from."""
    data: DataConfig
    """What to learn."""
    train: TrainConfig
    """How to learn it."""
    plan: PlanConfig = PlanConfig()
    """What to plan its memory for."""
    generate: GenerateConfig = GenerateConfig()
    """How replies are written."""
    track: TrackConfig = TrackConfig()
    """Where its records go."""
    serve: ServeConfig = ServeConfig()
    """How the model is presented."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        train = self.train
        if train.precision == "fp32" and train.memory not in ("auto", "fp32"):
            raise ValueError(
                f"train.memory is {train.memory}, whose weights compute in bf16, but train.precision is fp32; "
                "leave one of the two out"
            )
        if (train.tokens_per_step is None) == (train.rows_per_step is None):
            raise ValueError("train.tokens_per_step, train.rows_per_step: give exactly one of the two")
        if train.batch_tokens is not None and train.batch_tokens < self.data.max_tokens:
            raise ValueError(
                f"train.batch_tokens is {train.batch_tokens}, less than data.max_tokens {self.data.max_tokens}; "
                "a row is never split, so raise the one or lower the other"
            )
        return self

    @property
    def run_folder(self) -> Path:
        """Where this run is written."""
        return self.runs_folder / (self.name or "run")


EngineChoice = Literal["auto", "here", "vllm"]
