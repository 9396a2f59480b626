# SPDX-License-Identifier: Apache-2.0
"""WordPiece: ids of google-research/bert's FullTokenizer (its tokenization.py), computed by the `tokenizers` library.

The library's few differences are evened out in normalization.py.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any

from bert_jax.tokenization.chunks import IDEOGRAPHS, split_chunks_and_ideographs, split_words
from bert_jax.tokenization.encoding import Spans, Tokenizer
from bert_jax.tokenization.flat import LARGEST_CACHE
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
        self._words: dict[str, tuple[int, ...]] = {}  # word or punctuation character -> codes, as in flat.py

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

    def _split(self, text: str) -> list[str]:
        return split_chunks_and_ideographs(text)

    def _encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], Spans]]:
        evened = [self._evening.even_out(text) for text in texts]
        encoded = self._backend.encode_batch(evened, add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encoded]

    def _encode_chunks(self, chunks: Sequence[str]) -> list[Sequence[int]]:
        """Most chunks are words and punctuation, and most of these were seen in other chunks."""
        if self.lowercase:
            chunks = [chunk.lower() if chunk.isascii() else chunk for chunk in chunks]
        parted = [[chunk] if chunk.isascii() and chunk.isalnum() else split_words(chunk) for chunk in chunks]
        self._learn_words(set(itertools.chain.from_iterable(parted)))
        words = self._words
        codes: list[Sequence[int]] = [
            words[parts[0]] if len(parts) == 1 else [code for part in parts for code in words[part]] for parts in parted
        ]
        others = [number for number, parts in enumerate(parted) if not parts]
        for number, encoded in zip(others, super()._encode_chunks([chunks[number] for number in others]), strict=True):
            codes[number] = encoded
        return codes

    def _learn_words(self, words: set[str]) -> None:
        """Have the library encode the words that were not seen yet. Plain ones need its last step only."""
        if len(self._words) > LARGEST_CACHE:
            self._words = {}
        new = sorted(words - self._words.keys())
        plain = {word: word.lower() if self.lowercase else word for word in new if word.isascii()}
        whole = {word: (self._entries[form] << 1 | 1,) for word, form in plain.items() if form in self._entries}
        parted = [word for word in plain if word not in whole]
        others = [word for word in new if not word.isascii()]
        look_up = self._backend.model.tokenize
        ids = [[piece.id for piece in look_up(plain[word])] for word in parted]
        ids += self.encode_batch(others)
        self._words |= whole
        for word, (first, *rest) in zip(parted + others, ids, strict=True):
            self._words[word] = (first << 1 | 1, *(index << 1 for index in rest))


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
