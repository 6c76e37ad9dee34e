"""Programs of llama.cpp: where they are found, what they can, and what is said when they fail."""

import os
import stat

import pytest
from support.gguf_models import make_gguf_model
from support.tiny_models import tiny_model

from thinktune.errors import UserError
from thinktune.export.gguf.file import gguf_fault, make_gguf
from thinktune.export.gguf.programs import find_program, quantize_gguf, quantized_kinds

pytest.importorskip("gguf")

HELP = """
usage: llama-quantize [--help] model-f32.gguf [model-quant.gguf] type [nthreads]
 allowed quantization types
   2  or  Q4_0    :  4.34G, +0.4685 ppl @ Llama-3-8B
  15  or  Q4_K_M  :  4.58G, +0.1754 ppl @ Llama-3-8B
  15  or  Q4_K    : alias for Q4_K_M
          COPY    : only copy tensors, no quantizing
"""
QUANTIZE = f"""#!/bin/sh
if [ "$1" = --help ]; then echo '{HELP}'; exit 1; fi
for at in 1 2 3 4; do echo "[   $at/   4] blk.$at.weight - [64, 64], type = f32, converting"; done
cat "$1" > "$2"; echo "$3" >> "$2"
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return a function that adds a program to the folder that LLAMA_CPP names; none is on the PATH."""
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "llama.cpp"))

    def add(name, text):
        path = tmp_path / "llama.cpp" / "build" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return add


def test_a_program_is_found_in_the_folder_that_llama_cpp_names_and_on_the_path(programs, tmp_path, monkeypatch):
    assert find_program("llama-quantize") is None
    path = programs("llama-quantize", QUANTIZE)
    assert find_program("llama-quantize") == path
    monkeypatch.delenv("LLAMA_CPP")
    monkeypatch.setenv("PATH", str(path.parent) + os.pathsep + os.environ["PATH"])
    assert find_program("llama-quantize") == path


def test_kinds_are_read_from_the_programs_own_help(programs):
    assert quantized_kinds() == ()
    programs("llama-quantize", QUANTIZE)
    assert quantized_kinds() == ("q4_0", "q4_k_m", "q4_k")


def test_quantizing_shows_its_progress_and_leaves_no_unrounded_file(programs, tmp_path):
    programs("llama-quantize", QUANTIZE)
    folder, done = make_gguf_model(tmp_path / "m", "smollm2", dtype="bfloat16"), []
    make_gguf(folder, tmp_path / "m-q4_k_m.gguf", "q4_k_m", done.append)
    made = (tmp_path / "m-q4_k_m.gguf").read_bytes()
    assert made.endswith(b"Q4_K_M\n")
    assert done[-5:-1] == [(len(made) - 7) * at // 4 - (len(made) - 7) * (at - 1) // 4 for at in (1, 2, 3, 4)]
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == ["m-q4_k_m.gguf"]
    assert not [*tmp_path.glob(".*")]


def test_a_program_that_fails_is_quoted(programs, tmp_path):
    programs("llama-quantize", QUANTIZE.replace("cat ", "echo 'no space left' >&2; exit 3; cat "))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"llama-quantize failed with 3: .*no space left"):
        quantize_gguf(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_0", lambda _: None)
    with pytest.raises(UserError, match=r"does not know the kind 'q9'; choose one of q4_0, q4_k_m, q4_k"):
        quantize_gguf(tmp_path / "a.gguf", tmp_path / "b.gguf", "q9", lambda _: None)


def test_a_program_that_does_not_run_is_said_to_be_broken(programs, tmp_path):
    programs("llama-quantize", "#!/bin/sh\necho error while loading shared libraries >&2; exit 127\n")
    with pytest.raises(UserError, match=r"llama-quantize lists no kinds, .* build llama\.cpp again"):
        quantize_gguf(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_0", lambda _: None)


def test_llama_cpps_own_converter_takes_the_other_classes(programs, tmp_path):
    folder = tmp_path / "phi3"
    tiny_model("phi3").save_pretrained(folder)
    assert gguf_fault(folder)
    programs(
        "convert_hf_to_gguf.py",
        "import sys, pathlib\npathlib.Path(sys.argv[3]).write_text(' '.join(sys.argv[1:2] + sys.argv[4:]))\n",
    )
    assert gguf_fault(folder) is None
    done = []
    make_gguf(folder, tmp_path / "m.gguf", "f16", done.append)
    assert (tmp_path / "m.gguf").read_text() == f"{folder} --outtype f16"
    assert sum(done) == (tmp_path / "m.gguf").stat().st_size
