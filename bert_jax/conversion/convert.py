# SPDX-License-Identifier: Apache-2.0
"""A checkpoint from any format to any other, with a certificate.

The result is written beside its place and takes it when the certificate holds, so what is there is whole and proven.
"""

import dataclasses
import fcntl
import glob
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from bert_jax.config.description import ModelDescription, TASKS
from bert_jax.conversion import names
from bert_jax.conversion.certificate import as_json, compare_tensors, Difference, differences, example_inputs, run_side
from bert_jax.conversion.checkpoints import (
    Asked,
    check_norm,
    Checkpoint,
    open_checkpoint,
    require_plain_head,
)
from bert_jax.conversion.config_files import GOOGLE_CONFIG, google_config, HUGGING_FACE_CONFIG, hugging_face_config
from bert_jax.conversion.extension import extended, Extension, plan_extension
from bert_jax.conversion.finished import CERTIFICATE, request_for
from bert_jax.conversion.names import BERT_JAX, HUGGING_FACE, NameRow, TF1
from bert_jax.conversion.optimizer_state import optimizer_for, OptimizerState, unequal_moments
from bert_jax.conversion.own_format import config_for, write_run
from bert_jax.conversion.safetensors_files import write_safetensors
from bert_jax.conversion.tensors import TensorEntry, Writable
from bert_jax.conversion.tf1 import write_tf1
from bert_jax.conversion.vocabularies import write_google_vocabulary, write_hugging_face_tokenizer
from bert_jax.errors import UserError
from bert_jax.files import file_sha256, write_json
from bert_jax.host import __version__
from bert_jax.runs.directory import open_run
from bert_jax.types import JsonObject

TF1_PREFIX = "bert_model.ckpt"
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Certificate:
    """The proof of a conversion: both sides, and how far they are apart."""

    source: Checkpoint
    result: Checkpoint
    ran: tuple[str, str]  # what ran the source and the result
    differences: list[Difference]
    unequal: list[str]  # tensors, moments and entries of the vocabulary that are not the same on both sides
    compared: int  # tensors
    notes: list[str]
    left_in: Path | None = None  # where a result lies that was not put in its place

    @property
    def holds(self) -> bool:
        """Whether every tensor is equal and every output within the tolerance."""
        return not self.unequal and all(one.holds for one in self.differences)

    def lines(self) -> list[str]:
        """Return notes and verdict, as lines for people."""
        outputs = ", ".join(f"{one.output} {one.largest_difference:.1e}" for one in self.differences)
        tensors = f"{self.compared} tensors are bit for bit the same" if not self.unequal else "; ".join(self.unequal)
        verdict = "certificate holds" if self.holds else "CERTIFICATE DOES NOT HOLD"
        return [*self.notes, f"{verdict}: {tensors}; largest differences: {outputs} ({self.ran[0]}; {self.ran[1]})"]


def convert(
    source: Path,
    destination: Path,
    to: str,
    asked: Asked = Asked(),  # noqa: B008  # frozen
    dtype: str = "float32",
    peer_python: Path | None = None,
) -> Certificate:
    """Convert, prove, and put the result in its place where the proof holds.

    Args:
      source: a checkpoint of any format.
      destination: a directory that does not exist, or is empty.
      to: one of `names.FORMATS`.
      asked: what the user decides where files do not say.
      dtype: of the tensors that are written for Hugging Face; float16 and bfloat16 only if that loses nothing.
      peer_python: a Python with torch and transformers, which then runs Hugging Face's side.

    Raises:
      UserError: what cannot be converted, named.
    """
    destination = _free(destination)
    if dtype != "float32" and to != HUGGING_FACE:
        raise UserError(f"--dtype {dtype} is for --to {HUGGING_FACE} only: {to} keeps float32")
    opened = open_checkpoint(source, asked)
    require_plain_head(source, opened.description)
    _refuse_idle_peer(peer_python, opened.format, to)
    request = request_for(source, to, asked, dtype)
    return _write_and_prove(opened, destination, to, dtype, peer_python, request=request)


def extend(
    source: Path,
    destination: Path,
    words: Sequence[str],
    positions: int | None = None,
    fill_unused: bool = True,
    asked: Asked = Asked(),  # noqa: B008  # frozen
) -> tuple[Certificate, Extension]:
    """Add words and positions to a checkpoint: the result has the source's format; see extension.py.

    What is proven: the tensors are those planned, bit for bit, and every old id gives the outputs of the source.

    Raises:
      UserError: as `convert` and `plan_extension`.
    """
    destination = _free(destination)
    opened = open_checkpoint(source, asked)
    require_plain_head(source, opened.description)
    extension = plan_extension(opened, words, positions, fill_unused)
    grown = extended(opened, extension)
    before = Before(opened, extension.kept())
    certificate = _write_and_prove(grown, destination, opened.format, "float32", None, before)
    return certificate, extension


