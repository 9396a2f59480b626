# SPDX-License-Identifier: Apache-2.0
"""Checksums of arrays, the same however an array is cut over devices and processes.

An array [..., D] is taken as a table of whole numbers, a number an element: its bits. Summed up, modulo 2^32, is each
row and each column. Both lists of sums are then scrambled with their places and added up to 32 bits each. So any change
of one element is seen. One of several goes unseen about once in 2^32 times, except that of an even number of sign bits
in each row and each column, as in the corners of a rectangle: sums lose those, and nothing known that damages storage
makes them. Sums of parts add up, so no process needs more of an array than its own part.

On a CPU the sums are NumPy's, over the buffers as they are; on other devices XLA's, where reading the state once more
takes a millisecond for a gigabyte. XLA on a CPU would write the numbers to memory first.
"""

import json
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.base.host import usable_cores
from bert_jax.base.types import JsonObject, PyTree

_MOST_THREADS = 8  # reading memory is what takes the time
_PLACE, _MIX = 0x9E3779B1, 0x85EBCA6B  # odd, so that multiplying by them loses nothing
_CHUNK = 1 << 18  # elements of a buffer that are summed at once, both ways: they stay in the processor's cache


def checksums(tree: PyTree) -> dict[str, str]:
    """Path of each array of a tree -> 16 hex digits: 8 of its rows, 8 of its columns.

    Of several processes each calls this with its parts of the same arrays, and each gets the whole answer.
    """
    arrays = arrays_by_path(tree)
    found = {path: _of_global(array) for path, array in arrays.items() if _buffers(array) is None}
    here = {path: array for path, array in arrays.items() if path not in found}
    with ThreadPoolExecutor(min(_MOST_THREADS, usable_cores())) as pool:  # NumPy sums without Python's lock
        found |= dict(zip(here, pool.map(_of_buffers, here.values()), strict=True))
    return {path: f"{int(rows):08x}{int(columns):08x}" for path, (rows, columns) in jax.device_get(found).items()}


def arrays_by_path(tree: PyTree) -> dict[str, jax.Array | np.ndarray]:
    """Path, as params/encoder/layers, -> array."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def not_finite(tree: PyTree) -> str | None:
    """The path of the first array of a tree that holds NaN or infinity; None where all are finite."""
    floats = {path: array for path, array in arrays_by_path(tree).items() if jnp.issubdtype(array.dtype, jnp.floating)}
    finite = jax.device_get({path: _is_finite(array) for path, array in floats.items()})
    return next((path for path in floats if not finite[path]), None)


def text_checksum(content: JsonObject) -> str:
    """Checksum of what JSON can hold, 8 hex digits; the order of names does not count."""
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def _of_buffers(array: Any) -> tuple[Any, Any]:
    parts = _buffers(array)
    assert parts is not None
    return _of_parts(np.shape(array), parts)


def _is_finite(array: Any) -> Any:
    parts = _buffers(array)
    if parts is None:
        return _all_finite(array)
    return all(np.isfinite(values).all() for _, values in parts)


def _buffers(array: Any) -> list[tuple[Any, np.ndarray]] | None:
    """All parts of an array that lies in this process's memory, (index, values) each; None of any other."""
    if not isinstance(array, jax.Array):
        return [((slice(None),) * np.ndim(array), np.asarray(array))]
    if not array.is_fully_addressable or next(iter(array.devices())).platform != "cpu":
        return None
    return [(part.index, jax.device_get(part.data)) for part in array.addressable_shards if part.replica_id == 0]


# ---- NumPy ---------------------------------------------------------------------------------------------------------


def _of_parts(shape: tuple[int, ...], parts: list[tuple[tuple[Any, ...], np.ndarray]]) -> tuple[Any, Any]:
    """The two sums of an array of `shape` that is given as parts, (index, values) each."""
    shape = shape or (1,)
    rows, columns = np.zeros(shape[:-1], np.uint32), np.zeros(shape[-1], np.uint32)
    for index, values in parts:
        row_sums, column_sums = _sums(values.reshape(values.shape or (1,)))
        rows[index[:-1]] += row_sums
        columns[index[-1] if index else ...] += column_sums
    return _scrambled(rows, np), _scrambled(columns, np)


def _sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the rows [...] and of the columns [D] of values [..., D]."""
    width = values.shape[-1]
    words = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").astype(np.uint32, copy=False)
    words = words.reshape(math.prod(values.shape[:-1]), width)
    rows, columns = np.zeros(len(words), np.uint32), np.zeros(width, np.uint32)
    step = max(1, _CHUNK // max(width, 1))
    for begin in range(0, len(words), step):
        chunk = words[begin : begin + step]
        np.add.reduce(chunk, axis=1, dtype=np.uint32, out=rows[begin : begin + step])
        columns += np.add.reduce(chunk, axis=0, dtype=np.uint32)
    return rows.reshape(values.shape[:-1]), columns


# ---- XLA -----------------------------------------------------------------------------------------------------------


@jax.jit
def _of_global(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sums of `_of_parts` of a whole array, taken where it lies."""
    array = array.reshape(array.shape or (1,))
    words = array.astype(jnp.uint32) if array.dtype == bool else _bits(array).astype(jnp.uint32)
    rows = words.sum(axis=-1, dtype=jnp.uint32)
    columns = words.sum(axis=tuple(range(words.ndim - 1)), dtype=jnp.uint32)
    return _scrambled(rows, jnp), _scrambled(columns, jnp)


@jax.jit
def _all_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def _bits(array: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(array, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[array.dtype.itemsize])


# ---- both ----------------------------------------------------------------------------------------------------------


def _scrambled(sums: Any, xp: Any) -> Any:
    """One number of sums [...], which tells apart where they stand."""
    places = xp.arange(math.prod(sums.shape), dtype=np.uint32)
    mixed = sums.reshape(-1) + places * np.uint32(_PLACE)
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(_MIX)
    return (mixed ^ (mixed >> 13)).sum(dtype=np.uint32)
