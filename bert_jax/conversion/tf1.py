# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as google-research/bert writes them: TensorFlow 1's `tf.train.Saver`, format V2.

A checkpoint is a prefix, such as bert_model.ckpt or model.ckpt-1000, and the files that begin with it: `.index` (names,
types, shapes, places, checksums) and one or more of `.data-00000-of-00001` (the bytes). TensorFlow's own reader and
writer are used. One of the importers of TensorFlow, which is imported when it is needed.
"""

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent, new_folder
from bert_jax.base.host import has_tensorflow
from bert_jax.base.stopping import in_a_thread
from bert_jax.conversion.names import GLOBAL_STEP
from bert_jax.conversion.tensors import require_few, StoredTensors, TensorEntry, Writable

# A data file and the memory to write it hold this much, or one tensor if that is larger. 512 MiB: BERT-base (418 MiB) is
# one file, as Google's.
PIECE_BYTES = 512 * 2**20
LARGEST_INDEX = 16 * 2**20  # bytes; that of BERT-large with Adam's moments has 50,000
_INDEX_END = bytes.fromhex("57fb808b247547db")  # an index is a sorted string table as LevelDB's, and ends as these do
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # TensorFlow 2 puts it into its own checkpoints
_SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_COPY_ALL = "copy all files of the checkpoint again"


def require_tensorflow() -> None:
    """Raises UserError where TensorFlow is not installed; does not import it."""
    if not has_tensorflow():
        raise UserError('TF1 checkpoints are read and written by TensorFlow: pip install "bert-jax[tensorflow]"')


def _import_tensorflow() -> Any:
    import tensorflow

    return tensorflow


def _tensorflow() -> Any:
    require_tensorflow()
    # Before the import: no notices about the CPU's features.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    tf = in_a_thread(_import_tensorflow)
    with contextlib.suppress(RuntimeError):  # TensorFlow is in use already, by the caller
        tf.config.set_visible_devices([], "GPU")  # TensorFlow would take their memory
    return tf


# ---- find --------------------------------------------------------------------------------------------------


def find_tf1(path: Path) -> Path | None:
    """The prefix of the TF1 checkpoint at `path`, or None where there is none. TensorFlow is not needed.

    Args:
      path: a prefix; one of the checkpoint's files; or a directory. In a directory the file `checkpoint`, in which
        TensorFlow notes the latest one, decides between several.

    Raises UserError for several checkpoints of which none is the latest, and for data without an index.
    """
    if path.is_dir():
        return _find_in_directory(path)
    prefix = _without_suffix(path)
    if _has_index(prefix):
        return prefix
    _refuse_data_without_index(prefix.parent, f"{glob.escape(prefix.name)}.data-*")
    return None


def _find_in_directory(folder: Path) -> Path | None:
    prefixes = sorted(prefix for prefix in map(_without_suffix, folder.glob("*.index")) if _has_index(prefix))
    if not prefixes:
        _refuse_data_without_index(folder, "*.data-*")
        return None
    latest, names = _latest(folder), ", ".join(prefix.name for prefix in prefixes)
    if latest is not None:
        if folder / latest in prefixes:
            return folder / latest
        raise UserError(
            f"{folder / 'checkpoint'} says that {latest} is the latest, which is not there ({names} is): give the path of"
            f" the checkpoint itself, such as {prefixes[-1]}"
        )
    if len(prefixes) > 1:
        raise UserError(
            f"{folder} holds several TF1 checkpoints ({names}): give the path of one, such as {prefixes[-1]}"
        )
    return prefixes[0]


def _latest(folder: Path) -> str | None:
    """Return the checkpoint that TensorFlow's file `checkpoint` names, without the directory it was written in: the files
    may have been moved."""
    with contextlib.suppress(OSError):
        text = (folder / "checkpoint").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r'^\s*model_checkpoint_path:\s*"(.+)"', text, re.MULTILINE):
            return re.split(r"[/\\]", found[1])[-1]
    return None


def _without_suffix(path: Path) -> Path:
    return path.with_name(_SUFFIX.sub("", path.name))


def _has_index(prefix: Path) -> bool:
    """Whether it is an index of TensorFlow's, or a broken one beside its data. Other programs call files .index too."""
    path = prefix.with_name(f"{prefix.name}.index")
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(-min(len(_INDEX_END), path.stat().st_size), os.SEEK_END)
        return file.read() == _INDEX_END or bool(_data_files(prefix))


def _data_files(prefix: Path) -> list[Path]:
    files = prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*")
    return sorted(file for file in files if _without_suffix(file) == prefix)


def _refuse_data_without_index(folder: Path, pattern: str) -> None:
    orphan = next((file for file in sorted(folder.glob(pattern)) if _SUFFIX.search(file.name)), None)
    if orphan is not None:
        raise UserError(f"{orphan} has no {_without_suffix(orphan).name}.index beside it: {_COPY_ALL}")


# ---- read --------------------------------------------------------------------------------------------------


