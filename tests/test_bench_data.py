# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the data side runs, and says what it measured. No speed is asserted."""

import json
import sys
from pathlib import Path

import pytest
from bert_jax.tools import bench_data, bench_data_sides

from bert_jax.errors import UserError

# Stands in for google-research/bert's script: writes each line of its input dupe_factor times, beside the flags.
PEER_SCRIPT = """
import json, tensorflow as tf
flags = tf.flags
for name in ("input_file", "output_file", "vocab_file"):
    flags.DEFINE_string(name, None, name)
for name in ("dupe_factor", "max_seq_length", "max_predictions_per_seq"):
    flags.DEFINE_integer(name, 0, name)
for name in ("masked_lm_prob", "short_seq_prob"):
    flags.DEFINE_float(name, 0.0, name)

def main(_):
    with tf.python_io.TFRecordWriter(flags.FLAGS.output_file) as writer:
        for line in open(flags.FLAGS.input_file):
            for _ in range(flags.FLAGS.dupe_factor):
                writer.write(line.encode())
    with open("FOLDER/flags.json", "w") as file:
        json.dump(flags.FLAGS.flag_values_dict(), file)
"""


@pytest.fixture
def tiny(monkeypatch):
    """One sequence length and small batches: a benchmark of seconds."""
    monkeypatch.setattr(bench_data, "MAX_PREDICTIONS", {32: 5})
    monkeypatch.setattr(bench_data, "ROWS", 8)
    monkeypatch.setattr(bench_data, "EPOCHS", {2: "10x"})


def test_it_runs_without_the_peers_that_are_not_here_and_names_them(prepared, tiny, tmp_path, capsys):
    """A side that no longer fits what it measures; a peer that is left out in silence."""
    output = tmp_path / "bench.json"
    sizes = ["--preparation-megabytes", "0.02", "--tokenizer-megabytes", "0.02", "--batches", "3", "--repetitions", "1"]
    vocab = str(prepared.vocab / "vocab.txt")
    assert bench_data.main(["--text", str(prepared.text), "--vocab", vocab, "--output", str(output), *sizes]) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    rows = {(row["what"], row["peer"]): row for row in report["table"]}
    assert any(what.startswith("tokenisation (0 of ") for what, peer in rows if peer == "tokenizers encode_batch")
    assert rows["text to 2 epochs of masked rows", ""]["ratio"] is None
    workers = report["samples"]["prepare, all text"]
    one, two = (workers[f"workers: {number}"][0]["wall_seconds"] for number in (1, 2))
    assert next(row for row in report["table"] if row["peer"] == "one worker")["ratio"] == pytest.approx(one / two)
    for name in ("padded, plain", "packed, plain"):
        figures = report["samples"]["feed [8, 32]"][f"our_feed: {name}"][0]
        assert 0 < figures["tokens"] <= figures["slots"] == 3 * 8 * 32
    assert report["conditions"]["versions"]["our_feed"].keys() >= {"python", "numpy"}
    printed = capsys.readouterr().out
    assert "google-research/bert (give --google)" in printed
    assert "transformers collator (give --peer-python)" in printed


def test_ratio_is_of_the_medians_and_above_one_where_we_are_better(prepared, monkeypatch, tmp_path):
    """A mean, or a ratio upside down."""
    seconds = {
        bench_data_sides.our_tokenizer: iter([1.0, 2.0, 90.0]),
        bench_data_sides.hugging_face_tokenizer: iter([8.0, 1.0, 6.0]),
    }

    def run_side(side):
        if side.work is bench_data_sides.tokenizer_differences:
            return {"sentences": 50, "different": 1}
        names = ("main", "warm", "encode_batch", "encode_batch_fast")
        figures = {"cpu_seconds": next(seconds[side.work])}
        return dict.fromkeys(names, figures) | {"versions": {}}

    monkeypatch.setattr(bench_data, "run_side", run_side)
    options = bench_data.parser().parse_args(["--text", str(prepared.text), "--vocab", "v", "--output", "o"])
    row, *_ = bench_data.tokenisation(options, bench_data.Measurements(3), tmp_path)
    assert row.ratio == pytest.approx(6.0 / 2.0)
    assert "1 of 50 sentences get other ids" in row.what
    assert "| 3.00x | 1.5x |" in bench_data.table([row])


