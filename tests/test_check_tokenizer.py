# SPDX-License-Identifier: Apache-2.0
"""The comparison with google-research/bert's tokenizer: it finds differences, and the recorded result has none."""

import json
import sys
from pathlib import Path

import pytest
from bert_jax.tools import check_tokenizer
from tokenization_samples import GOLDEN, VOCABULARY

from bert_jax.base.errors import UserError

DOCS = Path(__file__).parents[1] / "docs"

# Stands for google-research/bert's tokenization.py, with its interface. It knows the pieces of a few texts by heart.
STAND_IN = """
import json
import six
import tensorflow as tf

assert six.PY3


class FullTokenizer:
    def __init__(self, vocab_file, do_lower_case):
        with tf.gfile.GFile(vocab_file, "r") as file:
            self.ids = {entry.strip(): index for index, entry in enumerate(file)}
        with tf.gfile.GFile(__file__ + ".json", "r") as file:
            self.pieces = json.load(file)

    def tokenize(self, text):
        return self.pieces[text.strip()].split()

    def convert_tokens_to_ids(self, pieces):
        return [self.ids[piece] for piece in pieces]
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A vocabulary, text, and a stand-in for google-research/bert."""
    rows = [
        (text, pieces) for text, pieces, _ in GOLDEN if text.strip() and text.isprintable() and text == text.strip()
    ]
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "tokenization.py").write_text(STAND_IN)
    (tmp_path / "google" / "tokenization.py.json").write_text(json.dumps(dict(rows)))
    (tmp_path / "text.txt").write_text("\n".join(text for text, _ in rows), encoding="utf-8")
    (tmp_path / "uncased.txt").write_text(
        "".join(f"{entry}\n" for entry in VOCABULARY if entry != "Cafe"), encoding="utf-8"
    )
    return tmp_path


def check(folder: Path, *options: str) -> int:
    arguments = ["--google", str(folder / "google"), "--vocab", str(folder / "uncased.txt")]
    return check_tokenizer.main([*arguments, "--text-only", "--input", str(folder / "text.txt"), *options])


def test_equal_ids_are_counted_and_recorded(folder, capsys):
    record = folder / "record.json"
    assert check(folder, "--output", str(record)) == 0
    assert check(folder, "--output", str(record), "--one-of", "2") == 0
    (found,) = json.loads(record.read_text())["checks"]  # the second took the place of the first
    assert found["text"]["different"] == 0
    assert found["text"]["tokens"] > 20
    assert found["text"]["one_of_every"] == 2
    assert found["text"]["files"] == 1
    assert str(folder) not in record.read_text()
    assert set(found["versions"]) >= {"python", "unicode", "tokenizers"}
    assert "tensorflow" not in sys.modules or hasattr(sys.modules["tensorflow"], "__version__")


def test_different_ids_are_found_and_shown(folder, capsys):
    file = folder / "google" / "tokenization.py.json"
    pieces = json.loads(file.read_text())
    pieces["unaffable cats, running!"] = "un ##aff ##able cat ##s , run ##n ##ing ."
    file.write_text(json.dumps(pieces))
    assert check(folder) == 1
    found = json.loads(capsys.readouterr().out)["text"]
    assert found["different"] == 1
    assert found["examples"][0]["text"] == "'unaffable cats, running!'"


@pytest.mark.parametrize("way", ["encode_batch", "encode_flat"])
def test_both_ways_of_encoding_are_compared(folder, monkeypatch, way):
    if way == "encode_batch":
        monkeypatch.setattr(
            "bert_jax.tokenization.WordPieceTokenizer.encode_batch", lambda _, texts: [[0]] * len(texts)
        )
    else:
        monkeypatch.setattr(check_tokenizer, "flat_ids", lambda _, texts: [[0]] * len(texts))
    assert check(folder) == 1


def test_missing_copy_is_named(folder):
    with pytest.raises(UserError, match=r"nowhere/tokenization\.py is missing: give --google a copy"):
        check_tokenizer.main(["--google", str(folder / "nowhere"), "--vocab", str(folder / "uncased.txt")])


def test_recorded_result_has_no_difference():
    """Ids are google-research/bert's on the whole Wikipedia part and on every assigned code point."""
    checks = json.loads((DOCS / "tokenizer_check.json").read_text(encoding="utf-8"))["checks"]
    assert [entry["vocabulary"] for entry in checks] == [
        "bert-base-cased-vocab.txt",
        "bert-base-chinese-vocab.txt",
        "bert-base-uncased-vocab.txt",
    ]
    for entry in checks:
        assert entry["text"]["different"] == 0
        assert [part["lowercase"] for part in entry["code_points"]] == [True, False]
        for part in entry["code_points"]:
            assert part["different"] == 0
            assert part["assigned"] > 280_000
    assert checks[2]["text"]["text_bytes"] > 99e6
    assert checks[2]["text"]["one_of_every"] == 1
