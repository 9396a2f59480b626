# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import lzma
import pickle
import re

import numpy as np
import pytest
from conftest import real_data

from bert_jax.base.errors import UserError
from bert_jax.preparation.contamination import contamination_report, EvaluationNgrams, Lookup, ngrams_of, words_of

TEXT = "One two three, four five six: seven eight nine ten eleven twelve THIRTEEN fourteen."


def plain_words(text):
    """A restatement: runs of letters and digits, Han characters one by one."""
    return re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", text.lower())


def random_text(size, seed, kinds=40):
    rng = np.random.default_rng(seed)
    words = [*(f"w{place}" for place in range(kinds)), "中", "文", "naïve"]
    marks = [" ", ", ", " - ", "\n", ". "]
    chosen = zip(rng.integers(0, len(words), size), rng.integers(0, len(marks), size), strict=True)
    return "".join(words[word] + marks[mark] for word, mark in chosen)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# ---- words and n-grams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [TEXT, random_text(500, 1), "中文 and Latin中x", "ไทย", " -- ", "", "a"])
def test_words_are_those_of_a_regular_expression(text):
    lowered = text.lower()
    words = words_of(lowered)
    found = [lowered[begin:end] for begin, end in zip(words.begins, words.ends, strict=True)]
    assert found == (plain_words(text) if "ไ" not in text else list(text))


def test_the_hash_of_a_word_does_not_depend_on_what_stands_around_it():
    alone = words_of("harbour").hashes[0]
    words = words_of(f"{random_text(300, 2)} harbour, {random_text(300, 3)} 中harbour文".lower())
    assert (words.hashes == alone).sum() == 2


def test_different_words_and_orders_have_different_hashes():
    words = [f"{a}{b}" for a in "abcdefghij" for b in range(500)]
    assert len(set(words_of(" ".join(words)).hashes.tolist())) == 5_000
    one, two = words_of("a b c d e f g h i j k l m").hashes, words_of("b a c d e f g h i j k l m").hashes
    assert ngrams_of(one) != ngrams_of(two)
    assert len(ngrams_of(one)) == 1
    assert len(ngrams_of(one[:12])) == 0


def test_lookup_finds_what_is_known_and_nothing_else():
    hashes = words_of(random_text(4_000, 4, kinds=3_000)).hashes
    known = np.unique(hashes[::3])
    places = Lookup(known).places(hashes)
    assert places.tolist() == np.flatnonzero(np.isin(hashes, known)).tolist()
    assert Lookup(np.zeros(0, np.uint64)).places(hashes).tolist() == []


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "texts", "short", "ngrams"),
    [
        ("a.txt", f"{TEXT}\nfew words\n\n{TEXT}\n", 2, 1, 2),
        ("a.tsv", f"id\tquestion\tlabel\n7\t{TEXT}\t1\n8\t{TEXT}\t0\n", 2, 7, 2),
        ("a.json", {"data": [{"title": "T", "context": TEXT, "qas": [{"q": TEXT, "n": 3}]}]}, 2, 1, 2),
        ("a.jsonl", f'{{"text": "{TEXT}"}}\n{{"text": "short", "more": ["{TEXT}"]}}\n', 2, 1, 2),
        ("a.txt", f"[not JSON] {TEXT}\n", 1, 0, 4),
        ("a.jsonl", f'{{"text": "{TEXT}"}}\r\n{{"text": "a\u2028b", "more": "{TEXT}"}}\n', 2, 1, 2),
        ("a.tsv", f"7\t{TEXT}\u0085\t1\r\n", 1, 2, 2),
    ],
)
def test_every_text_of_a_file_is_read(tmp_path, name, content, texts, short, ngrams):
    [file] = EvaluationNgrams.from_files([write(tmp_path / name, content)]).files
    assert (file.texts, file.short_texts, len(file.ngrams)) == (texts, short, ngrams)


def test_ngrams_do_not_go_across_texts(tmp_path):
    words = TEXT.split()
    path = write(tmp_path / "a.txt", f"{' '.join(words[:7])}\n{' '.join(words[7:])}\n{TEXT}\n")
    [file] = EvaluationNgrams.from_files([path]).files
    assert (file.texts, file.short_texts, len(file.ngrams)) == (1, 2, 2)


