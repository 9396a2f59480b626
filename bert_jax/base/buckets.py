# SPDX-License-Identifier: Apache-2.0
"""Objects of a bucket, `gs://bucket/run/config.json`, behind the methods of pathlib that the rest of the code uses.

The only importer of etils and fsspec, and imported when the first address is met. An object is there whole or not at all, so
nothing need be renamed. A request that fails for a moment is sent again by gcsfs, six times in half a minute; what then
still fails says "try again". What is asked of a bucket is never answered from a list of earlier: other hosts write too.
"""

import errno
import fnmatch
import functools
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, IO

import fsspec
from etils import epath

from bert_jax.base.errors import first_line, TryAgain, UserError

EMULATOR = "STORAGE_EMULATOR_HOST"  # the variable that names one, for tests
_REFUSED = (401, 403)
_PASSING = ("408", "429", "500", "502", "503", "504", "Timeout", "Connect", "Connection", "Disconnected", "ProxyError")
_EPath: Any = type(epath.Path("gs://bucket"))


class BucketPath(_EPath):
    """The address of an object, or of all objects whose names begin with it and a slash: a folder."""

    # ---- what there is -----------------------------------------------------------------------------------------------

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.parts[2]

    def _info(self) -> dict[str, Any] | None:
        """Return the `type` and `size` of what is there; None: nothing."""
        if len(self.parts) == 3:
            return {"type": "directory", "size": 0}
        try:
            with _said(self):
                return _files().info(str(self))
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        """Whether it is an object, or a folder that has one."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Whether it is an object."""
        return (self._info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Whether some object lies in it; the bucket itself always is a folder."""
        return (self._info() or {}).get("type") == "directory"

    def is_symlink(self) -> bool:
        """A bucket has no links."""
        return False

    def stat(self) -> os.stat_result:
        """Return the size of an object; all else is 0."""
        info = self._info()
        if info is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        return os.stat_result((0, 0, 0, 0, 0, 0, int(info["size"] or 0), 0, 0, 0))

    def iterdir(self) -> Iterator["BucketPath"]:
        """Yield the objects and folders in a folder."""
        with _said(self):
            found = [entry.rstrip("/").rpartition("/")[2] for entry in _files().ls(str(self), detail=False)]
        yield from (self / name for name in sorted({*found} - {self.name, ""}))

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """Yield what matches, without `**`; nothing where the folder is not there."""
        first, _, rest = pattern.partition("/")
        try:
            entries = list(self.iterdir())
        except FileNotFoundError:
            return
        for entry in (entry for entry in entries if fnmatch.fnmatchcase(entry.name, first)):
            yield from entry.glob(rest) if rest else (entry,)

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """Yield the objects below a folder, at any depth, whose own name matches."""
        for name in self.objects():
            if fnmatch.fnmatchcase(name.rpartition("/")[2], pattern):
                yield self / name

    def about(self) -> dict[str, Any]:
        """Return what storage says of an object, as `objects` does of many."""
        return self._info() or {}

    def objects(self) -> dict[str, dict[str, Any]]:
        """Return all objects below a folder by their names from there on: `size`, `md5Hash`, `generation` and more."""
        begin = "/".join(self.parts[2:]) + "/"
        with _said(self):
            found = _files().find(str(self), detail=True)
        return {name.removeprefix(begin): about for name, about in found.items() if name.startswith(begin)}

    def absolute(self) -> "BucketPath":
        """It is."""
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        """It is."""
        return self

    # ---- reading -----------------------------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Return the content of an object."""
        with _said(self):
            return _files().cat_file(str(self))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Return the content of an object as text."""
        with self.open(encoding=encoding, errors=errors) as file:
            return file.read()

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a copy of an object to read; it is written by `put` alone."""
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"{self} cannot be opened as {mode!r}")
        copy = tempfile.TemporaryFile(prefix="bert_jax_")  # noqa: SIM115 - the caller closes it
        self.copy_to(copy)
        copy.seek(0)
        return copy if mode == "rb" else io.TextIOWrapper(copy, encoding or "utf-8", errors, newline)

    def copy_to(self, file: BinaryIO | Any) -> None:
        """Write the content of an object into an open file."""
        with _said(self), _files().open(str(self), "rb", block_size=2**24, cache_type="readahead") as content:
            shutil.copyfileobj(content, file, 2**24)

    # ---- writing -----------------------------------------------------------------------------------------------------

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there as soon as an object is."""

    def rmdir(self) -> None:
        """Do nothing, as `mkdir`."""

    def put(self, file: Path) -> None:
        """Write the content of a file as this object, whole or not at all."""
        if (grown := _growing.pop(str(self), None)) is not None:
            grown.file.close()
        with _said(self, writing=True):
            _files().put_file(str(file), str(self))

    def create(self, content: bytes) -> bool:
        """Write an object that must not be there. Returns whether it was written: of two at once one does."""
        with _said(self, writing=True):
            try:
                _files().pipe_file(str(self), content, mode="create")
            except FileExistsError:
                return False
        return True

    def write_bytes(self, content: bytes) -> None:
        """Write an object, in the place of one that is there."""
        with _said(self, writing=True):
            _files().pipe_file(str(self), content)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object."""
        try:
            with _said(self):
                _files().rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def copy_below(self, source: Path, name: str, last: str) -> None:
        """Have storage copy a folder of another one here, unless it is there already; the object `last` in it comes last."""
        names = sorted(BucketPath(str(source / name)).objects(), key=lambda own: (own == last, own))
        with _said(self, writing=True):
            for own in names if not (self / name / last).is_file() else ():
                _files().cp_file(str(source / name / own), str(self / name / own))

    def rmtree(self, missing_ok: bool = False) -> None:
        """Remove every object of a folder."""
        for name in self.objects():
            (self / name).unlink(missing_ok=True)


