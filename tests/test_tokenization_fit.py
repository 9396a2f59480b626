# SPDX-License-Identifier: Apache-2.0
"""How a vocabulary fits a text, counted by hand."""

import pytest

from bert_jax.tokenization import SPECIAL_TOKENS, train_sentencepiece, WordPieceTokenizer
from bert_jax.tokenization.fit import measure, shared_entries, split_worse


def test_measures():
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, "cat", "##s", "the", "#"], lowercase=True)
    # the | cat ##s | [UNK] | # # cat ##s | cat
    measured = measure(tokenizer, ["The cats bark", "##cats cat", ""])
    assert measured["entries"] == 9
    assert measured["words"] == 7
    assert measured["tokens"] == 9
    assert measured["pieces_per_word"] == pytest.approx(9 / 7)
    assert measured["whole_word_share"] == pytest.approx(4 / 7)  # the, #, #, cat
    assert measured["coverage"] == pytest.approx(6 / 7)
    assert measured["unknown_rate"] == pytest.approx(1 / 9)
    assert measured["tokens_per_mb"] == pytest.approx(9e6 / 23)


def test_one_unknown_may_stand_for_several_words():
    """SentencePiece has one [UNK] for a run of unknown characters; Chinese text without Chinese entries is not covered."""
    tokenizer = train_sentencepiece(["ab abc"] * 3, 20, "bpe")
    measured = measure(tokenizer, ["ab 中文中", "ab"])
    assert measured["words"] == 5
    assert measured["tokens"] == 4  # ▁ab | ▁ [UNK] | ▁ab
    assert measured["coverage"] == pytest.approx(2 / 5)
    assert measured["unknown_rate"] == pytest.approx(1 / 4)


def test_empty_text_is_measured():
    measured = measure(WordPieceTokenizer(SPECIAL_TOKENS, lowercase=True), ["", " "])
    assert (measured["words"], measured["tokens"], measured["pieces_per_word"], measured["coverage"]) == (0, 0, 0, 1)


def test_shared_entries_are_counted_across_kinds():
    one = WordPieceTokenizer([*SPECIAL_TOKENS, "ab", "##c", "#", "zz"], lowercase=True)
    other = WordPieceTokenizer([*SPECIAL_TOKENS, "##ab", "##c", "#"], lowercase=True)
    assert shared_entries(one, other) == 7  # five special tokens, ##c, #
    sentencepiece = train_sentencepiece(["ab ab"], 8, "bpe")
    assert set(sentencepiece.vocabulary) - set(SPECIAL_TOKENS) == {"▁", "a", "b"}
    assert shared_entries(sentencepiece, WordPieceTokenizer([*SPECIAL_TOKENS, "a", "##b"], lowercase=True)) == 6


def test_words_that_are_split_worse_come_by_cost():
    pieces = ["dog", "c", "##a", "##t", "##s"]
    worse = WordPieceTokenizer([*SPECIAL_TOKENS, *pieces], lowercase=True)
    better = WordPieceTokenizer([*SPECIAL_TOKENS, *pieces, "cat", "fox", "e"], lowercase=True)
    sentences = ["cat cats dog", "cat fox fox fox", "e zebra"]
    # cat costs 2 x (3 - 1), fox 3 x (3 - 1) as an [UNK] counts for its letters, cats 4 - 2; e is one letter
    assert split_worse(worse, better, sentences) == [
        ("fox", ["[UNK]"], ["fox"]),
        ("cat", ["c", "##a", "##t"], ["cat"]),
        ("cats", ["c", "##a", "##t", "##s"], ["cat", "##s"]),
    ]
    assert split_worse(better, worse, sentences) == []