def open_tf1(prefix: Path) -> StoredTensors:
    """The variables of a TF1 checkpoint in the order of its index, which is that of their names.

    The index is enough to open it. Raises UserError for a broken index and for TensorFlow 2's object-based
    checkpoints; `read` does for data that is missing, cut short or altered (each tensor has a checksum).
    """
    tf = _tensorflow()
    # Its Python binding turns some of TensorFlow's errors into Python's own.
    failures = (tf.errors.OpError, IndexError, ValueError, NotImplementedError)
    index = prefix.with_name(f"{prefix.name}.index")
    if index.stat().st_size > LARGEST_INDEX:
        raise UserError(
            f"{index} has {index.stat().st_size:,} bytes, and an index {LARGEST_INDEX:,} at most: it is another file"
        )
    try:
        reader = tf.train.load_checkpoint(str(prefix))
    except failures as error:
        raise UserError(f"{prefix}.index cannot be read ({_said(error)}): {_COPY_ALL}") from None
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    if _OBJECT_GRAPH in shapes:
        raise UserError(
            f"{prefix} is an object-based checkpoint of TensorFlow 2, which has no names of variables: give the TF1"
            " checkpoint of this model, or export it as a Hugging Face directory"
        )
    require_few(index, len(shapes))
    entries = {name: _entry(prefix, name, shapes[name], dtypes[name]) for name in sorted(shapes)}
    held = sum(file.stat().st_size for file in _data_files(prefix))

    def read(name: str) -> np.ndarray:
        if entries[name].bytes > held:  # TensorFlow takes the memory before it looks
            raise UserError(_unreadable(prefix, entries, name, f"it should be {entries[name].bytes:,} bytes"))
        try:
            return np.asarray(reader.get_tensor(name))
        except failures as error:
            raise UserError(_unreadable(prefix, entries, name, _said(error))) from None

    return StoredTensors(prefix, entries, read)


def _entry(prefix: Path, name: str, shape: Sequence[int], dtype: Any) -> TensorEntry:
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    if numpy_dtype.hasobject:
        raise UserError(f"{name} in {prefix} is of type {dtype.name}, which no weight is: give a checkpoint of BERT")
    return TensorEntry(tuple(shape), numpy_dtype.name)


def _unreadable(prefix: Path, entries: Mapping[str, TensorEntry], name: str, said: str) -> str:
    """Why a tensor of a good index cannot be read."""
    where, files = f"{name} in {prefix} cannot be read", _data_files(prefix)
    if not files:
        return f"{where}, {prefix.name}.data-00000-of-00001 is not beside its index: {_COPY_ALL}"
    total = int(files[0].name.rsplit("-", 1)[1])
    if len(files) < total:
        return f"{where}, {len(files)} of its {total} data files are there: {_COPY_ALL}"
    held, needed = sum(file.stat().st_size for file in files), sum(entry.bytes for entry in entries.values())
    if held < needed:
        return f"{where}, its data are {held} bytes of {needed}: {_COPY_ALL}"
    return f"{where} ({said}): {_COPY_ALL}"


def _said(error: Exception) -> str:
    """Return TensorFlow's message without the names of its own operations."""
    return re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*?\]", "", str(error)).partition("\n")[0]


# ---- write -------------------------------------------------------------------------------------------------


def write_tf1(prefix: Path, tensors: Sequence[Writable]) -> None:
    """Write a TF1 checkpoint, whole or not at all; each tensor is made once, in the order of the names.

    Up to PIECE_BYTES are in memory at a time, and a data file holds as much. With a global step it is a run's, which may
    go on: then the file `checkpoint` names it as the latest of its directory, as `tf.train.Saver` does.
    Raises UserError where the checkpoint exists or cannot be written.
    """
    tf = _tensorflow()
    index = prefix.with_name(f"{prefix.name}.index")
    if index.exists():
        raise UserError(f"{index} exists and is not overwritten: remove the checkpoint or give another place")
    in_order = sorted(tensors, key=lambda tensor: tensor.name)  # as in Google's data files
    partial = new_folder(prefix.with_name(f"{prefix.name}.partial"))  # one may be there of a run that was killed
    try:
        pieces = partial / "pieces"
        saved = [_save(tf, pieces / str(number), piece) for number, piece in enumerate(_pieces(in_order))]
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=saved, destination_prefix=str(partial / prefix.name))
        for file in [*_data_files(partial / prefix.name), partial / index.name]:  # the index makes it a checkpoint
            _flush_to_disk(file)
            os.replace(file, prefix.with_name(file.name))
    except tf.errors.OpError as error:
        raise UserError(
            f"{prefix} cannot be written ({_said(error)}): mend this and run the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if any(tensor.name == GLOBAL_STEP for tensor in tensors):
        _note_latest(prefix)


def _pieces(tensors: Sequence[Writable]) -> Iterator[list[Writable]]:
    """Runs of tensors of PIECE_BYTES together, or one that is larger."""
    piece: list[Writable] = []
    for tensor in tensors:
        if piece and sum(part.entry.bytes for part in [*piece, tensor]) > PIECE_BYTES:
            yield piece
            piece = []
        piece.append(tensor)
    yield piece


def _save(tf: Any, prefix: Path, piece: Sequence[Writable]) -> str:
    """A checkpoint of some tensors; several are merged without copying their data."""
    with tf.device("CPU"):
        # A constant keeps a second copy of its array as long as it lives; what an operation gives does not.
        values = [tf.identity(tf.constant(_made(tensor))) for tensor in piece]
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=[tensor.name for tensor in piece],
            shape_and_slices=[""] * len(piece),
            tensors=values,
        )
    return str(prefix)


def _made(tensor: Writable) -> np.ndarray:
    array = tensor.make()
    if (array.shape, array.dtype.name) != tensor.entry:
        raise ValueError(f"{tensor.name} was made as {array.dtype.name}{array.shape}, not as its {tensor.entry}")
    return array


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _note_latest(prefix: Path) -> None:
    """The file by which `tf.train.latest_checkpoint`, and so an Estimator, finds it."""
    lines = [f'{field}: "{prefix.name}"\n' for field in ("model_checkpoint_path", "all_model_checkpoint_paths")]
    with complete_or_absent(prefix.with_name("checkpoint")) as file:
        file.write("".join(lines).encode())
