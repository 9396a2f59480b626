# SPDX-License-Identifier: Apache-2.0
"""Which tokens begin a word, with either kind of tokenizer and in several languages; segmenters."""

import itertools
import sys

import numpy as np
import pytest
from tokenization_samples import VOCABULARY

from bert_jax.base.errors import UserError
from bert_jax.tokenization import load_segmenter, train_sentencepiece, WordPieceTokenizer, words

TEXT = "unaffable cats, running! 中国人民，很好。 don't stop 12 naïve Ελλάδα текст カタカナ ไทย €5 +_ 한국어 ½ 〇"
CHARACTERS = sorted(set(TEXT))


@pytest.fixture(scope="module")
def tokenizers():
    """Two tokenizers that cut text into single characters, so that words are not what they cut."""
    alphabet = [character for character in CHARACTERS if not character.isspace()]
    entries = [*VOCABULARY[:5], *alphabet, *(f"##{character}" for character in alphabet)]
    characters = [" ".join(CHARACTERS)] * 3
    sentencepiece = train_sentencepiece(characters, 5 + len(alphabet) + 1, "bpe", character_coverage=1.0)
    return WordPieceTokenizer(entries, lowercase=False), sentencepiece


def words_of(tokenizer, text, segmenter=None):
    """The text of each word, without white space, by `encode_flat` and the offsets of `encode`."""
    starts = tokenizer.encode_flat([text], segmenter).word_starts
    offsets = tokenizer.encode(text).offsets
    assert len(starts) == len(offsets)
    begins = [*np.flatnonzero(starts), len(offsets)]
    groups = [offsets[begin:end] for begin, end in itertools.pairwise(begins)]
    return [text[group[0][0] : group[-1][1]] for group in groups]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unaffable cats, running!", "unaffable cats , running !"),
        ("don't stop", "don ' t stop"),
        ("12 a12b", "12 a12b"),
        ("naïve nai\u0308ve", "naïve nai\u0308ve"),
        ("Ελλάδα текст", "Ελλάδα текст"),
        ("中国人，很好。12人", "中 国 人 ， 很 好 。 12 人"),
        ("カタカナ ไทย 한국어", "カタカナ ไทย 한국어"),
        ("€5+_a ½", "€ 5 + _ a ½"),
        ("中a国b", "中 a 国 b"),
        ("中〇人a〇b", "中 〇 人 a 〇 b"),  # an ideograph, but not to google-research/bert
        ("", ""),
    ],
)
def test_words_are_those_of_the_text_not_of_the_tokenizer(text, expected, tokenizers):
    """Runs of letters, digits and marks; punctuation, symbols and ideographs one by one."""
    for tokenizer in tokenizers:
        assert words_of(tokenizer, text) == expected.split(" ") if expected else words_of(tokenizer, text) == []


def test_what_is_taken_out_of_a_word_does_not_part_it(tokenizers):
    wordpiece, _ = tokenizers
    for joiner in ("\u00ad", "\u200d", "\x0b", "\ufffd"):
        assert wordpiece.encode_flat([f"un{joiner}able cats"]).word_starts.tolist() == [
            True,
            *[False] * 5,
            True,
            *[False] * 3,
        ]


def test_unknown_is_a_word_by_itself():
    tokenizer = train_sentencepiece(["abcab cab"] * 9, 12, character_coverage=1.0)
    encoded = tokenizer.encode("abxyzab")
    unknown = encoded.ids.index(tokenizer.unk_id)
    starts = tokenizer.encode_flat(["abxyzab"]).word_starts
    assert starts[unknown]
    assert starts[unknown + 1]
    assert starts[1:unknown].sum() == 0


def test_segmenter_makes_words_of_runs_of_ideographs_and_kana(tokenizers):
    """Chinese and Japanese words by a hook; ids stay."""

    def pairs(run: str) -> list[str]:
        seen.append(run)
        return [run[place : place + 2] for place in range(0, len(run), 2)]

    for tokenizer in tokenizers:
        seen: list[str] = []
        text = "naïve中国人民很，中国a人カタa unaffable"
        expected = "naïve 中国 人民 很 ， 中国 a 人カ タ a unaffable"
        assert " ".join(words_of(tokenizer, text, pairs)) == expected
        assert set(seen) == {"中国人民很", "中国", "人カタ"}
        plain, cut = tokenizer.encode_flat([text, "cats", text]), tokenizer.encode_flat([text, "cats", text], pairs)
        np.testing.assert_array_equal(plain.ids, cut.ids)
        np.testing.assert_array_equal(plain.lengths, cut.lengths)
        assert plain.word_starts.sum() > cut.word_starts.sum()
    assert tokenizers[0].encode_flat(["cats"], lambda run: pytest.fail("nothing to cut")).word_starts[0]


def test_segmenter_that_changes_the_text_is_refused(tokenizers):
    with pytest.raises(UserError, match="the segmenter changed '中国' to '中'"):
        tokenizers[0].encode_flat(["a 中国"], lambda run: [run[0]])


def test_jieba_cuts_chinese_words(tokenizers):
    """Published example of jieba's README."""
    pytest.importorskip("jieba")
    cut = load_segmenter("jieba")
    assert cut("我来到北京清华大学") == ["我", "来到", "北京", "清华大学"]
    assert cut("中国カタカナ人民") == ["中国", "カタカナ", "人民"]
    assert words_of(tokenizers[0], "中国人民，很好", cut) == ["中国", "人民", "，", "很", "好"]


def test_missing_jieba_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    words._jieba.cache_clear()
    with pytest.raises(UserError, match=r'pip install "bert-jax\[jieba\]"'):
        load_segmenter("jieba")
    with pytest.raises(UserError, match="no segmenter 'mecab'"):
        load_segmenter("mecab")
