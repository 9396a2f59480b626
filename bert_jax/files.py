# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, and tensors in the safetensors format.

A safetensors file (https://github.com/huggingface/safetensors, "Format") is eight bytes with the length of a header, the
header in JSON (name -> type, shape, place), then the tensors. It is opened by mapping it into memory, so opening costs
the same whatever its size, and only what is read is loaded.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 2**20  # bytes


# ---- whole or absent ---------------------------------------------------------------------------------------


@contextmanager
def complete_or_absent(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` when it is complete and on disk, and else is removed."""
    temporary = path.with_name(f"{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write (disk full) does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with complete_or_absent(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- tensors -----------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> str:
    """Write contiguous tensors as a safetensors file. Returns its sha256, hex.

    Give the widest type first: then every tensor is aligned in the mapped file.
    """
    digest = hashlib.sha256()
    parts: list[bytes | np.ndarray] = [_header(tensors)]
    parts += [tensor.reshape(-1).view(np.uint8) for tensor in tensors.values()]
    with complete_or_absent(path) as file:
        for part in parts:
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def _header(tensors: Mapping[str, np.ndarray]) -> bytes:
    entries, offset = {}, 0
    for name, tensor in tensors.items():
        span = [offset, offset + tensor.nbytes]
        entries[name] = {"dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Name -> read-only view of the mapped file. Raises ValueError where header and file disagree."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length_bytes = file.read(8)
        length = struct.unpack("<Q", length_bytes)[0] if len(length_bytes) == 8 else 0
        if not 0 < length <= min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"its {size} bytes do not begin with a safetensors header")
        entries = json.loads(file.read(length))  # JSONDecodeError and UnicodeDecodeError are ValueErrors
    entries.pop("__metadata__", None)
    data_bytes = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if 8 + length + data_bytes != size:
        raise ValueError(f"its header tells of {8 + length + data_bytes} bytes, the file has {size}")
    # np.asarray: a plain array over the same map, because indexing an np.memmap is slow.
    data = np.asarray(np.memmap(path, np.uint8, mode="r", offset=8 + length))
    return {name: _view(data, name, entry) for name, entry in entries.items()}


def _view(data: np.ndarray, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{name} is of type {entry['dtype']}, not one of {', '.join(_DTYPES)}")
    begin, end = entry["data_offsets"]
    return data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
