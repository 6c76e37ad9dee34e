"""Libraries that make noise as they are imported, in every way that a library can, planted by a `sitecustomize`."""

import os
from pathlib import Path

NOISE = "a library made this noise"
SITECUSTOMIZE = f'''
import importlib.abc, logging, os, sys, warnings
NAMES = {{
    "torch", "numpy", "tokenizers", "safetensors", "transformers", "transformers.modeling_utils",
    "transformers.tokenization_utils_tokenizers", "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.qwen3.configuration_qwen3", "torchao", "uvicorn", "fastapi",
}}

def make_noise(name):
    text = f"{NOISE}: {{name}}"
    print(text)
    print(text, file=sys.stderr)
    os.write(1, text.encode())
    os.write(2, text.encode())
    warn(text)
    logging.getLogger(name).warning(text)
    logger = logging.getLogger("noise")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.info(text)

def warn(text):
    for kind in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.warn(text, kind, stacklevel=3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(text)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in NAMES:
            NAMES.discard(name)
            make_noise(name)
        return None

sys.meta_path.insert(0, Finder())
'''


def plant(folder: Path) -> dict[str, str]:
    """Plant the noise in a folder, and return the environment of processes that shall hear it."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    paths = [str(folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
