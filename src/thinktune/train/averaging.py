"""The average of base and tuned that a run ends with: weights are asked, one is chosen, `final/` becomes it."""

import gc
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from thinktune.checkpoint import saving, store
from thinktune.config import Recipe
from thinktune.data import prepare
from thinktune.distributed import World
from thinktune.errors import Stopped, UserError, shorten_error
from thinktune.eval import find_measure
from thinktune.eval.averaging.asking import Averaged, draw_curve
from thinktune.eval.averaging.curve import Curve, CurvePoint
from thinktune.eval.comparison import format_with_interval
from thinktune.model import pick_device
from thinktune.progress import Say
from thinktune.report import write_final_card, write_run_page
from thinktune.run import RunFolder
from thinktune.tokenization import read_tokenizer
from thinktune.train.dry_run import find_out_of_memory
from thinktune.train.final_model import BothModels, card_text, find_both
from thinktune.train.interrupt import StopRequest
from thinktune.train.samples import any_operations


def average_final(recipe: Recipe, say: Say, world: World, stop: StopRequest) -> None:
    """Ask models between base and tuned, choose one by the recipe's rule, and make it the run's final model.

    To be called when nothing refers to the trained model any more: the device is then free for the models that are
    asked, one at a time. The main rank does it all, and the others wait. Before, `final/` is the tuned model, and it
    stays until the other one is whole. Raises Stopped where a signal or the time limit ends it; replies that were saved
    are not generated again.
    """
    gc.collect()
    if pick_device().type != "cpu":
        torch.accelerator.empty_cache()
    world.run_on_main(lambda: _average(recipe, say, stop))


def _average(recipe: Recipe, say: Say, stop: StopRequest) -> None:
    folder = recipe.run_folder
    try:
        with stop.interruptible(), any_operations():
            both = find_both(folder)
            tokenizer = read_tokenizer(both.tuned.folder, trust_remote_code=recipe.model.trust_remote_code)
            models = Averaged(both.base, both.tuned.folder, both.tuned.step, lambda weight: _opened(both, weight))
            curve = draw_curve(recipe, prepare(recipe, tokenizer, say), tokenizer, models, say)
    except Stopped:
        raise Stopped(
            f"{stop.reason}: stopped while testing averages of base and tuned; {RunFolder(folder).final} is complete;"
            " run the same command to continue after the last saved reply"
        ) from None
    except Exception as error:
        if find_out_of_memory(error) is None:
            raise
        raise UserError(
            f"train.average: the device's memory is full while a model answers ({shorten_error(error, 160)}); "
            f"{RunFolder(folder).final} is complete; lower expert.batch_rows, then run the same command to "
            "continue, or leave train.average out where one device cannot hold the whole model"
        ) from error
    for line in describe_curve(curve):
        say(line)
    replace_final(both, curve.chosen)
    write_run_page(folder, running=False)
    if kept := write_final_card(folder):
        say(kept)
    share = f"{curve.chosen:g} of the tuned weights and {1 - curve.chosen:.1g} of the base's"
    say(f"final model: {RunFolder(folder).final} ({share if curve.chosen < 1 else 'the tuned weights as they are'})")


def replace_final(both: BothModels, weight: float) -> None:
    """Make `final/` the average of a weight, unless it is that already."""
    run = RunFolder(both.folder)
    if store.has_final_model(run.path, both.tuned) and store.average_weight(run.final) == weight:
        return
    card = card_text(run.path, both.tuned.folder)
    saving.write_plain(run.final, both.tuned, both.form, card, both.average(weight) if weight < 1 else None)


@contextmanager
def _opened(both: BothModels, weight: float) -> Generator[Path]:
    """Yield a folder with the model of a weight; it is removed afterwards, and so is what a kill left of one before."""
    folder = RunFolder(both.folder).averaged
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        saving.fill_plain(folder, folder, both.tuned, both.form, both.average(weight) if weight < 1 else None)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def describe_curve(curve: Curve) -> Generator[str]:
    """Yield a line for each weight, and one that says which was chosen and why."""
    measure = find_measure(curve.measure)
    yield (
        f"averaging base and tuned: {measure.label.lower()} on {curve.domain_rows} held-out rows, and correct "
        f"answers to {curve.general_rows} general questions, with 95 % intervals"
    )
    for point in curve.points:
        yield f"  weight {point.weight:g}{_end_name(point)}: {_figures(curve, point)}"
    match curve.reason:
        case "best":
            yield (
                f"weight {curve.chosen:g} was chosen: the best on held-out rows of those that lose at most "
                f"{curve.rule:g} points of general questions"
            )
        case "none":
            yield (
                f"no weight loses as little as {curve.rule:g} points of general questions, so the tuned weights "
                "are kept; `thinktune average` makes a model with any weight"
            )
        case "curve":
            yield "the tuned weights are kept (train.average: curve); `thinktune average` makes a model with any weight"


def _end_name(point: CurvePoint) -> str:
    return {0.0: " (base)", 1.0: " (tuned)"}.get(point.weight, "")


def _figures(curve: Curve, point: CurvePoint) -> str:
    held_out, general = (
        format_with_interval(find_measure(key), {"value": each.value, "low": each.low, "high": each.high})
        for key, each in ((curve.measure, point.domain), ("right", point.general))
    )
    return f"held-out {held_out}, general {general}"