def test_sides_are_run_in_turn(monkeypatch):
    """All repetitions of one side before the other's would put a machine that grows slower on one side's account."""
    order = []

    def run_side(side):
        order.append(side.work.__name__)
        return {"main": {"cpu_seconds": 1.0}, "versions": {}}

    monkeypatch.setattr(bench_data, "run_side", run_side)
    parties = [bench_data.Side(bench_data_sides.our_tokenizer, {}), bench_data.Side(bench_data_sides.our_feed, {})]
    found = bench_data.Measurements(3).alternate("title", parties)
    assert order == ["our_tokenizer", "our_feed"] * 3
    assert {name: len(samples) for name, samples in found.items()} == {"our_tokenizer: main": 3, "our_feed: main": 3}


def test_googles_script_runs_as_it_is_with_our_settings(tmp_path):
    """Its flags must be those that our side works with; the examples of the warm-up must not be counted."""
    pytest.importorskip("tensorflow")
    (tmp_path / "create_pretraining_data.py").write_text(PEER_SCRIPT.replace("FOLDER", str(tmp_path)))
    text, warm_up = tmp_path / "text.txt", tmp_path / "warm-up.txt"
    text.write_text("one\ntwo\nthree\n")
    warm_up.write_text("four\n")
    settings = {"repository": str(tmp_path), "warm_up": str(warm_up), "text": str(text), "vocab": "vocab.txt"}
    settings |= {"epochs": 5, "sequence_length": 128, "max_predictions": 20}
    found = bench_data.run_side(bench_data.Side(bench_data_sides.google_research, settings))
    assert found["main"]["examples"] == 15
    flags = json.loads((tmp_path / "flags.json").read_text())
    assert flags["input_file"] == str(text)
    assert (flags["dupe_factor"], flags["max_seq_length"], flags["max_predictions_per_seq"]) == (5, 128, 20)
    assert (flags["masked_lm_prob"], flags["short_seq_prob"]) == (0.15, 0.1)


def test_a_side_that_fails_is_named_with_its_reason(tmp_path):
    settings = {"text": str(tmp_path / "missing.txt"), "vocab": "vocab.txt"}
    with pytest.raises(UserError, match=r"our_tokenizer failed under .*: .*vocab.txt"):
        bench_data.run_side(bench_data.Side(bench_data_sides.our_tokenizer, settings))


def test_a_missing_peer_is_refused_before_anything_is_measured(prepared, tmp_path, capsys):
    command = ["--text", str(prepared.text), "--vocab", str(prepared.vocab), "--output", str(tmp_path / "b.json")]
    assert bench_data.main([*command, "--google", str(tmp_path)]) == 2
    assert f"{tmp_path / 'create_pretraining_data.py'} is missing" in capsys.readouterr().err


def test_documents_are_written_whole_up_to_the_size(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a1\na2\n\nb1\nb2\nb3\n\nc1\n")
    bench_data.write_sentences([str(text)], 8e-6, tmp_path / "some.txt")
    assert (tmp_path / "some.txt").read_text() == "a1\na2\n\nb1\nb2\nb3\n\n"
    bench_data.write_sentences([str(text)], 1, tmp_path / "short.txt", longest=1)
    assert (tmp_path / "short.txt").read_text() == "a1\n\nb1\n\nc1\n\n"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to read the memory from")
def test_memory_of_children_is_counted(tmp_path):
    """Looking at the main process alone would miss the workers."""
    child = "import time; held = b'x' * 80_000_000; time.sleep(1)"
    main = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = bench_data.watch([sys.executable, "-c", main], tmp_path / "log.txt")
    assert found["main_peak_bytes"] < 80_000_000
    assert found["peak_bytes"] > found["main_peak_bytes"] + 80_000_000
