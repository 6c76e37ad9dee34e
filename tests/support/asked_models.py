"""An engine that asks a model folder as a stranger would: transformers alone, nothing of ours."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class PlainTransformers:
    """A model folder under transformers' own tokenizer, chat template, forward pass and `generate`."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        self.closed = False

    def render(self, turns, *, thinking):
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )

    def tokenize(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def logits(self, ids):
        return self.model(torch.tensor([list(ids)])).logits[0].float().numpy()

    def reply(self, ids, max_new_tokens):
        prompt = torch.tensor([list(ids)])
        made = self.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, do_sample=False,
            num_beams=1, top_k=None, top_p=None, temperature=None,
        )  # fmt: skip
        return made[0, prompt.shape[1] :].tolist()

    def close(self):
        self.closed = True
