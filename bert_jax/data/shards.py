# SPDX-License-Identifier: Apache-2.0
"""Prepared data on disk (format 1): shards and the manifest `data.json`.

A shard is a safetensors file (https://github.com/huggingface/safetensors, "Format"): eight bytes with the
header's length, a JSON header, then the tensors. It is opened by mapping it into memory, so opening costs the
same whatever its size, and only what is read is loaded:

    tokens           [T]     uint16, or int32 where the vocabulary has more than 65,536 entries
    sentence_starts  [N + 1] int64, token offset of each sentence; the last is T
    document_starts  [D + 1] int64, sentence index of each document; the last is N
    examples_<S>     [K, 5]  int32, one table for each sequence length S; columns as `instances.COLUMNS`

Special tokens are not stored.

The manifest is written last, so a directory with a `data.json` is complete.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from bert_jax.data.instances import COLUMNS
from bert_jax.errors import UserError
from bert_jax.tokenization import load_tokenizer, Tokenizer

FORMAT = 1
MANIFEST = "data.json"
TOKEN_COUNTS = "token_counts.npy"
ALWAYS_VERIFIED = 2**30  # bytes; less than this is read through at every opening, in a second or two

_DTYPES: dict[str, np.dtype[Any]] = {"U16": np.dtype("<u2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8")}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 2**20  # bytes
_MOST_TOKENS = 2**31 - 1  # tables of examples hold int32 offsets
_REPEATED_SETTINGS = ("sequence_lengths", "held_out", "short_seq_prob", "random_next_prob", "seed")


# ---- one shard ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """An opened shard: read-only arrays that are views of the mapped file."""

    path: Path
    tokens: np.ndarray
    sentence_starts: np.ndarray
    document_starts: np.ndarray
    tables: Mapping[int, np.ndarray]

    def examples(self, sequence_length: int) -> np.ndarray:
        """The [K, 5] int32 table for a sequence length; UserError where that was not prepared."""
        if sequence_length not in self.tables:
            raise _not_prepared(self.path.parent, sequence_length, sorted(self.tables))
        return self.tables[sequence_length]


def token_dtype(vocab_size: int) -> np.dtype:
    """The type that token ids are stored in."""
    return np.dtype(np.uint16) if vocab_size <= 2**16 else np.dtype(np.int32)


def write_shard(
    path: Path,
    tokens: np.ndarray,
    sentence_starts: np.ndarray,
    document_starts: np.ndarray,
    examples: Mapping[int, np.ndarray],
) -> dict[str, Any]:
    """Write a shard under a temporary name and rename it.

    Args:
      path: where to.
      tokens: [T] uint16 or int32.
      sentence_starts: [N + 1] offsets into `tokens`.
      document_starts: [D + 1] offsets into the sentences.
      examples: sequence length -> [K, 5] table.

    Returns:
      The shard's record for the manifest.
    """
    if tokens.size > _MOST_TOKENS:
        raise UserError(f"a shard of {tokens.size:,} tokens is too large: split the longest document by blank lines")
    # Widest type first, so that every tensor is aligned.
    tensors: dict[str, np.ndarray] = {
        "sentence_starts": np.ascontiguousarray(sentence_starts, np.int64),
        "document_starts": np.ascontiguousarray(document_starts, np.int64),
        **{f"examples_{length}": np.ascontiguousarray(table, np.int32) for length, table in examples.items()},
        "tokens": np.ascontiguousarray(tokens),
    }
    digest = _write(path, [_header(tensors), *(tensor.reshape(-1).view(np.uint8) for tensor in tensors.values())])
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "documents": len(document_starts) - 1,
        "sentences": len(sentence_starts) - 1,
        "tokens": int(tokens.size),
        "max_id": int(tokens.max()),
        "examples": {str(length): len(table) for length, table in examples.items()},
    }


def _header(tensors: Mapping[str, np.ndarray]) -> bytes:
    entries, offset = {}, 0
    for name, tensor in tensors.items():
        span = [offset, offset + tensor.nbytes]
        entries[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": span,
        }
        offset = span[1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write(path: Path, parts: Iterable[bytes | np.ndarray]) -> str:
    digest = hashlib.sha256()
    with complete_or_absent(path) as file:
        for part in parts:
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


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


def open_shard(path: Path) -> Shard:
    """Map a shard into memory; nothing is copied and the time does not depend on the size.

    Raises:
      UserError: the file is not a whole shard, with what disagrees and the command that mends it.
    """
    try:
        tensors = _map_tensors(path)
        names = [name for name in tensors if name.startswith("examples_")]
        tables = {int(name.removeprefix("examples_")): tensors.pop(name) for name in names}
        shard = Shard(path, tensors["tokens"], tensors["sentence_starts"], tensors["document_starts"], tables)
        _check_shard(shard)
    except KeyError as error:
        raise UserError(f"{path} is not a shard: its header lacks {error}: {remake(path.parent)}") from None
    except ValueError as error:
        raise UserError(f"{path} is not a whole shard: {error}: {remake(path.parent)}") from None
    return shard


def _map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Name -> view of the mapped file. Raises ValueError where header and file disagree."""
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


