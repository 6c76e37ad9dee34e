"""GGUF: a transformers folder as the one file that llama.cpp and Ollama read, whole in it tokenizer and template."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from huggingface_hub.repocard import metadata_load

from thinktune.errors import UserError
from thinktune.export.gguf.architecture import (
    ARCHITECTURES,
    add_hyperparameters,
    class_name,
    list_unknown_options,
)
from thinktune.export.gguf.programs import (
    CONVERT,
    FOLDER_VARIABLE,
    convert_folder,
    find_program,
    quantize_gguf,
    quantized_kinds,
    unknown_kind,
)
from thinktune.export.gguf.tensors import GgufKind, GgufTensor, Tick, plan_tensors, read_tensor
from thinktune.export.gguf.tokenizer import GgufTokenizer, read_gguf_tokenizer
from thinktune.files import fsync_folder, name_path
from thinktune.model.admission import admit_model
from thinktune.model.generation_config import GENERATION_CONFIG, read_generation_config
from thinktune.tokenization import read_tokenizer

GGUF_KINDS: tuple[GgufKind, ...] = get_args(GgufKind)
EXTRA = 'gguf: the package `gguf` is not installed; run pip install "thinktune[gguf]"'

# By kind: what general.file_type calls it.
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
_SHAPE_IN_VALUES = np.dtype(np.float32)  # the writer takes a shape of uint8 as one in bytes
_KIND_SUFFIX = re.compile(r"[-.](?:" + "|".join(GGUF_KINDS) + r")$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GgufPlan:
    """What a GGUF of a folder will hold; `notes` say what llama.cpp does otherwise than the model's own tokenizer."""

    folder: Path
    kind: GgufKind
    config: Any
    tensors: tuple[GgufTensor, ...]
    tokenizer: GgufTokenizer

    @property
    def architecture(self) -> str:
        """The architecture, as llama.cpp names it."""
        return ARCHITECTURES[class_name(self.config)].name

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors; the rest of the file is the tokenizer."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each thing that llama.cpp does otherwise."""
        return self.tokenizer.notes


def gguf_fault(folder: Path) -> str | None:
    """Return why a folder's model has no GGUF that says what the model says; None where it has.

    Reads headers and the tokenizer, no weights. All mistakes stand in it, one a line. A class that llama.cpp's own
    converter is there for has none that we know.
    """
    try:
        if find_program(CONVERT) and class_name(admit_model(folder).config) not in ARCHITECTURES:
            return None
        plan_gguf(folder, "f32")
    except UserError as error:
        return str(error)
    return None


def plan_gguf(folder: Path, kind: GgufKind) -> GgufPlan:
    """Plan the GGUF of a model folder; raises one UserError with everything that llama.cpp would compute otherwise."""
    try:
        import gguf  # pyright: ignore[reportUnusedImport]  # noqa: F401
    except ImportError:
        raise UserError(EXTRA) from None
    admitted = admit_model(folder)
    config: Any = admitted.config
    if class_name(config) not in ARCHITECTURES:
        raise UserError(
            f"gguf: {folder} is a {class_name(config)}, and thinktune writes only {', '.join(ARCHITECTURES)}; put "
            f"llama.cpp's own {CONVERT} on the PATH, or name llama.cpp's folder in {FOLDER_VARIABLE}, and run the "
            "same command; or export to hf and serve that with vLLM or SGLang"
        )
    faults = [
        f"gguf: llama.cpp does not compute {option} of config.json for a {class_name(config)}; export to hf and serve "
        "that with vLLM or SGLang"
        for option in list_unknown_options(config)
    ]
    tensors: list[GgufTensor] = []
    read: GgufTokenizer | None = None
    try:
        if not faults:
            tensors = plan_tensors(config, admitted.weights, kind)
    except UserError as error:
        faults += error.faults
    try:
        read = read_gguf_tokenizer(read_tokenizer(folder), config.vocab_size, config.bos_token_id)
    except UserError as error:
        faults += error.faults
    if faults or read is None:
        raise UserError(faults)
    return GgufPlan(folder, kind, config, tuple(tensors), read)


def write_gguf(folder: Path, file: Path, kind: GgufKind, tick: Tick) -> None:
    """Write a model folder's GGUF, flushed to the disk; `tick` is told of the bytes of tensors written since.

    No tensor is ever in memory as a whole. Raises UserError as `plan_gguf` does, and where a value does not fit the
    kind; what it has written then is no GGUF.
    """
    write_planned_gguf(plan_gguf(folder, kind), file, tick)


