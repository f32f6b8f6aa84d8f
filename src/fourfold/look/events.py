"""TensorBoard event files, written without TensorFlow by TensorBoard's own writer.

log = EventLog(run.folder / "events")
run.metrics.watchers.append(log.log)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from fourfold.core.errors import UserError


class EventLog:
    """One event file in a folder; `log` takes the lines of a run's metrics.

    Raises:
        UserError: the extra `tensorboard` is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise UserError(
                "TensorBoard event files need the extra tensorboard: pip install 'fourfold[tensorboard]'"
            ) from error
        try:
            self._writer: Any = EventFileWriter(str(folder))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error

    def log(self, values: Mapping[str, Any]) -> None:
        """Write a line's numbers as scalars and its sample as text, at the line's step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = [
            Summary.Value(tag=name.replace(".", "/"), simple_value=float(value))
            for name, value in values.items()
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        if isinstance(values.get("sample"), str):
            summary.append(_text("sample", values["sample"]))
        if summary:
            step = int(values.get("step", 0))
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=summary))
            self._writer.add_event(event)

    def flush(self) -> None:
        """Bring to disk what was logged."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and end the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _text(tag: str, text: str) -> Any:
    """A text as TensorBoard's text dashboard reads it: indented by four, Markdown shows it as it is."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    shown = "\n".join(f"    {line}" for line in text.split("\n"))
    data = shown.encode("utf-8", "backslashreplace")
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    return Summary.Value(
        tag=tag,
        metadata=SummaryMetadata(plugin_data=plugin),
        tensor=TensorProto(dtype=DT_STRING, string_val=[data]),
    )
