# SPDX-License-Identifier: Apache-2.0
"""WordPiece: pieces, offsets, decoding. The expected pieces were made by google-research/bert's FullTokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenization_samples import GOLDEN, published, VOCABULARY

from bert_jax.base.errors import UserError
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer


@pytest.fixture
def uncased() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, lowercase=True)


@pytest.fixture
def cased() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, lowercase=False)


@pytest.mark.parametrize(("text", "lower", "as_is"), GOLDEN, ids=[ascii(row[0][:20]) for row in GOLDEN])
def test_pieces_are_those_of_google_research_bert(text, lower, as_is, uncased, cased):
    for tokenizer, expected in ((uncased, lower.split()), (cased, as_is.split())):
        encoding = tokenizer.encode(text)
        assert encoding.pieces == expected
        assert encoding.ids == [VOCABULARY.index(piece) for piece in expected]


def golden_file() -> list[list[str]]:
    """Text of awkward characters, and the pieces that google-research/bert makes of it, lower-cased and not."""
    return json.loads((Path(__file__).parent / "golden" / "wordpiece_google.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("way", ["encode", "encode_batch", "encode_flat"])
def test_awkward_text_has_the_pieces_of_google_research_bert(way, uncased, cased):
    """Sigmas, joiners, marks, blanks, ideographs, private use, and what is newer than the library's Unicode tables."""
    texts, *expected = zip(*golden_file(), strict=True)
    assert len(texts) == 400
    for tokenizer, pieces in zip((uncased, cased), expected, strict=True):
        if way == "encode":
            ids = [tokenizer.encode(text).ids for text in texts]
        elif way == "encode_batch":
            ids = tokenizer.encode_batch(texts)
        else:
            flat = tokenizer.encode_flat(texts)
            ids = [part.tolist() for part in np.split(flat.ids, np.cumsum(flat.lengths)[:-1])]
        for text, found, wanted in zip(texts, ids, pieces, strict=True):
            assert " ".join(VOCABULARY[index] for index in found) == wanted, ascii(text)


def test_entries_with_characters_that_the_library_misjudges_are_found():
    """Private use, punctuation of Unicode 14, an ideograph outside the library's table: as any other entry."""
    entries = ["\ue000", "##\ue001", "\u2e5d", "\U0002b820", "\U0002b821", "x"]
    tokenizer = WordPieceTokenizer([*VOCABULARY, *entries], lowercase=True)
    assert tokenizer.encode("\ue000\ue001 x\u2e5dx x\U0002b820\U0002b821x \ue002").pieces == (
        ["\ue000", "##\ue001", "x", "\u2e5d", "x", "x", "\U0002b820", "\U0002b821", "x", "[UNK]"]
    )


def test_batch_equals_one_by_one(uncased):
    texts = [row[0] for row in GOLDEN]
    assert uncased.encode_batch(texts) == [uncased.encode(text).ids for text in texts]
    assert uncased.encode_batch([]) == []


def test_offsets_are_characters_of_the_text_as_given(uncased):
    """Offsets hold after accents, Chinese, emoji and characters that are replaced or dropped."""
    text = "😀 CAFÉ\u00ad naï\u0308ve 中文 ΟΣ \ue000x \U0002b820, cats"
    encoding = uncased.encode(text)
    words = [text[begin:end] for begin, end in encoding.offsets]
    assert words[0] == "😀"
    assert words[1].startswith("CAFÉ")
    assert words[3:] == ["中", "文", "Ο", "Σ", "\ue000x", "\U0002b820", ",", "cat", "s"]


def test_accents_apart_from_case():
    """Pain: an uncased vocabulary of a language with accents."""
    kept = WordPieceTokenizer(VOCABULARY, lowercase=True, strip_accents=False)
    assert kept.encode("CAFÉ").pieces == ["café"]
    stripped = WordPieceTokenizer(VOCABULARY, lowercase=False, strip_accents=True)
    assert stripped.encode("Café").pieces == ["Cafe"]
    assert kept.fingerprint != WordPieceTokenizer(VOCABULARY, lowercase=True).fingerprint


def test_decode_reads_well_and_encodes_to_the_same_ids(uncased):
    vocabulary = [*VOCABULARY, "it", "s", "(", ")", "。", '"', "１", "２", "，"]
    tokenizer = WordPieceTokenizer(vocabulary, lowercase=True)
    for text in (
        "the cat, it's (on) the mat!",
        "cats running.",
        "中文。the cat",
        "it's sat. ' the cat '",
        '" cat "',
        "１ ２，１",  # full-width digits are words
    ):
        ids = tokenizer.encode(text).ids
        assert tokenizer.unk_id not in ids
        assert tokenizer.encode(tokenizer.decode(ids)).ids == ids
    assert tokenizer.decode(tokenizer.encode("the cat, it's (on) the mat!").ids) == "the cat, it's (on) the mat!"
    assert tokenizer.decode(tokenizer.encode("中文。").ids) == "中文。"
    assert uncased.decode([5, 6, uncased.mask_id, 13]) == "the cat [MASK]s"
    assert uncased.decode([]) == ""


@pytest.mark.parametrize("index", [-1, len(VOCABULARY)])
def test_decode_refuses_ids_outside_the_vocabulary(uncased, index):
    with pytest.raises(UserError, match=f"id {index} is not in the vocabulary, which has {len(VOCABULARY)}"):
        uncased.decode([5, index])


def test_ids_with_the_published_vocabularies():
    """Ids by google-research/bert's tokenizer. Chinese is cut into characters."""
    uncased, chinese = load_tokenizer(published("uncased")), load_tokenizer(published("chinese"))
    assert uncased.encode("the tokenizer re-reads every unquoted line").ids == [
        1996,
        19204,
        17629,
        2128,
        1011,
        9631,
        2296,
        4895,
        28940,
        27428,
        2240,
    ]
    assert chinese.encode("文件在左边的抽屉里，请明天拿走。").ids == [
        3152,
        816,
        1762,
        2340,
        6804,
        4638,
        2853,
        2236,
        7027,
        8024,
        6435,
        3209,
        1921,
        2897,
        6624,
        511,
    ]
