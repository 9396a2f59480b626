# SPDX-License-Identifier: Apache-2.0
"""The file of a split, found by the names that the table of tasks has for it."""

from pathlib import Path

from bert_jax.base.errors import listed, UserError
from bert_jax.tasks.table import Task

_COMPRESSED = (".xz", ".gz", ".bz2", ".zst")  # endings; what a file is packed with is told by its first bytes
LISTED = 12  # names, columns, labels or lines in a message


def find_file(task: Task, split: str, path: Path) -> Path:
    """Return the file of a split: `path` itself, or the one in the folder `path` that bears a name of the task's table.

    A folder may hold the task's files or the task's folder, as GLUE's does; files may be compressed (.gz, .xz, .bz2, .zst).

    Raises:
      UserError: the task has no such split, or no file of it is there.
    """
    if not path.is_dir():
        if path.exists():
            return path
        raise UserError(f"{path} is missing: {_listing(path.parent)}")
    if split not in task.files:
        raise UserError(f"{task.title} has no split {split}: it has {', '.join(task.files)}")
    names = task.files[split]
    for name in names:
        for file in (path / name, path / task.title / name):
            for candidate in (file, *(file.with_name(file.name + ending) for ending in _COMPRESSED)):
                if candidate.is_file():
                    return candidate
    wanted = " or ".join(names[:3])
    raise UserError(f"{path} has no {wanted}, which is {split} of {task.title}: {_listing(path)}")


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return f"{folder} holds {listed(sorted(file.name for file in folder.iterdir()), LISTED) or 'nothing'}"


def plain_suffix(path: Path) -> str:
    """Return the ending that tells the format: ".tsv" of train.tsv.gz."""
    return (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix.lower()
