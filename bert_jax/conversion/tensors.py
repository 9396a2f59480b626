# SPDX-License-Identifier: Apache-2.0
"""Named tensors in files, read and written one at a time, so that no model is in memory twice."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  # NumPy knows bfloat16 by it
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import MOST_TENSORS

MOST_AXES = 64  # of a tensor, as in NumPy


class TensorEntry(NamedTuple):
    """Shape and type of a stored tensor, known without reading it."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name: float32, float16, bfloat16, int64, ...

    @property
    def bytes(self) -> int:
        """Size of the values, without header or padding."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class StoredTensors:
    """The tensors of a checkpoint by the names it gives them, in the order of its files."""

    path: Path  # for messages
    entries: Mapping[str, TensorEntry]
    read: Callable[[str], np.ndarray]  # a name -> the tensor, of its entry's shape and dtype; reads it anew each time


def require_few(path: Path, count: int) -> None:
    """Refuse a checkpoint of more than MOST_TENSORS tensors."""
    if count > MOST_TENSORS:
        raise UserError(
            f"{path} names {count:,} tensors, and a checkpoint has {MOST_TENSORS:,} at most: it is no model"
        )


class Writable(NamedTuple):
    """A tensor that is made when it is written."""

    name: str
    entry: TensorEntry
    make: Callable[[], np.ndarray]  # of the entry's shape and dtype, in C order


def stored(path: Path, arrays: Mapping[str, np.ndarray]) -> StoredTensors:
    """Arrays in memory, in the place of a file's."""
    entries = {name: TensorEntry(array.shape, array.dtype.name) for name, array in arrays.items()}
    return StoredTensors(path, entries, arrays.__getitem__)


def without_prefix(tensors: StoredTensors, prefix: str) -> StoredTensors:
    """The same under shorter names: `prefix` is taken off those that begin with it.

    Raises ValueError, which names both, where two would be called the same.
    """
    own: dict[str, str] = {}
    for name in tensors.entries:
        short = name.removeprefix(prefix)
        if short in own:
            raise ValueError(f"{own[short]} and {name} are one name without {prefix}")
        own[short] = name
    entries = {short: tensors.entries[name] for short, name in own.items()}
    return StoredTensors(tensors.path, entries, lambda name: tensors.read(own[name]))


def each(tensors: StoredTensors) -> Iterator[Writable]:
    """All tensors as they are, to be written elsewhere."""
    for name, entry in tensors.entries.items():
        yield Writable(name, entry, lambda name=name: tensors.read(name))  # type: ignore[misc]
