# SPDX-License-Identifier: Apache-2.0
"""The stage `bert-jax vocab`: what it writes, says, reuses and refuses."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bert_jax.pipelines import vocab
from bert_jax.pipelines.vocab import measure

from bert_jax.cli import main
from bert_jax.tokenization import load_tokenizer, SPECIAL_TOKENS, Tokenizer

LINES = [
    f"The {colour} {thing} is {place}."
    for colour in ("red", "blue", "dim")
    for thing in ("cup", "lamp")
    for place in ("here", "there", "nowhere", "Café Ö")
]


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(LINES[:12]), encoding="utf-8")
    (folder / "b.txt").write_text("\n\n".join(LINES[12:]), encoding="utf-8")
    return folder


def run(corpus: Path, output: Path, *options: str) -> int:
    return main(["vocab", "--input", str(corpus), "--output", str(output), *options])


def test_writes_a_vocabulary_and_its_record(corpus, tmp_path, capsys):
    assert run(corpus, tmp_path / "out", "--size", "60") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    ]
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.vocab_size == 60
    assert tokenizer.vocabulary[:5] == SPECIAL_TOKENS
    assert tokenizer.encode("Café").pieces == tokenizer.encode("cafe").pieces
    record = json.loads((tmp_path / "out" / "vocab.json").read_text())
    content = (corpus / "a.txt").read_bytes()
    assert record["inputs"][0] == {
        "file": "a.txt",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert record["tokenizer"] == tokenizer.fingerprint
    assert record["sentences"] == len(LINES)
    printed = capsys.readouterr().out
    assert "60 entries, lower-cased, accents stripped" in printed
    assert "2 files" in printed
    assert not list(tmp_path.glob(".*"))


def test_no_path_of_the_machine_is_recorded(corpus, tmp_path):
    run(corpus, tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "vocab.json").read_text()


def test_equal_runs_write_equal_files(corpus, tmp_path):
    run(corpus, tmp_path / "one", "--size", "60")
    run(corpus, tmp_path / "two", "--size", "60")
    for name in ("vocab.txt", "tokenizer_config.json", "vocab.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_small_text_says_how_many_entries_it_gives(corpus, tmp_path, capsys):
    assert run(corpus, tmp_path / "out") == 0
    entries = load_tokenizer(tmp_path / "out").vocab_size
    assert f"note: the text gives {entries} entries, not 30522" in capsys.readouterr().out


def test_case_and_accents(corpus, tmp_path):
    run(corpus, tmp_path / "cased", "--cased")
    run(corpus, tmp_path / "accents", "--keep-accents")
    assert "Café" in load_tokenizer(tmp_path / "cased").vocabulary
    assert "café" in load_tokenizer(tmp_path / "accents").vocabulary


def test_finished_output_is_reused(corpus, tmp_path, capsys):
    output = tmp_path / "out"
    run(corpus, output, "--size", "60")
    made = (output / "vocab.txt").stat().st_mtime_ns
    capsys.readouterr()
    assert run(corpus, output, "--size", "60") == 0
    assert capsys.readouterr().out == f"{output} already has this vocabulary, of the same text and settings\n"
    assert (output / "vocab.txt").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ("", ["--size", "71"], "was made with size=60, not 71"),
        ("", ["--size", "60", "--cased"], "was made with lowercase=True, not False"),
        ("", ["--size", "60", "--min-frequency", "3"], "was made with min_frequency=2, not 3"),
        ("text", ["--size", "60"], "was made of other text (b.txt had"),
        ("file", ["--size", "60"], "was made of other text (2 files, not 3)"),
        ("vocabulary", ["--size", "60"], "do not belong together"),
        ("record", ["--size", "60"], "vocab.json cannot be read"),
        ("foreign", ["--size", "60"], "was not made by bert-jax vocab"),
    ],
)
def test_other_output_is_refused(corpus, tmp_path, capsys, change, options, words):
    output = tmp_path / "out"
    run(corpus, output, "--size", "60")
    if change == "text":
        (corpus / "b.txt").write_text("Other text.\n")
    elif change == "file":
        (corpus / "c.txt").write_text("More text.\n")
    elif change == "vocabulary":
        with (output / "vocab.txt").open("a") as file:
            file.write("entry\n")
    elif change == "record":
        (output / "vocab.json").write_text("{")
    elif change == "foreign":
        (output / "vocab.json").unlink()
    before = (output / "vocab.txt").read_bytes()
    capsys.readouterr()
    assert run(corpus, output, *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert str(output) in lines[0]
    assert (output / "vocab.txt").read_bytes() == before


def test_unfinished_output_is_made_again(corpus, tmp_path):
    """What a killed run leaves is neither taken for a vocabulary nor in the way; nor is an empty folder."""
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "vocab.txt").write_text("[PAD]\n")
    (tmp_path / "out").mkdir()
    assert run(corpus, tmp_path / "out", "--size", "60") == 0
    assert load_tokenizer(tmp_path / "out").vocab_size == 60
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("\u200b\n \n", [], "the text has no words"),
        ("Some words.", ["--size", "12"], "a vocabulary of 12 entries is too small"),
    ],
)
def test_impossible_vocabulary_is_refused(tmp_path, capsys, content, options, words):
    (tmp_path / "text.txt").write_text(content, encoding="utf-8")
    assert run(tmp_path / "text.txt", tmp_path / "out", *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert not (tmp_path / "out").exists()


def test_measures():
    tokenizer = Tokenizer([*SPECIAL_TOKENS, "cat", "##s", "the", "#"], lowercase=True)
    # the | cat ##s | [UNK] | # # cat ##s | cat
    measured = measure(tokenizer, ["The cats bark", "##cats cat", ""])
    assert measured["words"] == 7
    assert measured["tokens"] == 9
    assert measured["pieces_per_word"] == pytest.approx(9 / 7)
    assert measured["whole_word_share"] == pytest.approx(4 / 7)  # the, #, #, cat
    assert measured["coverage"] == pytest.approx(6 / 7)
    assert measured["unknown_rate"] == pytest.approx(1 / 9)


def test_sample_is_spread_over_the_whole_text(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(vocab, "SAMPLE_SENTENCES", 4)
    run(corpus, tmp_path / "out", "--size", "60")
    record = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert record["sentences"] == 24
    assert record["statistics"]["sample"] == "6 sentences, 1 of every 4"


def test_help_is_quick():
    """--help imports neither the tokenizers library nor NumPy."""
    code = (
        "import sys\nfrom bert_jax.cli import main\n"
        "try: main(['vocab', '--help'])\n"
        "except SystemExit: print('HEAVY', {'tokenizers', 'numpy', 'jax', 'tqdm'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: bert-jax vocab" in result.stdout
    assert result.stdout.endswith("HEAVY set()\n")
