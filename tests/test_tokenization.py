# SPDX-License-Identifier: Apache-2.0
"""WordPiece ids, offsets, vocabulary files and training.

The expected pieces were made by google-research/bert's FullTokenizer with this vocabulary.
"""

import json
import os
import pickle
from pathlib import Path

import pytest

from bert_jax.errors import UserError
from bert_jax.tokenization import load_tokenizer, SPECIAL_TOKENS, Tokenizer, train_wordpiece

ENTRIES = """
    [PAD] [UNK] [CLS] [SEP] [MASK] the cat sat on mat un ##aff ##able ##s a b c ##a ##b ##c ! , . ' [ ] sep
    mask ##ing run ##n cafe Cafe café 中 文 ##文 1 ##2 ##3 # naive σ ς ο ##σ ##ς ##ο i ##i e ##e ß ㄅ ﬁ
"""
VOCABULARY = ENTRIES.split()

# text -> pieces of the uncased tokenizer; the same text -> pieces of the cased one
GOLDEN = [
    ("The cat sat on the mat.", "the cat sat on the mat .", "[UNK] cat sat on the mat ."),
    ("unaffable cats, running!", *["un ##aff ##able cat ##s , run ##n ##ing !"] * 2),
    ("CAFÉ café Cafe", "cafe cafe cafe", "[UNK] café Cafe"),
    ("[SEP] [MASK] ##ing", "[ sep ] [ mask ] # # [UNK]", "[ [UNK] ] [ [UNK] ] # # [UNK]"),
    ("中文cat中", *["中 文 cat 中"] * 2),
    ("a\tb\nc\r\n a\u3000b\u00a0c\u2028b", *["a b c a b c b"] * 2),  # white space of all kinds
    ("a\u00adb a\u200bb a\u0000b a\ufffdb a\x0bb", *["a ##b a ##b a ##b a ##b a ##b"] * 2),  # taken out
    ("", "", ""),
    ("  \n ", "", ""),
    ("123 12 3", *["1 ##2 ##3 1 ##2 [UNK]"] * 2),
    ("dog cat", *["[UNK] cat"] * 2),
    ("ΟΣΟΣ οσος Σ.", "ο ##σ ##ο ##ς ο ##σ ##ο ##ς σ .", "[UNK] ο ##σ ##ο ##ς [UNK] ."),  # final sigma
    ("ΟΣ\x1cΟΣ\u00ad.", "ο ##σ ##ο ##ς .", "[UNK] ."),  # what is taken out does not end the word
    ("a\ue000b \ue000", *["[UNK] [UNK]"] * 2),  # private use: part of the word
    (
        "中\U0002b820中 a\U0002b820b",
        *["中 [UNK] 中 a [UNK] b"] * 2,
    ),  # an ideograph beyond the library's table
    ("İ I ı", "i i [UNK]", "[UNK] [UNK] [UNK]"),
    ("naïve nai\u0308ve", "naive naive", "[UNK] [UNK]"),
    ("ß ẞ ﬁ", "ß ß ﬁ", "ß [UNK] ﬁ"),  # no case folding, no compatibility forms
    ("a" * 200, *[" ".join(["a", *["##a"] * 199])] * 2),
    ("a" * 201, *["[UNK]"] * 2),  # longer than max_input_chars_per_word
]


@pytest.fixture
def uncased() -> Tokenizer:
    return Tokenizer(VOCABULARY, lowercase=True)


@pytest.fixture
def cased() -> Tokenizer:
    return Tokenizer(VOCABULARY, lowercase=False)


def write_vocabulary(path: Path, entries: list[str]) -> Path:
    path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return path


@pytest.mark.parametrize(("text", "lower", "as_is"), GOLDEN, ids=[ascii(row[0][:20]) for row in GOLDEN])
def test_pieces_are_those_of_google_research_bert(text, lower, as_is, uncased, cased):
    for tokenizer, expected in ((uncased, lower.split()), (cased, as_is.split())):
        encoding = tokenizer.encode(text)
        assert encoding.pieces == expected
        assert encoding.ids == [VOCABULARY.index(piece) for piece in expected]


