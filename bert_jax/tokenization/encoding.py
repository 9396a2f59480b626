# SPDX-License-Identifier: Apache-2.0
"""The interface of tokenizers, WordPiece and SentencePiece, and the types they return."""

import abc
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent, write_json
from bert_jax.base.types import JsonObject
from bert_jax.tokenization.flat import ChunkCache, Flat, FlatEncoding, flattened
from bert_jax.tokenization.words import has_cjk, Segmenter, word_starts

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENIZER_FILE = "tokenizer_config.json"

Spans = list[tuple[int, int]]  # [begin, end) of each token in characters of the text as it was given


@dataclass(frozen=True)
class Encoding:
    """One encoded text: three lists of equal length."""

    ids: list[int]
    pieces: list[str]
    offsets: Spans


class Tokenizer(abc.ABC):
    """A vocabulary, and how text is normalised before it is looked up in it. It can be pickled.

    `vocabulary` is the entries by id; of equal ones the last is what text is encoded to, as in google-research/bert.
    `decided_by` says, for people, where `lowercase` came from, and changes nothing.
    """

    kind: ClassVar[str]  # "wordpiece" or "sentencepiece"

    def __init__(self, vocabulary: Sequence[str], lowercase: bool, strip_accents: bool, decided_by: str):
        self.vocabulary = tuple(vocabulary)
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.decided_by = decided_by
        ids = {entry: index for index, entry in enumerate(self.vocabulary)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in SPECIAL_TOKENS)
        self._cache = ChunkCache(self._split, self._encode_chunks)

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary."""
        return len(self.vocabulary)

    @functools.cached_property
    def unreachable(self) -> tuple[int, ...]:
        """The ids of entries that no text is encoded to, being empty or repeated further down."""
        last = {entry: index for index, entry in enumerate(self.vocabulary)}
        return tuple(index for index, entry in enumerate(self.vocabulary) if not entry or last[entry] != index)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the settings and all that decides about ids: the same one means the same ids."""
        return hashlib.sha256("\n".join((json.dumps(self.settings()), *self._contents())).encode()).hexdigest()

    def settings(self) -> JsonObject:
        """The settings that tokenizer_config.json holds besides the fingerprint."""
        return {"kind": self.kind, "lowercase": self.lowercase, "strip_accents": self.strip_accents}

    def encode(self, text: str) -> Encoding:
        """Ids, pieces and offsets. No special tokens are added; text that reads "[SEP]" is plain text."""
        ((ids, offsets),) = self._encode_spans([text])
        return Encoding(ids, [self.vocabulary[index] for index in ids], offsets)

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text: those of `encode`, by the library, which uses all cores.

        In a process that is one of many, set TOKENIZERS_PARALLELISM=false. `encode_flat` is faster.
        """

    def encode_flat(self, texts: Sequence[str], segmenter: Segmenter | None = None) -> FlatEncoding:
        """The ids of all texts in one array, and which tokens begin a word.

        The fast path, on one core: chunks of text that were seen before are looked up. Ids are those of `encode`.

        Args:
          texts: N texts.
          segmenter: cuts runs of Chinese and Japanese characters into words; without one each ideograph is a word.
            It changes `word_starts` only.
        """
        flat = self._cache.encode(texts)
        if segmenter is None:
            return flat
        bounds = np.concatenate([[0], np.cumsum(flat.lengths)])  # [N + 1]
        segmented = [number for number, text in enumerate(texts) if has_cjk(text)]
        spans = self._encode_spans([texts[number] for number in segmented])
        for number, (ids, offsets) in zip(segmented, spans, strict=True):
            starts = word_starts(texts[number], ids, offsets, self.unk_id, segmenter)
            flat.word_starts[bounds[number] : bounds[number + 1]] = starts
        return flat

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The pieces as text for people to read; special tokens are shown."""

    def save(self, directory: Path) -> None:
        """Writes the vocabulary and tokenizer_config.json into `directory`, which is made where it is missing."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            with complete_or_absent(directory / name) as file:
                file.write(content)
        write_json(directory / TOKENIZER_FILE, self.settings() | {"fingerprint": self.fingerprint})

    @abc.abstractmethod
    def files(self) -> dict[str, bytes]:
        """The files that `save` writes besides tokenizer_config.json."""

    @abc.abstractmethod
    def _contents(self) -> Sequence[str]:
        """The bytes that the fingerprint covers besides the settings."""

    @abc.abstractmethod
    def _split(self, texts: Sequence[str]) -> list[list[str]]:
        """Parts of each text whose tokens together are the tokens of the text."""

    @abc.abstractmethod
    def _encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], Spans]]:
        """Ids and offsets of each text."""

    def _encode_chunks(self, chunks: Sequence[str]) -> Flat:
        """The codes of all chunks and the tokens of each, as in flat.py."""
        return flattened(self._codes(chunks))

    def _codes(self, texts: Sequence[str]) -> list[list[int]]:
        """Return for each text the codes of its tokens: id << 1 | begins a word."""
        return [
            [index << 1 | start for index, start in zip(ids, word_starts(text, ids, offsets, self.unk_id), strict=True)]
            for text, (ids, offsets) in zip(texts, self._encode_spans(texts), strict=True)
        ]

    def _check_ids(self, ids: Sequence[int]) -> None:
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise UserError(f"id {index} is not in the vocabulary, which has {self.vocab_size} entries")
