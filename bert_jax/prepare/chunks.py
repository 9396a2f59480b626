# SPDX-License-Identifier: Apache-2.0
"""The unit of work of `bert-jax prepare`: some megabytes of documents -> a shard of each split.

A part of the input is cut into chunks, a function of the part alone. A chunk is processed by a pure function, in
whatever process, so that the result does not depend on how many there are. What it makes:

    train-PPPPP-CCCCC.safetensors, validation-...   the shards of chunk C of part P, where they have documents
    record-PPPPP-CCCCC.npz                          counts of tokens and what statistics need to be added up
    record-PPPPP-CCCCC.json                         counts; written last, so a chunk with a record is finished

Shapes: D documents, N sentences, T tokens.
"""

import functools
import gc
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.feed.kinds import PAIRS, special_tokens
from bert_jax.feed.shards import table_name, token_dtype, TRAIN, VALIDATION, write_shard
from bert_jax.files import complete_or_absent, write_json
from bert_jax.prepare.contamination import EvaluationNgrams
from bert_jax.prepare.instances import ExampleTable, make_table
from bert_jax.prepare.request import PrepareSettings
from bert_jax.text.documents import RawDocument, sentences_of
from bert_jax.text.mark_counts import MarkCounts
from bert_jax.text.sentences import load_splitter
from bert_jax.text.statistics import TextStatistics
from bert_jax.tokenization import load_segmenter, Segmenter, Tokenizer
from bert_jax.types import JsonObject

SPLITS = (TRAIN, VALIDATION)
HISTOGRAM_BIN = 16  # tokens

_BATCH_BYTES = 2**20  # of text that is tokenised at once
_COUNTED_AT_ONCE = 2**20  # tokens; np.bincount makes an int64 copy of what it counts


class Text(NamedTuple):
    """A document as it is handed to another process."""

    content: bytes  # UTF-8, a line a line
    paragraphs: bool  # whether each line is to be split into sentences


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
        return f"{self.part:05}-{self.number:05}"

    def fingerprint(self) -> str:
        """A hash (hex) of the documents and of how they were taken."""
        digest = hashlib.blake2b(f"{self.source} {self.repetition}".encode(), digest_size=16)
        for content, paragraphs in self.documents:
            digest.update(len(content).to_bytes(8) + bytes([paragraphs]))
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


def cut(documents: Iterable[RawDocument], size: int) -> Iterator[list[Text]]:
    """Consecutive documents of together `size` bytes of UTF-8 or a little more.

    A rest of less than a quarter of that joins the chunk before it, so one chunk is held back.
    """
    held: list[Text] = []
    filling: list[Text] = []
    total = 0
    for document in documents:
        filling.append(Text("\n".join(document.lines).encode(), document.paragraphs))
        total += len(filling[-1].content)
        if total >= size:
            if held:
                yield held
            held, filling, total = filling, [], 0
    if held and 4 * total < size:
        held += filling
        filling = []
    yield from filter(None, (held, filling))


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
    splits = {name: _Buffer(token_dtype(work.tokenizer.vocab_size)) for name in SPLITS}
    counter = _Counter(work)
    for begin, end in _batches(chunk.documents):
        on_batch()
        _add_documents(chunk.documents[begin:end], chunk.repetition, work, splits, counter)
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


def _batches(documents: Sequence[Text]) -> Iterator[tuple[int, int]]:
    """Ranges of documents of about `_BATCH_BYTES`."""
    begin = size = 0
    for end, document in enumerate(documents, start=1):
        size += len(document.content)
        if size >= _BATCH_BYTES or end == len(documents):
            yield begin, end
            begin, size = end, 0


