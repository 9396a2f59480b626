# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run, through Orbax: asynchronous, with a keep policy. The only importer of orbax.

A checkpoint holds the device's state (parameters, optimizer, step) and a small JSON record of the host's side. Orbax
writes into a folder with a temporary name and renames it when all is there, so a save that was cut off is never
taken for a complete one. On a bucket, which renames nothing, the object COMMITTED is written last instead.
"""

import errno
import gc
import io
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from bert_jax.base.errors import FAILED_STORAGE, first_line, TryAgain, UserError
from bert_jax.base.files import new_folder, own_folder, put_grown
from bert_jax.base.paths import on_bucket
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.mesh.distributed import all_or_none, meet
from bert_jax.runs.checkpoint_integrity import chain, check_arrays, damage_found, Damaged, sealed, unsealed

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it then raises


COMMITTED, _TEMPORARY = "commit_success.txt", "orbax-checkpoint-tmp"  # Orbax's names


class Checkpoints:
    """The checkpoints in one folder, by step."""

    def __init__(self, folder: Path, keep: int | None = None):
        """Open a folder to write to, keeping the newest `keep`, or only to read (`keep` None).

        Raises:
          UserError: a folder to write to is a link, and not one that this user has made to a folder of theirs.
        """
        self.folder = (folder if keep is None else own_folder(folder, elsewhere=True)).absolute()
        self.unfinished = unfinished_saves(self.folder)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, read_only=keep is None)
        with self._named_failures():
            self._manager = ocp.CheckpointManager(os.fspath(self.folder), options=options)

    @property
    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

    def save(self, step: int, items: Mapping[str, PyTree], record: JsonObject) -> None:
        """Begin to save; the arrays are copied before this returns, the writing goes on behind.

        Args:
          step: optimizer steps done.
          items: name -> pytree of arrays; each can be restored on its own.
          record: what JSON can hold.

        Raises:
          TryAgain: another process did not come to save its part.
        """
        meet(f"save of step {step:,}")
        with all_or_none():
            put_grown()  # the lines of metrics up to this step: a run that is resumed here does not compute them again
            self._require_space(sum(leaf.nbytes for leaf in jax.tree.leaves(items)))
        arguments = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        with self._named_failures():  # this save's, or an earlier one's that was still under way
            record_argument = ocp.args.JsonSave(sealed(record, items))
            self._manager.save(step, args=ocp.args.Composite(**arguments, record=record_argument))

    def restore(self, step: int, abstract_items: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """Read the named items of a checkpoint onto the shardings of their abstract trees, and `record`.

        The arrays are compared with the checksums that they were saved with, and must be finite.

        Raises:
          UserError: the checkpoint cannot be read as these, or is not what was saved.
        """
        restored = self._read(step, abstract_items)
        items = {name: restored[name] for name in abstract_items}
        try:
            record, saved = unsealed(restored["record"])
            check_arrays(items, saved)
        except Damaged as error:
            raise UserError(f"{self.folder / str(step)}: {error}: {self._way_back(step)}") from None
        return {**items, "record": record}

    def has(self, step: int, name: str) -> bool:
        """Whether a checkpoint was saved with an item: a converted one may have parameters only.

        Raises:
          UserError: the checkpoint's record cannot be read.
        """
        try:
            _, saved = unsealed(self._read(step, {})["record"])
        except Damaged as error:
            raise UserError(f"{self.folder / str(step)}: {error}: {self._way_back(step)}") from None
        if saved is None:
            return (self.folder / str(step) / name).is_dir()
        return any(path.startswith(f"{name}/") for path in saved)

    def _read(self, step: int, abstract_items: Mapping[str, PyTree]) -> PyTree:
        """The items and `record` as they are stored."""
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in abstract_items.items()}
        try:
            with _without_echo():
                return self._manager.restore(step, args=ocp.args.Composite(**arguments, record=ocp.args.JsonRestore()))
        except Exception as error:  # Orbax raises whatever a damaged file makes of its code
            if (failure := self._failure_of_storage(error)) is not None:
                raise failure from None
            found = damage_found(self.folder / str(step), abstract_items, error)
            raise UserError(
                f"{self.folder / str(step)}: this checkpoint cannot be restored ({found or first_line(error)}):"
                f" {self._way_back(step)}"
            ) from None

    def _way_back(self, step: int) -> str:
        """Return what to do without this checkpoint."""
        earlier = max((other for other in self._manager.all_steps() if other < step), default=None)
        if earlier is None:
            return "there is none before it here: copy it again, or make it anew"
        return f"remove that folder to go on from the one before it, of step {earlier:,}"

    def keep(self, step: int, folder: Path) -> None:
        """Keep a complete checkpoint in another folder too, whatever becomes of it here; for the main process alone.

        Files are linked where the file system can, and take no room until the checkpoint here is deleted.
        """
        if on_bucket(folder):
            folder.copy_below(self.folder, str(step), COMMITTED)
        elif not (folder / str(step)).exists():
            partial = new_folder(folder / f"{step}.partial")
            shutil.copytree(self.folder / str(step), partial, copy_function=_link_or_copy, dirs_exist_ok=True)
            partial.rename(folder / str(step))

    def remove_unfinished(self) -> None:
        """Remove what a save that was cut off has left; for the main process alone."""
        for name in self.unfinished:
            path = self.folder / name
            if path.is_symlink():
                path.unlink()
            elif on_bucket(path):
                path.rmtree()
            else:
                shutil.rmtree(path, ignore_errors=True)

    def wait(self) -> None:
        """Until the last save is complete.

        Raises:
          UserError: it could not be written.
        """
        with self._named_failures():
            self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        # What has gone wrong first is what is told.
        with suppress(UserError) if failure else nullcontext():
            self.close()

    def close(self) -> None:
        """Wait and free the manager, and put what has grown since the last save; raises as `wait`."""
        with self._named_failures():
            self._manager.close()
        put_grown()

    def _require_space(self, needed: int) -> None:
        """Refuse to begin a save that the disk cannot hold; folders that are no local disk are not asked."""
        if on_bucket(self.folder) or not self.folder.is_dir():
            return
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"{self.folder}: disk full: a checkpoint takes {needed / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are"
                f" free; {self._what_stays()}: free some space and run the same command again"
            )

    def _what_stays(self) -> str:
        """Return what a save that failed leaves to go on from; Orbax gives a checkpoint its name when it is whole."""
        pattern = f"[0-9]*/{COMMITTED}" if on_bucket(self.folder) else "[0-9]*"
        names = [path.relative_to(self.folder).parts[0] for path in self.folder.glob(pattern)]
        steps = [int(name) for name in names if name.isdecimal()]
        return f"the newest one there, of step {max(steps):,}, is good" if steps else "none there is complete yet"

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        """Turn what tensorstore raises on a full disk, and the like, into one line."""
        kinds = (Exception,) if on_bucket(self.folder) else (ValueError, OSError, RuntimeError)
        try:
            yield
        except kinds as error:
            if (failure := self._failure_of_storage(error)) is not None:
                raise failure from None
            reason, remedy = first_line(error), remedy_for(error, self.folder)
            error.__traceback__ = None
            gc.collect()  # pending writes hold on to the failed ones and would complain when Python ends
            kind = TryAgain if _errnos(error) & FAILED_STORAGE else UserError
            raise kind(
                f"{self.folder}: a checkpoint could not be written ({reason}); {self._what_stays()}: {remedy} and run the"
                " same command again"
            ) from None

    def _failure_of_storage(self, error: Exception) -> UserError | None:
        """Return what to raise where a bucket did not answer or did not allow it; None: something else went wrong."""
        if not on_bucket(self.folder):
            return None
        from bert_jax.base.buckets import bucket_failure

        causes = [found for cause in chain(error) if (found := bucket_failure(self.folder, cause)) is not None]
        return causes[-1] if causes else None


def _link_or_copy(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, destination)


@contextmanager
def _without_echo() -> Iterator[None]:
    """Silence everything but the error where reading fails: other reads under way fail too, and print their tracebacks."""
    heard, hook = io.StringIO(), sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with redirect_stderr(heard):
            try:
                yield
            except BaseException as error:  # a stop too
                error.__traceback__ = None
                gc.collect()  # lets go of the other reads
                time.sleep(0.2)  # until they have ended
                heard.seek(0)
                heard.truncate()
                raise
    finally:
        sys.unraisablehook = hook
        if heard.getvalue():
            sys.stderr.write(heard.getvalue())


def mark_complete(folder: Path) -> None:
    """Write into the checkpoints of a folder, which are complete, what says so where they are put on a bucket."""
    for step in (path for path in folder.glob("*") if path.name.isdecimal()):
        for part in (step, *(path for path in step.iterdir() if path.is_dir())):
            (part / COMMITTED).write_text("")


def unfinished_saves(folder: Path) -> list[str]:
    """Names of the folders that a cut off save has left behind."""
    if not folder.is_dir():
        return []
    if on_bucket(folder):
        steps = [path for path in folder.iterdir() if path.name.isdecimal() or _TEMPORARY in path.name]
        return [path.name for path in steps if not (path / COMMITTED).is_file()]
    return sorted(path.name for path in folder.iterdir() if _TEMPORARY in path.name)


def remedy_for(error: Exception, folder: Path) -> str:
    """Return what to do about a write into `folder` that failed; of libraries' errors only the text is there."""
    named = _errnos(error)
    if named & {errno.ENOSPC, errno.EDQUOT}:
        return "free some space"
    if named & {errno.EFBIG}:
        return "raise the limit on the size of files (ulimit -f)"
    if named & {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"make {folder} writable"
    if named & {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}:
        return "find out what removed files there meanwhile (only this process may write there)"
    return f"see that {folder} can be written to"


def _errnos(error: Exception) -> set[int | None]:
    """Return the system's numbers of an error, as far as its text tells them."""
    return {getattr(error, "errno", None)} | {number for number in errno.errorcode if os.strerror(number) in str(error)}
