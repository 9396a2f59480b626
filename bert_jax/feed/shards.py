# SPDX-License-Identifier: Apache-2.0
"""Prepared data on disk (format 2): shards, and the manifest `passport.json`.

A shard is a safetensors file (see `files.py`), memory-mapped, with the tensors

    tokens           [T]           uint16, or int32 where the vocabulary has more than 65,536 entries
    word_starts      [ceil(T / 8)] uint8, a bit for each token, set where it begins a word: token t is bit t & 7 of byte
                                   t >> 3 (np.packbits with bitorder="little")
    sentence_starts  [N + 1]       int64, token offset of each sentence; the last is T
    document_starts  [D + 1]       int64, sentence index of each document; the last is N
    <kind>_<S>       [K, 5]        int32, the examples of a kind (`kinds.KINDS`) for rows of S tokens; columns as
                                   `kinds.COLUMNS`

Special tokens are not stored.

The manifest is written last, so a directory with a `passport.json` is complete.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bert_jax.base.bucket_cache import local_copy
from bert_jax.base.errors import UserError
from bert_jax.base.files import file_sha256, map_tensors, parse_json, read_json, reading, write_tensors
from bert_jax.base.paths import any_path
from bert_jax.base.types import JsonObject
from bert_jax.config.objective import OBJECTIVES
from bert_jax.feed.kinds import COLUMNS
from bert_jax.tokenization import load_tokenizer, Tokenizer

TRAIN, VALIDATION = "train", "validation"  # splits of prepared data

FORMAT = 2
MANIFEST = "passport.json"
TOKEN_COUNTS = "token_counts.npy"
ALWAYS_VERIFIED = 2**30  # bytes; less than this is read through at every opening, in a second or two

_BOUNDARIES = ("tokens", "word_starts", "sentence_starts", "document_starts")
_MOST_TOKENS = 2**31 - 1  # tables of examples hold int32 offsets
_REQUIRED = {"tokenizer", "vocab_size", "kinds", "sequence_lengths", "held_out", "splits"}
_REPEATED_SETTINGS = ("kinds", "sequence_lengths", "held_out", "short_seq_prob", "random_next_prob", "seed")
_REPEATED_WHERE_CHANGED = {  # and what they are where nothing is said
    "lines": "sentences",
    "json_field": "text",
    "errors": "strict",
    "text_format": "auto",
    "splitter": "rules",
    "segmenter": "none",
    "near_duplicates": "",
    "licence": "",
}


# ---- one shard ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """An opened shard: read-only arrays that are views of the mapped file."""

    path: Path
    tokens: np.ndarray
    word_starts: np.ndarray  # packed: eight tokens a byte
    sentence_starts: np.ndarray
    document_starts: np.ndarray
    tables: Mapping[str, np.ndarray]  # by `table_name`

    def table(self, kind: str, sequence_length: int) -> np.ndarray:
        """The [K, 5] int32 table of the examples of a kind; UserError where that was not prepared."""
        name = table_name(kind, sequence_length)
        if name not in self.tables:
            raise _not_prepared(self.path.parent, kind, sequence_length, self.tables)
        return self.tables[name]


def table_name(kind: str, sequence_length: int) -> str:
    """The name of a table of examples in shards and manifest."""
    return f"{kind}_{sequence_length}"


def token_dtype(vocab_size: int) -> np.dtype:
    """The type that token ids are stored in."""
    return np.dtype(np.uint16) if vocab_size <= 2**16 else np.dtype(np.int32)


def write_shard(
    path: Path,
    tokens: np.ndarray,
    word_starts: np.ndarray,
    sentence_starts: np.ndarray,
    document_starts: np.ndarray,
    tables: Mapping[str, np.ndarray],
) -> JsonObject:
    """Write a shard under a temporary name and rename it.

    Args:
      path: where to.
      tokens: [T] uint16 or int32.
      word_starts: [T] bool, True where a token begins a word.
      sentence_starts: [N + 1] offsets into `tokens`.
      document_starts: [D + 1] offsets into the sentences.
      tables: `table_name` -> [K, 5].

    Returns:
      The shard's record for the manifest.
    """
    if tokens.size > _MOST_TOKENS:
        raise UserError(f"a shard of {tokens.size:,} tokens is too large: split the longest document by blank lines")
    # Widest type first, for the alignment.
    tensors: dict[str, np.ndarray] = {
        "sentence_starts": np.ascontiguousarray(sentence_starts, np.int64),
        "document_starts": np.ascontiguousarray(document_starts, np.int64),
        **{name: np.ascontiguousarray(table, np.int32) for name, table in tables.items()},
        "tokens": np.ascontiguousarray(tokens),
        "word_starts": np.packbits(word_starts, bitorder="little"),
    }
    digest = write_tensors(path, tensors)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "documents": len(document_starts) - 1,
        "sentences": len(sentence_starts) - 1,
        "tokens": int(tokens.size),
        "max_id": int(tokens.max()),
        "examples": {name: len(table) for name, table in tables.items()},
    }


def open_shard(path: Path) -> Shard:
    """Map a shard into memory; nothing is copied and the time does not depend on the size.

    Raises:
      UserError: the file is not a whole shard, with what disagrees and the command that mends it.
    """
    try:
        tensors = map_tensors(path)
        tokens, word_starts, sentence_starts, document_starts = (tensors.pop(name) for name in _BOUNDARIES)
        shard = Shard(path, tokens, word_starts, sentence_starts, document_starts, tensors)
        _check_shard(shard)
    except KeyError as error:
        raise UserError(f"{path} is not a shard: its header lacks {error}: {remake(path.parent)}") from None
    except ValueError as error:
        raise UserError(f"{path} is not a whole shard: {error}: {remake(path.parent)}") from None
    return shard


def _check_shard(shard: Shard) -> None:
    """The ends of the offsets and the columns of the tables; constant time."""
    if shard.word_starts.size != (shard.tokens.size + 7) // 8:
        raise ValueError(f"word_starts has {shard.word_starts.size} bytes for {shard.tokens.size} tokens")
    if shard.sentence_starts[-1] != shard.tokens.size:
        raise ValueError(f"sentence_starts ends at {shard.sentence_starts[-1]}, tokens at {shard.tokens.size}")
    if shard.document_starts[-1] != len(shard.sentence_starts) - 1:
        sentences = len(shard.sentence_starts) - 1
        raise ValueError(f"document_starts ends at {shard.document_starts[-1]}, sentences at {sentences}")
    for name, table in shard.tables.items():
        if table.ndim != 2 or table.shape[1] != len(COLUMNS) or table.dtype != np.int32:
            raise ValueError(f"{name} is {table.dtype} {list(table.shape)}, not int32 [K, {len(COLUMNS)}]")


# ---- a directory of prepared data --------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """One side of the data, `train` or `validation`."""

    name: str
    directory: Path
    shards: tuple[Shard, ...]
    record: JsonObject  # the split's entry in the manifest: counts and statistics

    def num_examples(self, kind: str, sequence_length: int) -> int:
        """Examples of a kind in all shards; UserError where they were not prepared for that sequence length."""
        return sum(len(shard.table(kind, sequence_length)) for shard in self.shards)


@dataclass(frozen=True)
class DataDirectory:
    """Prepared data, opened and checked by `open_data`."""

    directory: Path
    manifest: JsonObject
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
                f"{self.directory}: the vocabulary and tokenizer_config.json there (fingerprint"
                f" {tokenizer.fingerprint[:12]}...) are not those that made the data"
                f" ({self.manifest['tokenizer'][:12]}...): {remake(self.directory)}"
            )
        return tokenizer

    def token_counts(self) -> np.ndarray:
        """[V] int64, occurrences of each token id in the training split.

        Raises:
          UserError: the file is missing, or is not what the data was prepared with.
        """
        path = self.directory / TOKEN_COUNTS
        try:
            counts = np.load(path)
        except (OSError, ValueError, EOFError, SyntaxError, TypeError, KeyError, MemoryError, OverflowError):
            raise UserError(f"{path} is missing or damaged: {remake(self.directory)}") from None
        if counts.shape != (self.vocab_size,):
            raise UserError(
                f"{path} has shape {list(counts.shape)}, the vocabulary {self.vocab_size} entries:"
                f" {remake(self.directory)}"
            )
        total, tokens = int(counts.sum()), self.manifest["splits"]["train"]["tokens"]
        if counts.dtype != np.int64 or counts.min() < 0 or total != tokens:
            raise UserError(
                f"{path} was changed: it counts {total:,} tokens, {MANIFEST} {tokens:,}: {remake(self.directory)}"
            )
        return counts


def open_data(directory: str | Path, verify_hashes: bool | None = None) -> DataDirectory:
    """Open a directory made by `bert-jax prepare`, and check it.

    Args:
      directory: the --output of `bert-jax prepare`; of one on a bucket a copy is opened (`bucket_cache`).
      verify_hashes: read every shard through and compare its sha256. None: where all are less than 1 GiB
        together.

    Raises:
      UserError: not prepared data, another format, a shard that is missing, of another size or content, or a
        token id beyond the vocabulary.
    """
    directory = any_path(directory)
    manifest = read_manifest(directory)
    with reading(directory / MANIFEST, remake(directory)):
        directory = local_copy(directory, f"data-{_fingerprint(manifest)[:24]}")
        return _open_data(directory, manifest, verify_hashes)


def _open_data(directory: Path, manifest: JsonObject, verify_hashes: bool | None) -> DataDirectory:
    for fault in shard_faults(directory, manifest):
        raise UserError(f"{fault}: {remake(directory)}")
    total = sum(record["bytes"] for record in _shard_records(manifest))
    if verify_hashes or (verify_hashes is None and total < ALWAYS_VERIFIED):
        verify(directory, manifest)
    splits = {
        name: Split(name, directory, tuple(open_shard(directory / shard["file"]) for shard in split["shards"]), split)
        for name, split in manifest["splits"].items()
    }
    data = DataDirectory(directory, manifest, splits, _fingerprint(manifest))
    data.token_counts()
    return data


def read_manifest(directory: Path) -> JsonObject:
    """The manifest of a complete data directory of this format; UserError otherwise."""
    path = directory / MANIFEST
    try:
        manifest = read_json(path, remake(directory))
    except FileNotFoundError:
        what = f"has no {MANIFEST} (unfinished, or not prepared data)" if directory.exists() else "is missing"
        what = "was prepared by an older version" if (directory / "data.json").exists() else what
        raise UserError(f"{directory} {what}: run {prepare_command(directory)}") from None
    found = manifest.get("format")
    if found != FORMAT:
        raise UserError(f"{path} is of format {found}, this version reads format {FORMAT}: {remake(directory)}")
    lacking = _REQUIRED - manifest.keys()
    if lacking:
        raise UserError(f"{path} lacks {', '.join(sorted(lacking))}: {remake(directory)}")
    return manifest


def _shard_records(manifest: JsonObject) -> list[JsonObject]:
    return [shard for split in manifest["splits"].values() for shard in split["shards"]]


def shard_faults(directory: Path, manifest: JsonObject) -> Iterator[str]:
    """Yield what is wrong with shards as far as their sizes and the manifest tell; nothing of them is read."""
    for record in _shard_records(manifest):
        path = directory / record["file"]
        if not path.is_file():
            yield f"{path} is missing ({record['bytes']} bytes in {MANIFEST})"
        elif (size := path.stat().st_size) != record["bytes"]:
            yield f"{path} has {size} bytes, {record['bytes']} in {MANIFEST}"
        elif record["max_id"] >= manifest["vocab_size"]:
            yield f"{path} holds token id {record['max_id']}, the vocabulary has {manifest['vocab_size']} entries"


def verify(directory: Path, manifest: JsonObject) -> None:
    """Read all shards and compare their sha256 with the manifest's; UserError names the first that differs."""
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


