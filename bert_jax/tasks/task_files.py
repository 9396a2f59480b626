# SPDX-License-Identifier: Apache-2.0
"""The file of a split, found and read as text."""

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

from bert_jax.errors import UserError
from bert_jax.tasks.table import Task

_COMPRESSED: dict[str, Callable[[bytes], bytes]] = {".xz": lzma.decompress, ".gz": gzip.decompress}
_LISTED = 12  # names of a folder in a message


def find_file(task: Task, split: str, path: Path) -> Path:
    """The file of a split: `path` itself, or the one in the folder `path` that bears a name of the task's table.

    A folder may hold the task's files or the task's folder, as GLUE's does; files may be compressed (.gz, .xz).

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
    names = sorted(file.name for file in folder.iterdir())
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{folder} holds {', '.join(names[:_LISTED]) or 'nothing'}{more}"


def read_text(path: Path) -> str:
    """All of a UTF-8 file, without a byte order mark.

    Raises:
      UserError: it is not UTF-8, or broken where it is compressed.
    """
    raw = path.read_bytes()
    if path.suffix in _COMPRESSED:
        try:
            raw = _COMPRESSED[path.suffix](raw)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise UserError(f"{path} cannot be unpacked ({error}): copy it again") from None
    try:
        return raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path.name}, line {line}: byte {raw[error.start]:#04x} is not UTF-8: convert the file (iconv -f LATIN1 -t UTF-8,"
            " or whatever it is in)"
        ) from None


def plain_suffix(path: Path) -> str:
    """The ending that tells the format: ".tsv" of train.tsv.gz."""
    return (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix.lower()
