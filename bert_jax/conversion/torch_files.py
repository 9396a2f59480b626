# SPDX-License-Identifier: Apache-2.0
"""PyTorch's pytorch_model.bin, read without PyTorch and without running anything that is in it.

What torch.save writes is a pickle, which describes the tensors, and storages, the rows of numbers they are views of. A
pickle is a program: it may call whatever it names. The unpickler here knows the few names that a dictionary of dense
tensors needs, puts descriptions in their places, and refuses every other name before it is looked up. Storages are read
when a tensor of theirs is.

Two containers: since PyTorch 1.6 a zip archive with the records NAME/data.pkl and NAME/data/KEY; before, a row of pickles
(a magic number, a version, the machine's sizes, the dictionary, the keys of the storages), then each storage with its length.
"""

import io
import math
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from bert_jax.base.errors import listed, UserError
from bert_jax.conversion.pickle_bounds import LARGEST_PICKLE
from bert_jax.conversion.sharded import INDEX_SUFFIX, open_sharded, refuse_lfs_pointer
from bert_jax.conversion.tensors import MOST_AXES, require_few, StoredTensors, TensorEntry
from bert_jax.conversion.torch_pickle import AGAIN, kind_of, SAVE_AGAIN, TorchStorage, TorchTensor, unpickle

_WRAPPERS = ("state_dict", "model")  # the entries of a training checkpoint that hold the model
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the format before PyTorch 1.6
_LOCAL_HEADER = 30  # bytes of a zip record's own header before its name
_DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)  # what zipfile raises
LARGEST_EXPANSION = 10  # how many times its size a file with compressed records may hold: weights hardly compress
MOST_SHARING = 4  # how many times the bytes of all storages the tensors together may have: tied ones are stored once


def open_torch(path: Path) -> StoredTensors:
    """The tensors of a pytorch_model.bin, or of all files that a pytorch_model.bin.index.json names.

    Of a training checkpoint, `{"state_dict": ...}` or `{"model": ...}`, these are the model's; what is beside them is not read.
    Raises UserError, which names the file and the tensor: for a file that is missing, cut short or contradicts itself, for
    values that are no tensors, and for a pickle that asks for anything else than tensors.
    """
    return open_sharded(path, _open_file) if path.name.endswith(INDEX_SUFFIX) else _open_file(path)


def _open_file(path: Path) -> StoredTensors:
    saved = _open_container(path)
    tensors = _state_dict(path, saved.content)
    require_few(path, len(tensors))
    size = path.stat().st_size
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
        _check_storage(path, name, tensor.storage, saved.storages, size)
    _check_sharing(path, tensors, size)
    entries = {name: TensorEntry(tensor.shape, tensor.storage.dtype.name) for name, tensor in tensors.items()}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        return _laid_out(tensor, _elements(path, name, tensor, saved.storages[tensor.storage.key]))

    return StoredTensors(path, entries, read)


# ---- the two containers ------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """The place of a storage's bytes."""

    begin: int  # bytes from the beginning of the file
    size: int
    checksum: int | None = None  # zlib.crc32
    record: str | None = None  # name in the zip, if it is compressed there


@dataclass(frozen=True)
class _Saved:
    content: object
    storages: Mapping[str, _Place]


def _open_container(path: Path) -> _Saved:
    try:
        with path.open("rb") as file:
            start = file.read(512)
            file.seek(0)
            if start.startswith(b"PK\x03\x04"):
                return _open_zip(path, file)
            if start.startswith((b"\x80", b"(", b"c", b"}")):  # the first opcode of a pickle
                return _open_row_of_pickles(path, file)
    except FileNotFoundError:
        raise UserError(f"there is no {path}: check the path") from None
    refuse_lfs_pointer(path)
    if start[257:262] == b"ustar":
        raise UserError(f"{path} was written by a PyTorch before 0.1.10: {SAVE_AGAIN}")
    raise UserError(
        f"{path} is not a file of torch.save (its {path.stat().st_size} bytes begin with {start[:8]!r}): {AGAIN}"
    )


def _open_zip(path: Path, file: BinaryIO) -> _Saved:
    try:
        archive = zipfile.ZipFile(file)
        records = _records(path, archive)
        root = _root(path, records)
        byte_order = _record(archive, root + "byteorder") if root + "byteorder" in records else b"little"
        described = records[f"{root}data.pkl"].file_size
        if described > LARGEST_PICKLE:
            raise UserError(
                f"{path}: its {root}data.pkl has {described:,} bytes, and a description of tensors {LARGEST_PICKLE:,} at"
                f" most: {SAVE_AGAIN}"
            )
        content, _ = unpickle(path, io.BytesIO(_record(archive, f"{root}data.pkl")))
        prefix = f"{root}data/"
        storages = {name.removeprefix(prefix): info for name, info in records.items() if name.startswith(prefix)}
        places = {key: _place(file, info) for key, info in storages.items()}
    except _DAMAGED_ZIP as error:
        raise UserError(f"{path}, {path.stat().st_size} bytes, is cut short or damaged ({error}): {AGAIN}") from None
    _check_byte_order(path, byte_order == b"little")
    return _Saved(content, places)


