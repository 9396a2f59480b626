# SPDX-License-Identifier: Apache-2.0
"""`prepare --runner`: Beam writes what the pool writes, byte for byte."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from conftest import Prepared, refusal_of, run_stage

from bert_jax.cli import main

NEEDS_BEAM = pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="apache_beam is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what Beam's modules import
ARGUMENTS = ("--sequence-length", 16, "--shard-size", 10_000)


@pytest.fixture
def corpus(prepared: Prepared, tmp_path: Path) -> Path:
    """Three files, of several chunks each."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    documents = prepared.text.read_text().split("\n\n")
    for number in range(3):
        (folder / f"{number}.txt").write_text("\n\n".join(documents[number::3]))
    return folder


def contents(output: Path) -> dict[str, bytes]:
    """Name -> content, but for the times of the text's files, and for the page, which names its folder."""
    files = sorted(path for path in output.iterdir() if path.name != "passport.html")
    return {path.name: re.sub(rb'"modified": \d+', b"", path.read_bytes()) for path in files}


@NEEDS_BEAM
def test_beams_output_is_the_pools(prepared, corpus, tmp_path):
    """On Beam's local runner, with every document taken twice, without near-duplicates."""
    (corpus / "3.txt").write_text((corpus / "0.txt").read_text())
    arguments = ("--input", f"{corpus}@2", "--vocab", prepared.vocab, *ARGUMENTS, "--near-duplicates", "drop")
    run_stage("prepare", *arguments, "--output", tmp_path / "pool", "--workers", 1)
    run_stage("prepare", *arguments, "--output", tmp_path / "beam", "--runner", "DirectRunner")
    expected = contents(tmp_path / "pool")
    assert len([name for name in expected if name.startswith("train")]) > 8
    assert contents(tmp_path / "beam") == expected


@NEEDS_BEAM
def test_a_bad_file_is_named_in_one_line_and_the_pool_goes_on(prepared, corpus, tmp_path, capfd):
    arguments = ("--input", corpus, "--vocab", prepared.vocab, *ARGUMENTS, "--output", tmp_path / "out")
    good = (corpus / "2.txt").read_bytes()
    (corpus / "2.txt").write_bytes(good + b"\xff")
    assert main([str(word) for word in ("prepare", *arguments, "--runner", "DirectRunner")]) == 2
    assert "2.txt is not UTF-8" in capfd.readouterr().err.splitlines()[-1]
    (corpus / "2.txt").write_bytes(good)
    run_stage("prepare", *arguments, "--workers", 1)


@NEEDS_BEAM
def test_a_runner_that_beam_does_not_have_is_refused(prepared, tmp_path, capsys):
    arguments = ("prepare", "--input", prepared.text, "--vocab", prepared.vocab, "--output", tmp_path / "out")
    assert "--runner NoRunner: " in refusal_of(capsys, *arguments, "--runner", "NoRunner")
    assert not (tmp_path / "out").exists()


def test_options_that_are_no_words_are_refused(prepared, tmp_path, capsys):
    arguments = ("prepare", "--input", prepared.text, "--vocab", prepared.vocab, "--output", tmp_path / "out")
    error = refusal_of(capsys, *arguments, "--runner-options='--a")
    assert "--runner-options '--a: cannot be read as words: No closing quotation" in error


def test_without_beam_the_extra_is_named(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    arguments = ("prepare", "--input", prepared.text, "--vocab", prepared.vocab, "--output", tmp_path / "out")
    line = refusal_of(capsys, *arguments, "--runner", "DirectRunner")
    assert line.endswith('--runner DirectRunner needs Apache Beam: pip install "bert-jax[beam]"')
    assert not (tmp_path / "out").exists()