def test_batch_equals_one_by_one(uncased):
    texts = [row[0] for row in GOLDEN]
    assert uncased.encode_batch(texts) == [uncased.encode(text).ids for text in texts]
    assert uncased.encode_batch([]) == []


def test_offsets_are_characters_of_the_text_as_given(uncased):
    """Pain 18: offsets hold after accents, Chinese, emoji and characters that are replaced or dropped."""
    text = "😀 CAFÉ\u00ad naï\u0308ve 中文 ΟΣ \ue000x \U0002b820, cats"
    encoding = uncased.encode(text)
    words = [text[begin:end] for begin, end in encoding.offsets]
    assert words[0] == "😀"
    assert words[1].startswith("CAFÉ")
    assert words[3:] == ["中", "文", "Ο", "Σ", "\ue000x", "\U0002b820", ",", "cat", "s"]


def test_accents_apart_from_case():
    """Pain: an uncased vocabulary of a language with accents."""
    kept = Tokenizer(VOCABULARY, lowercase=True, strip_accents=False)
    assert kept.encode("CAFÉ").pieces == ["café"]
    stripped = Tokenizer(VOCABULARY, lowercase=False, strip_accents=True)
    assert stripped.encode("Café").pieces == ["Cafe"]
    assert kept.fingerprint != Tokenizer(VOCABULARY, lowercase=True).fingerprint


def test_decode_reads_well_and_encodes_to_the_same_ids(uncased):
    vocabulary = [*VOCABULARY, "it", "s", "(", ")", "。", '"']
    tokenizer = Tokenizer(vocabulary, lowercase=True)
    for text in (
        "the cat, it's (on) the mat!",
        "cats running.",
        "中文。the cat",
        "it's sat. ' the cat '",
        '" cat "',
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


def test_save_and_load(tmp_path, uncased):
    uncased.save(tmp_path / "new" / "folder")
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "vocab.txt"):
        loaded = load_tokenizer(path)
        assert loaded.vocabulary == tuple(VOCABULARY)
        assert (loaded.lowercase, loaded.strip_accents) == (True, True)
        assert loaded.fingerprint == uncased.fingerprint
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["tokenizer_config.json", "vocab.txt"]


def test_fingerprint_covers_entries_order_and_settings(uncased, cased):
    moved = Tokenizer([*VOCABULARY[:-2], VOCABULARY[-1], VOCABULARY[-2]], lowercase=True)
    longer = Tokenizer([*VOCABULARY, "dog"], lowercase=True)
    assert len({tokenizer.fingerprint for tokenizer in (uncased, cased, moved, longer)}) == 4
    assert Tokenizer(VOCABULARY, lowercase=True).fingerprint == uncased.fingerprint


def test_pickled_tokenizer_is_the_same(uncased):
    copy = pickle.loads(pickle.dumps(uncased))
    assert copy.fingerprint == uncased.fingerprint
    assert copy.encode("The cats\ue000").ids == uncased.encode("The cats\ue000").ids


def test_bare_vocabulary_tells_its_case(tmp_path):
    """A cased model must not be lower-cased. [MASK] and <S> are no capitals; a few capitals are too few."""
    plain = [entry for entry in VOCABULARY if entry != "Cafe"]
    lower = load_tokenizer(write_vocabulary(tmp_path / "lower.txt", [*plain, "<S>"]))
    assert lower.lowercase
    assert lower.strip_accents
    assert lower.decided_by == f"0 of the {len(plain) + 1} entries of lower.txt have capital letters"
    cased = load_tokenizer(write_vocabulary(tmp_path / "cased.txt", VOCABULARY))
    assert not cased.lowercase
    assert not cased.strip_accents
    assert cased.decided_by.startswith("1 of the")
    few = [*plain, "USB", *(f"entry{index}" for index in range(100))]
    assert load_tokenizer(write_vocabulary(tmp_path / "few.txt", few)).lowercase
    assert load_tokenizer(tmp_path / "cased.txt", lowercase=True).lowercase


