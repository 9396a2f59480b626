# SPDX-License-Identifier: Apache-2.0
"""From text to prepared data: what `bert-jax prepare` does.

Documents are read one after the other, tokenised, put into the training or the validation split by a hash of
their text, and written shard by shard; only one shard of each split is held in memory. Everything is written
to a folder `prepare-unfinished` inside the output first and moved out at the end, the manifest last.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bert_jax.data.instances import IS_NEXT, make_examples, SHORTEST_SEQUENCE, SPECIAL_TOKENS
from bert_jax.data.shards import (
    complete_or_absent,
    file_sha256,
    FORMAT,
    MANIFEST,
    open_data,
    TOKEN_COUNTS,
    token_dtype,
    write_shard,
)
from bert_jax.data.text import Document, input_files, read_documents
from bert_jax.errors import UserError
from bert_jax.tokenization import Tokenizer

TRAIN, VALIDATION = "train", "validation"
UNFINISHED = "prepare-unfinished"

_BATCH_BYTES = 2**20  # of text that is tokenised at once
_COUNTED_AT_ONCE = 2**20  # tokens; np.bincount makes an int64 copy of what it counts
_OWN_FILES = re.compile(
    rf"({TRAIN}|{VALIDATION})-\d{{5}}-of-\d{{5}}\.safetensors"
    rf"|vocab\.txt|tokenizer_config\.json|{re.escape(TOKEN_COUNTS)}"
)

# Where the statistics give cause for a warning.
IS_NEXT_RANGE = (0.45, 0.55)
MOST_UNKNOWN = 0.01
MOST_REPEATED = 0.1
MOST_CUT = 0.05
SMALLEST_VOCABULARY = 1_000


@dataclass(frozen=True)
class PrepareSettings:
    """What `bert-jax prepare` can be told, checked. The names are those of the manifest."""

    sequence_lengths: tuple[int, ...] = (128, 512)
    held_out: float = 0.05  # share of the documents that go to the validation split
    short_seq_prob: float = 0.1
    random_next_prob: float = 0.5
    seed: int = 0
    shard_tokens: int = 2**25

    def __post_init__(self) -> None:
        object.__setattr__(self, "sequence_lengths", tuple(sorted(set(self.sequence_lengths))))
        for length in self.sequence_lengths:
            if length < SHORTEST_SEQUENCE:
                raise UserError(f"--sequence-length {length} is too short: use at least {SHORTEST_SEQUENCE}")
        for name in ("short_seq_prob", "random_next_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{_option(name)} {getattr(self, name)} is not a share: use 0 to 1")
        if not 0 <= self.held_out < 1:
            raise UserError(f"--held-out {self.held_out} is not possible: use a share from 0 to less than 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed} is out of range: use 0 to 4294967295")
        if not 1 <= self.shard_tokens <= 2**30:
            raise UserError(f"--shard-tokens {self.shard_tokens} is out of range: use 1 to {2**30}")


def prepare(
    inputs: Sequence[Path], tokenizer: Tokenizer, output: Path, settings: PrepareSettings
) -> tuple[dict[str, Any], bool]:
    """Prepare the text of `inputs` into the directory `output`.

    Returns:
      The manifest, and whether it was made now; it is not where `output` holds the same already.

    Raises:
      UserError: text that cannot be used, or an `output` that holds something else.
    """
    for path in inputs:
        if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
            raise UserError(f"--output {output} lies inside --input {path}: choose a folder outside")
    files = input_files(inputs)
    request = _request(inputs, files, tokenizer, settings)
    if (output / MANIFEST).exists():
        manifest = dict(open_data(output).manifest)
        _require_same(output, manifest, request)
        return manifest, False
    existed = output.exists()
    folder = _begin(output)
    try:
        splits, counts = _write_splits(folder, files, tokenizer, settings)
        manifest = request | counts | {"warnings": _warnings(splits, counts, tokenizer), "splits": splits}
        tokenizer.save(folder)
        with complete_or_absent(folder / MANIFEST) as file:
            file.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
        _publish(folder, output)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong before is what is said
            _remove_leftovers(output)
            if not existed:
                output.rmdir()
        raise
    return manifest, True


# ---- the output directory ----------------------------------------------------------------------------------


def _begin(output: Path) -> Path:
    """An empty folder to work in. What an interrupted run left is removed; anything else is refused."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file: choose another --output")
    folder = output / UNFINISHED
    if folder.is_dir():
        _remove_leftovers(output)
    foreign = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if foreign:
        raise UserError(
            f"--output {output} holds {foreign[0]}, not prepared data: choose another --output, new or empty"
        )
    folder.mkdir(parents=True)
    return folder