def compare(first: Path, second: Path, asked: Asked, peer_python: Path | None = None) -> Certificate:
    """Two checkpoints that are there: what differs, and what it looks like.

    Raises:
      UserError: as `open_checkpoint`; the models have different shapes.
    """
    source, result = (open_checkpoint(path, asked) for path in (first, second))
    _refuse_idle_peer(peer_python, source.format, result.format)
    shapes = [dataclasses.asdict(side.description.model) for side in (source, result)]
    different = [
        f"{name} {value} and {shapes[1][name]}"
        for name, value in shapes[0].items()
        if value != shapes[1][name] and "dropout" not in name and name != "initializer_range"
    ]
    if different:
        raise UserError(f"{first} and {second} are different models: {', '.join(different)}")
    certificate = certify(source, result, [], peer_python)
    ours, theirs = ({row.ours for row in side.rows} for side in (source, result))
    alone = [f"{name}: only in {first if name in ours else second}" for name in sorted(ours ^ theirs)]
    return replace(certificate, unequal=certificate.unequal + alone)


def _refuse_idle_peer(peer_python: Path | None, first: str, second: str) -> None:
    if peer_python is not None and HUGGING_FACE not in (first, second):
        raise UserError(
            f"--peer-python runs Hugging Face's side, and here {first} stands against {second}: leave the option out"
        )


def _free(destination: Path) -> Path:
    """The place of the result, without links in its path."""
    place = destination.resolve()
    if destination.is_symlink() or place == Path.cwd():
        raise UserError(f"{destination} is a link or the current folder: name a new directory")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{destination} is not empty: choose another place for the result")
    return place


def _write_and_prove(
    opened: Checkpoint,
    destination: Path,
    to: str,
    dtype: str,
    peer_python: Path | None,
    before: "Before | None" = None,
    request: JsonObject | None = None,
) -> Certificate:
    check_norms(opened)
    with _beside(destination) as folder:
        optimizer, said = optimizer_for(opened, to)
        notes = [*opened.notes, *_write(opened, folder, to, dtype, optimizer), *said]
        task = opened.description.task
        result = open_checkpoint(folder, Asked(task=task.kind if task else None, padding_rows="keep"))
        certificate = certify(opened, result, notes, peer_python, before)
        unequal = [*certificate.unequal, *_unequal_vocabulary(opened, result)]
        if optimizer is not None:
            kept = optimizer_for(result, to)[0]
            unequal += unequal_moments(optimizer, kept, result.rows) if kept else ["the optimizer's state is gone"]
        certificate = replace(certificate, unequal=unequal)
        _record(certificate, folder, request)
        if certificate.holds:
            _put_in_place(folder, destination)
    return certificate if certificate.holds else replace(certificate, left_in=folder)


def _unequal_vocabulary(source: Checkpoint, result: Checkpoint) -> list[str]:
    """Entries, and how text is normalised, where the result's format can say it."""
    ours, theirs = source.tokenizer, result.tokenizer
    if ours is None or theirs is None:
        return [] if ours is theirs else ["vocabulary: only on one side"]
    if list(ours.vocabulary) != list(theirs.vocabulary):
        return ["vocabulary: its entries, or their order, are others"]
    if result.format != TF1 and ours.settings() != theirs.settings():
        return ["vocabulary: text is normalised in another way"]
    return []


class Before(NamedTuple):
    """A checkpoint before it was extended: what is run on its side, and the ids that must give what they gave."""

    checkpoint: Checkpoint
    kept: np.ndarray


def certify(
    source: Checkpoint,
    result: Checkpoint,
    notes: list[str],
    peer_python: Path | None = None,
    before: Before | None = None,
) -> Certificate:
    """Compare two checkpoints: outputs, then tensors. One side at a time is in memory."""
    first = source if before is None else before.checkpoint
    inputs = example_inputs(first.description.model, None if before is None else before.kept)
    ran_first, expected = run_side(first, inputs, peer_python)
    ran_result, outputs = run_side(result, inputs, peer_python)
    if before is not None:
        for side in (expected, outputs):
            side.update({name: side[name][:, :, before.kept] for name in ("mlm_logits",) if name in side})
    found = differences(expected, outputs, inputs["input_mask"] == 1)
    compared = len({row.ours for row in source.rows} & {row.ours for row in result.rows})
    ran = ran_first, ran_result
    return Certificate(source, result, ran, found, compare_tensors(source, result), compared, notes)


