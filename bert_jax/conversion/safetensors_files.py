# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's model.safetensors, in one file or several with an index. The only importer of safetensors.

The header is checked here, because the library's errors name neither the tensor nor the numbers that disagree. Tensors are
read by the library. They are written by `bert_jax.base.files`, one at a time: the library wants all of them in memory.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open, SafetensorError

from bert_jax.base.errors import UserError
from bert_jax.base.files import stream_tensors, tensor_places, TENSOR_TYPES, TensorKind
from bert_jax.conversion.sharded import INDEX_SUFFIX, open_sharded, refuse_lfs_pointer
from bert_jax.conversion.tensors import StoredTensors, TensorEntry, Writable

METADATA = {"format": "pt"}  # transformers loads no file without it: https://huggingface.co/docs/safetensors


def open_safetensors(path: Path) -> StoredTensors:
    """The tensors of a .safetensors file, or of all files that a .safetensors.index.json names.

    Raises UserError, which names the file, the tensor and the numbers that disagree: for a file that is missing or cut short,
    a header that contradicts itself or the file, a type that is not of `bert_jax.base.files.TENSOR_TYPES` (quantised weights).
    """
    return open_sharded(path, _open_file) if path.name.endswith(INDEX_SUFFIX) else _open_file(path)


def _open_file(path: Path) -> StoredTensors:
    try:
        places = tensor_places(path)
    except FileNotFoundError:
        raise UserError(f"there is no {path}: check the path") from None
    except ValueError as error:
        refuse_lfs_pointer(path)
        raise UserError(f"{path} is not a whole safetensors file: {error}: copy or download it again") from None
    entries = {name: TensorEntry(kind.shape, kind.dtype.name) for name, (kind, _, _) in places.items()}
    return StoredTensors(path, entries, lambda name: _read(path, name, entries[name]))


def _read(path: Path, name: str, entry: TensorEntry) -> np.ndarray:
    """One tensor, copied from the file, which is closed again: the map of an open file counts as memory in use."""
    try:
        with safe_open(path, framework="numpy") as file:
            tensor = file.get_tensor(name)
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(f"{path}: {name} cannot be read: {error}: copy or download the file again") from None
    if TensorEntry(tensor.shape, tensor.dtype.name) != entry:
        found = f"{tensor.dtype.name} {list(tensor.shape)}"
        raise UserError(
            f"{path} was changed while it was read: {name} was {entry.dtype} {list(entry.shape)}, now {found}"
        )
    return tensor


def write_safetensors(path: Path, tensors: Sequence[Writable]) -> str:
    """Write one .safetensors file, byte for byte the one that the safetensors library would write; whole or not at all.

    No more than one tensor is in memory beyond what `make` keeps. Returns the file's sha256, hex.
    """
    ranks = {dtype.name: rank for rank, dtype in enumerate(TENSOR_TYPES.values())}
    in_order = sorted(tensors, key=lambda tensor: (-ranks[tensor.entry.dtype], tensor.name))
    kinds = {name: TensorKind(np.dtype(entry.dtype), entry.shape) for name, entry, _ in in_order}
    if len(kinds) < len(in_order):
        raise ValueError("two tensors have the same name")
    makers = {tensor.name: tensor.make for tensor in in_order}
    return stream_tensors(path, kinds, lambda name: makers[name](), METADATA)