def _remove_leftovers(output: Path) -> None:
    for path in output.iterdir():
        if _OWN_FILES.fullmatch(path.name):
            path.unlink()
    shutil.rmtree(output / UNFINISHED)


def _publish(folder: Path, output: Path) -> None:
    """Move the files to their place, the manifest last: it says that the others are there."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
        os.replace(path, output / path.name)
    folder.rmdir()


def _request(
    inputs: Sequence[Path], files: Sequence[Path], tokenizer: Tokenizer, settings: PrepareSettings
) -> dict[str, Any]:
    """The part of the manifest that is known before the work; data of equal requests is equal."""
    chosen = dataclasses.asdict(settings) | {"sequence_lengths": list(settings.sequence_lengths)}
    described = []
    total = sum(file.stat().st_size for file in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="read", disable=None, leave=False) as progress:
        for file in files:
            size = file.stat().st_size
            described.append({"file": _input_name(file, inputs), "bytes": size, "sha256": file_sha256(file)})
            progress.update(size)
    return {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        **chosen,
        "inputs": described,
    }


def _input_name(file: Path, inputs: Sequence[Path]) -> str:
    """A file's name as people know it, without the folders above what was given."""
    root = next(path for path in inputs if file.is_relative_to(path))
    return file.relative_to(root.parent).as_posix()


