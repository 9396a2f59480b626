# SPDX-License-Identifier: Apache-2.0
"""`prepare --near-duplicates`: what is found is what a comparison of all pairs of documents finds, in plain Python."""

import json
import random
import re
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.feed.shards import MANIFEST
from bert_jax.preparation import job, near_duplicates
from bert_jax.preparation.near_duplicates import BANDS, clusters_of, ROWS, shingles_of, signature_of
from bert_jax.preparation.request import PrepareSettings

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
datasketch = pytest.importorskip("datasketch", reason="datasketch is not installed")


def documents_of(count: int, seed: int = 0) -> list[list[str]]:
    """Documents of which two in three are copies of an earlier one, with none to a tenth of the words changed."""
    draw, made = random.Random(seed), []
    for number in range(count):
        words = draw.choices(WORDS, k=draw.randint(5, 120) if number % 30 else 4)
        if number % 3 and made:
            words = [word for sentence in draw.choice(made) for word in sentence.split()]
            changed = draw.sample(range(len(words)), k=int(len(words) * draw.choice((0, 0.01, 0.03, 0.1))))
            words = [draw.choice(WORDS) if place in changed else word for place, word in enumerate(words)]
        made.append([" ".join(words[begin : begin + 12]) for begin in range(0, len(words), 12)])
    return made


def plain_shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[place : place + 5]) for place in range(len(words) - 4)}


def plain_clusters(texts: list[str]) -> dict[int, int]:
    """Document -> the first of its cluster, where that is another: of all pairs, with sets."""
    sets = [plain_shingles(text) for text in texts]
    first = list(range(len(texts)))
    for one, other in combinations(range(len(texts)), 2):
        shared, together = len(sets[one] & sets[other]), len(sets[one] | sets[other])
        if together and shared / together >= 0.8:
            early, late = sorted((first[one], first[other]))
            first = [early if root == late else root for root in first]
    return {document: root for document, root in enumerate(first) if root != document}


