# SPDX-License-Identifier: Apache-2.0
"""The fast path: what `encode_flat` makes of many texts is what `encode` makes of each."""

import lzma
import pickle
import random

import numpy as np
import pytest
from conftest import real_data
from tokenization_samples import GOLDEN, published, VOCABULARY

from bert_jax.tokenization import flat, FlatEncoding, load_tokenizer, Tokenizer, WordPieceTokenizer
from bert_jax.tokenization.words import word_starts

TEXTS = [row[0] for row in GOLDEN]
AWKWARD = [
    *"aabcis .,!'-_#ΣσςİéΟ中文國〇々カな한½≠😀",
    *"\t\n\x0b\x1c\x85\u2028\u3000\xa0\xad\u200b\u0301\ufffd\0\ue000\u2e4d",
]


def made_up_texts(number: int, seed: int) -> list[str]:
    """Strings of characters that white space, words and case are hard to tell of."""
    rng = random.Random(seed)
    return ["".join(rng.choices(AWKWARD, k=rng.randrange(20))) for _ in range(number)]


def assert_as_one_by_one(tokenizer: Tokenizer, texts: list[str], encoded: FlatEncoding) -> None:
    ends = np.cumsum(encoded.lengths)
    assert len(encoded.lengths) == len(texts)
    for text, end, length in zip(texts, ends, encoded.lengths, strict=True):
        one = tokenizer.encode(text)
        assert encoded.ids[end - length : end].tolist() == one.ids, ascii(text)
        starts = word_starts(text, one.ids, one.offsets, tokenizer.unk_id)
        assert encoded.word_starts[end - length : end].tolist() == starts, ascii(text)
    assert len(encoded.ids) == len(encoded.word_starts) == encoded.lengths.sum()


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
def test_equals_encoding_one_by_one(lowercase, strip_accents):
    """A cache of chunks changes neither ids nor words."""
    tokenizer = WordPieceTokenizer(VOCABULARY, lowercase, strip_accents)
    texts = [*TEXTS, *made_up_texts(2000, seed=1)]
    assert_as_one_by_one(tokenizer, texts, tokenizer.encode_flat(texts))
    assert_as_one_by_one(tokenizer, texts, tokenizer.encode_flat(texts))  # all chunks known


def test_types_and_empty_input():
    tokenizer = WordPieceTokenizer(VOCABULARY, lowercase=True)
    for texts in ([], [""], ["", " \n", "\x0b"]):
        encoded = tokenizer.encode_flat(texts)
        assert encoded.lengths.tolist() == [0] * len(texts)
        assert encoded.ids.shape == encoded.word_starts.shape == (0,)
        assert (encoded.ids.dtype, encoded.lengths.dtype, encoded.word_starts.dtype) == (np.int32, np.int64, np.bool_)


def test_blocks_and_a_full_cache_change_nothing(monkeypatch):
    monkeypatch.setattr(flat, "BLOCK", 3)
    monkeypatch.setattr(flat, "LARGEST_CACHE", 10)
    tokenizer = WordPieceTokenizer(VOCABULARY, lowercase=True)
    texts = made_up_texts(500, seed=2)
    assert_as_one_by_one(tokenizer, texts, tokenizer.encode_flat(texts))
    assert len(tokenizer._cache._numbers) < 200
    assert len(tokenizer._words._numbers) < 200


def test_full_table_is_emptied(monkeypatch):
    """Chunks of text without white space are long."""
    monkeypatch.setattr(flat, "BLOCK", 1)
    monkeypatch.setattr(flat, "LARGEST_TABLE", 1000)
    tokenizer = WordPieceTokenizer(VOCABULARY, lowercase=True)
    texts = ["a" * length for length in range(100, 200)]
    assert_as_one_by_one(tokenizer, texts, tokenizer.encode_flat(texts))
    assert tokenizer._cache._used <= 1000 + 2 * 200


def test_failed_call_leaves_the_cache_sound(monkeypatch):
    """Interrupted while new chunks are encoded: their codes are not there yet."""
    tokenizer = WordPieceTokenizer(VOCABULARY, lowercase=True)
    tokenizer.encode_flat(["the cat"])
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer._cache, "_encode_chunks", lambda chunks: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tokenizer.encode_flat(["sat on"])
    texts = ["the mat sat", "on", "cat sat"]
    assert_as_one_by_one(tokenizer, texts, tokenizer.encode_flat(texts))


def test_cache_is_not_pickled():
    tokenizer = WordPieceTokenizer(VOCABULARY, lowercase=True)
    before = pickle.dumps(tokenizer)
    tokenizer.encode_flat(made_up_texts(200, seed=3))
    assert pickle.dumps(tokenizer) == before
    assert pickle.loads(before).encode_flat(TEXTS).ids.tolist() == tokenizer.encode_flat(TEXTS).ids.tolist()


@pytest.mark.parametrize(
    ("vocabulary", "path"),
    [("uncased", "squad/dev-v1.1.json.xz"), ("chinese", "zh/zhwiki_00"), ("cased", "zh/zhwiki_00")],
)
def test_real_text(vocabulary, path):
    """The library's own batches, of thousands of lines."""
    tokenizer = load_tokenizer(published(vocabulary))
    file = real_data(path)
    text = (lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()).decode()
    lines = [line for part in text.split("\n") for line in part.split('", "')][:20_000]
    encoded = tokenizer.encode_flat(lines)
    expected = tokenizer.encode_batch(lines)
    assert encoded.lengths.tolist() == [len(ids) for ids in expected]
    assert encoded.ids.tolist() == [index for ids in expected for index in ids]