def bucket_path(address: str) -> BucketPath:
    """Return the path of an address whose bucket answers.

    Raises:
      UserError: the address is none, or the bucket is not there or may not be listed.
      TryAgain: storage does not answer.
    """
    path = BucketPath(address)
    if len(path.parts) < 3:
        raise UserError(f"{address} names no bucket: write gs://BUCKET/NAME")
    _require_bucket(path.bucket)
    return path


@functools.cache
def _require_bucket(name: str) -> None:
    """List one object, which tells a bucket that is missing from a name that is."""
    bucket = BucketPath(f"gs://{name}")
    try:
        with _said(bucket):
            _files().call("GET", "b/{}/o", name, maxResults=1, json_out=True)
    except FileNotFoundError:
        raise _no_bucket(bucket) from None


@functools.cache
def _files() -> Any:
    """Return gcsfs, which Orbax uses too, with no memory of what was there before."""
    settings = {"use_listings_cache": False} | ({"token": "anon"} if os.environ.get(EMULATOR) else {})
    own = fsspec.config.conf.setdefault("gs", {})
    own.update({name: value for name, value in settings.items() if name not in own})
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it then raises
    try:
        return fsspec.filesystem("gs")
    except ImportError:
        raise UserError("gs:// needs gcsfs, which is not installed: pip install 'bert-jax[gcs]'") from None


# ---- objects that grow -----------------------------------------------------------------------------------------------


class _Growing:
    """A file of this machine that is written bit by bit, and how much of it was put."""

    def __init__(self, content: bytes):
        self.file = tempfile.TemporaryFile("a+b", prefix="bert_jax_")  # noqa: SIM115 - open as long as the process
        self.file.write(content)
        self.file.flush()
        self.put = len(content)


_growing: dict[str, _Growing] = {}  # by address; what another host writes there meanwhile is not seen


def open_growing(path: BucketPath) -> BinaryIO:
    """Open an object to add to it; what is added is there after `put_grown`."""
    if str(path) not in _growing:
        _growing[str(path)] = _Growing(path.read_bytes() if path.is_file() else b"")
    return os.fdopen(os.dup(_growing[str(path)].file.fileno()), "ab")


def put_grown() -> None:
    """Write every object that has grown since, whole."""
    for address, grown in _growing.items():
        number = grown.file.fileno()
        size = os.fstat(number).st_size
        if size != grown.put:
            BucketPath(address).write_bytes(os.pread(number, size, 0))
            grown.put = size


# ---- failures --------------------------------------------------------------------------------------------------------


@contextmanager
def _said(path: BucketPath, *, writing: bool = False) -> Iterator[None]:
    """Turn what gcsfs and the libraries below it raise into one line.

    Raises:
      FileNotFoundError: there is no such object.
      UserError: not allowed; a bucket that is not there, on `writing`.
      TryAgain: no answer, or one that asks to come again.
    """
    try:
        yield
    except FileNotFoundError:
        if writing:
            raise _no_bucket(path) from None
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from None
    except (UserError, FileExistsError):
        raise
    except Exception as error:  # of gcsfs, aiohttp, requests and google.auth: kinds that nothing else has in common
        told = bucket_failure(path, error)
        unknown = f"{path}: storage refused a request ({type(error).__name__} {first_line(error)}): check the address"
        raise told or UserError(unknown) from None


def bucket_failure(path: object, error: BaseException) -> UserError | None:
    """Return what to raise for an error of storage, as far as its code, its kind and its first line tell; None: another one."""
    reason, code = first_line(error), str(getattr(error, "code", ""))
    text = f"{type(error).__name__} {error}"
    if code in map(str, _REFUSED) or any(
        mark in text for mark in ("Forbidden", "PERMISSION_DENIED", "UNAUTHENTICATED")
    ):
        return UserError(
            f"{path} may not be read or written ({reason}): log in (gcloud auth application-default login), or give this"
            " machine's account the role storage.objectAdmin of the bucket"
        )
    marks = (*_PASSING, "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED")
    if code in _PASSING or any(mark in text for mark in marks):
        return TryAgain(f"{path}: storage does not answer ({reason}): run the same command again")
    return None


def _no_bucket(path: BucketPath) -> UserError:
    name = path.bucket
    return UserError(f"{path}: there is no bucket {name}: make it (gcloud storage buckets create gs://{name})")