def _check_shard(shard: Shard) -> None:
    """The ends of the offsets and the columns of the tables; constant time."""
    if shard.sentence_starts[-1] != shard.tokens.size:
        raise ValueError(f"sentence_starts ends at {shard.sentence_starts[-1]}, tokens at {shard.tokens.size}")
    if shard.document_starts[-1] != len(shard.sentence_starts) - 1:
        sentences = len(shard.sentence_starts) - 1
        raise ValueError(f"document_starts ends at {shard.document_starts[-1]}, sentences at {sentences}")
    for length, table in shard.tables.items():
        if table.ndim != 2 or table.shape[1] != len(COLUMNS) or table.dtype != np.int32:
            raise ValueError(f"examples_{length} is {table.dtype} {list(table.shape)}, not int32 [K, {len(COLUMNS)}]")


# ---- a directory of prepared data --------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """One side of the data, `train` or `validation`."""

    name: str
    directory: Path
    shards: tuple[Shard, ...]
    record: Mapping[str, Any]  # the split's entry in the manifest: counts and statistics

    def num_examples(self, sequence_length: int) -> int:
        """Examples of all shards; UserError where that sequence length was not prepared."""
        return sum(len(shard.examples(sequence_length)) for shard in self.shards)


@dataclass(frozen=True)
class DataDirectory:
    """Prepared data, opened and checked by `open_data`."""

    directory: Path
    manifest: Mapping[str, Any]
    splits: Mapping[str, Split]
    fingerprint: str  # sha256 over tokenizer and shards; equal data has an equal one wherever it lies

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer's vocabulary."""
        return self.manifest["vocab_size"]

    def split(self, name: str) -> Split:
        """A split by name; UserError where the data has none of that name."""
        if name not in self.splits:
            held_out = self.manifest["held_out"]
            command = prepare_command(self.directory, f"{self.directory}-held-out", held_out=0.05)
            raise UserError(f"{self.directory} has no {name} split (it has --held-out {held_out}): run {command}")
        return self.splits[name]

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that made the data."""
        tokenizer = load_tokenizer(self.directory)
        if tokenizer.fingerprint != self.manifest["tokenizer"]:
            raise UserError(
                f"{self.directory}: vocab.txt and tokenizer_config.json there (fingerprint"
                f" {tokenizer.fingerprint[:12]}...) are not those that made the data"
                f" ({self.manifest['tokenizer'][:12]}...): {remake(self.directory)}"
            )
        return tokenizer

    def token_counts(self) -> np.ndarray:
        """[V] int64, occurrences of each token id in the training split."""
        path = self.directory / TOKEN_COUNTS
        try:
            counts = np.load(path)
        except (FileNotFoundError, ValueError, EOFError):
            raise UserError(f"{path} is missing or damaged: {remake(self.directory)}") from None
        if counts.shape != (self.vocab_size,):
            raise UserError(
                f"{path} has shape {list(counts.shape)}, the vocabulary {self.vocab_size} entries:"
                f" {remake(self.directory)}"
            )
        return counts


def open_data(directory: Path, verify_hashes: bool | None = None) -> DataDirectory:
    """Open a directory made by `bert-jax prepare`, and check it.

    Args:
      directory: the --output of `bert-jax prepare`.
      verify_hashes: read every shard through and compare its sha256. None: where all are less than 1 GiB
        together.

    Raises:
      UserError: not prepared data, another format, a shard that is missing, of another size or content, or a
        token id
        beyond the vocabulary.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    records = _shard_records(manifest)
    for record in records:
        _check_record(directory, record, manifest["vocab_size"])
    total = sum(record["bytes"] for record in records)
    if verify_hashes or (verify_hashes is None and total < ALWAYS_VERIFIED):
        verify(directory, manifest)
    splits = {
        name: Split(name, directory, tuple(open_shard(directory / shard["file"]) for shard in split["shards"]), split)
        for name, split in manifest["splits"].items()
    }
    return DataDirectory(directory, manifest, splits, _fingerprint(manifest))


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a complete data directory of this format; UserError otherwise."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = f"has no {MANIFEST} (unfinished, or not prepared data)" if directory.exists() else "is missing"
        raise UserError(f"{directory} {what}: run {prepare_command(directory)}") from None
    except ValueError:
        raise UserError(f"{path} is not JSON: {remake(directory)}") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise UserError(f"{path} is of format {found}, this version reads format {FORMAT}: {remake(directory)}")
    lacking = {"tokenizer", "vocab_size", "sequence_lengths", "held_out", "splits"} - manifest.keys()
    if lacking:
        raise UserError(f"{path} lacks {', '.join(sorted(lacking))}: {remake(directory)}")
    return manifest


