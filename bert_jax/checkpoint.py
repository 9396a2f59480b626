# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run, through Orbax: asynchronous, with a keep policy. The only importer of orbax.

A checkpoint holds the device's state (parameters, optimizer, step) and a small JSON record of the host's side. Orbax
writes into a folder with a temporary name and renames it when all is there, so a save that was cut off is never
taken for a complete one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from bert_jax.errors import UserError


class Checkpoints:
    """The checkpoints in one folder, by step."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder.absolute()
        self.unfinished = unfinished_saves(self.folder)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

    def save(self, step: int, items: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Begin to save; the arrays are copied before this returns, the writing goes on behind.

        Args:
          step: optimizer steps done.
          items: name -> pytree of arrays; each can be restored on its own.
          record: what JSON can hold.
        """
        arguments = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._manager.save(step, args=ocp.args.Composite(**arguments, record=ocp.args.JsonSave(record)))

    def restore(self, step: int, abstract_items: Mapping[str, Any]) -> dict[str, Any]:
        """Read the named items of a checkpoint onto the shardings of their abstract trees, and `record`.

        Raises:
          UserError: the checkpoint cannot be read as these.
        """
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in abstract_items.items()}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**arguments, record=ocp.args.JsonRestore()))
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(
                f"{self.folder / str(step)}: this checkpoint cannot be restored ({first_line(error)}): remove that"
                " folder to go on from the one before it"
            ) from error
        return dict(restored.items())

    def wait(self) -> None:
        """Until the last save is complete; an error of the writing is raised here."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait and free the manager."""
        self._manager.close()


def unfinished_saves(folder: Path) -> list[str]:
    """Names of the folders that a cut off save has left behind."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if "orbax-checkpoint-tmp" in path.name)


def first_line(error: Exception) -> str:
    """The first line of an error's text, for one-line messages."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