def _records(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    records = {info.filename: info for info in infos}
    if len(records) < len(infos):
        raise UserError(f"{path} holds two records of the same name: {AGAIN}")
    for info in infos:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path} is compressed otherwise than by deflating: {SAVE_AGAIN}")
        if not 0 <= info.header_offset < path.stat().st_size:
            raise zipfile.BadZipFile(f"{info.filename} should begin at byte {info.header_offset}")
    compressed = sum(info.file_size for info in infos if info.compress_type != zipfile.ZIP_STORED)
    if compressed > LARGEST_EXPANSION * path.stat().st_size:
        raise UserError(
            f"{path}, {path.stat().st_size:,} bytes, says that its compressed records hold {compressed:,}, more than"
            f" {LARGEST_EXPANSION} times as many: {SAVE_AGAIN}"
        )
    return records


def _record(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the bytes of a record. After torch.serialization.set_crc32_options(False) its checksum is 0: there is none."""
    info = archive.getinfo(name)
    if info.CRC == 0:
        info.CRC = None  # type: ignore[assignment]  # zipfile compares none
    with archive.open(info) as file:
        return file.read()


def _root(path: Path, records: Mapping[str, zipfile.ZipInfo]) -> str:
    """The folder in the archive, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise UserError(
            f"{path} is a zip archive with {len(roots)} records */data.pkl, torch.save writes one: {SAVE_AGAIN}"
        )
    if roots[0] + "constants.pkl" in records:
        raise UserError(f"{path} is a TorchScript program, not a file of torch.save: {SAVE_AGAIN}")
    return roots[0]


def _place(file: BinaryIO, info: zipfile.ZipInfo) -> _Place:
    if info.compress_type != zipfile.ZIP_STORED:
        return _Place(0, info.file_size, record=info.filename)
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"no record begins at byte {info.header_offset}, where {info.filename} should")
    name_length, extra_length = struct.unpack("<HH", header[26:])
    begin = info.header_offset + _LOCAL_HEADER + name_length + extra_length
    return _Place(begin, info.file_size, info.CRC or None)


def _open_row_of_pickles(path: Path, file: BinaryIO) -> _Saved:
    pickles = io.BytesIO(file.read(LARGEST_PICKLE))  # where they end is known when they are loaded
    if unpickle(path, pickles)[0] != _MAGIC or unpickle(path, pickles)[0] != _VERSION:
        raise UserError(f"{path} is a pickle, but not one of torch.save: {SAVE_AGAIN}")
    machine, _ = unpickle(path, pickles)
    _check_byte_order(path, isinstance(machine, dict) and machine.get("little_endian") is True)
    content, storages = unpickle(path, pickles)
    keys, _ = unpickle(path, pickles)
    file.seek(pickles.tell())
    return _Saved(content, _places_after_lengths(path, file, keys, storages))


def _places_after_lengths(
    path: Path, file: BinaryIO, keys: object, storages: Mapping[str, TorchStorage]
) -> dict[str, _Place]:
    """The storages that follow the list of their keys, as far as the file goes."""
    places = {}
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in storages:
            raise UserError(
                f"{path} is damaged: it lists storage {reprlib.repr(key)}, which no tensor lies in: {AGAIN}"
            )
        length_bytes = file.read(8)
        if len(length_bytes) < 8:
            break
        (length,) = struct.unpack("<q", length_bytes)
        said = storages[key].length
        if length != said:
            raise UserError(f"{path} is damaged: storage {key} has {length} numbers, its pickle says {said}: {AGAIN}")
        places[key] = _Place(file.tell(), length * storages[key].dtype.itemsize)
        if places[key].begin + places[key].size > path.stat().st_size:
            break
        file.seek(places[key].size, 1)
    return places


def _check_byte_order(path: Path, little: bool) -> None:
    if not little:
        raise UserError(f"{path} was written on a big-endian machine: {SAVE_AGAIN}")


# ---- from the pickle to tensors ----------------------------------------------------------------------------