def _shard_records(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [shard for split in manifest["splits"].values() for shard in split["shards"]]


def _check_record(directory: Path, record: Mapping[str, Any], vocab_size: int) -> None:
    path = directory / record["file"]
    if not path.is_file():
        raise UserError(f"{path} is missing ({record['bytes']} bytes in {MANIFEST}): {remake(directory)}")
    size = path.stat().st_size
    if size != record["bytes"]:
        raise UserError(f"{path} has {size} bytes, {record['bytes']} in {MANIFEST}: {remake(directory)}")
    if record["max_id"] >= vocab_size:
        raise UserError(
            f"{path} holds token id {record['max_id']}, the vocabulary has {vocab_size} entries: {remake(directory)}"
        )


def verify(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Read all shards and compare their sha256 with the manifest's; UserError names the first that
    differs."""
    records = _shard_records(manifest)
    total = sum(record["bytes"] for record in records)
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=None, leave=False) as progress:
        for record in records:
            path = directory / record["file"]
            digest = file_sha256(path)
            if digest != record["sha256"]:
                raise UserError(
                    f"{path} was changed: its sha256 is {digest[:12]}..., in {MANIFEST}"
                    f" {record['sha256'][:12]}...: {remake(directory)}"
                )
            progress.update(record["bytes"])


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    shards = {name: [shard["sha256"] for shard in split["shards"]] for name, split in manifest["splits"].items()}
    content = {"format": manifest["format"], "tokenizer": manifest["tokenizer"], "shards": shards}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---- what to do next ---------------------------------------------------------------------------------------


def prepare_command(directory: Path, output: str | Path = "", **changes: Any) -> str:
    """The command that prepares data as that in `directory`, with its settings where it has a manifest.

    `changes` are settings as the manifest names them, such as held_out=0.05.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        settings = {key: manifest[key] for key in _REPEATED_SETTINGS}
    except (OSError, ValueError, KeyError, TypeError):
        settings = {}
    words = [f"bert-jax prepare --input PATH... --vocab VOCAB --output {output or directory}"]
    for key, value in {**settings, **changes}.items():
        option = "sequence-length" if key == "sequence_lengths" else key.replace("_", "-")
        words.append(f"--{option} {_words(value)}")
    return " ".join(words)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def remake(directory: Path) -> str:
    """The words that tell how to mend a damaged data directory."""
    return f"copy it again, or remove {directory} and run {prepare_command(directory)}"


def _not_prepared(directory: Path, sequence_length: int, prepared: Sequence[int]) -> UserError:
    lengths = sorted({*prepared, sequence_length})
    output = f"{directory}-{'-'.join(map(str, lengths))}"
    return UserError(
        f"{directory} has no examples of sequence length {sequence_length}, only of {_words(prepared)}:"
        f" run {prepare_command(directory, output, sequence_lengths=lengths)}"
    )
