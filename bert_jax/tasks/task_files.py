# SPDX-License-Identifier: Apache-2.0
"""The file of a split, found and read as text."""

from collections.abc import Iterator
from pathlib import Path

from bert_jax.errors import listed, UserError
from bert_jax.tasks.table import Task
from bert_jax.text.lines import decode_text, text_lines
from bert_jax.text.streams import open_stream

LARGEST_TEXT = 2**30  # bytes, unpacked, of a file that is read as a whole: a JSON file of questions, a CoNLL file
_COMPRESSED = (".xz", ".gz", ".bz2", ".zst")  # endings; what a file is packed with is told by its first bytes
LISTED = 12  # names, columns, labels or lines in a message


def find_file(task: Task, split: str, path: Path) -> Path:
    """The file of a split: `path` itself, or the one in the folder `path` that bears a name of the task's table.

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


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file, packed or not, with their numbers from 1; see `text_files.text_lines`.

    Raises:
      UserError: as `text_lines`, and as `open_stream` where it is packed and broken.
    """
    with open_stream(path) as stream:
        yield from text_lines(stream, path.name)


def read_text(path: Path) -> str:
    """All of a UTF-8 file, packed or not, without a byte order mark.

    Raises:
      UserError: it is no text (see `text_files.decode_text`), is broken where it is packed, or unpacks to more than
        `LARGEST_TEXT` bytes.
    """
    with open_stream(path) as stream:
        raw = stream.read(LARGEST_TEXT + 1)
    if len(raw) > LARGEST_TEXT:
        raise UserError(f"{path} holds more than {LARGEST_TEXT // 2**20:,} MiB: divide it")
    return decode_text(raw, path.name)


def plain_suffix(path: Path) -> str:
    """The ending that tells the format: ".tsv" of train.tsv.gz."""
    return (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix.lower()