def _state_dict(path: Path, content: object) -> dict[str, TorchTensor]:
    """Name -> tensor, out of a training checkpoint if it is one."""
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {kind_of(content)}, not a dictionary of tensors: {SAVE_AGAIN}")
    inner = [name for name in _WRAPPERS if isinstance(content.get(name), dict)]
    if len(inner) > 1:
        raise UserError(f"{path} holds two models, {' and '.join(inner)}: {SAVE_AGAIN}")
    tensors = content[inner[0]] if inner else content
    others = [f"{name} ({kind_of(value)})" for name, value in tensors.items() if not isinstance(value, TorchTensor)]
    others += [f"{reprlib.repr(name)}, a name that is no text" for name in tensors if not isinstance(name, str)]
    if others:
        raise UserError(f"{path} holds values that are no tensors: {listed(others)}: {SAVE_AGAIN}")
    if not tensors:
        raise UserError(f"{path} holds no tensor: {SAVE_AGAIN}")
    return tensors


def _check_tensor(path: Path, name: str, tensor: TorchTensor) -> None:
    """Refuse a tensor whose strides lead out of its storage."""
    storage, offset, shape, strides = tensor
    length = storage.length if storage.view_length is None else storage.view_length
    numbers = (offset, storage.begin, length, *shape, *strides)
    right = all(type(number) is int and number >= 0 for number in numbers)
    if len(shape) != len(strides) or len(shape) > MOST_AXES or not right or math.prod(filter(None, shape)) >= 2**60:
        shown = [reprlib.repr(value) for value in (shape, strides, offset)]
        raise UserError(
            f"{path} is damaged: {name} has shape {shown[0]}, strides {shown[1]} and offset {shown[2]}: {AGAIN}"
        )
    if storage.begin + length > storage.length:
        end = storage.begin + length
        raise UserError(f"{path} is damaged: {name} lies in a view to number {end} of {storage.length}: {AGAIN}")
    if offset + _reach(tensor) > length:
        raise UserError(
            f"{path} is damaged: {name}, {list(shape)} with strides {list(strides)}, reaches to number"
            f" {offset + _reach(tensor)} of a storage of {length}: {AGAIN}"
        )


def _check_sharing(path: Path, tensors: Mapping[str, TorchTensor], size: int) -> None:
    """Tensors may lie in each other, but not make a small file into a large model."""
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    held = max(size, sum(storage.length * storage.dtype.itemsize for storage in storages.values()))
    wanted = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    if wanted > MOST_SHARING * held:
        raise UserError(
            f"{path}: its {len(tensors)} tensors are {wanted:,} bytes and lie in {held:,}, more than {MOST_SHARING} times over:"
            f" {SAVE_AGAIN}"
        )


def _reach(tensor: TorchTensor) -> int:
    """How many numbers of its storage a tensor spans."""
    if math.prod(tensor.shape) == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))


def _check_storage(path: Path, name: str, storage: TorchStorage, places: Mapping[str, _Place], size: int) -> None:
    """The file has as many bytes for it as the pickle says."""
    needed = storage.length * storage.dtype.itemsize
    place = places.get(storage.key)
    if place is None:
        raise UserError(f"{path} is cut short: {name} lies in storage {storage.key}, not in its {size} bytes: {AGAIN}")
    if place.size != needed:
        raise UserError(
            f"{path} is damaged: the storage of {name} has {place.size} bytes, its pickle says {needed}: {AGAIN}"
        )
    if place.begin + place.size > size and place.record is None:
        raise UserError(f"{path} is cut short: {name} ends at byte {place.begin + place.size} of {size}: {AGAIN}")


# ---- reading -----------------------------------------------------------------------------------------------


def _elements(path: Path, name: str, tensor: TorchTensor, place: _Place) -> np.ndarray:
    """The numbers that a tensor spans, as one row."""
    dtype, first, count = tensor.storage.dtype, tensor.storage.begin + tensor.offset, _reach(tensor)
    try:
        if place.record is not None:
            with zipfile.ZipFile(path) as archive:
                return np.frombuffer(_record(archive, place.record), dtype)[first : first + count]
        numbers = np.fromfile(path, dtype, count, offset=place.begin + first * dtype.itemsize)
    except (FileNotFoundError, KeyError, *_DAMAGED_ZIP) as error:
        raise UserError(f"{path}: {name} cannot be read: {error}: {AGAIN}") from None
    if numbers.size != count:
        raise UserError(
            f"{path} was cut short while it was read: {name} has {numbers.size} numbers of {count}: {AGAIN}"
        )
    if (
        place.checksum is not None
        and numbers.nbytes == place.size
        and zlib.crc32(numbers.view(np.uint8)) != place.checksum
    ):
        raise UserError(f"{path} is damaged: {name} does not have the checksum that the archive tells: {AGAIN}")
    return numbers


def _laid_out(tensor: TorchTensor, numbers: np.ndarray) -> np.ndarray:
    """A tensor of its own in C order, out of the numbers it spans."""
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    return np.asarray(np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides), order="C")
