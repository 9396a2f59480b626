# SPDX-License-Identifier: Apache-2.0
"""The stage `prepare`: text to prepared data, run through the command line in one process. Processes and interruptions
are in test_preparation.py."""

import gzip
import itertools
import json
import random
import re
import shutil
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import real_data

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.feed.shards import DataDirectory, MANIFEST, open_data
from bert_jax.tokenization import load_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = (
    "a bird came down the road to see where seven small boats lay under grey rain and nobody had told it that"
    " every one of them would leave by noon with bread cheese salt paper lamps rope oars nets maps stones"
)
WORDS = TEXT.split()


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
        usual = ("--sequence-length", 32, "--held-out", 0.2, "--workers", 1)
        return main([str(word) for word in (*arguments, *usual, *options)])

    return run


def refusal(capsys) -> str:
    """The one line on stderr, besides the memory that is needed."""
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("memory: ")]
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
        "passport.html",
        "passport.json",
        "token_counts.npy",
        "tokenizer_config.json",
        "train-00000-of-00001.safetensors",
        "validation-00000-of-00001.safetensors",
        "vocab.txt",
    ]


def test_every_document_is_in_one_split_unchanged(prepare, tmp_path, corpus, vocab):
    """Tokens in the order of the text; nothing is lost, doubled or cut."""
    prepare("--shard-size", 1200)
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
    """The shares are counted again here, from the examples themselves."""
    objectives = ("--objective", "mlm_nsp", "mlm_sop", "mlm_document")
    prepare("--sequence-length", 16, 32, "--shard-size", 2000, *objectives)
    data = open_data(tmp_path / "out")
    for name, split in data.splits.items():
        record = split.record
        tokens = np.concatenate([shard.tokens for shard in split.shards])
        counts = np.bincount(tokens, minlength=data.vocab_size)
        shares = counts[counts > 0] / tokens.size
        assert record["tokens"] == tokens.size
        assert record["documents"] == len(token_documents(data, name))
        assert record["sentences"] == sum(len(shard.sentence_starts) - 1 for shard in split.shards)
        assert record["unknown_tokens"] == counts[1]
        assert record["unigram_entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-12)
        assert record["commonest_token"] == counts.argmax()
        assert record["commonest_token_share"] == counts.max() / tokens.size
        for kind, length in itertools.product(("nsp", "sop", "document"), (16, 32)):
            table = np.concatenate([shard.table(kind, length) for shard in split.shards])
            special = 2 if kind == "document" else 3
            sizes = table[:, 1] + table[:, 3] + special
            said = record["tables"][f"{kind}_{length}"]
            assert said["examples"] == split.num_examples(kind, length) == len(table)
            assert said["valid_token_share"] == pytest.approx(sizes.mean() / length, rel=1e-12)
            assert said["length_histogram"] == np.bincount(sizes // 16, minlength=length // 16 + 1).tolist()
            if kind != "document":
                share = said["is_next_share" if kind == "nsp" else "in_order_share"]
                assert share == pytest.approx((table[:, 4] == 0).mean(), rel=1e-12)
                lengths = np.concatenate([np.diff(shard.sentence_starts) for shard in split.shards])
                cut = np.maximum(lengths - (length - 3), 0).sum() / tokens.size
                assert said["cut_token_share"] == pytest.approx(cut, rel=1e-12)
        if name == "train":
            assert data.token_counts().tolist() == counts.tolist()


def test_masks_are_measured_and_not_believed(prepared):
    """Of every table, against 80/10/10. With a right split p is below 1e-6 once in a million runs."""
    manifest = open_data(prepared.data).manifest
    tables = manifest["splits"]["train"]["tables"]
    assert manifest["masks"].keys() == tables.keys()
    assert len(tables) == 8
    for name, masks in manifest["masks"].items():
        assert masks["examples"] == tables[name]["examples"]  # few, so all of them
        assert masks["valid_token_share"] == pytest.approx(tables[name]["valid_token_share"])
        assert sum(masks["treatment"].values()) == masks["picked"] > 1_000
        assert masks["treatment"]["mask"] / masks["picked"] == pytest.approx(0.8, abs=0.05)
        assert masks["p_value"] > 1e-6


def test_shards_follow_the_text_and_are_bounded(prepare, tmp_path, corpus):
    """A shard is of --shard-size bytes and a document; a small rest joins the one before."""
    prepare("--held-out", 0, "--shard-size", 1500)
    data = open_data(tmp_path / "out")
    shards = data.split("train").shards
    names = [f"train-{number:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))]
    assert len(shards) > 4
    assert [shard.path.name for shard in shards] == names
    sizes = [len("\n".join(document)) for document in read_documents_plainly(corpus)]
    taken = [len(shard.document_starts) - 1 for shard in shards]
    assert [shard["documents"] for shard in data.manifest["splits"]["train"]["shards"]] == taken
    borders = np.cumsum([0, *taken])
    for begin, end in pairwise(borders.tolist()):
        assert sum(sizes[begin:end]) <= 1.25 * 1500 + max(sizes)
    assert data.manifest["shard_size"] == 1500


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
        if path.name == "passport.html":  # it names the folder it lies in
            continue
        other = (tmp_path / "out2" / path.name).read_bytes()
        assert without_times(path.read_bytes()) == without_times(other), path.name


def without_times(raw: bytes) -> bytes:
    """A file of prepared data, but for the times of the text's files."""
    return re.sub(rb'"modified": \d+', b"", raw)


def test_the_seed_decides_splits_and_pairs(prepare, tmp_path):
    prepare()
    prepare("--seed", 1, output=tmp_path / "out2")
    first, second = open_data(tmp_path / "out"), open_data(tmp_path / "out2")
    assert token_documents(first, "validation") != token_documents(second, "validation")
    prepare("--seed", 0, "--held-out", 0, output=tmp_path / "out3")
    prepare("--seed", 1, "--held-out", 0, output=tmp_path / "out4")
    third, fourth = (open_data(tmp_path / name).split("train").shards[0] for name in ("out3", "out4"))
    assert third.tokens.tolist() == fourth.tokens.tolist()
    assert third.table("nsp", 32).tolist() != fourth.table("nsp", 32).tolist()


def test_the_summary_says_the_labels_in_words(prepare, capsys):
    """IsNext and NotNext, never 0 and 1."""
    prepare()
    output = capsys.readouterr().out
    assert "% IsNext," in output
    assert "% NotNext," in output
    assert "MB/s" in output


# ---- inputs ------------------------------------------------------------------------------------------------


def test_formats_and_compression_do_not_change_the_data(prepare, tmp_path, corpus):
    """The same documents as plain text, packed, and as JSON lines of another field."""
    documents = read_documents_plainly(corpus)
    packed, records = tmp_path / "packed", tmp_path / "records"
    packed.mkdir()
    for path in corpus.iterdir():
        (packed / path.name).write_bytes(gzip.compress(path.read_bytes()))
    records.mkdir()
    lines = [json.dumps({"body": " . ".join(document)}) for document in documents]
    (records / "a.jsonl").write_text("\n".join(lines))
    prepare()
    prepare(input=packed, output=tmp_path / "out2")
    prepare("--json-field", "body", input=records, output=tmp_path / "out3", vocab=write_dotted_vocabulary(tmp_path))
    expected, same, joined = (open_data(tmp_path / name) for name in ("out", "out2", "out3"))
    for split in ("train", "validation"):
        assert token_documents(same, split) == token_documents(expected, split)
    counted = sum(len(document.split()) for document in map(" . ".join, documents))
    assert sum(split.record["tokens"] for split in joined.splits.values()) == counted


def write_dotted_vocabulary(folder: Path) -> Path:
    return write_vocabulary(folder / "dotted.txt", [*WORDS, "."])


def test_a_line_may_be_a_paragraph(prepare, tmp_path):
    paragraph = "A bird came. It left! Why? " * 3
    text = write_text(tmp_path / "paragraphs" / "a.txt", [[paragraph, paragraph]] * 20)
    prepare("--lines", "paragraphs", "--held-out", 0, input=text)
    record = open_data(tmp_path / "out").split("train").record
    assert record["sentences"] == 20 * 2 * 9
    assert record["documents"] == 20


def test_a_library_splits_paragraphs_where_asked(prepare, tmp_path):
    """The rules know English abbreviations only; which version of the library split the text is recorded."""
    sentencex = pytest.importorskip("sentencex")
    paragraph = "A bird came z. B. Noon. It left."
    text = write_text(tmp_path / "paragraphs" / "a.txt", [[paragraph]] * 20)
    options = ("--lines", "paragraphs", "--held-out", 0)
    assert prepare(*options, "--splitter", "sentencex:de", input=text) == 0
    data = open_data(tmp_path / "out")
    expected = [sentence for sentence in sentencex.segment("de", paragraph) if sentence.strip()]
    assert data.split("train").record["sentences"] == 20 * len(expected)
    assert data.manifest["splitter"] == "sentencex:de"
    assert data.manifest["splitter_version"]
    assert prepare(*options, input=text) == 2  # the rules split elsewhere


def test_weights_repeat_documents_and_take_shares_of_them(prepare, tmp_path, corpus):
    """Twice: with other pairs, held-out documents once. A quarter: chosen by the text, so the same with any seed."""
    prepare(output=tmp_path / "once")
    prepare(input=f"{corpus}@2")
    once, twice = (open_data(tmp_path / name) for name in ("once", "out"))
    train = token_documents(once, "train")
    assert token_documents(twice, "train") == train * 2
    assert token_documents(twice, "validation") == token_documents(once, "validation")
    [first, second] = (shard.table("nsp", 32).tolist() for shard in twice.split("train").shards)
    assert first != second
    assert twice.manifest["text"]["documents"]["count"] == 60
    prepare("--held-out", 0, input=f"{corpus}@0.25", output=tmp_path / "quarter")
    taken = token_documents(open_data(tmp_path / "quarter"), "train")
    assert 5 <= len(taken) <= 25
    assert [document for document in train if document in taken] == [
        document for document in taken if document in train
    ]


def test_sources_are_kept_apart(prepare, tmp_path, corpus, vocab):
    options = ("--vocab", vocab, "--output", tmp_path / "out", "--held-out", 0.2, "--workers", 1)
    inputs = ("--input", corpus / "one.txt", f"{corpus / 'two.txt'}@3")
    assert main([str(word) for word in ("prepare", *inputs, *options)]) == 0
    manifest = open_data(tmp_path / "out").manifest
    assert [(source["source"], source["weight"]) for source in manifest["sources"]] == [("one.txt", 1), ("two.txt", 3)]
    assert [shard["source"] for shard in manifest["splits"]["train"]["shards"]] == [0, 1, 1, 1]
    for number, source in enumerate(manifest["sources"]):
        shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
        for name in ("documents", "sentences", "tokens"):
            assert source[name] == sum(shard[name] for shard in shards if shard["source"] == number)


def test_words_begin_where_pieces_do_not_go_on(prepare, tmp_path):
    """Plain words: what '##' says of the pieces, though they are not asked."""
    vocab = write_vocabulary(tmp_path / "pieces.txt", [*WORDS[:20], *"abcdefghijklmnopqrstuvwxyz"])
    pieces = vocab.read_text().split() + [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocab.write_text("\n".join(pieces) + "\n")
    prepare("--held-out", 0, vocab=vocab)
    shard = open_data(tmp_path / "out").split("train").shards[0]
    found = np.unpackbits(shard.word_starts, bitorder="little")[: shard.tokens.size].astype(bool)
    expected = [not pieces[token].startswith("##") for token in shard.tokens.tolist()]
    assert found.tolist() == expected
    assert 0.2 < found.mean() < 0.9


def test_a_segmenter_gives_chinese_words(prepare, tmp_path):
    """Without one each character is a word. Ids are the same."""
    pytest.importorskip("jieba", reason="jieba is not installed")
    sentence = "我们在北京大学学习自然语言处理。"
    text = write_text(tmp_path / "zh" / "a.txt", [[sentence, sentence[:8]], [sentence]] * 4)
    vocab = write_vocabulary(tmp_path / "zh.txt", list(sentence))
    shards = []
    for name in ("none", "jieba"):
        prepare("--segmenter", name, "--held-out", 0, input=text, vocab=vocab, output=tmp_path / name)
        shards.append(open_data(tmp_path / name).split("train").shards[0])
    assert shards[0].tokens.tolist() == shards[1].tokens.tolist()
    characters, words = (np.unpackbits(shard.word_starts, bitorder="little")[: shard.tokens.size] for shard in shards)
    assert characters.all()
    first = np.flatnonzero(words[:16]).tolist()
    assert [sentence[begin:end] for begin, end in pairwise([*first, 16])][:4] == ["我们", "在", "北京大学", "学习"]


def test_overlap_with_evaluation_data_is_measured(prepare, tmp_path, corpus, capsys):
    documents = read_documents_plainly(corpus)
    text = " ".join(next(document for document in documents if sum(map(len, document)) > 200))
    (tmp_path / "dev.tsv").write_text(f"{text}\t1\n{' '.join(reversed(text.split()))}\t0\n")
    prepare("--evaluation-data", tmp_path / "dev.tsv")
    [found] = open_data(tmp_path / "out").manifest["contamination"]
    assert found["file"].endswith("dev.tsv")
    assert (found["texts"], found["texts_with_found"]) == (2, 1)
    [source] = found["sources"]
    assert (source["source"], source["texts_with_found"]) == ("corpus", 1)
    assert any("dev.tsv: 1 of 2 texts" in warning for warning in warnings_of(tmp_path / "out"))
    capsys.readouterr()
    assert prepare("--evaluation-data", tmp_path / "dev.tsv") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert prepare() == 2
    assert re.search(r"was made with other --evaluation-data \(\S*dev.tsv\)", refusal(capsys))


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
        (["--shard-size", 99], "was made with --shard-size 4000000, now it is 99"),
        (["--objective", "mlm_nsp", "mlm_sop"], "was made with --objective mlm_nsp, now it is mlm_nsp mlm_sop"),
        (["--lines", "paragraphs"], "was made with --lines sentences, now it is paragraphs"),
        (["--licence", "CC0"], "was made with --licence none, now it is CC0"),
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
    assert "made from other text: two.txt of" in refusal(capsys)
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
        (
            [["a bird"]] * 30,
            r"--held-out 0.2 leaves 0 of 30 documents to the \w+ split, .*raise --held-out, or set it to 0",
        ),
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
        (["--shard-size", -1], "--shard-size -1 is out of range"),
        (["--objective", "mlm_ns"], "--objective mlm_ns is not known: choose from mlm_nsp, mlm_pairs"),
        (["--splitter", "punkt"], "--splitter punkt is not known: use rules, or sentencex:LANGUAGE"),
        (["--workers", 0], "--workers 0 is not possible"),
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
    for text in (corpus, f"{corpus}@2"):
        assert prepare(input=text, output=corpus / "out") == 2
        assert "lies inside --input" in refusal(capsys)


@pytest.mark.parametrize("objective", ["mlm_sop", "mlm_full_sentences", "mlm_document"])
def test_one_document_will_do_where_no_other_is_drawn_from(prepare, tmp_path, objective):
    text = write_text(tmp_path / "one" / "a.txt", make_documents(1, sentences=60))
    assert prepare("--objective", objective, "--held-out", 0, input=text) == 0
    assert open_data(tmp_path / "out").split("train").record["documents"] == 1


def test_a_shard_with_one_document_pairs_it_with_itself_and_counts_that(prepare, tmp_path):
    text = write_text(tmp_path / "long" / "a.txt", make_documents(4, sentences=90))
    prepare("--held-out", 0, "--shard-size", 100, input=text)
    data = open_data(tmp_path / "out")
    assert len(data.split("train").shards) == 4
    table = data.split("train").record["tables"]["nsp_32"]
    labels = np.concatenate([shard.table("nsp", 32)[:, 4] for shard in data.split("train").shards])
    assert table["same_document_negatives"] == labels.sum() > 10
    assert any("took B from A's own document" in warning for warning in warnings_of(tmp_path / "out"))


@pytest.mark.parametrize("separator", [" ", "\n"], ids=["a sentence", "a document"])
def test_a_million_words_go_through(prepare, tmp_path, separator):
    """In one sentence, or in sentences of all the words there are; beside documents as usual."""
    many = (" ".join(WORDS) + separator) * (1_000_000 // len(WORDS))
    text = write_text(tmp_path / "long" / "a.txt", [*make_documents(20), [many.strip()]])
    objectives = ("--objective", "mlm_nsp", "mlm_sop", "mlm_full_sentences", "mlm_document")
    assert prepare(*objectives, "--held-out", 0, input=text) == 0
    record = open_data(tmp_path / "out").split("train").record
    assert record["tokens"] > 999_000
    for kind in ("full_sentences", "document"):
        table = record["tables"][f"{kind}_32"]
        rows = np.concatenate([s.table(kind, 32)[:, 1] for s in open_data(tmp_path / "out").split("train").shards])
        assert rows.sum() == record["tokens"]
        assert table["cut_token_share"] == 0


def test_lines_of_control_characters_are_left_out_counted_and_said(prepare, tmp_path, capsys):
    documents = make_documents(40)
    documents[3].insert(1, "\x07\x07")
    documents.insert(9, ["\x01", "\x02\x7f"])
    prepare("--held-out", 0, input=write_text(tmp_path / "odd" / "a.txt", documents))
    manifest = open_data(tmp_path / "out").manifest
    assert manifest["reading"]["control_lines"] == 3
    assert manifest["reading"]["empty_documents"] == 1
    assert manifest["splits"]["train"]["documents"] == 40
    assert "3 lines of nothing but control characters were left out" in capsys.readouterr().out


def test_bytes_that_are_not_text_are_replaced_where_asked_counted_and_said(prepare, corpus, tmp_path, capsys):
    (corpus / "zbad.txt").write_bytes(b"a bird came down\ncam\xe9\n" + b"to see\n" * 20)
    assert prepare("--errors", "replace") == 0
    assert open_data(tmp_path / "out").manifest["reading"]["replaced_bytes"] == 1
    assert "1 bytes that are not UTF-8 were replaced" in capsys.readouterr().out


def test_a_tokenizer_that_did_not_make_the_data_is_refused(prepare, tmp_path):
    """The files beside the shards were exchanged."""
    prepare()
    other = tmp_path / "other"
    write_vocabulary(tmp_path / "other.txt", [*WORDS, "more"])
    load_tokenizer(tmp_path / "other.txt", lowercase=True).save(other)
    for path in other.iterdir():
        shutil.copy(path, tmp_path / "out")
    with pytest.raises(UserError, match="are not those that made the data"):
        open_data(tmp_path / "out").load_tokenizer()


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
        ([[" ".join(WORDS * 2), *sentences] for sentences in make_documents(100)], "cut off sentences of more than 29"),
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
    repeated = f"{tmp_path / 'odd' / 'a.txt'}@3"
    prepare(input=repeated, output=tmp_path / "thrice")
    again = json.loads((tmp_path / "thrice" / MANIFEST).read_text())
    assert (again["dropped_sentences"], again["dropped_documents"]) == (3, 1), "documents count once"
    assert again["text"]["documents"] == manifest["text"]["documents"]


# ---- real text ---------------------------------------------------------------------------------------------


def test_wikipedia_gives_sound_statistics(prepare, tmp_path):
    archive, vocab = real_data("wikipedia-en/AA.tar.xz"), real_data("vocab/bert-base-uncased-vocab.txt")
    with tarfile.open(archive, "r|xz") as members:
        member = next(member for member in members if member.isfile())
        stream = members.extractfile(member)
        assert stream is not None
        (tmp_path / "wiki_00").write_bytes(stream.read())
    assert prepare("--sequence-length", 128, "--held-out", 0, input=tmp_path / "wiki_00", vocab=vocab) == 0
    data = open_data(tmp_path / "out")
    train = data.split("train").record
    assert train["unknown_tokens"] / train["tokens"] < 0.001
    table = train["tables"]["nsp_128"]
    assert 0.4 < table["is_next_share"] < 0.6
    assert table["valid_token_share"] > 0.8
    assert data.manifest["masks"]["nsp_128"]["p_value"] > 1e-6
    assert data.manifest["text"]["scripts"]["Latin"] / data.manifest["text"]["characters"] > 0.7
    assert data.load_tokenizer().vocabulary[train["commonest_token"]] == "the"
