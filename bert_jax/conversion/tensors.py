# SPDX-License-Identifier: Apache-2.0
"""Named tensors in files, read and written one at a time, so that no model is in memory twice."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  # NumPy knows bfloat16 by it
import numpy as np


class Entry(NamedTuple):
    """What is known of a tensor without reading it."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name: float32, float16, bfloat16, int64, ...

    @property
    def bytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class StoredTensors:
    """The tensors of a checkpoint by the names it gives them, in the order of its files."""

    path: Path  # for messages
    entries: Mapping[str, Entry]
    read: Callable[[str], np.ndarray]  # a name -> the tensor, of its entry's shape and dtype; reads it anew each time


class Writable(NamedTuple):
    """A tensor that is made when it is written."""

    name: str
    entry: Entry
    make: Callable[[], np.ndarray]  # of the entry's shape and dtype, in C order


def stored(path: Path, arrays: Mapping[str, np.ndarray]) -> StoredTensors:
    """Arrays in memory, in the place of a file's."""
    entries = {name: Entry(array.shape, array.dtype.name) for name, array in arrays.items()}
    return StoredTensors(path, entries, arrays.__getitem__)


def each(tensors: StoredTensors) -> Iterator[Writable]:
    """All tensors as they are, to be written elsewhere."""
    for name, entry in tensors.entries.items():
        yield Writable(name, entry, lambda name=name: tensors.read(name))  # type: ignore[misc]
