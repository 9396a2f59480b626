# SPDX-License-Identifier: Apache-2.0
"""How a vocabulary fits a text, and how two vocabularies differ on one."""

import collections
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from bert_jax.base.marks import count_words, loses_marks, measure_marks
from bert_jax.base.types import JsonObject
from bert_jax.tokenization.encoding import Tokenizer
from bert_jax.tokenization.flat import FlatEncoding
from bert_jax.tokenization.words import words_of_characters

_WORD = re.compile(r"[^\W_]+")
_COMMONEST = 50_000  # words that two vocabularies are compared on
_EXAMPLES = 8


def measure(tokenizer: Tokenizer, sentences: Sequence[str]) -> JsonObject:
    """How the vocabulary fits `sentences`.

    Words are those of words.py, the same for every tokenizer: runs of letters and digits, punctuation characters and
    ideographs.

    Returns:
      entries; unreachable_entries: those that are empty or repeated; words, tokens; pieces_per_word; whole_word_share:
      words that are a token of their own; coverage: words that are whole in the tokens, without an [UNK] and with all
      their marks; unknown_rate: [UNK] among the tokens; tokens_per_mb: tokens for 1,000,000 bytes of UTF-8; marks: where
      accents are stripped, `MarkLoss` as a dictionary (see marks.py), else None.
    """
    flat = tokenizer.encode_flat(sentences)
    words = sum(max(words_of_characters(sentence)[1], default=-1) + 1 for sentence in sentences)
    size = sum(len(sentence.encode("utf-8", "replace")) for sentence in sentences)
    tokens = len(flat.ids)
    unknown = int(np.count_nonzero(flat.ids == tokenizer.unk_id))
    ends = np.append(flat.word_starts[1:], True)  # a text begins with a word too
    whole = int(np.count_nonzero(flat.word_starts & ends)) - unknown
    marks = measure_marks(count_words(sentences, tokenizer.lowercase)) if tokenizer.strip_accents else None
    return {
        "entries": tokenizer.vocab_size,
        "unreachable_entries": len(tokenizer.unreachable),
        "words": words,
        "tokens": tokens,
        "pieces_per_word": tokens / max(words, 1),
        "whole_word_share": whole / max(words, 1),
        "coverage": 1 - _spoiled_words(tokenizer, sentences, flat) / max(words, 1),
        "unknown_rate": unknown / max(tokens, 1),
        "tokens_per_mb": tokens * 1e6 / max(size, 1),
        "marks": dataclasses.asdict(marks) if marks else None,
    }


def _spoiled_words(tokenizer: Tokenizer, sentences: Sequence[str], flat: FlatEncoding) -> int:
    """Words with a part in an [UNK] (SentencePiece has one for many unknown characters in a row) or that lose a mark."""
    sentence_of = np.repeat(np.arange(len(sentences)), flat.lengths)
    unknown = set(np.unique(sentence_of[flat.ids == tokenizer.unk_id]).tolist())
    marked = {number for number, text in enumerate(sentences) if tokenizer.strip_accents and loses_marks(text)}
    count = 0
    for number in unknown | marked:
        text = sentences[number]
        encoding, (_, words) = tokenizer.encode(text), words_of_characters(text)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        spoiled = {words[place] for index, span in spans if index == tokenizer.unk_id for place in range(*span)}
        if number in marked:
            spoiled |= {words[place] for place, character in enumerate(text) if loses_marks(character)}
        count += len(spoiled)
    return count


def shared_entries(one: Tokenizer, other: Tokenizer) -> int:
    """Entries that both have, as text and as the beginning or the inside of a word, however that is marked."""
    return len(_marked(one) & _marked(other))


def _marked(tokenizer: Tokenizer) -> set[tuple[str, bool]]:
    """Each entry without its mark, and whether it continues a word."""
    if tokenizer.kind == "sentencepiece":
        return {(entry.removeprefix("▁"), not entry.startswith(("▁", "["))) for entry in tokenizer.vocabulary}
    return {(entry.removeprefix("##") or entry, entry.startswith("##")) for entry in tokenizer.vocabulary}


def split_worse(one: Tokenizer, other: Tokenizer, sentences: Sequence[str]) -> list[tuple[str, list[str], list[str]]]:
    """Words of `sentences` that `one` cuts into more pieces than `other`, or does not know: those that cost most.

    Returns:
      Each word with its pieces by `one` and by `other`.
    """
    counts = collections.Counter(word for sentence in sentences for word in _WORD.findall(sentence))
    words = [word for word, _ in counts.most_common(_COMMONEST)]
    costs = _pieces(one, words) - _pieces(other, words)  # [words]
    weights = costs * np.array([counts[word] for word in words], np.int64)
    worst = [place for place in np.argsort(-weights, kind="stable")[:_EXAMPLES] if weights[place] > 0]
    return [(words[place], one.encode(words[place]).pieces, other.encode(words[place]).pieces) for place in worst]


def _pieces(tokenizer: Tokenizer, words: Sequence[str]) -> np.ndarray:
    """Pieces of each word; an [UNK] counts for as many as there are characters."""
    flat = tokenizer.encode_flat(words)
    lengths = np.array([len(word) for word in words], np.int64)
    unknown = np.zeros(len(words), np.bool_)
    unknown[np.repeat(np.arange(len(words)), flat.lengths)[flat.ids == tokenizer.unk_id]] = True
    return np.where(unknown, np.maximum(lengths, flat.lengths), flat.lengths)
