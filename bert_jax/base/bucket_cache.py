# SPDX-License-Identifier: Apache-2.0
"""Copies of what lies on a bucket, on this machine: what is mapped into memory, or read by others' code, needs a file.

A copy is a folder in the user's cache, named by what is in it, so it never changes and all processes of a host share it. Its
files are checked against the bucket's checksums. While a process uses it, it holds the kernel's lock of the file beside
it. A copy that nobody uses goes when there is no room for another one, the one that was used longest ago first.
"""

import base64
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TYPE_CHECKING

from tqdm import tqdm

from bert_jax.base.errors import TryAgain, UserError
from bert_jax.base.files import complete_or_absent
from bert_jax.base.host import cache_folder
from bert_jax.base.paths import any_path, on_bucket

if TYPE_CHECKING:
    from bert_jax.base.buckets import BucketPath

COMPLETE = ".complete"  # in a copy: all of it is there
AT_ONCE = 8  # files
_held: dict[Path, int] = {}  # copies that this process uses until it ends, and their open lock files
_most_bytes = 100_000_000_000


def set_cache_size(gigabytes: float) -> None:
    """Bound all copies together, from now on in this process.

    Raises:
      UserError: it is not above 0.
    """
    global _most_bytes
    if not gigabytes > 0:
        raise UserError(f"--cache-size {gigabytes:g} must be above 0 (of 1,000,000,000 bytes)")
    _most_bytes = int(gigabytes * 1e9)


def cache_size() -> float:
    """Return the bound of all copies together, in gigabytes."""
    return _most_bytes / 1e9


def local_copy(source: Path, name: str | None = None) -> Path:
    """Return a file or folder as it can be read by everything: itself, or of a bucket a copy.

    Args:
      source: on a bucket all objects below it are copied.
      name: of the copy, if `source` has one that stands for its content; None: by names, sizes and generations.

    Raises:
      FileNotFoundError: nothing is there.
      UserError: the copy is larger than the cache may be, or the disk is full.
      TryAgain: storage does not answer, or another content than it says.
    """
    if not on_bucket(source):
        return source
    is_file = source.is_file()
    objects = {source.name: source.about()} if is_file else source.objects()
    if not objects:
        raise FileNotFoundError(2, "no such object", str(source))
    named_so = name or _content_name(objects, f"{source.name} {is_file}")
    folder = copies_folder() / named_so / ("copy" if name else source.name)
    _hold(folder, lambda: _fill(source.parent if is_file else source, folder, objects))
    os.utime(folder / COMPLETE)
    return folder / source.name if is_file else folder


def readable(given: str | Path) -> Path:
    """Return the path that a user gave as it can be read by everything; raises as `any_path` and `local_copy`.

    Nothing is copied of what is not there: whoever opens it says so.
    """
    path = any_path(given)
    return local_copy(path) if on_bucket(path) and path.exists() else path


def copies_folder() -> Path:
    """Return the folder of the copies."""
    return cache_folder() / "buckets"


