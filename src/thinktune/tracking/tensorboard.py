"""Write TensorBoard event files into the run's folder, from the whole journal each time."""

import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from thinktune.config import TrackConfig
from thinktune.run import RunFolder
from thinktune.tracking.records import LOSS_CHART, LossCurves, Scalars, TextEntries, TrackerEntry


class TensorBoard:
    """A folder of event files that `tensorboard --logdir RUN/tensorboard` shows."""

    mode = "files"

    def __init__(self, run: Path, _mode: str, _settings: TrackConfig, facts: dict[str, Any]) -> None:
        """Replace former event files; raises ImportError where TensorBoard is not installed."""
        from tensorboard.plugins.custom_scalar import layout_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = self.location = str(RunFolder(run).tracker("tensorboard"))
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = EventFileWriter(self.folder)
        protos: Any = layout_pb2
        lines = protos.MultilineChartContent(tag=["^train/loss$", "^eval/loss$"])
        category = protos.Category(title="loss", chart=[protos.Chart(title=LOSS_CHART, multiline=lines)])
        layout = protos.Layout(category=[category]).SerializeToString()
        self._add_strings("custom_scalars__config__", "custom_scalars", [layout])
        described = yaml.safe_dump(facts, allow_unicode=True, sort_keys=False)
        self._add_strings("facts", "text", [f"```\n{described}```".encode()])

    def log(self, entry: TrackerEntry) -> None:
        """Write an entry; for the chart of both losses TensorBoard needs only the layout."""
        match entry:
            case Scalars(step, values):
                self._add_values([{"tag": tag, "simple_value": value} for tag, value in values.items()], step)
            case TextEntries(step, name, texts):
                self._add_strings(name, "text", [text.encode() for text in texts], step)
            case LossCurves():
                pass
        self._writer.flush()

    def close(self, _state: str) -> None:
        """Write what is left and close the files."""
        self._writer.close()

    def _add_strings(self, tag: str, plugin: str, texts: list[bytes], step: int = 0) -> None:
        """Write texts for one of TensorBoard's plugins; its own helpers for them need TensorFlow."""
        shape = {"dim": [{"size": len(texts)}]}
        tensor = {"dtype": "DT_STRING", "string_val": texts, "tensor_shape": shape}
        metadata = {"plugin_data": {"plugin_name": plugin}}
        self._add_values([{"tag": tag, "metadata": metadata, "tensor": tensor}], step)

    def _add_values(self, values: list[dict[str, Any]], step: int) -> None:
        from tensorboard.compat.proto import event_pb2

        protos: Any = event_pb2
        self._writer.add_event(protos.Event(summary={"value": values}, step=step, wall_time=time.time()))
