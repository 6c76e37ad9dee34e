"""Make the run that docs/reading-your-run.md shows: `python docs/overfitting_run.py runs/overfitting` (CPU, minutes).

A small Qwen3 of random weights learns 110 facts and is asked about 40 others, of which it can know only how they are
worded: that it learns in the first epochs, and after that only the training rows. A second run, `stopped`, is the same
with `train.stop_when_overfitting: 2`.
"""

import sys
from pathlib import Path

from thinktune.config import loading as recipes
from thinktune.demo.pipeline import read_bundled
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer
from thinktune.files import atomic_write_text, write_json_lines
from thinktune.report.comparison_page import write_comparison
from thinktune.train.loop import train

TRAINED_FACTS = 110
SIZE = ModelShape(hidden_size=96, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=24, intermediate_size=288)
RECIPE = """\
model: {{name: {folder}/start}}
data:
  name: {folder}/train.jsonl
  validation: {folder}/held-out.jsonl
  columns: {{reasoning: think, keypoint: keypoint}}
  max_tokens: 512
train:
  epochs: 12
  tokens_per_step: 1024
  learning_rate: 4e-3
  warmup_fraction: 0.05
  log_every_steps: 4
  evaluate_every_steps: 20
  stop_when_overfitting: {patience}
generate: {{max_new_tokens: 96, sample_questions: 3, sample_share: 0.2}}
runs_folder: {folder}
"""


def main(folder: Path) -> None:
    """Write rows, model and recipes, train both runs, and set them side by side."""
    facts = read_bundled("form.jsonl")
    rows = {"train": facts[:TRAINED_FACTS], "held-out": facts[TRAINED_FACTS:]}
    for name, chosen in rows.items():
        kept = [
            {"question": question, "think": fact["reasoning"], "answer": fact["answer"], "keypoint": fact["keypoint"]}
            for fact in chosen
            for question in fact["questions"][:2]
        ]
        write_json_lines(folder / f"{name}.jsonl", kept)
    if not (folder / "start").exists():
        tokenizer = make_tokenizer([text for fact in facts for text in (fact["reasoning"], fact["answer"])], 1500)
        tokenizer.save_pretrained(folder / "start")
        model = make_model(tokenizer, SIZE)
        model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.95, top_k=20)  # as Qwen3 ships them
        model.save_pretrained(folder / "start")
    runs: list[Path] = []
    for name, patience in (("overfitting", "null"), ("stopped", "2")):
        atomic_write_text(folder / f"{name}.yaml", RECIPE.format(folder=folder.as_posix(), patience=patience))
        runs.append(train(recipes.load_recipe(folder / f"{name}.yaml"), print))
    print(f"side by side: {write_comparison(runs)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
