"""What fits a card, printed as JSON: a process of its own, for the planner loads torch.

Run as `python -m thinktune.studio.recipes.card_process [CARD]`; without a card, the one of this machine counts.
"""

import sys
from typing import Any

from thinktune.library_output import captured_output
from thinktune.studio.side_process import print_value


def models_for_card(text: str) -> dict[str, Any]:
    """Return the cards that are known, the one that counts, the models of known sizes and whether they fit it.

    Raises UserError for a card that is none.
    """
    with captured_output():
        from thinktune.model import pick_device
        from thinktune.planner.card_sheets import CARD_SHEETS
        from thinktune.planner.hardware import find_cluster
        from thinktune.planner.model_choice import BEST_TIERS, KNOWN_MODELS, choose_model, plan_for
        from thinktune.planner.resolve import local_card

    device = pick_device()
    card = find_cluster(text).card if text else None if device.type == "cpu" else local_card(device)
    models: list[dict[str, Any]] = []
    for model in KNOWN_MODELS:
        plan = plan_for(model, card) if card else None
        chosen = plan.chosen if plan else None
        setting = chosen and chosen.setting
        models.append(
            {"name": model.name, "parameters": model.parameters, "download_gib": round(model.download_gib, 1)}
            | {"fits": chosen is not None if card else None, "memory": setting and setting.memory}
            | {"keeps_updates": bool(setting and setting.memory in BEST_TIERS)}
            | {"needed_gib": chosen and round(chosen.needed_bytes / 2**30, 1)}
            | {"speeds": chosen and chosen.speed_range and [round(speed) for speed in chosen.speed_range]}
        )
    choice = choose_model(card)
    cards = [{"name": name, "gib": sheet.gib} for name, sheet in CARD_SHEETS.items()]
    named = card and {"name": card.name, "gib": round(card.memory_gib, 1), "is_here": not text}
    return {"cards": cards, "card": named, "models": models, "chosen": choice.model.name, "why": choice.reason}


if __name__ == "__main__":
    print_value(lambda: models_for_card("".join(sys.argv[1:2])))
