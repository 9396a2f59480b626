# SPDX-License-Identifier: Apache-2.0
"""Outputs of many or large files on a bucket: made on this machine, then put, the file that makes them complete last."""

import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.host import cache_folder
from bert_jax.base.output_lock import LOCK_FILE, locked
from bert_jax.base.paths import on_bucket

if TYPE_CHECKING:
    from bert_jax.base.buckets import BucketPath

PUTTING = "putting"  # an object that is there while the others come: what it leaves is written over
AT_ONCE = 8  # files


@contextmanager
def staged(output: Path, stage: str, last: str, goes_on: bool = True) -> Iterator[Path]:
    """Yield the folder to write an output into: itself, or of a bucket one in the user's cache, which is put at the end.

    What a process that was killed has left in the cache is found there by the same command on the same machine, if that
    goes on.

    Args:
      output: on a bucket it is kept for this process (`output_lock`).
      stage: who writes.
      last: the file that makes the output complete.
      goes_on: where it was stopped; else it begins with an empty folder.

    Raises:
      UserError: the bucket's folder holds something else, or another process writes there.
      TryAgain: storage does not answer; what was made stays in the cache.
    """
    if not on_bucket(output):
        yield output
        return
    with locked(output, stage):
        if not is_free(output):
            raise UserError(f"{output} holds something else: choose another place, new or empty")
        folder = outputs_folder() / hashlib.sha256(str(output).encode()).hexdigest()[:16] / output.name
        if not goes_on:
            shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        put_files(folder, [*(path for path in files if path != folder / last), folder / last], output)
        shutil.rmtree(folder.parent)


def outputs_folder() -> Path:
    """Return the folder in which outputs are made before they are put on a bucket."""
    return cache_folder() / "outputs"


def is_free(output: "BucketPath") -> bool:
    """Whether a folder of a bucket may be written to: nothing is there, or what was cut off while it was put."""
    found = {name.partition("/")[0] for name in output.objects()} - {LOCK_FILE}
    return not found or PUTTING in found


def put_folder(folder: Path, output: "BucketPath") -> None:
    """Put all files of a folder that no other one makes complete, and remove it."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        (output / path.relative_to(folder).as_posix()).put(path)
    shutil.rmtree(folder)


def put_files(folder: Path, files: Sequence[Path], output: "BucketPath") -> None:
    """Put files of a folder; the last of them when all others are there."""
    *others, last = files
    (output / PUTTING).write_bytes(b"")
    size = sum(path.stat().st_size for path in files)
    with tqdm(
        total=size, desc=f"putting {output.name}", unit="B", unit_scale=True, disable=None, file=sys.stderr
    ) as bar:

        def put(path: Path) -> None:
            (output / path.relative_to(folder).as_posix()).put(path)
            bar.update(path.stat().st_size)

        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(put, others))
        put(last)
    (output / PUTTING).unlink()
