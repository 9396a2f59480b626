# SPDX-License-Identifier: Apache-2.0
"""Event files, read back by TensorFlow where it is installed; a full disk."""

import subprocess
import sys

import pytest

from bert_jax.base.errors import UserError
from bert_jax.runs.tensorboard import Board


def events_of(folder):
    """(step, values by name) of all events in the order of the files, read by TensorFlow."""
    pytest.importorskip("tensorflow", reason="the reader of event files is TensorFlow's")
    from tensorflow.python.summary.summary_iterator import summary_iterator

    return [
        (event.step, {value.tag: value.simple_value for value in event.summary.value}, event.session_log.status)
        for path in sorted(folder.iterdir())
        for event in summary_iterator(str(path))
    ]


def test_points_and_where_a_resumed_run_takes_up(tmp_path):
    first = Board(tmp_path, 0)
    first.add(1, {"train/loss": 2.0, "train/norm": 0.5})
    first.close()
    second = Board(tmp_path, 1)  # within the same second
    second.add(2, {"train/loss": 1.0})
    second.close()
    start = 1  # SessionLog.START: what stands before it and is of that step or a later one is dropped
    found = [event for event in events_of(tmp_path) if event[1] or event[2]]
    assert found == [
        (1, {}, start),
        (1, {"train/loss": 2.0, "train/norm": 0.5}, 0),
        (2, {}, start),
        (2, {"train/loss": 1.0}, 0),
    ]


def test_a_full_disk_is_an_error_and_no_wait(tmp_path):
    """A file size limit stands for the full disk. With a thread behind a queue, the eleventh point waits forever."""
    script = f"""
import resource
from pathlib import Path
from bert_jax.runs.tensorboard import Board
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
board = Board(Path({str(tmp_path)!r}), 0)
for step in range(1, 1000):
    board.add(step, {{"train/loss": 1.0}})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "OSError: [Errno 27] File too large" in done.stderr


def test_events_stay_in_their_folder(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=r"tensorboard is a link to .*outside"):
        Board(tmp_path / "tensorboard", 0)
    assert list((tmp_path / "outside").iterdir()) == []


def test_the_name_of_an_event_file_cannot_be_guessed(tmp_path):
    """Two of the same second, process and step would else have one name, which a link could stand under."""
    for _ in range(3):
        Board(tmp_path, 5).close()
    assert len(list(tmp_path.iterdir())) == 3
