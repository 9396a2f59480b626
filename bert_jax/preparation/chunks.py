# SPDX-License-Identifier: Apache-2.0
"""The unit of work of `bert-jax prepare`: some megabytes of documents -> a shard of each split.

A part of the input is cut into chunks, a function of the part alone. A chunk is processed by a pure function, in
whatever process, so that the result does not depend on how many there are. What it makes:

    train-PPPPP-CCCCC.safetensors, validation-...   the shards of chunk C of part P, where they have documents
    record-PPPPP-CCCCC.npz                          counts of tokens and what statistics need to be added up
    record-PPPPP-CCCCC.json                         counts; written last, so a chunk with a record is finished

Shapes: D documents, N sentences, T tokens.
"""

import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert_jax.base.files import complete_or_absent, write_json
from bert_jax.base.types import JsonObject
from bert_jax.feed.instances import ExampleTable
from bert_jax.feed.kinds import PAIRS, special_tokens
from bert_jax.feed.shards import table_name, token_dtype, TRAIN, VALIDATION, write_shard
from bert_jax.feed.tokenised import batches_of, chunk_name, draw_examples, Text, TokenBuffer, tokenise
from bert_jax.preparation.contamination import EvaluationNgrams
from bert_jax.preparation.request import PrepareSettings
from bert_jax.text.mark_counts import MarkCounts
from bert_jax.text.statistics import TextStatistics
from bert_jax.tokenization import Tokenizer

SPLITS = (TRAIN, VALIDATION)
HISTOGRAM_BIN = 16  # tokens

_COUNTED_AT_ONCE = 2**20  # tokens; np.bincount makes an int64 copy of what it counts


@dataclass(frozen=True)
class Chunk:
    """Consecutive documents of a part."""

    part: int
    number: int  # in the part, from 0
    source: int
    repetition: int  # how many times these documents were taken before
    stored_bytes: int  # of the input files, as stored, that were read for it
    documents: list[Text]

    @property
    def name(self) -> str:
        """The beginning of the names of its files."""
        return chunk_name(self.part, self.number)

    def fingerprint(self) -> str:
        """A hash (hex) of the documents and of how they were taken."""
        digest = hashlib.blake2b(f"{self.source} {self.repetition}".encode(), digest_size=16)
        for content, paragraphs, place in self.documents:
            digest.update(len(content).to_bytes(8) + bytes([paragraphs]) + str(place).encode())
            digest.update(content)
        return digest.hexdigest()


@dataclass(frozen=True)
class ChunkWork:
    """Settings and tools that all chunks are processed with."""

    folder: Path
    tokenizer: Tokenizer
    settings: PrepareSettings
    sample_bits: int  # see `statistics.sample_bits`
    evaluation: EvaluationNgrams | None


type Process = Callable[[Chunk, ChunkWork, Callable[[], None]], None]  # `process_chunk`, and what may stand for it


# ---- a chunk -> its files ----------------------------------------------------------------------------------


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Nothing here makes cycles, and to look for them among millions of strings takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_search_for_cycles()
def process_chunk(chunk: Chunk, work: ChunkWork, on_batch: Callable[[], None] = lambda: None) -> None:
    """Write the shards and the record of a chunk. A pure function of its arguments.

    `on_batch` is called every fraction of a second; what it raises ends the work.
    """
    splits = {name: TokenBuffer(token_dtype(work.tokenizer.vocab_size)) for name in SPLITS}
    counter = _Counter(work)
    for documents in batches_of(chunk.documents):
        on_batch()
        _add_documents(documents, chunk.repetition, work, splits, counter)
    counts, arrays = counter.result()
    records = {}
    for name, buffer in splits.items():
        if buffer.has_documents():
            on_batch()
            records[name], arrays[f"{name}_counts"] = _write_split(name, buffer, chunk, work)
    with complete_or_absent(work.folder / f"record-{chunk.name}.npz") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its own options come by name too
    record = {"source": chunk.source, "fingerprint": chunk.fingerprint(), "stored_bytes": chunk.stored_bytes}
    write_json(work.folder / f"record-{chunk.name}.json", record | counts | {"splits": records})