@dataclass
class _Buffer:
    """The documents of one split, in pieces."""

    dtype: np.dtype
    tokens: list[np.ndarray] = field(default_factory=list)  # [T]
    word_starts: list[np.ndarray] = field(default_factory=list)  # [T] bool
    lengths: list[np.ndarray] = field(default_factory=list)  # [N] tokens of each sentence
    document_sizes: list[np.ndarray] = field(default_factory=list)  # [D] sentences of each document

    def has_documents(self) -> bool:
        """Whether there are any."""
        return any(len(sizes) for sizes in self.document_sizes)


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
    documents: Sequence[Text], repetition: int, work: ChunkWork, splits: dict[str, _Buffer], counter: _Counter
) -> None:
    """Tokenise documents and put each into its split. Sentences without tokens are dropped."""
    split = load_splitter(work.settings.splitter)
    texts = [sentences_of(RawDocument(content.decode().split("\n"), lines), split) for content, lines in documents]
    flat = work.tokenizer.encode_flat(
        [sentence for text in texts for sentence in text], _segmenter(work.settings.segmenter)
    )
    document_of = np.repeat(np.arange(len(texts)), [len(text) for text in texts])  # [N]
    filled = flat.lengths > 0  # [N]
    sizes = np.bincount(document_of[filled], minlength=len(texts))  # [D]
    counter.dropped_sentences += int((~filled).sum())
    counter.dropped_documents += int((sizes == 0).sum())
    held_out = np.array([_is_held_out(document.content, work.settings) for document in documents])
    for name, chosen in ((TRAIN, ~held_out), (VALIDATION, held_out & (repetition == 0))):
        sentences = filled & chosen[document_of]
        tokens = np.repeat(sentences, flat.lengths)
        buffer = splits[name]
        buffer.tokens.append(flat.ids[tokens].astype(buffer.dtype))
        buffer.word_starts.append(flat.word_starts[tokens])
        buffer.lengths.append(flat.lengths[sentences])
        buffer.document_sizes.append(sizes[chosen & (sizes > 0)])
    if repetition == 0:
        counter.add_documents(list(_kept_documents(texts, flat.lengths, sizes)))


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


@functools.cache
def _segmenter(name: str) -> Segmenter | None:
    return None if name == "none" else load_segmenter(name)


def _is_held_out(content: bytes, settings: PrepareSettings) -> bool:
    """Decide by a hash of the text, so that equal documents fall on the same side."""
    if not settings.held_out:
        return False
    digest = hashlib.blake2b(content, digest_size=8, key=str(settings.seed).encode(), person=b"held-out")
    return int.from_bytes(digest.digest()) < settings.held_out * 2**64


# ---- a split -> its shard ----------------------------------------------------------------------------------


def _write_split(name: str, buffer: _Buffer, chunk: Chunk, work: ChunkWork) -> tuple[JsonObject, np.ndarray]:
    """Write the shard of one split. Returns its record, and how often each token occurs, [V] int64."""
    tokens, word_starts = _joined(buffer.tokens), _joined(buffer.word_starts)
    sentence_starts, document_starts = _starts(buffer.lengths), _starts(buffer.document_sizes)
    settings, tables, counts = work.settings, {}, {}
    for kind in settings.kinds:
        for length in settings.sequence_lengths:
            table = table_name(kind, length)
            rng = random.Random(f"{settings.seed} {name} {chunk.name} {table}")
            probabilities = settings.short_seq_prob, settings.random_next_prob
            made = make_table(kind, sentence_starts, document_starts, length, rng, *probabilities)
            tables[table] = made.examples
            counts[table] = _count_table(made, kind, length, sentence_starts)
    path = work.folder / f"{name}-{chunk.name}.safetensors"
    shard = write_shard(path, tokens, word_starts, sentence_starts, document_starts, tables)
    token_counts = np.zeros(work.tokenizer.vocab_size, np.int64)
    for begin in range(0, tokens.size, _COUNTED_AT_ONCE):
        token_counts += np.bincount(tokens[begin : begin + _COUNTED_AT_ONCE], minlength=token_counts.size)
    return {"shard": shard, "tables": counts}, token_counts


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """The pieces in one array; they are let go."""
    together = np.concatenate(pieces)
    pieces.clear()
    return together


def _starts(pieces: list[np.ndarray]) -> np.ndarray:
    """Sizes -> where each begins, and the end."""
    return np.concatenate([[0], np.cumsum(np.concatenate(pieces))])


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
