# SPDX-License-Identifier: Apache-2.0
"""The stage `bert-jax vocab`: what it writes, says, reuses and refuses."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bert_jax.pipelines import vocab
from conftest import refusal_of

from bert_jax.cli import main
from bert_jax.tokenization import load_tokenizer, SPECIAL_TOKENS

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
    (source,) = record["sources"]
    assert (source["source"], source["weight"]) == ("text", 1)
    assert [file["file"] for file in source["files"]] == ["a.txt", "b.txt"]
    assert source["files"][0]["bytes"] == len(content)
    assert source["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["tokenizer"] == tokenizer.fingerprint
    assert record["sentences"] == len(LINES)
    printed = capsys.readouterr().out
    assert "60 entries, wordpiece, lower-cased, accents stripped" in printed
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


def test_characters_without_an_entry_are_warned_of(tmp_path, capsys):
    text = tmp_path / "zh.txt"
    text.write_text("".join(f"{chr(0x4E00 + i)}{chr(0x4E01 + i)}。\n" for i in range(300)), encoding="utf-8")
    assert run(text, tmp_path / "a", "--size", "200", "--limit-alphabet", "100") == 0
    said = capsys.readouterr().err
    assert "of the text's own tokens are [UNK]" in said
    assert "raise --limit-alphabet, which is 100" in said
    assert run(text, tmp_path / "b", "--size", "600") == 0
    assert "warning" not in capsys.readouterr().err


def test_case_and_accents(corpus, tmp_path):
    run(corpus, tmp_path / "cased", "--cased")
    run(corpus, tmp_path / "accents", "--keep-accents")
    assert "Café" in load_tokenizer(tmp_path / "cased").vocabulary
    assert "café" in load_tokenizer(tmp_path / "accents").vocabulary


@pytest.mark.parametrize(
    ("text", "script"),
    [("ไปหามา กินข้าว ต่าง\n", "Thai"), ("がっこう かっこう です\n", "Kana"), ("राम है हैं\n", "Devanagari")],
)
def test_scripts_whose_marks_are_parts_of_words_keep_them(tmp_path, capsys, text, script):
    """By default; asked for, they are stripped as google-research/bert does, and what that takes is warned of."""
    (tmp_path / "text.txt").write_text(text * 3, encoding="utf-8")
    assert run(tmp_path / "text.txt", tmp_path / "kept", "--size", "90") == 0
    assert not load_tokenizer(tmp_path / "kept").strip_accents
    assert load_tokenizer(tmp_path / "kept").lowercase
    printed = capsys.readouterr()
    assert f"marks are kept: in {script} marks are parts of words" in printed.out
    assert "warning" not in printed.err
    assert run(tmp_path / "text.txt", tmp_path / "stripped", "--size", "90", "--no-keep-accents") == 0
    assert load_tokenizer(tmp_path / "stripped").strip_accents
    assert "keep them with --keep-accents" in capsys.readouterr().err
    statistics = json.loads((tmp_path / "stripped" / "vocab.json").read_text())["statistics"]
    assert statistics["coverage"] < 0.7
    assert statistics["marks"]["marked"] >= 3


def test_words_that_become_equal_are_warned_of_in_any_script(tmp_path, capsys):
    """Vietnamese is Latin: accents are stripped as ever, and a third of its words is lost by it."""
    (tmp_path / "text.txt").write_text("ma mà má ba bà cá\n" * 3, encoding="utf-8")
    assert run(tmp_path / "text.txt", tmp_path / "out", "--size", "60") == 0
    assert load_tokenizer(tmp_path / "out").strip_accents
    words = "66.7% of the words lose a mark, and 3 of 6 different words (50.00%) become equal to another, such as"
    assert words in capsys.readouterr().err


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
        ("", ["--size", "60", "--keep-accents"], "was made with accents=by script, not kept"),
        ("", ["--size", "60", "--min-frequency", "3"], "was made with min_frequency=2, not 3"),
        ("text", ["--size", "60"], "was made from other text: b.txt of"),
        ("file", ["--size", "60"], "was made from 2 files, --input has 3"),
        ("vocabulary", ["--size", "60"], "do not belong together"),
        ("record", ["--size", "60"], "vocab.json is not JSON of use here"),
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


@pytest.mark.parametrize("linked", [False, True])
def test_unfinished_output_is_made_again(corpus, tmp_path, linked):
    """What a killed run leaves is neither taken for a vocabulary nor in the way; nor is an empty folder, nor a link."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "vocab.txt").write_text("[PAD]\n")
    if linked:
        (tmp_path / ".out.partial").symlink_to(tmp_path / "theirs")
    else:
        (tmp_path / ".out.partial").mkdir()
        (tmp_path / ".out.partial" / "vocab.txt").write_text("[PAD]\n")
    (tmp_path / "out").mkdir()
    assert run(corpus, tmp_path / "out", "--size", "60") == 0
    assert load_tokenizer(tmp_path / "out").vocab_size == 60
    assert not (tmp_path / ".out.partial").exists()
    assert [(path.name, path.read_text()) for path in (tmp_path / "theirs").iterdir()] == [("vocab.txt", "[PAD]\n")]


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


