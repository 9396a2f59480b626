# SPDX-License-Identifier: Apache-2.0
"""Curves for TensorBoard. The only importer of tensorboardX.

Events are written by the caller's thread: tensorboardX's own writer has a thread that a full disk ends in silence, and
then waits for it forever.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class Board:
    """An event file of a run."""

    def __init__(self, folder: Path, done: int):
        """Begin a file; what earlier files hold of steps after `done` is taken back.

        Raises:
          OSError: as all methods, where the file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # The name is made of the second, and a run may be resumed within one.
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{done}")
        self._write(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each of the named curves."""
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=points)))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
