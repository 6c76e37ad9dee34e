"""What fits a card, printed as JSON: a process of its own, for the planner loads torch.

Run as `python -m thinktune.studio.recipes.card_process [CARD]`; without a card, the one of this machine counts.
"""

import sys
from typing import TYPE_CHECKING, Any

from thinktune.library_output import captured_output
from thinktune.studio.recipes.nvidia_smi import ask_nvidia_smi, first_visible
from thinktune.studio.side_process import print_value

if TYPE_CHECKING:
    import torch


def models_for_card(text: str) -> dict[str, Any]:
    """Return the cards that are known, the one that counts, the models of known sizes and whether they fit it.

    Raises UserError for a card that is none.
    """
    with captured_output():
        from thinktune.model import pick_device
        from thinktune.planner.card_sheets import CARD_SHEETS
        from thinktune.planner.model_choice import BEST_TIERS, KNOWN_MODELS, choose_model, plan_for

    card, locks = find_card(text, pick_device())
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
    named = card and {"name": card.name, "gib": round(card.memory_gib, 1), "is_here": not text, "locks": sorted(locks)}
    return {"cards": cards, "card": named, "models": models, "chosen": choice.model.name, "why": choice.reason}


def find_card(text: str, device: "torch.device") -> tuple[Any, set[str]]:
    """Return the planner's card that a text names, or this machine's with what the next run finds free, and its locks.

    It is None where a device is no card. An NVIDIA card is not asked itself, which would take memory of it, as long as
    nvidia-smi tells. Raises UserError for a text that names none.
    """
    with captured_output():
        from thinktune.model.device import card_names
        from thinktune.planner.hardware import card_from_driver, find_cluster
        from thinktune.planner.resolve import local_card

    if text:
        return find_cluster(text).card, set()
    here = first_visible(ask_nvidia_smi()) if device.type == "cuda" else None
    if here and here.total_mib and here.free_mib is not None:
        # What computes on it now will have ended when the next run begins, which waits for it.
        mib = here.total_mib if here.in_use else here.free_mib
        return card_from_driver(here.name, int(mib * 2**20)), here.lock_names
    return None if device.type == "cpu" else local_card(device), set(card_names(device.type, 1))


if __name__ == "__main__":
    print_value(lambda: models_for_card("".join(sys.argv[1:2])))
