# SPDX-License-Identifier: Apache-2.0
"""WordPiece: ids of google-research/bert's FullTokenizer (its tokenization.py), computed by the `tokenizers` library.

The library's few differences are evened out in normalization.py.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.tokenization.chunks import IDEOGRAPHS, is_one_word, split_chunks, split_words
from bert_jax.tokenization.encoding import Spans, Tokenizer
from bert_jax.tokenization.flat import ChunkCache, Flat, flattened
from bert_jax.tokenization.normalization import Evening
from bert_jax.tokenization.switches import AddedTokens, LONGEST_WORD, Switches

VOCABULARY_FILE = "vocab.txt"


class WordPieceTokenizer(Tokenizer):
    """A WordPiece vocabulary: pieces inside a word begin with '##'.

    `strip_accents=None` means: where text is lower-cased, as google-research/bert does. `entries` are those of the
    vocabulary file; `vocabulary` has the added tokens of `switches` behind them.
    """

    kind = "wordpiece"

    def __init__(
        self,
        vocabulary: Sequence[str],
        lowercase: bool,
        strip_accents: bool | None = None,
        decided_by: str = "as asked",
        switches: Switches = Switches(),  # noqa: B008  # frozen
    ):
        strip_accents = lowercase if strip_accents is None else strip_accents
        super().__init__([*vocabulary, *switches.behind(vocabulary)], lowercase, strip_accents, decided_by)
        self.entries, self.switches = tuple(vocabulary), switches
        apart = switches.tokenize_chinese_chars
        self._backend = library_tokenizer(self.lowercase, self.strip_accents, apart)
        known = "".join(self.vocabulary)
        self._evening = evening_for(self._backend, self.lowercase, self.strip_accents, known, apart)
        self._entries = {entry.translate(self._evening): index for index, entry in enumerate(self.entries)}
        self._backend.model = library_model(self._entries, switches.max_input_chars_per_word)
        self._added = (
            AddedTokens(switches.added_tokens, self._backend, self._evening.even_out) if switches.added_tokens else None
        )
        self._require_ids_of_added()
        # Entries that are plain words, and their codes; a longer one than the library looks up is [UNK] to it.
        self._whole = {
            entry: (index << 1 | 1,)
            for entry, index in self._entries.items()
            if entry.isascii() and is_one_word(entry) and len(entry) <= switches.max_input_chars_per_word
        }
        self._words = ChunkCache(split_words, self._encode_words)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.entries, self.lowercase, self.strip_accents, self.decided_by, self.switches)

    def with_entries(self, entries: Sequence[str]) -> "WordPieceTokenizer":
        """The same with other entries, which text is normalised for in the same way."""
        return WordPieceTokenizer(entries, self.lowercase, self.strip_accents, self.decided_by, self.switches)

    def settings(self) -> JsonObject:
        """The settings that tokenizer_config.json holds besides the fingerprint."""
        return super().settings() | self.switches.changed()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text: those of `encode`, by the library, which uses all cores.

        In a process that is one of many, set TOKENIZERS_PARALLELISM=false. `encode_flat` is faster.
        """
        evened = [self._evening.even_out(text) for text in texts]
        return [encoded.ids for encoded in self._backend.encode_batch_fast(evened, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The pieces as text for people to read; special tokens are shown.

        Case, accents and white space are not those of the original. The text encodes to the same ids again,
        unless there are special tokens in it.
        """
        self._check_ids(ids)
        return _joined([self.vocabulary[index] for index in ids])

    def files(self) -> dict[str, bytes]:
        """The files that `save` writes besides tokenizer_config.json."""
        return {VOCABULARY_FILE: "".join(f"{entry}\n" for entry in self.entries).encode()}

    def _contents(self) -> Sequence[str]:
        return self.vocabulary

    def _split(self, texts: Sequence[str]) -> list[list[str]]:
        chunks = split_chunks(texts, self.switches.tokenize_chinese_chars)
        if self._added is not None:  # which may reach over white space: then the text is one chunk
            chunks = [[text] if self._added.may_be_in(text) else own for text, own in zip(texts, chunks, strict=True)]
        return chunks

    def _encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], Spans]]:
        evened = [self._evening.even_out(text) for text in texts]
        encoded = self._backend.encode_batch(evened, add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encoded]

    def _encode_chunks(self, chunks: Sequence[str]) -> Flat:
        """Most chunks are words and punctuation, and most of these were seen in other chunks."""
        added = [
            number for number, chunk in enumerate(chunks) if self._added is not None and self._added.may_be_in(chunk)
        ]
        if not added:
            return self._words.codes(self._lowered(chunks))
        others = sorted(set(range(len(chunks))) - set(added))
        flat, lengths = self._words.codes(self._lowered([chunks[number] for number in others]))
        codes: list[Any] = [None] * len(chunks)
        for number, own in zip(others, np.split(flat, np.cumsum(lengths)[:-1]), strict=False):
            codes[number] = own
        for number, listed in zip(added, self._codes([chunks[number] for number in added]), strict=True):
            codes[number] = listed
        return flattened(codes)

    def _require_ids_of_added(self) -> None:
        """The library numbers the added tokens behind the entries, which fails where entries are repeated."""
        for token in self.switches.added_tokens:
            found = self._backend.token_to_id(self._evening.even_out(token.content))
            if found is None or self.vocabulary[found] != token.content:
                raise UserError(
                    f"the added token '{token.content}' cannot have the id behind the {len(self.entries)} entries of the"
                    " vocabulary: one of them is repeated"
                )

    def _lowered(self, texts: Sequence[str]) -> Sequence[str]:
        """Plain text as the normalisation makes it, other text as it is."""
        return [text.lower() if text.isascii() else text for text in texts] if self.lowercase else texts

    def _encode_words(self, words: Sequence[str]) -> Flat:
        """Words, punctuation characters and what `split_words` could not part. Plain words need no normalisation."""
        words = self._lowered(words)  # once more: a chunk that is not ASCII has ASCII words
        codes: list[Any] = list(map(self._whole.get, words))
        unknown = [number for number, known in enumerate(codes) if known is None]
        look_up = self._backend.model.tokenize
        accented, whole = [], []
        for number in unknown:
            word = words[number]
            if not is_one_word(word):
                whole.append(number)
            elif word.isascii():
                codes[number] = _codes_of_word([piece.id for piece in look_up(word)])
            else:
                accented.append(number)
        for number, ids in zip(accented, self.encode_batch([words[number] for number in accented]), strict=True):
            codes[number] = _codes_of_word(ids)
        for number, own in zip(whole, self._codes([words[number] for number in whole]), strict=True):
            codes[number] = own
        return flattened(codes)


def _codes_of_word(ids: Sequence[int]) -> list[int]:
    codes = [index << 1 for index in ids]
    codes[0] |= 1
    return codes


def library_tokenizer(lowercase: bool, strip_accents: bool, ideographs_apart: bool = True) -> tokenizers.Tokenizer:
    """The library's tokenizer, with no model yet. It is told of no special tokens, so that no text is taken for one."""
    backend = tokenizers.Tokenizer(library_model({"[UNK]": 0}))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=ideographs_apart, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return backend


def library_model(ids: dict[str, int], longest_word: int = LONGEST_WORD) -> tokenizers.models.WordPiece:
    """The library's WordPiece; a word of more characters than `longest_word` is [UNK]."""
    return tokenizers.models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=longest_word)


def evening_for(
    backend: tokenizers.Tokenizer,
    lowercase: bool,
    strip_accents: bool,
    known: str = "",
    ideographs_apart: bool = True,
) -> Evening:
    """The characters to give to `backend` in place of those it misjudges."""
    return Evening(backend.normalizer, backend.pre_tokenizer, lowercase, strip_accents, known, ideographs_apart)


# ---- joining pieces ----------------------------------------------------------------------------------------

# With Chinese punctuation; not with full-width letters and digits, which without a space are one word.
_WIDE = IDEOGRAPHS + "\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_NO_SPACE = re.compile(
    rf"(?<=[{_WIDE}]) (?=[{_WIDE}])"  # between Chinese characters
    r"| (?=[.,;:!?%)\]}’”])"  # before closing punctuation
    r"|(?<=[(\[{“‘]) "  # after opening punctuation
    r"|(?<=\w) (?=' (?:s|t|d|m|re|ve|ll)\b)|(?<=\w ') (?=(?:s|t|d|m|re|ve|ll)\b)"  # it's, don't
)


def _joined(pieces: Sequence[str]) -> str:
    words: list[str] = []
    for piece in pieces:
        if words and len(piece) > 2 and piece.startswith("##"):
            words[-1] += piece[2:]
        else:
            words.append(piece)
    return _NO_SPACE.sub("", " ".join(words))
