"""TensorBoard as a sink: event files in the run's folder, made anew from the journal each time."""

import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from thinktune.entries import LOSS_CHART, Entry, Losses, Numbers, Texts
from thinktune.knobs import Track


class TensorBoard:
    """A folder of event files that `tensorboard --logdir RUN/tensorboard` shows."""

    mode = "files"

    def __init__(self, run: Path, _mode: str, _settings: Track, facts: dict[str, Any]) -> None:
        """Begin anew; raises ImportError where TensorBoard is not installed."""
        from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = self.place = str(run / "tensorboard")
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = EventFileWriter(self.folder)
        lines = MultilineChartContent(tag=["^train/loss$", "^eval/loss$"])
        category = Category(title="loss", chart=[Chart(title=LOSS_CHART, multiline=lines)])
        self._strings("custom_scalars__config__", "custom_scalars", [Layout(category=[category]).SerializeToString()])
        described = yaml.safe_dump(facts, allow_unicode=True, sort_keys=False)
        self._strings("facts", "text", [f"```\n{described}```".encode()])

    def take(self, entry: Entry) -> None:
        """Write an entry; the chart of both losses is a layout that TensorBoard fills by itself."""
        match entry:
            case Numbers(step, values):
                self._add([{"tag": tag, "simple_value": value} for tag, value in values.items()], step)
            case Texts(step, name, texts):
                self._strings(name, "text", [text.encode() for text in texts], step)
            case Losses():
                pass
        self._writer.flush()

    def close(self, _state: str) -> None:
        """Write the rest."""
        self._writer.close()

    def _strings(self, tag: str, plugin: str, texts: list[bytes], step: int = 0) -> None:
        """Texts for one of TensorBoard's plugins; its own helpers for them need TensorFlow."""
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(texts))])
        tensor = TensorProto(dtype="DT_STRING", string_val=texts, tensor_shape=shape)
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
        self._add([{"tag": tag, "metadata": metadata, "tensor": tensor}], step)

    def _add(self, values: list[dict[str, Any]], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value) for value in values])
        self._writer.add_event(Event(summary=summary, step=step, wall_time=time.time()))
