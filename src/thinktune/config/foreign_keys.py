"""Settings of other trainers by their names, and what they are here.

The names are those of transformers and TRL, LLaMA-Factory, ms-swift, axolotl and Unsloth.
"""

from dataclasses import dataclass

from pydantic import BaseModel

from thinktune.config.schema import Recipe


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """What another trainer's setting is here: our keys, if there are any, and what happens in its place."""

    keys: tuple[str, ...]
    note: str = ""

    @property
    def answer(self) -> str:
        """The answer as the end of a sentence."""
        if not self.keys:
            return f"leave it out: {self.note}"
        return f"here it is {' or '.join(self.keys)}" + (f" ({self.note})" if self.note else "")


_NO_LORA = ForeignKey(
    ("train.memory",),
    "there is no LoRA: all parameters are trained, and a small card gets a smaller memory tier automatically",
)
_STEP = ForeignKey(
    ("train.tokens_per_step", "expert.rows_per_step"),
    "the size of a step over all devices; the batch on each card is planned automatically",
)
_SAVING = ForeignKey(
    ("train.evaluate_every_steps", "train.save_every_minutes"),
    "every evaluation saves a checkpoint; the last and the best are kept",
)
_KEPT = ForeignKey((), "the last checkpoint and the best one are kept, and final/ is the best")
_RESUMED = ForeignKey((), "the same command resumes a run, and another name starts a new one")
_PACKED = ForeignKey((), "rows are always packed; none is cut, and none sees another")
_ATTENTION = ForeignKey((), "the best attention for the card is used, with nothing extra to install")
_FUSED = ForeignKey((), "the loss never holds all logits, and layers are compiled where possible")
_REPLIES = ForeignKey((), "replies are trained and prompts are not, in the format of the model's own chat template")
_SUPERVISED = ForeignKey((), "a recipe always describes supervised fine-tuning of all parameters")
_PROCESSES = ForeignKey((), "rows are prepared once, in as many processes as help, and cached")
_TRACKERS = ForeignKey(("track.swanlab", "track.wandb", "track.mlflow", "track.tensorboard"))