def test_hugging_face_directory_is_obeyed(tmp_path):
    write_vocabulary(tmp_path / "vocab.txt", VOCABULARY)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}))
    assert load_tokenizer(tmp_path).lowercase
    assert load_tokenizer(tmp_path).strip_accents
    config.write_text(json.dumps({"do_lower_case": True, "strip_accents": False}))
    assert not load_tokenizer(tmp_path).strip_accents
    for wrong, words in (
        ({"do_lower_case": True, "tokenize_chinese_chars": False}, "tokenize_chinese_chars"),
        ({}, "do_lower_case"),
    ):
        config.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=words):
            load_tokenizer(tmp_path)
    config.write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json cannot be read"):
        load_tokenizer(tmp_path)


def test_edited_directory_is_refused(tmp_path, uncased):
    uncased.save(tmp_path)
    write_vocabulary(tmp_path / "vocab.txt", [*VOCABULARY, "dog"])
    with pytest.raises(UserError, match="do not belong together") as caught:
        load_tokenizer(tmp_path)
    assert uncased.fingerprint[:12] in str(caught.value)


def test_recorded_case_is_not_overridden(tmp_path, uncased):
    uncased.save(tmp_path)
    assert load_tokenizer(tmp_path, lowercase=True).lowercase
    with pytest.raises(UserError, match=r"lowercase=False was asked, but .* says True"):
        load_tokenizer(tmp_path, lowercase=False)


def test_entries_are_stripped_and_every_line_has_an_id(tmp_path):
    """As google-research/bert's load_vocab: published vocabularies have entries that are odd white space."""
    file = tmp_path / "v.txt"
    file.write_bytes("\ufeff[PAD]\r\n[UNK] \r\n\u2028\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\n\tcat\u00a0".encode())
    tokenizer = load_tokenizer(file)
    assert tokenizer.vocabulary == ("[PAD]", "[UNK]", "", "[CLS]", "[SEP]", "[MASK]", "cat")
    assert tokenizer.encode("cat").ids == [6]
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").vocabulary == tokenizer.vocabulary


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"[PAD]\n[UNK]\n\xff\n", "not UTF-8 at byte 12"),
        (b"[PAD]\n[UNK]\n[CLS]\ncat\n", r"lacks the special tokens \[SEP\], \[MASK\] \(of its 4 entries"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\ndog\ncat \n", "'cat' twice, in lines 6 and 8"),
    ],
)
def test_bad_vocabulary_is_refused_by_name(tmp_path, content, words):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        load_tokenizer(file)
    assert str(file) in str(caught.value)


def test_missing_vocabulary_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is missing"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"vocab\.txt is missing"):
        load_tokenizer(tmp_path)


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


def published(name: str) -> Path:
    folder = os.environ.get("BERT_JAX_TEST_DATA", str(Path(__file__).parents[1] / ".." / "shared" / "data"))
    path = Path(folder) / "vocab" / f"bert-base-{name}-vocab.txt"
    if not path.exists():
        pytest.skip(f"needs {path.name} (BERT_JAX_TEST_DATA)")
    return path


@pytest.mark.parametrize(
    ("name", "entries", "lowercase"),
    [("uncased", 30_522, True), ("cased", 28_996, False), ("chinese", 21_128, True)],
)
def test_published_vocabularies_load_with_the_right_case(name, entries, lowercase):
    """S07: the published vocabulary has 30,522 entries."""
    tokenizer = load_tokenizer(published(name))
    assert tokenizer.vocab_size == entries
    assert tokenizer.lowercase is lowercase
    assert tokenizer.pad_id == 0


def test_ids_with_the_published_vocabularies():
    """Ids by google-research/bert's tokenizer. Chinese is cut into characters (S48)."""
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