def _fingerprint(manifest: JsonObject) -> str:
    shards = {name: [shard["sha256"] for shard in split["shards"]] for name, split in manifest["splits"].items()}
    content = {"format": manifest["format"], "tokenizer": manifest["tokenizer"], "shards": shards}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---- what to do next ---------------------------------------------------------------------------------------


def prepare_command(directory: Path, output: str | Path = "", **changes: Any) -> str:
    """The command that prepares data as that in `directory`, with its settings where it has a manifest.

    `changes` are settings as the manifest names them, such as held_out=0.05.
    """
    try:
        manifest = parse_json((directory / MANIFEST).read_bytes())
        settings = {key: manifest[key] for key in _REPEATED_SETTINGS}
        usual = _REPEATED_WHERE_CHANGED.items()
        settings |= {key: manifest[key] for key, value in usual if manifest.get(key, value) != value}
    except (OSError, ValueError, KeyError):
        settings = {}
    words = [f"bert-jax prepare --input TEXT... --vocab VOCAB --output {output or directory}"]
    return " ".join(words + [_as_option(key, value) for key, value in {**settings, **changes}.items()])


def _as_option(key: str, value: Any) -> str:
    if key == "kinds":
        return f"--objective {_words(map(objective_of, value))}"
    option = "sequence-length" if key == "sequence_lengths" else key.replace("_", "-")
    return f"--{option} {_words(value) if isinstance(value, list) else shlex.quote(str(value))}"


def objective_of(kind: str) -> str:
    """An objective that trains on examples of that kind."""
    return next((name for name, objective in OBJECTIVES.items() if objective.examples == kind), kind)


def _words(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def remake(directory: Path) -> str:
    """The words that tell how to mend a damaged data directory."""
    return f"copy it again, or remove {directory} and run {prepare_command(directory)}"


def _not_prepared(directory: Path, kind: str, sequence_length: int, tables: Iterable[str]) -> UserError:
    prepared = [name.rsplit("_", 1) for name in tables]
    kinds = list(dict.fromkeys([*(old for old, _ in prepared), kind]))
    lengths = sorted({*(int(length) for _, length in prepared), sequence_length})
    output = "-".join([str(directory), *kinds, *map(str, lengths)])
    return UserError(
        f"{directory} has no {kind} examples of sequence length {sequence_length}, only {_words(tables)}:"
        f" run {prepare_command(directory, output, kinds=kinds, sequence_lengths=lengths)}"
    )