def check_norms(checkpoint: Checkpoint) -> None:
    """Refuse LayerNorms whose scale and bias were swapped."""
    by_name = {row.ours: row for row in checkpoint.rows}
    for name, row in by_name.items():
        if name.endswith("/scale"):
            bias = by_name[f"{name.removesuffix('scale')}bias"]
            pair = checkpoint.own_names[row.ours], checkpoint.own_names[bias.ours]
            check_norm(checkpoint.path, pair, checkpoint.weight(row), checkpoint.weight(bias))


# ---- writing -------------------------------------------------------------------------------------------------------


def _write(source: Checkpoint, folder: Path, to: str, dtype: str, optimizer: OptimizerState | None) -> list[str]:
    """Write the result; returns what is to be said about it."""
    with _progress(source, to) as weight:
        if to == BERT_JAX:
            notes = _write_ours(source, folder, weight, optimizer)
        elif to == HUGGING_FACE:
            notes = _write_hugging_face(source, folder, weight, dtype)
        else:
            notes = _write_google(source, folder, weight, optimizer)
    skipped: dict[str, list[str]] = {}
    for name, reason in source.skipped.items():
        skipped.setdefault(reason, []).append(name)
    return notes + [
        f"{len(own):,} skipped ({reason}): {own[0]}"
        for reason, own in skipped.items()
        if reason != names.OPTIMIZER_STATE
    ]


@contextmanager
def _progress(source: Checkpoint, to: str) -> Iterator[Callable[[NameRow], np.ndarray]]:
    """A reader of weights that refuses what is not finite and shows how far it is."""
    total = sum(source.tensors.entries[source.own_names[row.ours]].bytes for row in source.rows)
    with tqdm(total=total, unit="B", unit_scale=True, desc=f"convert to {to}", disable=None) as bar:

        def weight(row: NameRow) -> np.ndarray:
            array = source.finite_weight(row)
            bar.update(source.tensors.entries[source.own_names[row.ours]].bytes)
            return array

        yield weight


def _write_ours(
    source: Checkpoint, folder: Path, weight: Callable[[NameRow], np.ndarray], optimizer: OptimizerState | None
) -> list[str]:
    if source.tokenizer is None:
        raise UserError(f"{source.path} has no vocabulary, which a run needs: give --vocab vocab.txt")
    source.tokenizer.save(folder)
    config = config_for(source.description)
    if source.format == BERT_JAX:  # the run's own settings stay
        config = replace(open_run(source.path).config(), model=source.description.model)
    step, moments = (0, None) if optimizer is None else (optimizer.step, optimizer.moments)
    write_run(folder, source.description, weight, config, step, moments)
    return []


def _write_hugging_face(
    source: Checkpoint, folder: Path, weight: Callable[[NameRow], np.ndarray], dtype: str
) -> list[str]:
    description, notes = _as_hugging_face_has_it(source.description)
    tensors = [_writable(row, HUGGING_FACE, description, weight, dtype) for row in names.rows_of(description)]
    if description.mlm and not description.model.tie_word_embeddings:  # both are asked for, and this one is used
        bias = next(tensor for tensor in tensors if tensor.name == names.OUTPUT_BIAS)
        tensors.append(bias._replace(name=names.DECODER_BIAS))
    write_safetensors(folder / "model.safetensors", tensors)
    pad = source.tokenizer.pad_id if source.tokenizer else 0
    values = hugging_face_config(description, pad) | {"torch_dtype": dtype}
    write_json(folder / HUGGING_FACE_CONFIG, values)
    if source.tokenizer is None:
        return [*notes, "without a vocabulary: the source has none"]
    longest = description.model.max_position_embeddings
    return notes + write_hugging_face_tokenizer(source.tokenizer, folder, longest)


def _as_hugging_face_has_it(description: ModelDescription) -> tuple[ModelDescription, list[str]]:
    """Without what Hugging Face's class for the head has no place for, and would warn of."""
    notes = []
    if description.task is not None and (description.mlm or description.nsp):
        description = replace(description, mlm=False, nsp=False)
        notes.append("the MLM and NSP heads are left out: Hugging Face's class for this head has none")
    tokens = description.task is not None and TASKS[description.task.kind] == "tokens"
    masked = description.mlm and not description.nsp and description.task is None
    if description.pooler and (tokens or masked):
        description = replace(description, pooler=False)
        notes.append("the pooler is left out: Hugging Face's class for this head has none")
    return description, notes


