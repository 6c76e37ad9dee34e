"""Target `hf`: the model's folder copied to another place, and transformers itself, by which an export is asked."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from thinktune.checkpoint.base_files import CONFIG_FILE
from thinktune.checkpoint.manifest import MANIFEST
from thinktune.checkpoint.portable_config import with_older_keys
from thinktune.checkpoint.store import STATE_FOLDER, TRAINER_STATE_FILE
from thinktune.errors import UserError, shorten_error
from thinktune.export.source import ModelSource
from thinktune.files import name_path, read_json, write_json
from thinktune.library_output import captured_output
from thinktune.model import pick_device
from thinktune.model.folder import weight_files
from thinktune.tokenization import Turn

Tick = Callable[[int], None]  # told the bytes done since the last call

_CHUNK_BYTES = 8 * 2**20
# Weights in other forms, or not in the index: another model's, or a second copy of this one's.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".tflite", ".npz")


def write_hf(source: ModelSource, folder: Path, tick: Tick) -> None:
    """Copy a model's folder into an empty one, byte for byte.

    What is no part of a model stays behind: hidden files, a checkpoint's training state, weights in other forms. A
    configuration that only transformers 5 reads gets the keys of earlier releases. Raises OSError that names the file.
    """
    for path in model_files(source):
        target = folder / path.relative_to(source.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, target, tick)
    described: dict[str, Any] = read_json(folder / CONFIG_FILE)
    if (portable := _portable(described, folder)) != described:
        write_json(folder / CONFIG_FILE, portable)


def model_files(source: ModelSource) -> list[Path]:
    """List the files that make up a model, by name: what `write_hf` copies."""
    weights = set(weight_files(source.folder))
    left_out = {MANIFEST} if source.folder == _final_of(source) else {MANIFEST, TRAINER_STATE_FILE}
    found: list[Path] = []
    for path in sorted(source.folder.rglob("*")):
        parts = path.relative_to(source.folder).parts
        if any(part.startswith(".") for part in parts) or parts[0] == STATE_FOLDER or path.name in left_out:
            continue
        if path.is_file() and (path in weights or path.suffix not in _WEIGHTS):
            found.append(path)
    return found


def _final_of(source: ModelSource) -> Path | None:
    """Return the final model's folder of a run: its state says how the run ended, a checkpoint's how it goes on."""
    return source.run.final if source.run else None


def _copy(path: Path, target: Path, tick: Tick) -> None:
    with name_path(path), path.open("rb") as read, name_path(target), target.open("wb") as written:
        while chunk := read.read(_CHUNK_BYTES):
            written.write(chunk)
            tick(len(chunk))


def _portable(described: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a configuration in transformers 5's form with what earlier releases read; any other as it is."""
    if "rope_parameters" not in described:
        return described
    try:
        with captured_output():
            saved: dict[str, Any] = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    except Exception:  # code of the folder's own, or a class of tomorrow: its own form is all that there is
        return described
    found = with_older_keys(described, saved)
    return {"torch_dtype": found["dtype"]} | found if "dtype" in found else found


class TransformersModel:
    """A model folder in transformers, in fp32: its own template, tokenizer, forward pass and end tokens.

    Nothing of ours computes here, so that what it says is what any user of transformers gets. On this machine's
    accelerator where it fits there, else on the CPU. Raises UserError where transformers does not load it.
    """

    def __init__(self, folder: Path, *, trust_remote_code: bool = False) -> None:
        options: Any = {"local_files_only": True, "trust_remote_code": trust_remote_code}
        try:
            with captured_output():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **options)
                model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
        except Exception as error:  # whatever its parsers raise
            raise UserError(f"hf: {folder} cannot be loaded by transformers ({shorten_error(error)})") from error
        self._model: Any = _place(model.eval())
        ends = model.generation_config.eos_token_id
        self._ends: list[int] = ends if isinstance(ends, list) else [] if ends is None else [ends]
        model.generation_config = GenerationConfig()  # its sampling and penalties are no part of a greedy reply

    def render(self, turns: Sequence[Turn], *, thinking: bool) -> str:
        """Return the prompt for the next reply, as the folder's own chat template writes it."""
        messages = [
            {"role": turn.role, "content": turn.content}
            | ({"reasoning_content": turn.reasoning} if turn.role == "assistant" else {})
            for turn in turns
        ]
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
            )
        )

    def tokenize(self, text: str) -> list[int]:
        """Return a text's tokens by the folder's own tokenizer; control tokens in it take effect, none is added."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (tokens, vocabulary) after each token."""
        asked = torch.tensor([list(ids)], device=self._model.device)
        return self._model(input_ids=asked, use_cache=False).logits[0].float().cpu().numpy()

    def reply(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """Return the greedy reply to a prompt, with the end token where it has one; the folder's own tokens end it."""
        asked = torch.tensor([list(ids)], device=self._model.device)
        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._ends or None,
            pad_token_id=self._ends[0] if self._ends else 0,
        )
        with captured_output():
            made = self._model.generate(asked, attention_mask=torch.ones_like(asked), generation_config=greedy)
        return made[0, len(ids) :].tolist()

    def close(self) -> None:
        """Give the memory back; the model cannot be asked any more."""
        device = self._model.device
        self._model = None
        gc.collect()
        if device.type != "cpu":
            torch.get_device_module(device).empty_cache()


def _place(model: Any) -> Any:
    """Move a model to this machine's accelerator, or leave it on the CPU where it does not fit."""
    try:
        return model.to(pick_device())
    except torch.OutOfMemoryError:
        return model.to("cpu")
