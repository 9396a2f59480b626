# SPDX-License-Identifier: Apache-2.0
"""Documents -> tokens with the boundaries of words, sentences and documents, and the examples drawn from them.

`bert-jax prepare` writes what is made here into shards, `bert-jax evaluate --text` scores it as it is.

Shapes: D documents, N sentences, T tokens.
"""

import functools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bert_jax.feed.instances import ExampleTable, make_table
from bert_jax.feed.shards import table_name
from bert_jax.text.documents import RawDocument, sentences_of
from bert_jax.text.sentences import load_splitter, RULES
from bert_jax.tokenization import load_segmenter, Segmenter, Tokenizer

SHARDS_AIMED_AT = 64  # in a text that is neither small nor large
SMALLEST_SHARD, LARGEST_SHARD = 4_000_000, 32_000_000  # bytes of text, where --shard-size does not say it
_BATCH_BYTES = 2**20  # of text that is tokenised at once


class Text(NamedTuple):
    """A document as it is handed to another process."""

    content: bytes  # UTF-8, a line a line
    paragraphs: bool  # whether each line is to be split into sentences
    place: tuple[int, int] = (0, 0)  # as of `RawDocument`


class TokenisedDocuments(NamedTuple):
    """Documents as sentences and tokens; a sentence or a document without tokens is still in its place."""

    sentences: list[list[str]]  # of each of D documents
    ids: np.ndarray  # [T] int32
    word_starts: np.ndarray  # [T] bool, True where a token begins a word
    lengths: np.ndarray  # [N] int64, tokens of each sentence
    document_of: np.ndarray  # [N] int64, number of the document that a sentence belongs to
    sizes: np.ndarray  # [D] int64, sentences with tokens of each document


@dataclass(frozen=True)
class ExampleSettings:
    """How text is cut into sentences and words, and examples are drawn from them."""

    short_seq_prob: float = 0.1  # share of documents with a shorter target
    random_next_prob: float = 0.5  # share of random B among the chunks of next-sentence prediction
    seed: int = 0
    splitter: str = RULES  # of paragraphs into sentences, see `text.sentences.load_splitter`
    segmenter: str = "none"  # of text without spaces into words


def chunk_name(part: int, number: int) -> str:
    """Return what a chunk's files, and the draws of its examples, are told apart by: its place in a part of the text."""
    return f"{part:05}-{number:05}"


def fitting_shard_size(total_bytes: int) -> int:
    """Return the bytes of text of a shard: about 64 shards, within bounds that keep small texts in few files and large ones
    in little memory."""
    return min(max(total_bytes // SHARDS_AIMED_AT, SMALLEST_SHARD), LARGEST_SHARD)


def cut(documents: Iterable[RawDocument], size: int) -> Iterator[list[Text]]:
    """Cut documents into chunks of together `size` bytes of UTF-8 or a little more.

    A rest of less than a quarter of that joins the chunk before it, so one chunk is held back.
    """
    held: list[Text] = []
    filling: list[Text] = []
    total = 0
    for document in documents:
        filling.append(Text("\n".join(document.lines).encode(), document.paragraphs, document.place))
        total += len(filling[-1].content)
        if total >= size:
            if held:
                yield held
            held, filling, total = filling, [], 0
    if held and 4 * total < size:
        held += filling
        filling = []
    yield from filter(None, (held, filling))


def batches_of(documents: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """Consecutive documents of about a megabyte together, which are tokenised at once."""
    begin = size = 0
    for end, document in enumerate(documents, start=1):
        size += len(document.content)
        if size >= _BATCH_BYTES or end == len(documents):
            yield documents[begin:end]
            begin, size = end, 0


def tokenise(documents: Sequence[Text], tokenizer: Tokenizer, settings: ExampleSettings) -> TokenisedDocuments:
    """Split D documents into sentences and encode these."""
    split, segmenter = load_splitter(settings.splitter), _segmenter(settings.segmenter)
    texts = [sentences_of(RawDocument(content.decode().split("\n"), lines), split) for content, lines, _ in documents]
    flat = tokenizer.encode_flat([sentence for text in texts for sentence in text], segmenter)
    document_of = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    sizes = np.bincount(document_of[flat.lengths > 0], minlength=len(texts))
    return TokenisedDocuments(texts, flat.ids, flat.word_starts, flat.lengths, document_of, sizes)


@functools.cache
def _segmenter(name: str) -> Segmenter | None:
    return None if name == "none" else load_segmenter(name)


class ShardArrays(NamedTuple):
    """The arrays of one shard, as `shards.write_shard` takes them."""

    tokens: np.ndarray  # [T] as `shards.token_dtype`
    word_starts: np.ndarray  # [T] bool
    sentence_starts: np.ndarray  # [N + 1] token offset of each sentence; the last is T
    document_starts: np.ndarray  # [D + 1] sentence index of each document; the last is N


class TokenBuffer:
    """The documents of one shard, added batch by batch; what has no tokens is dropped."""

    def __init__(self, dtype: np.dtype):
        self._dtype = dtype
        self._tokens: list[np.ndarray] = []  # [T]
        self._word_starts: list[np.ndarray] = []  # [T] bool
        self._lengths: list[np.ndarray] = []  # [N] tokens of each sentence
        self._document_sizes: list[np.ndarray] = []  # [D] sentences of each document

    def add(self, documents: TokenisedDocuments, chosen: np.ndarray) -> None:
        """Add those of the documents that are chosen, [D] bool."""
        sentences = (documents.lengths > 0) & chosen[documents.document_of]
        tokens = np.repeat(sentences, documents.lengths)
        self._tokens.append(documents.ids[tokens].astype(self._dtype))
        self._word_starts.append(documents.word_starts[tokens])
        self._lengths.append(documents.lengths[sentences])
        self._document_sizes.append(documents.sizes[chosen & (documents.sizes > 0)])

    def has_documents(self) -> bool:
        """Whether a document with tokens was added."""
        return any(len(sizes) for sizes in self._document_sizes)

    def take(self) -> ShardArrays:
        """Return all that was added, and let it go."""
        return ShardArrays(
            _joined(self._tokens), _joined(self._word_starts), _starts(self._lengths), _starts(self._document_sizes)
        )


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """The pieces in one array; they are let go."""
    together = np.concatenate(pieces)
    pieces.clear()
    return together


def _starts(pieces: list[np.ndarray]) -> np.ndarray:
    """Sizes -> where each begins, and the end."""
    return np.concatenate([[0], np.cumsum(_joined(pieces))])


def draw_examples(
    kind: str,
    sequence_length: int,
    sentence_starts: np.ndarray,
    document_starts: np.ndarray,
    settings: ExampleSettings,
    place: str,
) -> ExampleTable:
    """Draw the examples of a kind from one shard; a pure function of its arguments.

    Args:
      kind: one of `kinds.KINDS`.
      sequence_length: tokens of a row with [CLS] and [SEP].
      sentence_starts: [N + 1] token offset of each sentence; the last is T.
      document_starts: [D + 1] sentence index of each document; the last is N.
      settings: seed and probabilities.
      place: the split and the number of the shard, "train 00000-00000", by which no two shards share draws.
    """
    rng = random.Random(f"{settings.seed} {place} {table_name(kind, sequence_length)}")
    shares = settings.short_seq_prob, settings.random_next_prob
    return make_table(kind, sentence_starts, document_starts, sequence_length, rng, *shares)
