# SPDX-License-Identifier: Apache-2.0
"""What stripping of accents takes from words, in scripts of several kinds; counted by hand."""

import unicodedata

import pytest

from bert_jax.base.marks import count_words, loses_marks, measure_marks, without_marks
from bert_jax.tokenization import WordPieceTokenizer
from bert_jax.tokenization.encoding import SPECIAL_TOKENS
from bert_jax.tokenization.fit import measure
from bert_jax.tokenization.normalization import basic_tokens

HINDI, THAI, JAPANESE = "में है हैं हैं राम", "ไป่ ไป้ ไป กา", "がっこう かっこう"
VIETNAMESE, COMPOSED = "ma mà má Má", "cafe\u0301 café"


@pytest.mark.parametrize(
    ("text", "marked", "distinct", "forms", "equal"),
    [
        (HINDI, 4, 4, 3, ("हैं", "है")),  # the commoner first
        (THAI, 2, 4, 2, ("ไป", "ไป่", "ไป้")),
        (JAPANESE, 1, 2, 1, ("かっこう", "がっこう")),  # が is か and a mark, once decomposed
        (VIETNAMESE, 3, 3, 1, ("má", "ma", "mà")),  # lower-cased first
        ("the cat foo_bar bar", 0, 4, 4, None),
    ],
)
def test_words_that_become_equal_are_counted(text, marked, distinct, forms, equal):
    loss = measure_marks(count_words(text.split(" "), lowercase=True))
    assert loss.words == len(text.replace("_", " ").split())
    assert (loss.marked, loss.distinct, loss.forms) == (marked, distinct, forms)
    assert loss.examples == ((equal,) if equal else ())
    assert loss.collapsed_share == (distinct - forms) / distinct


def test_marks_that_end_or_join_words_stay_in_them():
    """A mark is no letter to Python's patterns: without care राम would be two words, and हैं one without its end."""
    assert set(count_words(["राम-हैं, cafe\u0301!"], lowercase=False)) == {"राम", "हैं", "cafe\u0301"}


@pytest.mark.parametrize("text", [HINDI, THAI, JAPANESE, VIETNAMESE, COMPOSED, "naïve Ωδή Ёж straße", "한국어 가"])
def test_a_word_is_stripped_as_the_tokenizer_does_it(text):
    for word in text.split():
        (token,) = basic_tokens(word, lowercase=False, strip_accents=True)
        assert without_marks(word) == token
        assert loses_marks(word) == (token != unicodedata.normalize("NFD", word))


@pytest.mark.parametrize(("text", "share"), [(HINDI, 1 / 5), (f"{JAPANESE}.", 2 / 3), ("ma mà dog", 1 / 3)])
def test_coverage_counts_words_that_lost_marks(text, share):
    """All pieces are there, and yet the text cannot be told from another: it was reported as covered to 100 %."""
    words = set(text.replace(".", " .").split())
    stripping = WordPieceTokenizer([*SPECIAL_TOKENS, *sorted(set(map(without_marks, words)) - {"dog"})], lowercase=True)
    assert measure(stripping, [text])["coverage"] == pytest.approx(share)
    keeping = WordPieceTokenizer([*SPECIAL_TOKENS, *sorted(words)], lowercase=True, strip_accents=False)
    assert measure(keeping, [text])["coverage"] == 1
    assert measure(keeping, [text])["marks"] is None