def make_gguf(folder: Path, file: Path, kind: str, tick: Tick) -> None:
    """Write a model folder's GGUF of any kind: here, or by llama.cpp's own programs where they are installed.

    A class that is not written here goes through llama.cpp's converter; a kind that is not, through llama-quantize,
    from an unrounded file that stands beside `file` meanwhile. `tick` is told of bytes of tensors, of each pass. Raises
    UserError where neither can.
    """
    own: GgufKind | None = next((each for each in GGUF_KINDS if each == kind.lower()), None)
    if own is None:
        if kind.lower() not in quantized_kinds():
            raise UserError(unknown_kind(kind, GGUF_KINDS))
        unrounded = file.with_name(f".{file.name}.unrounded")
        try:
            make_gguf(folder, unrounded, unrounded_kind(folder), tick)
            quantize_gguf(unrounded, file, kind, tick)
        finally:
            unrounded.unlink(missing_ok=True)
    elif class_name(admit_model(folder).config) not in ARCHITECTURES and find_program(CONVERT):
        convert_folder(folder, file, own, tick)
    else:
        write_gguf(folder, file, own, tick)


def unrounded_kind(folder: Path) -> GgufKind:
    """Return the smallest kind that holds a folder's weights as they are."""
    dtypes = {tensor.dtype for tensor in admit_model(folder).weights.stored.values()}
    return "bf16" if dtypes == {"BF16"} else "f16" if dtypes == {"F16"} else "f32"


def write_planned_gguf(plan: GgufPlan, file: Path, tick: Tick) -> None:
    """Write the GGUF of a plan, as `write_gguf` does."""
    import gguf

    writer = gguf.GGUFWriter(None, plan.architecture)
    _add_general(writer, plan, _KIND_SUFFIX.sub("", file.stem))
    add_hyperparameters(writer, plan.config, len(plan.tokenizer.tokens))
    _add_tokenizer(writer, plan.tokenizer)
    for tensor in plan.tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, _SHAPE_IN_VALUES, tensor.bytes, raw_dtype=tensor.form)
    with name_path(file):
        try:
            writer.write_header_to_file(file)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            out: Any = (writer.fout or [None])[0]
            for tensor in plan.tensors:
                writer.write_padding(out, out.tell())
                start = out.tell()
                for part in read_tensor(tensor):
                    out.write(part.data)
                    tick(part.nbytes)
                assert out.tell() - start == tensor.bytes
            writer.write_padding(out, out.tell())
            out.flush()
            os.fsync(out.fileno())
        finally:
            writer.close()
    fsync_folder(file.parent)


def _add_general(writer: Any, plan: GgufPlan, name: str) -> None:
    """Add what the file says of itself: from the model card of the folder and its generation configuration alone."""
    import gguf

    writer.add_type("model")
    writer.add_name(name)
    parameters = sum(math.prod(tensor.shape) for tensor in plan.tensors)
    writer.add_size_label(gguf.size_label(parameters, parameters, 0, 0))
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[plan.kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    card = plan.folder / "README.md"
    described: dict[str, Any] = (metadata_load(card) if card.is_file() else None) or {}
    if license_name := described.get("license"):
        writer.add_license(str(license_name))
    bases = _as_list(described.get("base_model"))
    if bases:
        writer.add_base_model_count(len(bases))
    for place, base in enumerate(bases):
        writer.add_base_model_name(place, base.rpartition("/")[2])
        if base.count("/") == 1:
            writer.add_base_model_organization(place, base.partition("/")[0])
    writer.add_tags(_as_list(described.get("tags")))
    writer.add_languages(_as_list(described.get("language")))
    if (plan.folder / GENERATION_CONFIG).is_file():
        _add_sampling(writer, plan.folder)


def _as_list(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)] if value else []


def _add_sampling(writer: Any, folder: Path) -> None:
    """Add how a model wants to be sampled; one that does not sample is greedy."""
    config = read_generation_config(folder)
    if not config.do_sample:
        writer.add_sampling_temp(0.0)
        return
    settings = (
        (writer.add_sampling_temp, config.temperature),
        (writer.add_sampling_top_k, config.top_k),
        (writer.add_sampling_top_p, config.top_p),
        (writer.add_sampling_min_p, config.min_p),
        (writer.add_sampling_penalty_repeat, config.repetition_penalty),
    )
    for add, value in settings:
        if value is not None:
            add(value)


def _add_tokenizer(writer: Any, tokenizer: GgufTokenizer) -> None:
    writer.add_tokenizer_model(tokenizer.kind)
    writer.add_tokenizer_pre(tokenizer.pretokenizer)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types([int(kind) for kind in tokenizer.types])
    if tokenizer.kind == "llama":
        writer.add_token_scores(tokenizer.scores)
        writer.add_add_space_prefix(tokenizer.add_space_prefix)
    else:
        writer.add_token_merges(tokenizer.merges)
    adders = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, end in zip(adders, tokenizer.ends, strict=False):  # llama.cpp knows the rest by their texts
        add(end)
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("pad", writer.add_pad_token_id),
        ("unk", writer.add_unk_token_id),
    ):
        if name in tokenizer.special:
            add(tokenizer.special[name])
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(tokenizer.adds_eos)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
