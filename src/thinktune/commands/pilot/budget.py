"""The time of a pilot: what its runs took decides which ones still fit."""

from collections.abc import Sequence

from thinktune.run.pilot_folder import PilotRun


def predict_seconds(done: Sequence[PilotRun], epoch_tokens: int, epochs: int) -> float | None:
    """Predict what a run of so many epochs takes, at the speed of those done; None where none has trained.

    Loading, evaluation and the probe take as long for every run; steps take time by their tokens.
    """
    trained = [run for run in done if run.trained_tokens and run.training_seconds > 0]
    if not trained:
        return None
    pace = sum(run.training_seconds for run in trained) / sum(run.trained_tokens for run in trained)
    around = sum(max(0.0, run.seconds - run.training_seconds) for run in trained) / len(trained)
    return around + pace * epoch_tokens * epochs
