"""What engines are told of a model, with everything settled but what a test changes."""

from support.chat_templates import KINDS, tokenizer_of
from thinktune.export.chat_form import measure_form
from thinktune.export.serving_settings import ServingSettings
from thinktune.inference.requests import SamplingParams
from thinktune.tokenization.tags import Tags

KIND = KINDS["drops the reasoning"]


def settings_of(tmp_path, **changes):
    tokenizer = tokenizer_of(KIND.template, KIND.eos, KIND.stops)
    values = {
        "folder": tmp_path, "name": "mine", "system": None, "sampling": SamplingParams(512, 0.6, 0.95, 20),
        "context_tokens": 8192, "template": KIND.template, "form": measure_form(tokenizer), "unformed": "",
        "tags": Tags(), "opened": False, "switched": True, "unasked": False, "single_tags": True, "trimmed": False,
        "stops": ("<|im_end|>", "<|endoftext|>"), "bos": None,
    }  # fmt: skip
    return ServingSettings(**(values | changes))