def write_text(path: Path, documents: list[list[str]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join("\n".join(sentences) for sentences in documents) + "\n")
    return path


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return path


@pytest.fixture
def two_sources(tmp_path):
    """Two folders of two files each; many documents of the second are nearly those of the first."""
    documents = documents_of(240, seed=3)
    parts = [documents[begin : begin + 60] for begin in range(0, 240, 60)]
    for name, part in zip(("a/0.txt", "a/1.txt", "b/0.txt", "b/1.txt"), parts, strict=True):
        write_text(tmp_path / name, part)
    return [tmp_path / "a", tmp_path / "b"]


@pytest.fixture
def prepare(vocab):
    """Runs the stage on sources into a folder; returns the exit status."""

    def run(sources: list, output: Path, *options: object) -> int:
        usual = ("--sequence-length", 32, "--held-out", 0.2, "--workers", 1, "--shard-size", 9_000)
        arguments = ("prepare", "--input", *sources, "--vocab", vocab, "--output", output, *usual, *options)
        return main([str(word) for word in arguments])

    return run


def passport_of(output: Path) -> dict:
    return json.loads((output / MANIFEST).read_text())


def contents(output: Path, *, passport: bool = True) -> dict[str, bytes]:
    names = [path for path in output.iterdir() if path.name != "passport.html" and (passport or path.name != MANIFEST)]
    return {path.name: re.sub(rb'"modified": \d+', b"", path.read_bytes()) for path in names}


# ---- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_those_of_all_pairs(seed):
    """The bugs: a pair that shares a band only and is taken; a chain that is cut; a later document that stays."""
    texts = ["\n".join(document) for document in documents_of(150, seed)]
    sets = [shingles_of(text) for text in texts]
    compared = [place for place, one in enumerate(sets) if len(one)]
    signatures = np.array([signature_of(sets[place]) for place in compared])
    digests = np.array([hash(sets[place].tobytes()) % 2**64 for place in compared], np.uint64)
    verified = []

    def jaccard(one: int, other: int) -> float:
        first, second = (plain_shingles(texts[compared[place]]) for place in (one, other))
        verified.append(len(first & second) / len(first | second))
        return verified[-1]

    firsts = clusters_of(signatures, digests, np.array([len(sets[place]) for place in compared]), jaccard)
    found = {compared[place]: compared[first] for place, first in enumerate(firsts) if first != place}
    assert found == plain_clusters(texts)
    assert len(found) > 30
    assert min(verified) < 0.8, "no pair of a band had to be refused"


def test_bands_are_those_of_the_librarys_index():
    texts = ["\n".join(document) for document in documents_of(100, 7)]
    sets = [one for one in map(shingles_of, texts) if len(one)]
    signatures = np.array([signature_of(one) for one in sets])
    index = datasketch.MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    hashes = [datasketch.MinHash(hashvalues=signature, scheme="affine32") for signature in signatures]
    for place, minhash in enumerate(hashes):
        index.insert(place, minhash)
    expected = {(other, place) for place, one in enumerate(hashes) for other in index.query(one) if other < place}
    bands = [signatures[:, begin : begin + ROWS] for begin in range(0, BANDS * ROWS, ROWS)]
    buckets = [bucket for rows in bands for bucket in near_duplicates._buckets(np.arange(len(sets)), rows)]
    assert {pair for bucket in buckets for pair in combinations(bucket.tolist(), 2)} == expected
    assert len(expected) > 30


def test_a_long_document_is_cut_up_and_has_the_same_shingles(monkeypatch):
    text = "\n".join(documents_of(1)[0] * 3 + ["ÉTÉ, déjà — vu_là; 中文字符在此处"])
    whole = shingles_of(text)
    assert len(whole) == len(plain_shingles(text.replace("中文字符在此处", " ".join("中文字符在此处"))))
    monkeypatch.setattr(near_duplicates, "_WORDS_AT_ONCE", 8)
    monkeypatch.setattr(near_duplicates, "_HASHED_AT_ONCE", 7)
    assert shingles_of(text).tolist() == whole.tolist()
    signature = signature_of(whole)
    monkeypatch.undo()
    assert signature.tolist() == signature_of(whole).tolist()
    assert shingles_of("only four words here").tolist() == []


# ---- the stage -------------------------------------------------------------------------------------------------------


def test_what_stays_is_the_text_without_them(prepare, tmp_path):
    """Byte for byte the data of a text that never had them; later passes over a source leave out the same."""
    documents = documents_of(200)
    again = plain_clusters(["\n".join(document) for document in documents])
    kept = [document for place, document in enumerate(documents) if place not in again]
    text = write_text(tmp_path / "all" / "text.txt", documents)
    clean = write_text(tmp_path / "clean" / "text.txt", kept)
    assert prepare([f"{text}@2"], tmp_path / "out", "--near-duplicates", "drop") == 0
    assert prepare([f"{clean}@2"], tmp_path / "expected") == 0
    assert contents(tmp_path / "out", passport=False) == contents(tmp_path / "expected", passport=False)
    [source] = passport_of(tmp_path / "out")["near_duplicate_documents"]["sources"]
    assert (source["documents"], source["found"]) == (200, len(again))
    assert source["compared"] == sum(1 for document in documents if plain_shingles("\n".join(document)))
    assert source["compared"] < 200


def test_counted_they_stay_and_are_told_by_source(prepare, two_sources, tmp_path, capsys):
    """Across files and sources, with the place of each and of the first of its cluster."""
    assert prepare(two_sources, tmp_path / "plain") == 0
    assert prepare(two_sources, tmp_path / "out", "--near-duplicates", "count") == 0
    assert contents(tmp_path / "out", passport=False) == contents(tmp_path / "plain", passport=False)
    documents = documents_of(240, seed=3)
    again = plain_clusters(["\n".join(document) for document in documents])
    found = passport_of(tmp_path / "out")["near_duplicate_documents"]
    assert not found["dropped"]
    first, second = found["sources"]
    assert (first["source"], first["found"], first["of_other_sources"]) == ("a", sum(d < 120 for d in again), 0)
    crossing = [document for document, root in again.items() if document >= 120 > root]
    assert (second["found"], second["of_other_sources"]) == (sum(d >= 120 for d in again), len(crossing))
    assert len(crossing) > 10
    names = [f"{number // 60 % 2}.txt, document {number % 60 + 1}" for number in range(240)]
    pairs = [(pair["document"], pair["first"]) for pair in second["examples"]]
    assert pairs == [(names[document], names[again[document]]) for document in crossing[:3]]
    sets = [plain_shingles("\n".join(documents[place])) for place in (crossing[0], again[crossing[0]])]
    assert second["examples"][0]["jaccard"] == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]), abs=1e-4)
    told = capsys.readouterr()
    assert f"near-duplicates: {len(again):,} of" in told.out
    assert "are nearly the same as an earlier one: leave them out (--near-duplicates drop)" in told.err
    assert "bytes more here for each document, and on disk" in told.err