_ANSWERS: dict[tuple[str, ...], ForeignKey] = {
    ("batch_size", "per_device_train_batch_size", "train_batch_size", "micro_batch_size"): _STEP,
    ("gradient_accumulation_steps", "grad_accumulation_steps", "gradient_accumulation"): _STEP,
    ("per_device_eval_batch_size", "eval_batch_size"): ForeignKey((), "evaluation batches are planned automatically"),
    ("num_train_epochs", "num_epochs", "n_epochs", "max_epochs", "max_steps", "epoch"): ForeignKey(
        ("train.epochs",), "whole passes over the rows"
    ),
    ("lr", "peak_lr", "max_lr"): ForeignKey(("train.learning_rate",)),
    ("lr_scheduler_type", "lr_scheduler", "scheduler"): ForeignKey(("train.schedule",), "cosine, linear or constant"),
    ("warmup_ratio", "warmup_steps"): ForeignKey(("train.warmup_fraction",), "a share of all steps"),
    (
        *("cutoff_len", "max_seq_length", "max_seq_len", "max_length", "sequence_len", "model_max_length"),
        *("block_size", "seq_length"),
    ): ForeignKey(
        ("data.max_tokens",),
        "a longer row is dropped and counted, or trimmed under data.faults: {too_long: …}; none is cut",
    ),
    (
        *("lora_rank", "lora_r", "lora_alpha", "lora_dropout", "lora_target", "lora_target_modules", "lora"),
        *("lora_target_linear", "target_modules", "peft_config", "use_peft", "adapter", "use_dora", "use_rslora"),
        *("load_in_4bit", "load_in_8bit", "quantization_bit", "finetuning_type", "train_type", "tuner_type"),
        *("full_finetuning", "freeze_vit", "galore", "use_galore"),
    ): _NO_LORA,
    ("bf16", "fp16", "tf32", "pure_bf16", "torch_dtype", "dtype", "mixed_precision"): ForeignKey(
        ("expert.precision",), "by default bf16 on a card, with weights that keep every update"
    ),
    ("output_dir", "overwrite_output_dir", "logging_dir"): ForeignKey(
        ("runs_folder", "name"), "the run folder is runs_folder/name, and the name is that of the recipe file"
    ),
    ("run_name", "exp_name"): ForeignKey(("name",)),
    (
        *("dataset", "datasets", "dataset_name", "dataset_path", "dataset_dir", "train_dataset", "train_file"),
        *("train_files", "data_path", "data_files", "custom_train_dataset_path"),
    ): ForeignKey(("data.name",), "a file, a folder or a glob of rows"),
    (
        *("val_dataset", "eval_dataset", "val_size", "test_size", "val_set_size", "split_dataset_ratio"),
        *("validation_file", "eval_file", "validation_split"),
    ): ForeignKey(("data.validation",), "a share of the rows, or a file of others"),
    (
        *("model_name_or_path", "model_name", "base_model", "model_id", "model_id_or_path", "model_path"),
        "pretrained_model_name_or_path",
    ): ForeignKey(("model.name",), "a local folder, or a name on the hub in model.hub"),
    ("use_hf", "use_modelscope_hub", "model_source"): ForeignKey(
        ("model.hub", "data.hub"), "modelscope or huggingface"
    ),
    ("model_revision",): ForeignKey(("model.revision",)),
    ("chat_template", "template_type"): ForeignKey(("model.template",), "by default the model's own"),
    ("tokenizer", "tokenizer_name", "tokenizer_type", "tokenizer_config", "special_tokens"): ForeignKey(
        (), "the model's own tokenizer is used and saved"
    ),
    ("system_prompt", "default_system"): ForeignKey(("data.system",)),
    ("data_seed",): ForeignKey(("train.seed", "expert.split_seed")),
    ("adam_beta1", "adam_beta2", "adam_betas"): ForeignKey(("expert.betas",)),
    ("adam_epsilon", "adam_eps"): ForeignKey((), "AdamW's epsilon is 1e-8"),
    ("max_grad_norm", "gradient_clipping", "grad_clip", "clip_grad"): ForeignKey(("train.clip_norm",)),
    ("optim", "optimizer", "optim_type"): ForeignKey(("train.memory",), "AdamW; the tier sets how its state is stored"),
    ("gradient_checkpointing", "use_gradient_checkpointing", "gradient_checkpointing_kwargs"): ForeignKey(
        ("expert.activation_budget",), "by default planned"
    ),
    ("deepspeed", "fsdp", "fsdp_config", "zero_stage", "deepspeed_config"): ForeignKey(
        ("train.strategy",), "by default planned; torchrun or plain thinktune train starts it"
    ),
    (
        *("packing", "neat_packing", "sample_packing", "eval_sample_packing", "padding_free", "group_by_length"),
        *("pad_to_sequence_len", "length_column_name"),
    ): _PACKED,
    (
        *("flash_attn", "attn_implementation", "attn_impl", "use_flash_attention_2", "use_flash_attn"),
        *("flash_attention", "sdp_attention", "xformers_attention"),
    ): _ATTENTION,
    ("enable_liger_kernel", "use_liger_kernel", "use_liger", "use_unsloth", "torch_compile"): _FUSED,
    ("logging_steps", "log_interval"): ForeignKey(("expert.log_every_steps",)),
    ("eval_steps", "eval_strategy", "evaluation_strategy", "evals_per_epoch", "do_eval"): ForeignKey(
        ("train.evaluate_every_steps",), "by default four times an epoch"
    ),
    ("save_steps", "save_strategy", "saves_per_epoch"): _SAVING,
    ("save_total_limit", "load_best_model_at_end", "metric_for_best_model", "save_only_model"): _KEPT,
    ("resume_from_checkpoint", "auto_resume_from_checkpoints", "auto_resume"): _RESUMED,
    ("report_to", "use_swanlab", "use_wandb", "swanlab_mode"): _TRACKERS,
    ("swanlab_project", "wandb_project"): ForeignKey(("track.project",)),
    ("mlflow_tracking_uri",): ForeignKey(("track.mlflow",)),
    ("loss_scale",): ForeignKey(("train.weights",), "the weights of reasoning and answer; prompts are never trained"),
    ("early_stopping", "early_stopping_patience"): ForeignKey(("train.stop_when_overfitting",), "evaluations in a row"),
    (
        *("train_on_inputs", "completion_only_loss", "assistant_only_loss", "train_on_responses_only"),
        *(
            "mask_history",
            "response_template",
            "dataset_text_field",
            "formatting_func",
            "train_on_prompt",
        ),
    ): _REPLIES,
    ("neftune_noise_alpha", "noisy_embedding_alpha"): ForeignKey((), "no noise is added to embeddings"),
    ("preprocessing_num_workers", "dataset_num_proc", "dataset_processes", "dataloader_num_workers"): _PROCESSES,
    ("stage", "do_train", "rl", "rlhf_type", "trainer_type", "task_type"): _SUPERVISED,
    ("max_samples", "max_train_samples"): ForeignKey((), "all rows of the file are read; use a file with fewer"),
    ("prompt_column", "response_column", "query", "response", "field_messages"): ForeignKey(("data.columns",)),
}

FOREIGN_KEYS: dict[str, ForeignKey] = {name: answer for names, answer in _ANSWERS.items() for name in names}


def answer_foreign_key(name: str) -> str | None:
    """Return what another trainer's setting is here, as the end of a sentence; None where none of them has it."""
    found = FOREIGN_KEYS.get(name.lower().lstrip("-").replace("-", "_"))
    return found and found.answer


def own_places(name: str) -> list[str]:
    """List the schema's fields of that name, as in `train.learning_rate`."""
    return [
        f"{section}.{name}"
        for section, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type)
        and issubclass(field.annotation, BaseModel)
        and name in field.annotation.model_fields
    ]
