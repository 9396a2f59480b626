# SPDX-License-Identifier: Apache-2.0
"""Training of WordPiece vocabularies."""

import pytest

from bert_jax.base.errors import UserError
from bert_jax.tokenization import SPECIAL_TOKENS, train_wordpiece, WordPieceTokenizer

# Many pieces tie in count here, so that an order taken from a hash table would show.
TEXTS = [f"{a}{b}{c} {c}{a}! The {b}{b}{a}, {c}." for a in "bdfhjl" for b in "aeiou" for c in ("m", "nn", "rst")]


def test_training_is_deterministic_and_sized():
    """huggingface/tokenizers issue 1794: the library alone gives another vocabulary in each run."""
    first = train_wordpiece(TEXTS, 100, lowercase=True)
    assert first.vocabulary[:5] == SPECIAL_TOKENS
    assert [first.pad_id, first.unk_id, first.cls_id, first.sep_id, first.mask_id] == [0, 1, 2, 3, 4]
    assert first.vocab_size == 100
    for _ in range(5):
        assert train_wordpiece(iter(TEXTS), 100, lowercase=True).fingerprint == first.fingerprint
    reordered = train_wordpiece(TEXTS[::-1], 100, lowercase=True)
    assert reordered.fingerprint == first.fingerprint
    assert all(first.unk_id not in ids for ids in first.encode_batch(TEXTS))


def test_commonest_words_become_entries():
    tokenizer = train_wordpiece(["the cat"] * 50 + ["a dog"] * 3 + ["one bird"], 200, lowercase=True)
    assert tokenizer.encode("the cat a dog").pieces == ["the", "cat", "a", "dog"]
    assert len(tokenizer.encode("bird").pieces) > 1  # once is less than min_frequency
    assert tokenizer.vocab_size < 200
    assert "bird" in train_wordpiece(["one bird"], 200, lowercase=True, min_frequency=1).vocabulary


def test_training_keeps_case_and_accents_as_asked():
    texts = ["Éa Éa Éa"]
    assert "Éa" in train_wordpiece(texts, 50, lowercase=False).vocabulary
    assert "ea" in train_wordpiece(texts, 50, lowercase=True).vocabulary
    assert "éa" in train_wordpiece(texts, 50, lowercase=True, strip_accents=False).vocabulary


def test_combining_marks_become_entries_where_they_are_kept():
    """Yoruba's ẹ̀ has no precomposed form: U+0300 stands alone even in NFC."""
    texts = ["ẹ̀tọ́ kọ̀ọ̀kan ọ̀rọ̀ àti ẹ̀sìn"] * 20
    tokenizer = train_wordpiece(texts, 100, lowercase=False)
    assert {"##\u0300", "##\u0301"} <= set(tokenizer.vocabulary)
    assert tokenizer.unk_id not in tokenizer.encode(texts[0]).ids


@pytest.mark.parametrize("character", ["\u0300", "\u200b", "\U0001e8d0", "\U000e0020"])
def test_any_character_can_be_an_entry(character):
    """Also those that stand for others, and those that are taken out of every text."""
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, "a", f"##{character}", character], lowercase=False)
    assert tokenizer.encode("a").pieces == ["a"]
    if character == "\u0300":
        assert tokenizer.encode("a\u0300").pieces == ["a", "##\u0300"], "as transformers 5.24"


def test_alphabet_keeps_the_commonest_characters():
    """Ties are broken by code point; punctuation and ideographs have no '##' form."""
    tokenizer = train_wordpiece(["aaaa bbb cc . 中 中 中 de"], 50, lowercase=True, limit_alphabet=4, min_frequency=99)
    assert tokenizer.vocabulary[5:] == ("a", "b", "c", "中", "##a", "##b", "##c")
    tokenizer = train_wordpiece(["d b c a!!"], 50, lowercase=True, limit_alphabet=3, min_frequency=99)
    assert tokenizer.vocabulary[5:] == ("!", "a", "b", "##a", "##b")


def test_training_refuses_what_cannot_work():
    with pytest.raises(UserError, match="no words"):
        train_wordpiece(["", " \n", "\u200b"], 100, lowercase=True)
    with pytest.raises(UserError, match=r"of 10 entries is too small: .* make 11; raise --size"):
        train_wordpiece(["abc"], 10, lowercase=True)
