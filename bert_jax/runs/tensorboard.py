# SPDX-License-Identifier: Apache-2.0
"""Curves for TensorBoard. The only importer of tensorboardX.

Events are written by the caller's thread: tensorboardX's own writer has a thread that a full disk ends in silence, and
then waits for it forever.
"""

import os
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from bert_jax.base.files import open_growing, own_folder


class Board:
    """An event file of a run."""

    def __init__(self, folder: Path, done: int):
        """Begin a file; what earlier files hold of steps after `done` is taken back.

        Raises:
          OSError: as all methods, where the file cannot be written.
          UserError: the folder is a link.
        """
        own_folder(folder)
        # TensorBoard reads files in the order of their seconds. The rest tells apart runs that are resumed within one,
        # and cannot be guessed: nobody can have put a link there.
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}.{done}.{secrets.token_hex(4)}"
        self._file = open_growing(folder / name, new=True)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each of the named curves."""
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=points)))

    def _write(self, event: Any) -> None:
        """A record of TFRecord's format: length and content, each with its checksum."""
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
        self._file.write(length + next(checksums) + content + next(checksums))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
