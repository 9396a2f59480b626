# SPDX-License-Identifier: Apache-2.0
"""The place of a conversion: it is written beside it and moved there once it is proven, so that what is there is whole."""

import fcntl
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from bert_jax.base.bucket_output import is_free, outputs_folder, put_files
from bert_jax.base.errors import UserError
from bert_jax.base.paths import on_bucket
from bert_jax.conversion.finished import CERTIFICATE
from bert_jax.runs.checkpoint import mark_complete
from bert_jax.runs.names import CHECKPOINTS


def free_place(destination: Path) -> Path:
    """The place of the result, without links in its path."""
    if on_bucket(destination):
        if not is_free(destination):
            raise UserError(f"{destination} is not empty: choose another place for the result")
        return destination
    place = destination.resolve()
    if destination.is_symlink() or place == Path.cwd():
        raise UserError(f"{destination} is a link or the current folder: name a new directory")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{destination} is not empty: choose another place for the result")
    return place


@contextmanager
def beside(destination: Path) -> Iterator[Path]:
    """A new folder beside the destination. It goes when something is raised, and stays otherwise.

    For a destination on a bucket it lies in the user's cache.
    """
    if on_bucket(destination):
        destination = outputs_folder() / destination.name
    destination.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(destination)
    folder = Path(tempfile.mkdtemp(prefix=f"{destination.name}.partial-", dir=destination.parent))
    folder.chmod(0o755)  # mkdtemp makes it for its owner alone
    lock = os.open(folder, os.O_RDONLY)  # by which `_remove_left_behind` knows that somebody is at work
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _remove_left_behind(destination: Path) -> None:
    """Remove what conversions to the same place have left that were killed. One that was finished is kept: it was said."""
    for folder in destination.parent.glob(f"{glob.escape(destination.name)}.partial-*"):
        if folder.is_symlink() or not folder.is_dir() or (folder / CERTIFICATE).exists():
            continue
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its owner is at work, or nobody can tell
            continue
        finally:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
        tqdm.write(f"removed {folder}, which a conversion that was killed had left", file=sys.stderr)


def put_in_place(folder: Path, destination: Path) -> None:
    """Give the finished folder its place; on a bucket the certificate comes last."""
    if on_bucket(destination):
        mark_complete(folder / CHECKPOINTS)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CERTIFICATE)
        put_files(folder, [*files, folder / CERTIFICATE], destination)
        shutil.rmtree(folder)
        return
    if destination.is_dir():
        destination.rmdir()  # empty, as was seen
    os.replace(folder, destination)
