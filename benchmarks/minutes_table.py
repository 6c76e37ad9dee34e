"""Minutes of the medical recipe's two epochs, by card and model, as a Markdown table: predicted, not measured.

`python benchmarks/minutes_table.py`: 2,166 rows of 775 tokens, as Qwen3's tokenizer makes them; steps of 16,384 tokens,
an evaluation of 241 rows four times an epoch. The plan's setting for each card, and its speed from poor to good. Takes
minutes: a plan is a few seconds.
"""

from thinktune.planner.hardware import find_card
from thinktune.planner.model_choice import KNOWN_MODELS, KnownModel, plan_for
from thinktune.planner.run_time import RunTokens, run_seconds, spell_range

CARDS = ("T4", "RTX 3090", "RTX 4090", "L40S", "A100-80GB", "H100", "H200")
MODELS = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B")
ROWS, HELD_OUT_ROWS, ROW_TOKENS, EPOCHS, EVALUATIONS = 2_166, 241, 775, 2, 9
TOKENS = RunTokens(ROWS * ROW_TOKENS * EPOCHS, HELD_OUT_ROWS * ROW_TOKENS * EVALUATIONS, sample_share=0.05)


def cell(model: KnownModel, card: str) -> str:
    """Return the tier and the predicted time, or a dash where nothing fits."""
    chosen = plan_for(model, find_card(card)).chosen
    if chosen is None or chosen.speed_range is None:
        return "–"
    return f"{spell_range(*run_seconds(TOKENS, chosen.speed_range))} ({chosen.setting.memory})"


def main() -> None:
    """Print one row per card, with one column per model."""
    models = [model for model in reversed(KNOWN_MODELS) if model.name in MODELS]
    print("| card | " + " | ".join(model.name.removeprefix("Qwen/") for model in models) + " |")
    print("|---|" + "---|" * len(models))
    for card in CARDS:
        print(f"| {card} | " + " | ".join(cell(model, card) for model in models) + " |", flush=True)


if __name__ == "__main__":
    main()