class _Counter:
    """Counts what is met in a chunk."""

    def __init__(self, work: ChunkWork):
        self.dropped_sentences = 0
        self.dropped_documents = 0
        self._evaluation = work.evaluation
        self._hits: list[np.ndarray] = []
        tokenizer = work.tokenizer
        marks = MarkCounts(tokenizer.lowercase, work.sample_bits) if tokenizer.strip_accents else None
        self._statistics = TextStatistics(work.sample_bits, marks)

    def add_documents(self, documents: Sequence[tuple[Sequence[str], np.ndarray]]) -> None:
        """Count documents that are kept: sentences, and the tokens of each, [sentences]."""
        for sentences, lengths in documents:
            self._statistics.add_document(sentences, lengths)
        if self._evaluation is not None:
            self._hits.append(self._evaluation.hits(*(sentences for sentences, _ in documents)))

    def result(self) -> tuple[JsonObject, dict[str, np.ndarray]]:
        """The counts for JSON, and what does not fit there."""
        statistics, arrays = self._statistics.record()
        counts = {
            "dropped_sentences": self.dropped_sentences,
            "dropped_documents": self.dropped_documents,
            "statistics": statistics,
        }
        hits = np.concatenate([np.zeros(0, np.uint64), *self._hits])
        return counts, {"contamination": np.unique(hits), **arrays}


def _add_documents(
    documents: Sequence[Text], repetition: int, work: ChunkWork, splits: dict[str, TokenBuffer], counter: _Counter
) -> None:
    """Tokenise documents and put each into its split. Sentences without tokens are dropped."""
    tokenised = tokenise(documents, work.tokenizer, work.settings.examples)
    held_out = np.array([is_held_out(document.content, work.settings) for document in documents])
    for name, chosen in ((TRAIN, ~held_out), (VALIDATION, held_out & (repetition == 0))):
        splits[name].add(tokenised, chosen)
    if repetition == 0:  # of the text, whose documents count once
        counter.dropped_sentences += int((tokenised.lengths == 0).sum())
        counter.dropped_documents += int((tokenised.sizes == 0).sum())
        counter.add_documents(list(_kept_documents(tokenised.sentences, tokenised.lengths, tokenised.sizes)))


def _kept_documents(
    texts: Sequence[Sequence[str]], lengths: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    """The documents that have tokens, without sentences that have none."""
    begin = 0
    for text, size in zip(texts, sizes.tolist(), strict=True):
        tokens = lengths[begin : begin + len(text)]
        begin += len(text)
        if size < len(text):
            text = [sentence for sentence, length in zip(text, tokens, strict=True) if length]
            tokens = tokens[tokens > 0]
        if size:
            yield text, tokens


def is_held_out(content: bytes, settings: PrepareSettings) -> bool:
    """Decide by a hash of the text, so that equal documents fall on the same side."""
    if not settings.held_out:
        return False
    digest = hashlib.blake2b(content, digest_size=8, key=str(settings.seed).encode(), person=b"held-out")
    return int.from_bytes(digest.digest()) < settings.held_out * 2**64


# ---- a split -> its shard ----------------------------------------------------------------------------------


def _write_split(name: str, buffer: TokenBuffer, chunk: Chunk, work: ChunkWork) -> tuple[JsonObject, np.ndarray]:
    """Write the shard of one split. Returns its record, and how often each token occurs, [V] int64."""
    arrays = buffer.take()
    starts = arrays.sentence_starts, arrays.document_starts
    settings, tables, counts = work.settings, {}, {}
    for kind in settings.kinds:
        for length in settings.sequence_lengths:
            made = draw_examples(kind, length, *starts, settings.examples, f"{name} {chunk.name}")
            tables[table_name(kind, length)] = made.examples
            counts[table_name(kind, length)] = _count_table(made, kind, length, arrays.sentence_starts)
    shard = write_shard(work.folder / f"{name}-{chunk.name}.safetensors", *arrays, tables)
    token_counts = np.zeros(work.tokenizer.vocab_size, np.int64)
    for begin in range(0, arrays.tokens.size, _COUNTED_AT_ONCE):
        token_counts += np.bincount(arrays.tokens[begin : begin + _COUNTED_AT_ONCE], minlength=token_counts.size)
    return {"shard": shard, "tables": counts}, token_counts


def _count_table(table: ExampleTable, kind: str, length: int, sentence_starts: np.ndarray) -> JsonObject:
    """Sums over a table that can be added up over chunks."""
    examples = table.examples
    sizes = examples[:, 1] + examples[:, 3] + special_tokens(kind)
    excess = np.diff(sentence_starts) - (length - special_tokens(kind))
    return {
        "examples": len(examples),
        "first_label": int((examples[:, 4] == 0).sum()),  # IsNext, or in order
        "same_document_negatives": table.same_document_negatives,
        "unpaired_documents": table.unpaired_documents,
        "valid_tokens": int(sizes.sum()),
        "cut_tokens": int(excess[excess > 0].sum()) if kind in PAIRS else 0,
        "length_histogram": np.bincount(sizes // HISTOGRAM_BIN, minlength=length // HISTOGRAM_BIN + 1).tolist(),
    }
