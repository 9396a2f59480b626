# SPDX-License-Identifier: Apache-2.0
"""The lock of an output: one process at a time writes into a folder, and a second one is told which.

The file `lock` in the folder carries the kernel's lock (flock), which ends with its owner, however that ends, and says
who that is. Some file systems that hosts share keep such locks to each host, and some have none. So the owner also
counts on in the file, every BEAT_SECONDS; where the kernel's lock cannot decide, a lock that was left behind is taken
when it has stood still for DEAD_AFTER_SECONDS. (Where the kernel's lock cannot decide and nobody was there before, two
processes that begin in the same instant are not told apart.)

On a bucket there is no kernel's lock. The object `lock` is made by a request that fails where it is there, so of two
processes one has it, and is counted on as above. A lock that was left is taken at once where this very machine sees
that its owner has ended, else when it stood still. An owner that was stopped for longer than that, and goes on, finds the
lock another's: it says so and writes on, as there is nothing that could hold it back. So: one process at a time, but for
one that slept.
"""

import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, UTC
from pathlib import Path
from typing import cast, TYPE_CHECKING

from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.files import put_grown
from bert_jax.base.paths import on_bucket
from bert_jax.base.types import JsonObject

if TYPE_CHECKING:
    from bert_jax.base.buckets import BucketPath

LOCK_FILE = "lock"
BEAT_SECONDS, DEAD_AFTER_SECONDS = 5.0, 30.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def locked(folder: Path, stage: str) -> Iterator[None]:
    """Keep `folder` for this process, which does `stage`; the folder is made, and removed again if it stays empty.

    Raises:
      UserError: another process has it, or `folder` is a file.
    """
    if on_bucket(folder):
        with _locked_bucket(folder, stage):
            yield
        return
    made = _make(folder)
    try:
        file = _take(folder)
        owner = _this_process(stage)
        _sign(file, owner, 0)
        try:
            with _counted_on(lambda number: _sign(file, owner, number)):
                yield
        finally:
            if _is_at(file, folder / LOCK_FILE):
                (folder / LOCK_FILE).unlink()
            os.close(file)
    finally:
        for path in made:
            with suppress(OSError):  # not empty
                path.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder and those it lies in. Returns what was made, the innermost first."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file: choose another --output")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _take(folder: Path) -> int:
    """The open lock file, which is this process's now."""
    path = folder / LOCK_FILE
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            decided = _lock(file, folder)
            if _is_at(file, path):  # and was not removed by its owner in the meantime
                signed = os.pread(file, 4096, 0)
                if signed and not (decided and _owner(signed).get("boot") == _boot()):
                    _require_still(path, signed)
                if _is_at(file, path):  # nor while it was watched
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, folder: Path) -> bool:
    """Take the kernel's lock; returns whether there is such a thing here."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refusal(folder, os.pread(file, 4096, 0)) from None
    except OSError:
        return False
    return True


def _require_still(path: Path, signed: bytes) -> None:
    """Refuse a lock whose owner still counts on."""
    owner = _spoken(signed)
    tqdm.write(
        f"{path}: was left by {owner}: watching for {DEAD_AFTER_SECONDS:g} s whether that is at work", file=sys.stderr
    )
    end = time.monotonic() + DEAD_AFTER_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, DEAD_AFTER_SECONDS / 10))
        with suppress(FileNotFoundError):
            if path.read_bytes() != signed:  # opened anew each time: only then does NFS ask the server
                raise _refusal(path.parent, signed)


def _refusal(folder: Path, signed: bytes) -> UserError:
    return UserError(f"{folder}: {_spoken(signed)} is writing there: wait for it, end it, or choose another --output")


def _owner(signed: bytes) -> JsonObject:
    """Return who has signed a lock; empty where that cannot be read (it is just being written)."""
    try:
        owner = json.loads(signed)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _spoken(signed: bytes) -> str:
    owner = _owner(signed)
    if not {"stage", "host", "pid", "since"} <= owner.keys():
        return "another bert-jax"
    return f"another bert-jax {owner['stage']} (process {owner['pid']} on {owner['host']}, since {owner['since']})"


# ---- on a bucket -----------------------------------------------------------------------------------------------------


@contextmanager
def _locked_bucket(folder: "BucketPath", stage: str) -> Iterator[None]:
    """Lock a folder on a bucket as `locked` does; at the end all that has grown is put there."""
    lock, owner = folder / LOCK_FILE, _this_process(stage) | {"token": secrets.token_hex(8)}
    while not lock.create(_signed(owner, 0)):
        try:
            signed = lock.read_bytes()
        except FileNotFoundError:  # its owner has just ended
            continue
        if not _has_ended(_owner(signed)):
            _require_still(cast(Path, lock), signed)
        lock.unlink(missing_ok=True)

    lost = threading.Event()

    def sign(number: int) -> None:
        if lock.is_file() and _owner(lock.read_bytes()).get("token") == owner["token"]:
            lock.write_bytes(_signed(owner, number))
        elif not lost.is_set():
            lost.set()
            tqdm.write(
                f"{lock} is another's now: this process stood still too long, and both write there", file=sys.stderr
            )

    try:
        with _counted_on(sign):
            yield
    finally:
        try:
            put_grown()
        finally:
            with suppress(UserError, OSError):
                if _owner(lock.read_bytes()).get("token") == owner["token"]:
                    lock.unlink()


def _has_ended(owner: JsonObject) -> bool:
    """Whether the owner of a lock was a process of this machine, or container, and is no more."""
    if owner.get("boot") is None or (owner["boot"], owner.get("pids")) != (_boot(), _pid_namespace()):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


# ---- the owner's side ------------------------------------------------------------------------------------------------


def _this_process(stage: str) -> JsonObject:
    owner: JsonObject = {"host": socket.gethostname(), "pid": os.getpid(), "stage": stage, "boot": _boot()}
    return owner | {"pids": _pid_namespace(), "since": datetime.now(UTC).isoformat(timespec="seconds")}


@contextmanager
def _counted_on(sign: Callable[[int], None]) -> Iterator[None]:
    """Sign a lock every BEAT_SECONDS, while the body runs."""
    ended = threading.Event()

    def count() -> None:
        number = 0
        while not ended.wait(BEAT_SECONDS):
            number += 1
            with suppress(OSError, UserError):  # a file system that is away for a moment
                sign(number)

    beat = threading.Thread(target=count, name="output lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()


def _sign(file: int, owner: JsonObject, number: int) -> None:
    text = _signed(owner, number)
    os.pwrite(file, text, 0)
    os.ftruncate(file, len(text))
    os.fsync(file)  # so that other hosts see it


def _signed(owner: JsonObject, number: int) -> bytes:
    return json.dumps({**owner, "beat": number}).encode()


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def _pid_namespace() -> str | None:
    """Return the name of the space that process numbers of this machine, or container, are of; None: not known."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _boot() -> str | None:
    """Return the name of the running kernel, whose locks all its processes see; None where it is not known."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None