def test_packed_files_are_read(tmp_path):
    path = tmp_path / "a.json.xz"
    path.write_bytes(lzma.compress(json.dumps([TEXT]).encode()))
    [file] = EvaluationNgrams.from_files([path]).files
    assert (file.texts, file.sha256) == (1, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"a few words", "no text of 13 words or more"),
        (b"caf\xe9 " * 20, "not UTF-8 at its byte 3"),
        (b"[" * 100_000, "is JSON that cannot be read"),
        (b"[" + b"1" * 5_000 + b"]", "is JSON that cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "eval.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refusal:
        EvaluationNgrams.from_files([path])
    assert str(path) in str(refusal.value)


def test_too_much_evaluation_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bert_jax.preparation.contamination.MOST_NGRAMS", 100)
    with pytest.raises(UserError, match="more than 100 different 13-grams"):
        EvaluationNgrams.from_files([write(tmp_path / "a.txt", random_text(500, 5).replace("\n", " "))])


# ---- overlap --------------------------------------------------------------------------------------------------------


def test_overlap_is_that_of_sets_of_tuples(tmp_path):
    """Against a restatement with Python's tuples; n-grams of the training text go across its sentences."""
    evaluation_text = random_text(600, 6, kinds=400).replace("\n", " ")
    document = [*random_text(400, 7).split("\n"), evaluation_text[500:900], evaluation_text[900:1400]]
    evaluation = EvaluationNgrams.from_files([write(tmp_path / "a.txt", evaluation_text)])
    hits = evaluation.hits(document)

    def grams(text):
        words = plain_words(text)
        return {tuple(words[place : place + 13]) for place in range(len(words) - 12)}

    common = grams(evaluation_text) & grams("\n".join(document))
    assert len(hits) == len(common) > 50
    [report] = contamination_report(evaluation, hits)
    assert (report["found_ngrams"], report["ngrams"]) == (len(common), len(grams(evaluation_text)))
    assert tuple(plain_words(report["examples"][0])) in common


def test_ngrams_do_not_go_across_documents_and_many_are_as_each(tmp_path):
    evaluation = EvaluationNgrams.from_files(
        [write(tmp_path / "a.txt", f"{TEXT}\n{random_text(60, 9).replace(chr(10), ' ')}")]
    )
    words = TEXT.split()
    documents = [words[:7], words[7:], [TEXT], [], random_text(60, 9).split("\n"), ["filler"] * 30]
    assert len(evaluation.hits(*documents[:2])) == 0
    apart = np.unique(np.concatenate([evaluation.hits(document) for document in documents]))
    assert evaluation.hits(*documents).tolist() == apart.tolist()
    assert len(apart) > 40


def test_report_counts_texts_and_shows_the_words(tmp_path):
    path = write(tmp_path / "dev.tsv", f"1\t{TEXT}\n2\t{TEXT.replace('seven', 'zero')}\n")
    evaluation = EvaluationNgrams.from_files([path])
    hits = evaluation.hits(["Before.", f"so ONE two, three - four five six seven eight {TEXT[TEXT.index('nine') :]}"])
    [report] = contamination_report(evaluation, np.concatenate([hits, hits]))
    assert (report["texts"], report["texts_with_found"], report["found_ngrams"]) == (2, 1, 2)
    assert report["file"] == f"{tmp_path.name}/dev.tsv"
    assert report["examples"] == ["one two three, four five six: seven eight nine ten eleven twelve thirteen"]


def test_half_a_character_is_no_part_of_a_word(tmp_path):
    """Which a text of JSON can have and a file of UTF-8 cannot."""
    words = " ".join(f"word{number}" for number in range(13))
    path = write(tmp_path / "eval.jsonl", json.dumps({"text": f"\ud83d {words}"}))
    ngrams = EvaluationNgrams.from_files([path])
    [report] = contamination_report(ngrams, ngrams.hits([words]))
    assert (report["found_ngrams"], report["examples"]) == (1, [words])


def test_what_was_found_is_told_by_source(tmp_path):
    path = write(tmp_path / "dev.tsv", f"1\t{TEXT}\n2\t{TEXT.replace('seven', 'zero')}\n")
    evaluation = EvaluationNgrams.from_files([path])
    of_sources = [
        ("wiki", evaluation.hits([TEXT])),
        ("books", evaluation.hits([random_text(300, 8)])),
        ("web", evaluation.hits([TEXT], [TEXT.replace("seven", "zero")])),
    ]
    [report] = contamination_report(evaluation, np.concatenate([hits for _, hits in of_sources]), of_sources)
    assert (report["found_ngrams"], report["texts_with_found"]) == (4, 2)
    assert [tuple(source.values()) for source in report["sources"]] == [("wiki", 2, 1), ("books", 0, 0), ("web", 4, 2)]


def test_nothing_in_common(tmp_path):
    evaluation = EvaluationNgrams.from_files([write(tmp_path / "a.txt", TEXT)])
    hits = evaluation.hits([random_text(300, 8), "", "short"])
    assert hits.dtype == np.uint64
    [report] = contamination_report(evaluation, hits)
    assert (report["found_ngrams"], report["texts_with_found"], report["examples"]) == (0, 0, [])


def test_chinese_is_compared_character_by_character(tmp_path):
    evaluation = EvaluationNgrams.from_files([write(tmp_path / "a.txt", "地球是太阳系八大行星之一，也是人类的家园。")])
    assert len(evaluation.hits(["我们知道：地球是太阳系", "八大行星之一，也很大。"])) == 1  # 13 characters in common
    assert len(evaluation.hits(["地球是太阳系八大行星"])) == 0


def test_a_document_longer_than_a_piece_is_compared_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("bert_jax.preparation.contamination._COUNTED_AT_ONCE", 64)
    evaluation = EvaluationNgrams.from_files([write(tmp_path / "a.txt", TEXT)])
    words = TEXT.split()
    assert len(evaluation.hits([*["filler"] * 40, *words, *["filler"] * 40], ["short"])) == 2


def test_other_processes_find_the_same(tmp_path):
    evaluation = EvaluationNgrams.from_files([write(tmp_path / "a.txt", TEXT)])
    evaluation.hits([TEXT])
    copy = pickle.loads(pickle.dumps(evaluation))
    assert copy.hits([TEXT]).tolist() == evaluation.hits([TEXT]).tolist()
    assert copy.described() == evaluation.described()


def test_squad_is_found_in_wikipedia_words():
    """A real evaluation set: a paragraph of SQuAD's is found, and the same with every 10th word changed is not."""
    path = real_data("squad/dev-v1.1.json.xz")
    evaluation = EvaluationNgrams.from_files([path])
    paragraph = json.loads(lzma.decompress(path.read_bytes()))["data"][0]["paragraphs"][0]["context"]
    words = plain_words(paragraph)
    assert len(evaluation.hits([paragraph])) == len({tuple(words[i : i + 13]) for i in range(len(words) - 12)})
    changed = " ".join("xyzzy" if place % 10 == 0 else word for place, word in enumerate(words))
    assert len(evaluation.hits([changed])) == 0
