# SPDX-License-Identifier: Apache-2.0
"""Text as it lies on disk -> tokens and examples in memory, the same that `bert-jax prepare` makes of it.

Shapes: T tokens, N sentences.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.feed.shards import Shard, Split, table_name, token_dtype, TRAIN
from bert_jax.feed.tokenised import (
    batches_of,
    chunk_name,
    cut,
    draw_examples,
    ExampleSettings,
    fitting_shard_size,
    ShardArrays,
    Text,
    TokenBuffer,
    tokenise,
)
from bert_jax.text.documents import ReadingCounts, ReadingOptions
from bert_jax.text.sources import parse_sources, plan_parts, read_part, total_bytes
from bert_jax.tokenization import Tokenizer


class FileOfText(NamedTuple):
    """A file that text was read from; files of different folders may have one name."""

    file: str
    sha256: str


class TokenisedText(NamedTuple):
    """A text in memory, in pieces that are those of prepared data."""

    option: str  # that named it
    files: list[FileOfText]
    pieces: list[tuple[str, ShardArrays]]  # each with the name that its draws depend on

    @property
    def documents(self) -> int:
        """Documents with tokens."""
        return sum(len(arrays.document_starts) - 1 for _, arrays in self.pieces)

    @property
    def sentences(self) -> int:
        """Sentences with tokens."""
        return sum(len(arrays.sentence_starts) - 1 for _, arrays in self.pieces)

    @property
    def tokens(self) -> int:
        """Tokens without special ones."""
        return sum(len(arrays.tokens) for _, arrays in self.pieces)

    def count(self, token: int) -> int:
        """Return how often an entry of the vocabulary occurs."""
        return sum(int((arrays.tokens == token).sum()) for _, arrays in self.pieces)

    def split(self, settings: ExampleSettings, kind: str | None = None, sequence_length: int = 0) -> Split:
        """Return the text as prepared data has it, with the examples of a kind where one is asked for."""
        shards = []
        for name, arrays in self.pieces:
            tables = {}
            if kind is not None:
                starts = arrays.sentence_starts, arrays.document_starts
                drawn = draw_examples(kind, sequence_length, *starts, settings, f"{TRAIN} {name}")
                tables[table_name(kind, sequence_length)] = drawn.examples
            packed = np.packbits(arrays.word_starts, bitorder="little")
            shards.append(Shard(Path(self.option), arrays.tokens, packed, *arrays[2:], tables))
        return Split("text", Path(self.option), tuple(shards), {})


def _tokenised(texts: Sequence[Text], tokenizer: Tokenizer, settings: ExampleSettings) -> Iterator[ShardArrays]:
    """Yield the documents of a piece as arrays; nothing where they have no tokens."""
    buffer = TokenBuffer(token_dtype(tokenizer.vocab_size))
    for batch in batches_of(texts):
        buffer.add(tokenise(batch, tokenizer, settings), np.ones(len(batch), bool))
    if buffer.has_documents():
        yield buffer.take()


def read_text(
    inputs: Sequence[str | Path], tokenizer: Tokenizer, reading: ReadingOptions, settings: ExampleSettings
) -> TokenisedText:
    """Read and tokenise text, all of it.

    Args:
      inputs: as `text.sources.parse_sources` takes them.
      tokenizer: of the model.
      reading: how, and by which option it was named.
      settings: splitter and segmenter.

    Raises:
      UserError: text that cannot be used.
    """
    sources = parse_sources(inputs, reading.option)
    size = fitting_shard_size(total_bytes(sources))
    parts = plan_parts(sources, size)
    files: list[FileOfText] = []
    pieces: list[tuple[str, ShardArrays]] = []
    total = sum(part.bytes for part in parts)
    with tqdm(total=total, unit="B", unit_scale=True, desc=f"read {reading.option}", disable=None) as bar:

        def on_bytes(count: int) -> None:
            bar.update(count)

        for part in parts:
            digests: dict[Path, str] = {}
            documents = read_part(part, sources, reading, ReadingCounts(), on_bytes, digests.__setitem__)
            for number, texts in enumerate(cut(documents, size)):
                name = chunk_name(part.number, number)
                pieces += [(name, arrays) for arrays in _tokenised(texts, tokenizer, settings)]
            if not part.repetition:
                source = sources[part.source]
                files += [FileOfText(source.name_of(file), sha256) for file, sha256 in digests.items()]
    if not pieces:
        raise UserError(
            f"the text of {reading.option} gives no tokens: give files with text in the language of the model's vocabulary"
        )
    return TokenisedText(reading.option, files, pieces)
