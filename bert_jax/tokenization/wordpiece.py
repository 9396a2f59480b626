# SPDX-License-Identifier: Apache-2.0
"""WordPiece: ids of google-research/bert's FullTokenizer (its tokenization.py), computed by the `tokenizers` library.

The library's few differences are evened out in normalization.py.
"""

import re
from collections.abc import Sequence
from typing import Any

from bert_jax.tokenization.chunks import IDEOGRAPHS, is_one_word, split_chunks, split_words
from bert_jax.tokenization.encoding import Spans, Tokenizer
from bert_jax.tokenization.flat import ChunkCache, Flat, flattened
from bert_jax.tokenization.normalization import Evening

VOCABULARY_FILE = "vocab.txt"
LONGEST_WORD = 200  # characters; a longer word is [UNK], as in google-research/bert


class WordPieceTokenizer(Tokenizer):
    """A WordPiece vocabulary: pieces inside a word begin with '##'.

    `strip_accents=None` means: where text is lower-cased, as google-research/bert does.
    """

    kind = "wordpiece"

    def __init__(
        self,
        vocabulary: Sequence[str],
        lowercase: bool,
        strip_accents: bool | None = None,
        decided_by: str = "as asked",
    ):
        super().__init__(vocabulary, lowercase, lowercase if strip_accents is None else strip_accents, decided_by)
        self._backend = library_tokenizer(self.lowercase, self.strip_accents)
        self._evening = evening_for(self._backend, self.lowercase, self.strip_accents, known="".join(self.vocabulary))
        self._entries = {entry.translate(self._evening): index for index, entry in enumerate(self.vocabulary)}
        self._backend.model = library_model(self._entries)
        # Entries that are plain words, and their codes; a longer one than the library looks up is [UNK] to it.
        self._whole = {
            entry: (index << 1 | 1,)
            for entry, index in self._entries.items()
            if entry.isascii() and is_one_word(entry) and len(entry) <= LONGEST_WORD
        }
        self._words = ChunkCache(split_words, self._encode_words)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.vocabulary, self.lowercase, self.strip_accents, self.decided_by)

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
        """What `save` writes besides tokenizer_config.json."""
        return {VOCABULARY_FILE: "".join(f"{entry}\n" for entry in self.vocabulary).encode()}

    def _contents(self) -> Sequence[str]:
        return self.vocabulary

    def _split(self, texts: Sequence[str]) -> list[list[str]]:
        return split_chunks(texts, ideographs_apart=True)

    def _encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], Spans]]:
        evened = [self._evening.even_out(text) for text in texts]
        encoded = self._backend.encode_batch(evened, add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encoded]

    def _encode_chunks(self, chunks: Sequence[str]) -> Flat:
        """Most chunks are words and punctuation, and most of these were seen in other chunks."""
        return self._words.codes(self._lowered(chunks))

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


def library_tokenizer(lowercase: bool, strip_accents: bool) -> Any:
    """The library's tokenizer, with no model yet. It is told of no special tokens, so that no text is taken for one."""
    import tokenizers

    backend = tokenizers.Tokenizer(library_model({"[UNK]": 0}))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return backend


def library_model(ids: dict[str, int]) -> Any:
    """The library's WordPiece."""
    import tokenizers

    return tokenizers.models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)


def evening_for(backend: Any, lowercase: bool, strip_accents: bool, known: str = "") -> Evening:
    """The characters to give to `backend` in place of those it misjudges."""
    return Evening(backend.normalizer, backend.pre_tokenizer, lowercase, strip_accents, known)


# ---- joining pieces ----------------------------------------------------------------------------------------

_WIDE = IDEOGRAPHS + "\u3000-\u303f\uff00-\uffef"  # with Chinese punctuation
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
