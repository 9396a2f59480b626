# SPDX-License-Identifier: Apache-2.0
"""Vocabulary files of both kinds: saved, loaded, recognised, refused."""

import json
import os
import pickle
from pathlib import Path

import pytest
from tokenization_samples import published, VOCABULARY

from bert_jax.base.errors import UserError
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer


@pytest.fixture
def uncased() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, lowercase=True)


@pytest.fixture
def cased() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, lowercase=False)


def write_vocabulary(path: Path, entries: list[str]) -> Path:
    path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return path


def test_save_and_load(tmp_path, uncased):
    uncased.save(tmp_path / "new" / "folder")
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "vocab.txt"):
        loaded = load_tokenizer(path)
        assert loaded.vocabulary == tuple(VOCABULARY)
        assert (loaded.lowercase, loaded.strip_accents) == (True, True)
        assert loaded.fingerprint == uncased.fingerprint
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["tokenizer_config.json", "vocab.txt"]


def test_fingerprint_covers_entries_order_and_settings(uncased, cased):
    moved = WordPieceTokenizer([*VOCABULARY[:-2], VOCABULARY[-1], VOCABULARY[-2]], lowercase=True)
    longer = WordPieceTokenizer([*VOCABULARY, "dog"], lowercase=True)
    assert len({tokenizer.fingerprint for tokenizer in (uncased, cased, moved, longer)}) == 4
    assert WordPieceTokenizer(VOCABULARY, lowercase=True).fingerprint == uncased.fingerprint


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
    config.write_text(json.dumps({"model_max_length": 512}))  # does not say it: the capitals decide
    assert not load_tokenizer(tmp_path).lowercase
    assert load_tokenizer(tmp_path, lowercase=True).lowercase
    config.write_text(json.dumps({"do_lower_case": "yes"}))
    with pytest.raises(UserError, match="do_lower_case='yes', which is neither true nor false"):
        load_tokenizer(tmp_path)
    config.write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json is not JSON of use here"):
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


HEAD = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


@pytest.mark.parametrize(
    ("content", "ids", "unreachable"),  # the ids of "cat dog", as transformers' BertTokenizer gives them too
    [
        (f"{HEAD}\n\u2028\ncat\ndog\n", [7, 8], (5, 6)),  # two empty lines in the middle
        (f"{HEAD}cat\n\x85\ncat\ndog\n\n", [7, 8], (5, 6, 9)),  # the last of equal entries is met
        (f"{HEAD}cat\ndog\ncat ", [7, 6], (5,)),
        (f"{HEAD}cat\ra\ncat\ndog\n", [6, 7], ()),  # a \r alone ends no line
        (f"[PAD]\n{HEAD}cat\ndog\n".replace("\n", "\r\n"), [6, 7], (0,)),
    ],
)
def test_odd_lines_keep_the_ids_of_the_file(tmp_path, content, ids, unreachable):
    """Published vocabularies hold empty and repeated lines; a refusal, or a line left out, would move every id behind."""
    file = tmp_path / "vocab.txt"
    file.write_bytes(content.encode())
    tokenizer = load_tokenizer(file)
    assert tokenizer.encode("cat dog").ids == ids
    assert tokenizer.encode_flat(["cat dog"]).ids.tolist() == ids
    assert tokenizer.unreachable == unreachable
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").vocabulary == tokenizer.vocabulary


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"[PAD]\n[UNK]\n\xff\n", "line 3: is not UTF-8 at its byte 0 .*convert the file"),
        (f"{HEAD}cat\nd\0g\n".encode(), r"line 7: is no text \(NUL at byte 1"),
        (f"{HEAD}cat\n".encode("utf-16"), "is UTF-16: convert it"),
        (b"[PAD]\n[UNK]\n[CLS]\ncat\n", r"lacks the special tokens \[SEP\], \[MASK\] \(of its 4 entries"),
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


@pytest.mark.parametrize(
    ("name", "entries", "lowercase"),
    [("uncased", 30_522, True), ("cased", 28_996, False), ("chinese", 21_128, True)],
)
def test_published_vocabularies_load_with_the_right_case(name, entries, lowercase):
    """The published vocabulary has 30,522 entries."""
    tokenizer = load_tokenizer(published(name))
    assert tokenizer.vocab_size == entries
    assert tokenizer.lowercase is lowercase
    assert tokenizer.pad_id == 0
