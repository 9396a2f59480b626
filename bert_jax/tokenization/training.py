# SPDX-License-Identifier: Apache-2.0
"""Text -> WordPiece vocabulary, the same for the same text."""

import collections
import re
import unicodedata
from collections.abc import Iterable, Iterator

import tokenizers

from bert_jax.base.errors import UserError
from bert_jax.tokenization.chunks import IDEOGRAPHS
from bert_jax.tokenization.encoding import SPECIAL_TOKENS
from bert_jax.tokenization.normalization import Evening
from bert_jax.tokenization.wordpiece import evening_for, library_tokenizer, WordPieceTokenizer


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    lowercase: bool,
    strip_accents: bool | None = None,
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
) -> WordPieceTokenizer:
    """A vocabulary of at most `vocab_size` entries, learned by merging the commonest neighbours inside words.

    Entries: [PAD] [UNK] [CLS] [SEP] [MASK] as ids 0 to 4, the `limit_alphabet` commonest characters, each
    with its '##' form where it can stand inside a word, then merges that occur `min_frequency` times or more,
    commonest first. There are fewer entries than asked for where the text has no more such merges. The same
    text gives the same vocabulary.

    `texts` is gone through twice; an iterator is kept in memory for that. Raises UserError for text without
    words and a `vocab_size` too small for the characters.
    """
    texts = list(texts) if isinstance(texts, Iterator) else texts
    strip_accents = lowercase if strip_accents is None else strip_accents
    backend = library_tokenizer(lowercase, strip_accents)
    evening = evening_for(backend, lowercase, strip_accents)
    basis = [*SPECIAL_TOKENS, *_alphabet(texts, backend.normalizer, evening, limit_alphabet)]
    if len(basis) > vocab_size:
        raise UserError(
            f"a vocabulary of {vocab_size} entries is too small: the special tokens and the characters of the"
            f" text make {len(basis)}; raise --size or lower --limit-alphabet, which is {limit_alphabet}"
        )
    # The library numbers characters in the order of a hash table, which differs from run to run and decides
    # between merges of equal count (huggingface/tokenizers issue 1794). Given as special tokens their numbers
    # are fixed, and limit_alphabet=0 keeps it from adding others.
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        limit_alphabet=0,
        special_tokens=basis,
        show_progress=False,
    )
    backend.train_from_iterator((evening.even_out(text) for text in texts), trainer)
    ids = backend.get_vocab(with_added_tokens=True)
    return WordPieceTokenizer(sorted(ids, key=lambda entry: ids[entry]), lowercase, strip_accents)


def _alphabet(
    texts: Iterable[str], normalizer: tokenizers.normalizers.Normalizer, evening: Evening, limit: int
) -> list[str]:
    """The commonest characters after normalisation, by code point, then their '##' forms."""
    raw: collections.Counter[str] = collections.Counter()
    for text in texts:
        raw.update(evening.even_out(text))
    counts: collections.Counter[str] = collections.Counter()
    for character, count in raw.items():
        for normal in normalizer.normalize_str(character):
            if not normal.isspace():
                counts[normal] += count
    for stand_in in evening.stand_ins:
        counts.pop(stand_in, None)
    if not counts:
        raise UserError("the text has no words to make a vocabulary of: check --input")
    commonest = sorted(counts, key=lambda character: (-counts[character], character))[:limit]
    if counts[commonest[0]] >= 2**31:  # the library counts pairs in 32 bits
        raise UserError(f"'{commonest[0]}' occurs {counts[commonest[0]]} times, too often to count: use less text")
    alphabet = sorted(commonest)
    return alphabet + [f"##{character}" for character in alphabet if not _stands_alone(character)]


def _stands_alone(character: str) -> bool:
    """Punctuation and ideographs are words by themselves."""
    if character.isascii():
        return not character.isalnum()
    return unicodedata.category(character)[0] == "P" or re.match(f"[{IDEOGRAPHS}]", character) is not None