def _require_same(output: Path, manifest: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    """Refuse an output that was made from other inputs or with other settings, by the first that differs."""
    mend = f"remove {output} or choose another --output"
    if manifest["tokenizer"] != request["tokenizer"]:
        old, new = manifest["tokenizer"][:12], request["tokenizer"][:12]
        raise UserError(f"{output} was made with another --vocab or case (fingerprint {old}..., now {new}...): {mend}")
    for field in dataclasses.fields(PrepareSettings):
        old, new = manifest.get(field.name), request[field.name]
        if old != new:
            option = _option(field.name)
            raise UserError(f"{output} was made with {option} {_words(old)}, now it is {_words(new)}: {mend}")
    old_inputs, new_inputs = manifest.get("inputs", []), request["inputs"]
    if len(old_inputs) != len(new_inputs):
        raise UserError(f"{output} was made from {len(old_inputs)} files, --input has {len(new_inputs)}: {mend}")
    for old, new in zip(old_inputs, new_inputs, strict=True):
        if old["sha256"] != new["sha256"]:
            raise UserError(
                f"{output} was made from other text: {old['file']} of {old['bytes']} bytes, sha256"
                f" {old['sha256'][:12]}..., where --input has {new['file']} of {new['bytes']} bytes, sha256"
                f" {new['sha256'][:12]}...: {mend}"
            )


def _option(name: str) -> str:
    return "--sequence-length" if name == "sequence_lengths" else f"--{name.replace('_', '-')}"


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- from documents to splits ------------------------------------------------------------------------------


def _write_splits(
    folder: Path, files: Sequence[Path], tokenizer: Tokenizer, settings: PrepareSettings
) -> tuple[dict[str, Any], dict[str, int]]:
    """Write the shards of all splits and the token counts. Returns the splits' records, and counts of the
    whole text."""
    train = _SplitWriter(TRAIN, folder, tokenizer, settings)
    validation = _SplitWriter(VALIDATION, folder, tokenizer, settings)
    reading = _Reading(tokenizer)
    for text_hash, sentences in reading.documents(files, settings.seed):
        side = validation if text_hash < settings.held_out else train
        side.add(sentences)
    _require_documents(train.documents, validation.documents, settings.held_out)
    splits = {TRAIN: train.finish()}
    if settings.held_out:
        splits[VALIDATION] = validation.finish()
    with complete_or_absent(folder / TOKEN_COUNTS) as file:
        np.save(file, train.token_counts)
    return splits, reading.counts()


def _require_documents(train: int, validation: int, held_out: float) -> None:
    """Next-sentence prediction draws from another document, so each split needs two."""
    total = train + validation
    if not total:
        raise UserError("the text of --input gives no tokens: give files with text in the language of --vocab")
    if total < 2:
        raise UserError(
            "the text of --input is 1 document, and next-sentence prediction needs another one to draw from:"
            " add text, or separate documents by blank lines"
        )
    sizes = {TRAIN: train, VALIDATION: validation} if held_out else {TRAIN: train}
    for name, documents in sizes.items():
        if documents < 2:
            raise UserError(
                f"--held-out {held_out} leaves {documents} of {total} documents to the {name} split, and"
                " next-sentence prediction needs two: add text, or set --held-out 0 for no validation split"
            )


class _Reading:
    """Reads and tokenises documents, and counts what it meets on the way."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._sentence_hashes = array("q")
        self._empty_sentences = 0
        self._empty_documents = 0

    def documents(self, files: Sequence[Path], seed: int) -> Iterator[tuple[float, list[list[int]]]]:
        """(hash of seed and text, in [0, 1); token ids of each sentence) of every document that has
        tokens."""
        total = sum(file.stat().st_size for file in files)
        key = str(seed).encode()
        with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as progress:
            for batch in _batches(files, progress):
                for document, sentences in zip(batch, self._encode(batch), strict=True):
                    if sentences:
                        yield _share(key, "\n".join(document)), sentences

    def _encode(self, batch: Sequence[Document]) -> Iterator[list[list[int]]]:
        """The sentences of each document that have tokens."""
        texts = [sentence for document in batch for sentence in document]
        self._sentence_hashes.extend(map(hash, texts))
        encoded = iter(self._tokenizer.encode_batch(texts))
        for document in batch:
            sentences = [ids for _ in document if (ids := next(encoded))]
            self._empty_sentences += len(document) - len(sentences)
            self._empty_documents += not sentences
            yield sentences

    def counts(self) -> dict[str, int]:
        """Counts of the whole text, as in the manifest."""
        distinct = np.unique(np.frombuffer(self._sentence_hashes, np.int64)).size
        return {
            "repeated_sentences": len(self._sentence_hashes) - distinct,
            "dropped_sentences": self._empty_sentences,
            "dropped_documents": self._empty_documents,
        }


def _batches(files: Sequence[Path], progress: tqdm) -> Iterator[list[Document]]:
    """Documents of about `_BATCH_BYTES` of text together. `progress` follows the bytes of the files."""
    batch: list[Document] = []
    size = 0
    for number, file in enumerate(files):
        progress.set_postfix_str(f"file {number + 1}/{len(files)}", refresh=False)
        told, file_size = 0, file.stat().st_size
        for document in read_documents(file):
            batch.append(document)
            # Mark-up and white space are not in the sentences: they are added at the end of the file.
            document_bytes = sum(len(sentence.encode()) + 1 for sentence in document)
            size += document_bytes
            step = min(document_bytes, file_size - told)
            told += step
            if size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
            progress.update(step)
        progress.update(file_size - told)
    if batch:
        yield batch


def _share(key: bytes, text: str) -> float:
    """A hash in [0, 1) of a document's text, so that equal documents fall on the same side of any border."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=key).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


class _Buffer:
    """The documents of a shard that is being filled."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype
        self.tokens = array("H" if dtype.itemsize == 2 else "i")
        self.sentence_starts = array("q", [0])
        self.document_starts = array("q", [0])

    @property
    def documents(self) -> int:
        return len(self.document_starts) - 1

    def add(self, sentences: Sequence[Sequence[int]]) -> None:
        for ids in sentences:
            self.tokens.extend(ids)
            self.sentence_starts.append(len(self.tokens))
        self.document_starts.append(len(self.sentence_starts) - 1)

    def add_document_of(self, other: "_Buffer") -> None:
        """Append the one document of another buffer."""
        self.add([other.tokens[begin:end] for begin, end in pairwise(other.sentence_starts)])


class _SplitWriter:
    """Writes the shards of one split and adds up its statistics.

    A shard is closed when the next document would make it longer than `shard_tokens`. It needs two documents
    for next-sentence prediction, so a shard with one goes on beyond that, and a last shard with one joins the
    shard before: that one is kept until its successor has two.
    """

    def __init__(self, name: str, folder: Path, tokenizer: Tokenizer, settings: PrepareSettings):
        self.name = name
        self.documents = 0
        self.token_counts = np.zeros(tokenizer.vocab_size, np.int64)
        self._folder = folder
        self._tokenizer = tokenizer
        self._settings = settings
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._full: _Buffer | None = None
        self._filling = _Buffer(self._dtype)
        self._shards: list[dict[str, Any]] = []
        self._tables = {length: _TableCounts() for length in settings.sequence_lengths}

    def add(self, sentences: Sequence[Sequence[int]]) -> None:
        """Add a document: the ids of each of its sentences."""
        size = sum(map(len, sentences))
        if self._filling.documents >= 2 and len(self._filling.tokens) + size > self._settings.shard_tokens:
            self._full, self._filling = self._filling, _Buffer(self._dtype)
        self._filling.add(sentences)
        self.documents += 1
        if self._full and self._filling.documents == 2:
            self._write(self._full)
            self._full = None

    def finish(self) -> dict[str, Any]:
        """Write what is left and give the shards their names. Returns the split's record for the manifest."""
        if self._full:
            self._full.add_document_of(self._filling)
        self._write(self._full or self._filling)
        for number, record in enumerate(self._shards):
            name = f"{self.name}-{number:05}-of-{len(self._shards):05}.safetensors"
            os.replace(self._folder / record["file"], self._folder / name)
            record["file"] = name
        return self._record()

    def _write(self, buffer: _Buffer) -> None:
        number = len(self._shards)
        tokens = np.frombuffer(buffer.tokens, self._dtype)
        sentence_starts = np.frombuffer(buffer.sentence_starts, np.int64)
        document_starts = np.frombuffer(buffer.document_starts, np.int64)
        examples = {}
        for length, counts in self._tables.items():
            rng = random.Random(f"{self._settings.seed} {self.name} {number} {length}")
            probabilities = self._settings.short_seq_prob, self._settings.random_next_prob
            examples[length] = make_examples(sentence_starts, document_starts, length, rng, *probabilities)
            counts.add(examples[length], sentence_starts, length)
        for begin in range(0, tokens.size, _COUNTED_AT_ONCE):
            part = tokens[begin : begin + _COUNTED_AT_ONCE]
            self.token_counts += np.bincount(part, minlength=self.token_counts.size)
        path = self._folder / f"{self.name}-{number:05}.safetensors"
        self._shards.append(write_shard(path, tokens, sentence_starts, document_starts, examples))

    def _record(self) -> dict[str, Any]:
        tokens = int(self.token_counts.sum())
        shares = self.token_counts[self.token_counts > 0] / tokens
        commonest = int(self.token_counts.argmax())
        tables = {str(length): counts for length, counts in self._tables.items()}
        return {
            "documents": self.documents,
            "sentences": sum(shard["sentences"] for shard in self._shards),
            "tokens": tokens,
            "unknown_tokens": int(self.token_counts[self._tokenizer.unk_id]),
            "unigram_entropy": float(-(shares * np.log(shares)).sum()),
            "commonest_token": commonest,
            "commonest_token_share": int(self.token_counts[commonest]) / tokens,
            "examples": {length: counts.examples for length, counts in tables.items()},
            "is_next_share": {length: counts.is_next / counts.examples for length, counts in tables.items()},
            "valid_token_share": {
                length: counts.valid_tokens / (counts.examples * int(length)) for length, counts in tables.items()
            },
            "cut_token_share": {length: counts.cut_tokens / tokens for length, counts in tables.items()},
            "shards": self._shards,
        }


@dataclass
class _TableCounts:
    """Sums over the example tables of one sequence length."""

    examples: int = 0
    is_next: int = 0
    valid_tokens: int = 0  # with [CLS] and two [SEP]
    cut_tokens: int = 0  # beyond the first `length - 3` of their sentence

    def add(self, table: np.ndarray, sentence_starts: np.ndarray, length: int) -> None:
        self.examples += len(table)
        self.is_next += int((table[:, 4] == IS_NEXT).sum())
        self.valid_tokens += int(table[:, 1].sum() + table[:, 3].sum()) + SPECIAL_TOKENS * len(table)
        excess = np.diff(sentence_starts) - (length - SPECIAL_TOKENS)
        self.cut_tokens += int(excess[excess > 0].sum())


# ---- warnings ----------------------------------------------------------------------------------------------


def _warnings(splits: Mapping[str, Any], counts: Mapping[str, int], tokenizer: Tokenizer) -> list[str]:
    """What in the statistics usually means a mistake, one line each."""
    found = []
    if tokenizer.vocab_size < SMALLEST_VOCABULARY:
        found.append(
            f"the vocabulary has only {tokenizer.vocab_size} entries, so most words fall apart into letters:"
            " make a larger one with bert-jax vocab"
        )
    sentences = sum(split["sentences"] for split in splits.values()) + counts["dropped_sentences"]
    repeated = counts["repeated_sentences"] / sentences
    if repeated > MOST_REPEATED:
        found.append(
            f"{repeated:.1%} of the sentences ({counts['repeated_sentences']:,}) repeat an earlier one, and"
            " a model learns such text by heart: remove repeated lines (headers, licences, copies of files)"
        )
    for name, split in splits.items():
        found += _split_warnings(name, split)
    return found


def _split_warnings(name: str, split: Mapping[str, Any]) -> list[str]:
    found = []
    unknown = split["unknown_tokens"] / split["tokens"]
    if unknown > MOST_UNKNOWN:
        found.append(
            f"{name}: {unknown:.1%} of the tokens are [UNK]: the vocabulary is not for this text, make one"
            " of it with bert-jax vocab"
        )
    for length, examples in split["examples"].items():
        share, cut = split["is_next_share"][length], split["cut_token_share"][length]
        place = f"{name}, sequence length {length}"
        noise = 1 / examples**0.5  # two standard errors of a share of one half
        if not IS_NEXT_RANGE[0] - noise <= share <= IS_NEXT_RANGE[1] + noise:
            found.append(
                f"{place}: {share:.1%} of the pairs are IsNext, {1 - share:.1%} NotNext:"
                " check that sentences stand one a line with blank lines between documents (a document of one"
                f" sentence gives NotNext only), or {'lower' if share < 0.5 else 'raise'} --random-next-prob"
            )
        if cut > MOST_CUT:
            found.append(
                f"{place}: {cut:.1%} of the tokens stand beyond the first {int(length) - SPECIAL_TOKENS} of"
                " their sentence and are seldom or never seen: write one sentence a line"
            )
    return found