def test_the_number_of_workers_changes_nothing(prepare, two_sources, tmp_path):
    for workers in (1, 2):
        assert prepare(two_sources, tmp_path / f"{workers}", "--near-duplicates", "drop", "--workers", workers) == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("after", ["sign_chunk", "find_near_duplicates", "process_chunk"])
def test_an_interrupted_run_goes_on(prepare, two_sources, tmp_path, monkeypatch, after):
    """Stopped in the midst of either pass, or between the two; what is signed is not signed again."""
    options = ("--near-duplicates", "drop")
    assert prepare(two_sources, tmp_path / "whole", *options) == 0
    calls, original = [], getattr(job, after)

    def interrupted(*arguments: object, **named: object) -> None:
        original(*arguments, **named)
        calls.append(after)
        if after == "find_near_duplicates" or len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(job, after, interrupted)
    assert prepare(two_sources, tmp_path / "out", *options) == 130
    monkeypatch.undo()
    signed = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("signatures-*")}
    assert len(signed) >= 3
    monkeypatch.setattr(near_duplicates, "signature_of", lambda shingles: again.append(1) or signature_of(shingles))
    again: list[int] = []
    assert prepare(two_sources, tmp_path / "out", *options) == 0
    assert bool(again) == (after == "sign_chunk")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_changed_file_changes_what_is_left_out_of_others(prepare, two_sources, tmp_path, monkeypatch):
    """The parts after it were finished: the documents that were left out of them for its sake come back."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    options = ("--near-duplicates", "drop")
    monkeypatch.setattr(job, "write_plan", interrupted)
    assert prepare(two_sources, tmp_path / "out", *options) == 130
    monkeypatch.undo()
    write_text(two_sources[0] / "0.txt", documents_of(60, seed=99))
    assert prepare(two_sources, tmp_path / "out", *options) == 0
    assert prepare(two_sources, tmp_path / "whole", *options) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_of_a_share_of_a_source_only_the_share_is_compared(prepare, tmp_path):
    text = write_text(tmp_path / "text.txt", documents_of(60) + documents_of(60))
    assert prepare([f"{text}@0.5"], tmp_path / "out", "--near-duplicates", "drop") == 0
    [source] = passport_of(tmp_path / "out")["near_duplicate_documents"]["sources"]
    documents = sum(split["documents"] for split in passport_of(tmp_path / "out")["splits"].values())
    assert 30 < source["documents"] < 90
    assert documents == source["documents"] - source["found"]


def test_it_is_a_setting_that_finished_data_is_known_by(prepare, two_sources, tmp_path, capsys):
    assert prepare(two_sources, tmp_path / "out", "--near-duplicates", "drop") == 0
    assert prepare(two_sources, tmp_path / "out", "--near-duplicates", "drop") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert prepare(two_sources, tmp_path / "out") == 2
    assert "was made with --near-duplicates drop, now it is none" in capsys.readouterr().err


def test_a_wrong_value_is_refused(prepare, two_sources, tmp_path, capsys):
    assert prepare(two_sources, tmp_path / "out", "--near-duplicates", "remove") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--near-duplicates: invalid choice: 'remove' (choose from" in line
    with pytest.raises(UserError, match="--near-duplicates remove is not known: use count or drop"):
        PrepareSettings(near_duplicates="remove")


def test_without_the_library_the_extra_is_named(prepare, two_sources, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    assert prepare(two_sources, tmp_path / "out", "--near-duplicates", "count") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith('is not installed: pip install "bert-jax[near-duplicates]"')
    assert not (tmp_path / "out").exists()
    assert prepare(two_sources, tmp_path / "out") == 0
