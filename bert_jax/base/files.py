# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, the one reader of JSON, and tensors in the safetensors format.

A safetensors file (https://github.com/huggingface/safetensors, "Format") is eight bytes with the length of a header, the
header in JSON (name -> type, shape, place), then the tensors. It is opened by mapping it into memory, so opening costs
the same whatever its size, and only what is read is loaded.
"""

import errno
import hashlib
import json
import math
import os
import re
import reprlib
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import ml_dtypes
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.paths import on_bucket
from bert_jax.base.types import JsonObject

# In the order by which the safetensors library sorts the tensors of a file, the last first: then each is aligned.
TENSOR_TYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
_TYPE_NAMES = {dtype: name for name, dtype in TENSOR_TYPES.items()}
# Of a JSON file: the largest known are tokenizers and indexes of some 20 MB, which nest seven deep.
LARGEST_JSON, DEEPEST_JSON = 200_000_000, 64  # bytes, lists and objects in each other
_TOO_DEEP = f"it is nested deeper than {DEEPEST_JSON}"
JSON_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number"}
JSON_KINDS |= {bool: "true or false", type(None): "null"}
NO_CHARACTER = re.compile("[\0\ud800-\udfff]")  # NUL, and half a character, which JSON can spell and no encoding knows
_MANY_DIGITS = re.compile(r"\d{300}")
_ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")  # how JSON spells them
_LONGEST_HEADER = 100_000_000  # bytes, as in the safetensors library
MOST_TENSORS = 50_000  # of a file; a checkpoint of 1,000 layers with Adam's moments has 48,000
_MOST_AXES = 64  # of a tensor, as in NumPy


class TensorKind(NamedTuple):
    """The type and shape of a tensor, which a header says before it is made."""

    dtype: np.dtype
    shape: tuple[int, ...]


class TensorPlace(NamedTuple):
    """The place of a tensor in its file."""

    kind: TensorKind
    begin: int  # bytes from the beginning of the file
    end: int


# ---- whole or absent ---------------------------------------------------------------------------------------


@contextmanager
def complete_or_absent(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that takes the name `path` when it is complete and on disk, and else is removed.

    Until then it is `path`.partial, which is made anew: what stood under that name is removed, never opened, so a link
    that somebody put there leads nowhere. On a bucket it is a file of this machine that is put when it is complete.
    """
    if on_bucket(path):
        with tempfile.NamedTemporaryFile(prefix="bert_jax_") as copy:
            yield copy.file  # type: ignore[misc]
            copy.flush()
            path.put(Path(copy.name))
        return
    temporary = path.with_name(f"{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        with open(temporary, "xb", opener=open_itself) as file:
            with _cause_named(file):
                yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write (disk full) does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _cause_named(file: BinaryIO) -> Iterator[None]:
    """Have a short write say why (disk full, quota, limit): NumPy does not, one more byte of ours does."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            file.write(b"\0")
            file.flush()
        raise


def open_itself(path: str, flags: int) -> int:
    """Open a file of an output that is added to or locked, as an opener for `open`: a link is refused, not followed.

    Raises:
      UserError: `path` is a link.
    """
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a link, and nothing outside an output is written: remove the link") from None
        raise


def open_growing(path: Path, *, new: bool = False) -> BinaryIO:
    """Open a file of an output to add to it, itself and never a link; on a bucket it is there after `put_grown`.

    Raises:
      UserError: it is a link.
      FileExistsError: it is to be `new`, and is there.
    """
    if on_bucket(path):
        from bert_jax.base.buckets import open_growing

        return open_growing(path)
    return open(path, "xb" if new else "ab", opener=open_itself)


def put_grown() -> None:
    """Put all that has grown since the last time to the bucket it is on; what lies on this machine is there already.

    Raises:
      UserError: it cannot be written.
      TryAgain: storage does not answer.
    """
    if (buckets := sys.modules.get("bert_jax.base.buckets")) is not None:
        buckets.put_grown()


def own_folder(path: Path, *, elsewhere: bool = False) -> Path:
    """Return a folder inside an output, made where it is missing.

    Args:
      elsewhere: it may be a link that this user has made to a folder of theirs, as to a larger disk.

    Raises:
      UserError: it is another link: what is written there would lie outside.
    """
    if on_bucket(path):
        return path
    if path.is_symlink():
        owners = {path.lstat().st_uid, path.stat().st_uid} if path.is_dir() else {None}
        if elsewhere and owners == {os.geteuid()}:
            return path
        raise UserError(
            f"{path} is a link to {os.readlink(path)}, and nothing outside an output is written: put the folder itself there"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_dead_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse links to what is not there among the files of a folder that may be left out: each would pass for left out.

    Raises:
      UserError: naming the link and where it leads.
    """
    for path in (folder / name for name in names):
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{path} is a link to {os.readlink(path)}, which is not there: copy the file itself, or remove the link"
            )


def new_folder(path: Path) -> Path:
    """Return an empty folder, made anew: what stood under its name is removed, of a link the link itself."""
    if on_bucket(path):
        path.rmtree()
        return path
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with complete_or_absent(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, remedy: str, kind: type = dict) -> Any:
    """Return what a JSON file of settings, records or an index holds; every such file is read here.

    Args:
      path: the file.
      remedy: what to do about a file that is broken, the end of the message.
      kind: dict (an object) or list.

    Raises:
      FileNotFoundError: there is none.
      UserError: it is larger than LARGEST_JSON, or as `parse_json`.
    """
    try:
        if path.is_file() and path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, and at most {LARGEST_JSON:,} are read")
        return parse_json(path.read_bytes(), kind)
    except (NotADirectoryError, FileNotFoundError):
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON of use here: {error}: {remedy}") from None


def parse_json(text: bytes | str, kind: type = dict, characters: bool = True) -> Any:
    """Return the value of a JSON text. This is the one reader of JSON: of settings, records, headers and users' texts.

    NaN, Infinity, 1e999 and whole numbers as large become floats that are not finite: who takes a number refuses those, by
    its name.

    Args:
      kind: dict (an object), list, or object (any value).
      characters: whether NUL and half a character are refused, in texts and names at any depth.

    Raises:
      ValueError: it is no JSON, is nested deeper than DEEPEST_JSON, has an object with one name twice, a character that
        is none, or is of another kind.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    whole = _whole_number if _MANY_DIGITS.search(text) else None
    try:
        content = json.loads(text, object_pairs_hook=_without_repetition, parse_int=whole)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > DEEPEST_JSON:
        _check_depth(content)
    if characters and _ESCAPED.search(text):
        _check_characters(content)
    if not isinstance(content, kind):
        raise ValueError(f"it is {JSON_KINDS[type(content)]}, not {JSON_KINDS[kind]} ({reprlib.repr(content)})")
    return content


def _whole_number(digits: str) -> float:
    """A whole number; infinite beyond what a float can be, where arithmetic with floats would raise OverflowError."""
    return float(digits) if math.isinf(float(digits)) else int(digits)


def _without_repetition(pairs: list[tuple[str, object]]) -> JsonObject:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"{twice!r:.80} is in one object twice")
    return content


def _check_depth(content: object) -> None:
    level, depth = [content], 0
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        if depth > DEEPEST_JSON:
            raise ValueError(_TOO_DEEP)
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]


def _check_characters(content: object) -> None:
    """Refuse NUL and half a character; the first place is told, such as data[0].context."""
    pending: list[tuple[object, str]] = [(content, "")]
    while pending:
        value, path = pending.pop()
        if isinstance(value, str):
            if found := NO_CHARACTER.search(value):
                raise ValueError(f"{path or 'it'} holds {character_fault(found)}")
        elif isinstance(value, dict):
            parts = [(name, path) for name in value]
            parts += [(inner, f"{path}.{name}".lstrip(".")) for name, inner in value.items()]
            pending += reversed(parts)
        elif isinstance(value, list):
            pending += reversed([(inner, f"{path}[{number}]") for number, inner in enumerate(value)])


def character_fault(found: re.Match[str]) -> str:
    """Return what a message says of a match of NO_CHARACTER."""
    return f"{'NUL' if found[0] == chr(0) else 'half a character'}, \\u{ord(found[0]):04x}"


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Turn names that are missing and values of another type, while a file's content is taken apart, into one line.

    Raises:
      UserError: for what a wrong shape makes of code that trusts it; one raised inside, with the name of the file.
    """
    try:
        yield
    except UserError as error:
        named = str(path) in str(error) or f"{path.parent}/" in str(error)  # it, or a file beside it that it tells of
        raise UserError(str(error) if named else f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"holds other values than it should ({error})"
        raise UserError(f"{path} {what}: {remedy}") from None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- tensors -----------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> str:
    """Write contiguous tensors as a safetensors file. Returns its sha256, hex.

    Give the widest type first: then every tensor is aligned in the mapped file.
    """
    kinds = {name: TensorKind(tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    return stream_tensors(path, kinds, tensors.__getitem__)


def stream_tensors(
    path: Path,
    kinds: Mapping[str, TensorKind],
    make: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write a safetensors file of tensors in the order of `kinds`, each made when its turn comes and then let go.

    Returns the file's sha256, hex. Raises ValueError where a tensor that was made is not of its kind.
    """
    digest = hashlib.sha256()

    def put(part: bytes | np.ndarray) -> None:
        digest.update(part)
        file.write(part)

    with complete_or_absent(path) as file:
        put(_header(kinds, metadata))
        for name, kind in kinds.items():
            put(_bytes_of(name, kind, make(name)))  # no variable holds it while the next one is made
    return digest.hexdigest()


def _bytes_of(name: str, kind: TensorKind, tensor: np.ndarray) -> np.ndarray:
    if (tensor.dtype, tensor.shape) != kind:
        raise ValueError(f"{name} was made as {tensor.dtype} {list(tensor.shape)}, not {kind.dtype} {list(kind.shape)}")
    return tensor.reshape(-1).view(np.uint8)


def _header(kinds: Mapping[str, TensorKind], metadata: Mapping[str, str] | None) -> bytes:
    entries: JsonObject = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, kind in kinds.items():
        span = [offset, offset + _size(kind)]
        entries[name] = {"dtype": _TYPE_NAMES[kind.dtype], "shape": list(kind.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _size(kind: TensorKind) -> int:
    return math.prod(kind.shape) * kind.dtype.itemsize


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return name -> read-only view of the mapped file; whole numbers only, which is all that prepared data holds.

    Raises ValueError where header and file disagree.
    """
    places = tensor_places(path)
    # np.asarray: a plain array over the same map, because indexing an np.memmap is slow.
    data = np.asarray(np.memmap(path, np.uint8, mode="r"))
    return {name: _view(data, name, place) for name, place in places.items()}


def _view(data: np.ndarray, name: str, place: TensorPlace) -> np.ndarray:
    kind, begin, end = place
    if not np.issubdtype(kind.dtype, np.integer):
        raise ValueError(f"{name} is of type {_TYPE_NAMES[kind.dtype]}, not of whole numbers")
    return data[begin:end].view(kind.dtype).reshape(kind.shape)


def tensor_places(path: Path) -> dict[str, TensorPlace]:
    """Return the places of the tensors by the header of a safetensors file, in the order of the file; no tensor is read.

    Raises ValueError, which names the tensor and both numbers, where the header contradicts itself or the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length_bytes = file.read(8)
        length = struct.unpack("<Q", length_bytes)[0] if len(length_bytes) == 8 else 0
        if not 0 < length <= min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"its {size} bytes do not begin with a safetensors header")
        entries = parse_json(file.read(length))
    entries.pop("__metadata__", None)
    if len(entries) > MOST_TENSORS:
        raise ValueError(f"it names {len(entries):,} tensors, and a file has {MOST_TENSORS:,} at most")
    claims = [(_span(name, entry), name, _kind(name, entry)) for name, entry in entries.items()]
    places, reached = {}, 8 + length
    for (begin, end), name, kind in sorted(claims, key=lambda claim: claim[0]):
        _check_span(name, kind, begin, end, reached - 8 - length)
        places[name] = TensorPlace(kind, 8 + length + begin, 8 + length + end)
        reached = 8 + length + end
    if reached != size:
        cut = next((f"it ends inside {name}: " for name, place in places.items() if place.end > size), "")
        raise ValueError(f"{cut}its header tells of {reached} bytes, the file has {size}")
    return places


def _span(name: str, entry: object) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has the place {offsets!r:.80}, not two numbers of bytes")
    return offsets[0], offsets[1]


def _kind(name: str, entry: Mapping[str, object]) -> TensorKind:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in TENSOR_TYPES:
        raise ValueError(f"{name} is of type {dtype!s:.80}, not one of {', '.join(TENSOR_TYPES)}")
    if not _whole_numbers(shape):
        raise ValueError(f"{name} has the shape {shape!r:.80}, not a list of sizes")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"{name} has {len(shape):,} axes, and a tensor {_MOST_AXES} at most")
    return TensorKind(TENSOR_TYPES[dtype], tuple(shape))


def _whole_numbers(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)


def _check_span(name: str, kind: TensorKind, begin: int, end: int, reached: int) -> None:
    """A tensor begins where the one before it ended, and is as long as its shape."""
    if end - begin != _size(kind):
        what = f"{kind.dtype} {list(kind.shape)}"
        raise ValueError(f"{name} is {what}, which takes {_size(kind)} bytes, and has {end - begin} in its header")
    if begin != reached:
        raise ValueError(f"{name} begins at byte {begin} of the data, and what comes before it ends at {reached}")