def _content_name(objects: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    content = [
        [name, about.get("size"), about.get("md5Hash"), about.get("generation")] for name, about in objects.items()
    ]
    return hashlib.sha256(json.dumps([kind, sorted(content)]).encode()).hexdigest()[:24]


def _hold(folder: Path, fill: Callable[[], None]) -> None:
    """Keep a copy for this process, made by `fill` where it is not complete; of several processes one makes it."""
    if folder in _held:
        return
    copies_folder().mkdir(parents=True, exist_ok=True)
    lock = _open_lock(folder.parent)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        while not (folder / COMPLETE).exists():
            _take(lock, folder)
            if not (folder / COMPLETE).exists():
                fill()
            fcntl.flock(lock, fcntl.LOCK_SH)  # in between another process may have removed it again
    except BaseException:
        os.close(lock)
        raise
    _held[folder] = lock


def _take(lock: int, folder: Path) -> None:
    fcntl.flock(lock, fcntl.LOCK_UN)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tqdm.write(f"{folder}: another process copies it: waiting", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _open_lock(entry: Path) -> int:
    """Open the file beside a copy whose lock keeps it; it stays, so that all processes lock the same one."""
    return os.open(entry.with_name(f"{entry.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _fill(source: "BucketPath", folder: Path, objects: Mapping[str, Mapping[str, Any]]) -> None:
    """Copy what is not there yet; a copy that was cut off goes on where it was."""
    missing = {
        name: about
        for name, about in objects.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != about["size"]
    }
    size = sum(about["size"] for about in objects.values())
    with _alone(copies_folder()):
        _make_room(folder, size, str(source))
    with tqdm(
        total=sum(about["size"] for about in missing.values()),
        desc=f"copying {source.name}",
        unit="B",
        unit_scale=True,
        disable=None,
        file=sys.stderr,
    ) as bar:

        def fetch(name: str) -> None:
            _fetch(source / name, folder / name, missing[name])
            bar.update(missing[name]["size"])

        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(fetch, sorted(missing)))
    with complete_or_absent(folder / COMPLETE):
        pass


def _fetch(source: "BucketPath", file: Path, about: Mapping[str, Any]) -> None:
    """Copy an object and compare it with the checksum that the bucket has of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(file) as copy:
        source.copy_to(copy)
        copy.flush()
        if copy.tell() != about["size"]:
            raise TryAgain(f"{source}: {copy.tell():,} bytes came of {about['size']:,}: run the same command again")
        if "md5Hash" in about:  # an object that was put together from several has none
            with open(copy.name, "rb") as written:
                found = base64.b64encode(hashlib.file_digest(written, "md5").digest()).decode()
            if found != about["md5Hash"]:
                raise TryAgain(
                    f"{source}: came with the MD5 {found}, not {about['md5Hash']}: run the same command again"
                )
    if "mtime" in about:  # by which a text is known again
        seconds = about["mtime"].timestamp()
        os.utime(file, (seconds, seconds))


# ---- room ------------------------------------------------------------------------------------------------------------


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time makes room."""
    lock = _open_lock(folder / "room")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make_room(folder: Path, size: int, source: str) -> None:
    """Remove copies that nobody uses, the one that was used longest ago first, until one more of `size` bytes fits."""
    if size > _most_bytes:
        raise UserError(
            f"{source} has {size / 1e9:,.3f} GB, and the cache may have {_most_bytes / 1e9:,.3f}: raise --cache-size"
        )
    others = [entry for entry in copies_folder().iterdir() if entry.is_dir() and entry != folder.parent]
    sizes = {entry: _bytes_of(entry) for entry in others}
    for entry in sorted(others, key=_last_used):
        if size + sum(sizes.values()) <= _most_bytes:
            break
        if _removed(entry):
            del sizes[entry]
    if size + sum(sizes.values()) > _most_bytes:
        raise UserError(
            f"{source} has {size / 1e9:,.3f} GB, and copies that are in use have {sum(sizes.values()) / 1e9:,.3f} of the"
            f" cache's {_most_bytes / 1e9:,.3f}: raise --cache-size"
        )
    free = shutil.disk_usage(copies_folder()).free + _bytes_of(folder)
    if size > free:
        raise UserError(
            f"{copies_folder()}: disk full: {source} has {size / 1e9:,.3f} GB and {free / 1e9:,.3f} are free: free some"
            " space, or name a folder on a larger disk with XDG_CACHE_HOME"
        )


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _last_used(entry: Path) -> float:
    return max((file.stat().st_mtime for file in entry.glob(f"*/{COMPLETE}")), default=time.time())


def _removed(entry: Path) -> bool:
    """Remove a copy that no process holds. Returns whether it is gone."""
    lock = _open_lock(entry)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(entry)
        return True
    finally:
        os.close(lock)