def test_sample_is_spread_over_the_whole_text(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(vocab, "MEASURED_SENTENCES", 4)
    run(corpus, tmp_path / "out", "--size", "60")
    record = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert record["sentences"] == 24
    assert record["statistics"]["sample"] == "6 sentences, 1 of every 4"


def test_text_beyond_the_bound_is_sampled_and_said(corpus, tmp_path, capsys):
    assert run(corpus, tmp_path / "out", "--size", "60", "--sample-characters", "400") == 0
    record = json.loads((tmp_path / "out" / "vocab.json").read_text())
    learned = record["learned_from"]
    assert record["sentences"] == 24
    assert learned["one_of_every"] == 2
    assert learned["sentences"] == 12
    assert learned["characters"] <= 400
    assert f"learned from 12 of them, 1 of every 2: {learned['characters']} characters" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_sentencepiece(corpus, tmp_path, capsys, model):
    output = tmp_path / "out"
    assert run(corpus, output, "--algorithm", model, "--size", "60") == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "sentencepiece.model",
        "tokenizer_config.json",
        "vocab.json",
    ]
    tokenizer = load_tokenizer(output)
    assert (tokenizer.kind, tokenizer.lowercase) == ("sentencepiece", True)
    assert tokenizer.vocabulary[:5] == SPECIAL_TOKENS
    assert f"entries, {model}, lower-cased, accents kept" in capsys.readouterr().out
    assert run(corpus, output, "--algorithm", model, "--size", "60") == 0
    assert "already has this vocabulary" in capsys.readouterr().out
    assert run(corpus, output, "--size", "60") == 2
    assert f"was made with model={model}, not wordpiece" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--algorithm", "bpe", "--min-frequency", "3"], "--min-frequency is not an option of --algorithm bpe"),
        (["--algorithm", "bpe", "--no-keep-accents"], "--no-keep-accents is not an option of --algorithm bpe"),
        (["--cased", "--no-keep-accents"], "--no-keep-accents is not an option of --cased"),
        (["--character-coverage", "0.9"], "--character-coverage is not an option of --algorithm wordpiece"),
        (["--algorithm", "unigram", "--character-coverage", "1.5"], "--character-coverage 1.5 must be above 0"),
        (["--algorithm", "unigram", "--size", "6"], "a vocabulary of 6 entries is too small"),
    ],
)
def test_options_that_do_not_fit_are_refused(corpus, tmp_path, capsys, options, words):
    assert run(corpus, tmp_path / "out", *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_all_formats_of_text_are_read(corpus, tmp_path, capsys):
    """Compressed JSON lines and bytes that are not UTF-8, as `prepare` reads them; what is replaced is counted."""
    lines = [json.dumps({"body": text}) for text in LINES]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "b.txt").write_bytes("\n".join(LINES).encode() + b"\nbad \xff byte.\n")
    inputs = ["--input", str(tmp_path / "a.jsonl.gz"), f"{tmp_path / 'b.txt'}@2", "--json-field", "body"]
    assert "b.txt" in refusal_of(capsys, "vocab", *inputs, "--output", tmp_path / "out")
    assert main(["vocab", *inputs, "--errors", "replace", "--output", str(tmp_path / "out")]) == 0
    assert "replaced bytes: 2" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "vocab.json").read_text())["sentences"] == 3 * len(LINES) + 2


def test_comparison_of_two_vocabularies(corpus, tmp_path, capsys):
    small, large = tmp_path / "small", tmp_path / "large"
    run(corpus, small, "--size", "45")
    run(corpus, large, "--algorithm", "bpe", "--size", "90")
    sizes = [load_tokenizer(path).vocab_size for path in (small, large)]
    capsys.readouterr()
    assert main(["vocab", "--compare", str(small), str(large), "--input", str(corpus)]) == 0
    printed = capsys.readouterr().out
    assert "measured on 24 sentences, all of them (150 words)" in printed
    assert f"A: {small}, wordpiece, lower-cased" in printed
    assert f"B: {large}, sentencepiece, lower-cased" in printed
    rows = {line[:28].strip(): line[28:].split() for line in printed.splitlines() if line.startswith("  ")}
    assert rows["entries"] == [str(size) for size in sizes]
    assert float(rows["pieces a word"][0]) > float(rows["pieces a word"][1])
    assert rows["[UNK] of the tokens"][0] == "0.000%"
    assert "nowhere: " in printed.partition("words that A splits worse")[2].partition("words that B")[0]


@pytest.mark.parametrize("option", [("--size", "90"), ("--algorithm", "bpe"), ("--cased",), ("--min-frequency", "3")])
def test_a_comparison_takes_no_training_options(corpus, tmp_path, capsys, option):
    command = ["vocab", "--compare", str(tmp_path), str(tmp_path), "--input", str(corpus), *option]
    assert f"{option[0]} makes a vocabulary, and --compare makes none: leave it out" in refusal_of(capsys, *command)


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
