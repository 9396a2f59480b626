# SPDX-License-Identifier: Apache-2.0
"""The one place where a run logs: lines of metrics.jsonl, and the same numbers as curves."""

from bert_jax.base.types import JsonObject
from bert_jax.config.settings import to_dict
from bert_jax.config.training import TrainingConfig
from bert_jax.mesh.distributed import is_main, say
from bert_jax.runs.directory import append_metrics, RunDirectory
from bert_jax.runs.tensorboard import Board
from bert_jax.runs.trackers import curves, Tracking


class RunLog:
    """The log of a run, written by the main process alone."""

    def __init__(self, run: RunDirectory, config: TrainingConfig):
        self.run, self.config = run, config
        self._board: Board | None = None
        self._tracking: Tracking | None = None

    def open(self, done: int) -> None:
        """Begin to log after `done` steps: curves that go on beyond them are taken back."""
        if not is_main():
            return
        if self._board is not None:
            self._board.close()
        self._board = Board(self.run.tensorboard, done)
        if self.config.tracker is not None and self._tracking is None:
            self._tracking = Tracking(self.config.tracker, self.run, to_dict(self.config), say)

    def add(self, line: JsonObject) -> None:
        """Log a line."""
        if self._board is not None:
            append_metrics(self.run, line)
            self._board.add(line["step"], curves(line))

    def saved(self, step: int) -> None:
        """Take note that the checkpoint of a step is complete: no line up to it is taken back any more."""
        if self._tracking is not None:
            self._tracking.hand_over(step)

    def close(self) -> None:
        """Close all curves."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._tracking is not None:
            self._tracking.close()
            self._tracking = None
