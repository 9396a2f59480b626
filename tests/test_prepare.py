# SPDX-License-Identifier: Apache-2.0
"""The stage `prepare`: text to prepared data, run through the command line."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bert_jax.cli import main
from bert_jax.data import preparation
from bert_jax.data.shards import DataDirectory, MANIFEST, open_data
from bert_jax.tokenization import load_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = (
    "a bird came down the road to see where seven small boats lay under grey rain and nobody had told it that"
    " every one of them would leave by noon with bread cheese salt paper lamps rope oars nets maps stones"
)
WORDS = TEXT.split()
TEST_DATA = Path(os.environ.get("BERT_JAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def write_vocabulary(path: Path, words: list[str]) -> Path:
    path.write_text("\n".join([*SPECIAL, *dict.fromkeys(words)]) + "\n")
    return path


def write_text(path: Path, documents: list[list[str]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join("\n".join(sentences) for sentences in documents) + "\n")
    return path


def make_documents(count: int, seed: int = 0, sentences: int = 12) -> list[list[str]]:
    draw = random.Random(seed)
    return [
        [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(draw.randint(2, sentences))]
        for _ in range(count)
    ]


@pytest.fixture
def vocab(tmp_path):
    return write_vocabulary(tmp_path / "vocab.txt", WORDS)


@pytest.fixture
def corpus(tmp_path):
    """Two files of thirty documents each."""
    documents = make_documents(60)
    write_text(tmp_path / "corpus" / "one.txt", documents[:30])
    write_text(tmp_path / "corpus" / "two.txt", documents[30:])
    return tmp_path / "corpus"


@pytest.fixture
def prepare(tmp_path, vocab, corpus):
    """Runs the stage on `corpus` into `out`, with more options behind; returns the exit status."""

    def run(*options: object, input: Path = corpus, output: Path = tmp_path / "out", vocab: Path = vocab) -> int:
        arguments = ["prepare", "--input", input, "--vocab", vocab, "--output", output]
        return main([str(word) for word in (*arguments, "--sequence-length", 32, "--held-out", 0.2, *options)])

    return run


def refusal(capsys) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def token_documents(data: DataDirectory, split: str) -> list[list[int]]:
    """The ids of every document of a split."""
    found = []
    for shard in data.split(split).shards:
        borders = shard.sentence_starts[shard.document_starts].tolist()
        found += [shard.tokens[begin:end].tolist() for begin, end in pairwise(borders)]
    return found


def read_documents_plainly(corpus: Path) -> list[list[str]]:
    texts = [file.read_text().strip().split("\n\n") for file in sorted(corpus.iterdir())]
    return [document.split("\n") for text in texts for document in text]


# ---- what is written ---------------------------------------------------------------------------------------


def test_the_output_is_complete_and_nothing_else(prepare, tmp_path):
    assert prepare() == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "data.json",
        "token_counts.npy",
        "tokenizer_config.json",
        "train-00000-of-00001.safetensors",
        "validation-00000-of-00001.safetensors",
        "vocab.txt",
    ]


def test_every_document_is_in_one_split_unchanged(prepare, tmp_path, corpus, vocab):
    """Tokens in the order of the text; nothing is lost, doubled or cut."""
    prepare("--shard-tokens", 300)
    data = open_data(tmp_path / "out")
    tokenizer = load_tokenizer(vocab)
    expected = [
        [index for ids in tokenizer.encode_batch(document) for index in ids]
        for document in read_documents_plainly(corpus)
    ]
    train, validation = (token_documents(data, split) for split in ("train", "validation"))
    assert [document for document in expected if document not in validation] == train
    assert [document for document in expected if document in validation] == validation
    assert 4 <= len(validation) <= 20  # of 60, at --held-out 0.2
    assert data.load_tokenizer().fingerprint == tokenizer.fingerprint


def test_statistics_are_those_of_the_shards(prepare, tmp_path):
    """Row S16: the shares are counted again here, from the examples themselves."""
    prepare("--sequence-length", 16, 32, "--shard-tokens", 500)
    data = open_data(tmp_path / "out")
    for name, split in data.splits.items():
        record = split.record
        tokens = np.concatenate([shard.tokens for shard in split.shards])
        counts = np.bincount(tokens, minlength=data.vocab_size)
        shares = counts[counts > 0] / tokens.size
        assert record["tokens"] == tokens.size
        assert record["documents"] == len(token_documents(data, name))
        assert record["sentences"] == sum(len(shard.sentence_starts) - 1 for shard in split.shards)
        assert record["unigram_entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-12)
        assert record["commonest_token"] == counts.argmax()
        assert record["commonest_token_share"] == counts.max() / tokens.size
        for length in (16, 32):
            table = np.concatenate([shard.examples(length) for shard in split.shards])
            valid = (table[:, 1] + table[:, 3] + 3).mean() / length
            assert record["examples"][str(length)] == split.num_examples(length) == len(table)
            assert record["is_next_share"][str(length)] == (table[:, 4] == 0).mean()
            assert record["valid_token_share"][str(length)] == pytest.approx(valid, rel=1e-12)
        if name == "train":
            assert data.token_counts().tolist() == counts.tolist()


def test_shards_are_bounded_and_a_lone_last_document_joins_the_shard_before(prepare, tmp_path):
    """Next-sentence prediction needs two documents in a shard."""
    text = write_text(tmp_path / "even" / "a.txt", [["a bird came down the road", f"to {word}"] for word in WORDS[:5]])
    prepare("--held-out", 0, "--shard-tokens", 16, input=text)
    data = open_data(tmp_path / "out")
    shards = data.split("train").shards
    assert [shard.path.name for shard in shards] == [f"train-0000{n}-of-00002.safetensors" for n in (0, 1)]
    assert [len(shard.document_starts) - 1 for shard in shards] == [2, 3]
    assert [shard.tokens.size for shard in shards] == [16, 24]
    assert [shard["documents"] for shard in data.manifest["splits"]["train"]["shards"]] == [2, 3]


def test_no_validation_split_without_held_out(prepare, tmp_path):
    prepare("--held-out", 0)
    assert list(open_data(tmp_path / "out").splits) == ["train"]


def test_equal_documents_fall_on_the_same_side(prepare, tmp_path):
    """Else a model is scored on what it was trained on."""
    text = write_text(tmp_path / "twice" / "a.txt", make_documents(40) * 2)
    prepare(input=text)
    data = open_data(tmp_path / "out")
    train, validation = (Counter(map(tuple, token_documents(data, split))) for split in data.splits)
    assert not train.keys() & validation.keys()
    assert set(train.values()) == set(validation.values()) == {2}


def test_equal_requests_give_equal_files_wherever_the_text_lies(prepare, tmp_path, corpus):
    prepare()
    shutil.copytree(corpus, tmp_path / "elsewhere" / "corpus")
    prepare(input=tmp_path / "elsewhere" / "corpus", output=tmp_path / "out2")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "out2" / path.name).read_bytes(), path.name


def test_the_seed_decides_splits_and_pairs(prepare, tmp_path):
    prepare()
    prepare("--seed", 1, output=tmp_path / "out2")
    first, second = open_data(tmp_path / "out"), open_data(tmp_path / "out2")
    assert token_documents(first, "validation") != token_documents(second, "validation")
    prepare("--seed", 0, "--held-out", 0, output=tmp_path / "out3")
    prepare("--seed", 1, "--held-out", 0, output=tmp_path / "out4")
    third, fourth = (open_data(tmp_path / name).split("train").shards[0] for name in ("out3", "out4"))
    assert third.tokens.tolist() == fourth.tokens.tolist()
    assert third.examples(32).tolist() != fourth.examples(32).tolist()


def test_the_summary_says_the_labels_in_words(prepare, capsys):
    """Row X1: IsNext and NotNext, never 0 and 1."""
    prepare()
    output = capsys.readouterr().out
    assert "% IsNext," in output
    assert "% NotNext," in output
    assert "MB/s" in output


# ---- the same again, and something else there --------------------------------------------------------------


def test_the_same_again_says_so_and_writes_nothing(prepare, tmp_path, capsys):
    prepare()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert prepare() == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", 3], "was made with --seed 0, now it is 3"),
        (["--sequence-length", 16, 32], "was made with --sequence-length 32, now it is 16 32"),
        (["--held-out", 0.3], "was made with --held-out 0.2, now it is 0.3"),
        (["--shard-tokens", 99], "was made with --shard-tokens 33554432, now it is 99"),
        (["--cased"], "was made with another --vocab or case"),
    ],
)
def test_other_settings_are_refused_by_name(prepare, tmp_path, capsys, options, message):
    prepare()
    capsys.readouterr()
    assert prepare(*options) == 2
    line = refusal(capsys)
    assert message in line
    assert f"remove {tmp_path / 'out'} or choose another --output" in line


def test_other_text_is_refused_by_the_file(prepare, corpus, capsys):
    prepare()
    capsys.readouterr()
    with (corpus / "two.txt").open("a") as file:
        file.write("one more\n")
    assert prepare() == 2
    assert "made from other text: corpus/two.txt of" in refusal(capsys)
    write_text(corpus / "three.txt", make_documents(3))
    assert prepare() == 2
    assert "was made from 2 files, --input has 3" in refusal(capsys)


def test_complete_data_that_was_damaged_is_not_reused(prepare, tmp_path, capsys):
    prepare()
    (tmp_path / "out" / "train-00000-of-00001.safetensors").unlink()
    capsys.readouterr()
    assert prepare() == 2
    assert "train-00000-of-00001.safetensors is missing" in refusal(capsys)


@pytest.mark.parametrize("name", ["notes.txt", "vocab.txt"])
def test_a_folder_with_something_else_in_it_is_left_alone(prepare, tmp_path, capsys, name):
    """vocab.txt too: --output may be the folder of a vocabulary by mistake."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    assert prepare() == 2
    assert f"out holds {name}, not prepared data: choose another --output" in refusal(capsys)
    assert (tmp_path / "out" / name).read_text() == "mine"


