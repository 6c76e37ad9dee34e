"""What follows an evaluation: the run's page, the card of the model that was asked, and the trackers."""

from pathlib import Path

from thinktune.config import load_recipe
from thinktune.progress import Say
from thinktune.report import write_final_card, write_model_card, write_run_page
from thinktune.run.folder import find_run
from thinktune.tracking import update_trackers


def show_evaluation(folder: Path, say: Say) -> None:
    """Write the evaluation of a run into its page and card and to its trackers; that of an average into its card."""
    run, average = find_run(folder)
    if average:
        write_model_card(folder, run, f"{run.path.resolve().name}-{average}")
        return
    write_run_page(folder)
    if kept := write_final_card(folder):
        say(kept)
    update_trackers(folder, load_recipe(run.recipe).track, say)