def _write_google(
    source: Checkpoint, folder: Path, weight: Callable[[NameRow], np.ndarray], optimizer: OptimizerState | None
) -> list[str]:
    values, notes = google_config(source.description)
    tensors = [_writable(row, TF1, source.description, weight) for row in source.rows]
    if optimizer is not None:
        for row in source.rows:
            for number, slot in enumerate(names.SLOTS):
                moment = _writable(row, TF1, source.description, lambda row, n=number: optimizer.moments(row)[n])  # type: ignore[misc]
                tensors.append(moment._replace(name=f"{moment.name}/{slot}"))
        steps = np.array(optimizer.step, np.int64)
        tensors.append(Writable(names.GLOBAL_STEP, TensorEntry((), "int64"), lambda: steps))
    write_tf1(folder / TF1_PREFIX, tensors)
    write_json(folder / GOOGLE_CONFIG, values)
    if source.tokenizer is None:
        return [*notes, "without a vocabulary: the source has none"]
    return notes + write_google_vocabulary(source.tokenizer, folder)


def _writable(
    row: NameRow,
    format: str,
    description: ModelDescription,
    weight: Callable[[NameRow], np.ndarray],
    dtype: str = "float32",
) -> Writable:
    shape = names.shape_of(row, description)
    transposed = row.is_transposed(format)

    def make() -> np.ndarray:
        array = weight(row)
        array = np.ascontiguousarray(array.T if transposed else array)
        return array if dtype == "float32" else _narrowed(row.name(format), array, dtype)

    return Writable(row.name(format), TensorEntry(shape[::-1] if transposed else shape, dtype), make)


def _narrowed(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    narrow = array.astype(np.dtype(dtype))
    if not np.array_equal(narrow.astype(np.float32), array):
        raise UserError(f"{name} does not fit into {dtype} without loss: leave out --dtype {dtype}")
    return narrow


# ---- places and records --------------------------------------------------------------------------------------------


@contextmanager
def _beside(destination: Path) -> Iterator[Path]:
    """A new folder beside the destination. It goes when something is raised, and stays otherwise."""
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


def _put_in_place(folder: Path, destination: Path) -> None:
    if destination.is_dir():
        destination.rmdir()  # empty, as was seen
    os.replace(folder, destination)


def _record(certificate: Certificate, folder: Path, request: JsonObject | None) -> None:
    """conversion.json; `request`: by which the same conversion is recognised, see finished.py."""
    source, result = certificate.source, certificate.result
    record: JsonObject = {
        "bert_jax": __version__,
        "holds": certificate.holds,
        "source": {"format": source.format, "path": source.path.name, "files": _hashes(source)},
        "result": {"format": result.format, "files": _hashes(result)},
        "weights_sha256": {"source": weights_sha256(source, result), "result": weights_sha256(result, result)},
        "model": result.description.to_dict(),
        "ran": {"source": certificate.ran[0], "result": certificate.ran[1]},
        "outputs": as_json(certificate.differences),
        "unequal_tensors": certificate.unequal,
        "tensors": [
            {
                "name": row.ours,
                "shape": list(names.shape_of(row, result.description)),
                "source": source.own_names[row.ours],
                "result": result.own_names[row.ours],
            }
            for row in result.rows
        ],
        "skipped": dict(source.skipped),
        "left_out": [row.ours for row in source.rows if row.ours not in result.own_names],
        "notes": certificate.notes,
        "request": request,
    }
    write_json(folder / CERTIFICATE, record)


def weights_sha256(checkpoint: Checkpoint, like: Checkpoint) -> str:
    """A hash of the tensors that `like` has, in our layout: the same whatever format holds them."""
    digest = hashlib.sha256()
    for row in like.rows:
        array = checkpoint.weight(row)
        digest.update(f"{row.ours} {array.shape}".encode())
        digest.update(array)
    return digest.hexdigest()


def _hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """sha256 of the files that lie beside each other; a run's arrays are covered by `weights_sha256`."""
    place, stem = (checkpoint.path, "") if checkpoint.path.is_dir() else (checkpoint.path.parent, checkpoint.path.name)
    files = [path for path in sorted(place.iterdir()) if path.is_file() and path.name != CERTIFICATE]
    named = ("config", "vocab", "tokenizer", "special_tokens", "bert_config", stem)
    return {path.name: file_sha256(path) for path in files if not stem or path.name.startswith(named)}