# ---- interrupted -------------------------------------------------------------------------------------------


def test_what_a_killed_run_left_is_cleaned_up(prepare, tmp_path):
    prepare(output=tmp_path / "whole")
    for name in ("out/prepare-unfinished/train-00000.safetensors.partial", "out/train-00000-of-00009.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    assert prepare() == 0
    names = [{path.name for path in (tmp_path / name).rglob("*")} for name in ("whole", "out")]
    assert names[0] == names[1]


def test_an_interruption_at_the_last_moment_leaves_nothing_complete(prepare, tmp_path, monkeypatch):
    """Every file but the manifest is in place when Ctrl-C comes."""
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "out" / MANIFEST:
            assert (tmp_path / "out" / "train-00000-of-00001.safetensors").exists()
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(preparation.os, "replace", interrupted)
    assert prepare() == 130
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert prepare() == 0


def test_a_full_disk_is_one_line_and_leaves_nothing(corpus, vocab, tmp_path):
    """The operating system's limit on the size of a file stands for the full disk."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from bert_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    stage = ["prepare", "--input", corpus, "--vocab", vocab, "--output", tmp_path / "out", "--held-out", "0.2"]
    done = subprocess.run([sys.executable, "-c", script, *stage], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "file size limit reached at" in done.stderr
    assert "train-00000.safetensors" in done.stderr
    assert not (tmp_path / "out").exists()


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.txt is empty"),
        (b"\n \n", "bad.txt holds no text"),
        (b"a bird\0\n", "bad.txt is not text"),
        (b"a bird\ncam\xe9\n", "bad.txt is not UTF-8"),
    ],
)
def test_a_file_that_is_not_text_is_named_and_nothing_is_left(prepare, corpus, tmp_path, capsys, content, message):
    """It is the last file: what was written before it must not stay."""
    (corpus / "zbad.txt").write_bytes(content)
    assert prepare() == 2
    assert message in refusal(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([["a bird", "came down"]], "is 1 document, .*blank lines"),
        ([["\u200b"], ["\u200b", "\u200e"]], "gives no tokens"),
        ([["a bird"]] * 30, r"--held-out 0.2 leaves 0 of 30 documents to the \w+ split, .*--held-out 0 "),
    ],
)
def test_text_that_makes_no_pairs_is_refused(prepare, tmp_path, capsys, documents, message):
    text = write_text(tmp_path / "few" / "a.txt", documents)
    assert prepare(input=text) == 2
    line = refusal(capsys)
    assert re.search(message, line), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sequence-length", 7], "--sequence-length 7 is too short: use at least 8"),
        (["--held-out", 1], "--held-out 1.0 is not possible"),
        (["--short-seq-prob", 1.5], "--short-seq-prob 1.5 is not a share"),
        (["--random-next-prob", -1], "--random-next-prob -1.0 is not a share"),
        (["--seed", -1], "--seed -1 is out of range"),
        (["--shard-tokens", 0], "--shard-tokens 0 is out of range"),
    ],
)
def test_settings_out_of_range_are_refused(prepare, capsys, options, message):
    assert prepare(*options) == 2
    assert message in refusal(capsys)


def test_paths_that_cannot_be_are_refused(prepare, corpus, tmp_path, capsys):
    assert prepare(input=tmp_path / "nowhere.txt") == 2
    assert "nowhere.txt is missing" in refusal(capsys)
    assert prepare(vocab=tmp_path / "nowhere") == 2
    assert "nowhere is missing" in refusal(capsys)
    assert prepare(output=corpus / "one.txt") == 2
    assert "one.txt" in refusal(capsys)
    assert prepare(output=corpus / "out") == 2
    assert "lies inside --input" in refusal(capsys)


def test_a_vocabulary_without_special_tokens_is_refused(prepare, tmp_path, capsys):
    bad = tmp_path / "bad.txt"
    bad.write_text("a\nbird\n")
    assert prepare(vocab=bad) == 2
    assert "lacks the special tokens [PAD], [UNK]" in refusal(capsys)


# ---- warnings ----------------------------------------------------------------------------------------------


def warnings_of(directory: Path) -> list[str]:
    return json.loads((directory / MANIFEST).read_text())["warnings"]


def test_sound_text_with_a_tiny_vocabulary_has_that_warning_only(prepare, tmp_path, capsys):
    prepare(input=write_text(tmp_path / "sound" / "a.txt", make_documents(60, sentences=80)))
    [warning] = warnings_of(tmp_path / "out")
    assert warning.startswith(f"the vocabulary has only {len(SPECIAL) + len(set(WORDS))} entries")
    assert refusal(capsys) == f"warning: {warning}"


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            [[" ".join(sentences)] for sentences in make_documents(600, sentences=3)],
            "train, sequence length 32: 0.0% of the pairs are IsNext, 100.0% NotNext",
        ),
        ([[*sentences, "zebra bird"] for sentences in make_documents(100)], "of the tokens are [UNK]"),
        ([["all rights kept", *sentences] for sentences in make_documents(100, sentences=5)], "repeat an earlier"),
        ([[" ".join(WORDS * 2), *sentences] for sentences in make_documents(100)], "beyond the first 29 of their"),
    ],
    ids=["one sentence a document", "unknown words", "repeated lines", "long sentences"],
)
def test_usual_mistakes_are_warned_of(prepare, tmp_path, documents, message):
    prepare(input=write_text(tmp_path / "odd" / "a.txt", documents))
    warnings = warnings_of(tmp_path / "out")
    assert any(message in warning for warning in warnings), warnings


def test_what_has_no_tokens_is_dropped_counted_and_said(prepare, tmp_path, capsys):
    """Zero-width characters are removed by the tokenizer and leave nothing."""
    documents = make_documents(40)
    documents[3].insert(1, "\u200b")
    documents.insert(7, ["\u200b", "\u200e"])
    prepare(input=write_text(tmp_path / "odd" / "a.txt", documents))
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["dropped_sentences"], manifest["dropped_documents"]) == (3, 1)
    assert sum(split["documents"] for split in manifest["splits"].values()) == 40
    assert "dropped: 3 sentences without tokens, 1 documents" in capsys.readouterr().out


# ---- real text ---------------------------------------------------------------------------------------------


def test_wikipedia_gives_sound_statistics(prepare, tmp_path):
    archive, vocab = TEST_DATA / "wikipedia-en" / "AA.tar.xz", TEST_DATA / "vocab" / "bert-base-uncased-vocab.txt"
    if not (archive.exists() and vocab.exists()):
        pytest.skip(f"{archive} is absent")
    with tarfile.open(archive, "r|xz") as members:
        member = next(member for member in members if member.isfile())
        stream = members.extractfile(member)
        assert stream is not None
        (tmp_path / "wiki_00").write_bytes(stream.read())
    assert prepare("--sequence-length", 128, "--held-out", 0, input=tmp_path / "wiki_00", vocab=vocab) == 0
    data = open_data(tmp_path / "out")
    train = data.split("train").record
    assert train["unknown_tokens"] / train["tokens"] < 0.001
    assert 0.4 < train["is_next_share"]["128"] < 0.6
    assert train["valid_token_share"]["128"] > 0.8
    assert data.load_tokenizer().vocabulary[train["commonest_token"]] == "the"
