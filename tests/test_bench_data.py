# SPDX-License-Identifier: Apache-2.0
"""The subjects of the data side run, on both sides with the same text, and say what they measured. No speed is asserted."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.bench.own_text import write_sentences
from bert_jax.bench.report import failures
from bert_jax.bench.runner import run_bench
from bert_jax.bench.side_process import fresh_process, SideError
from bert_jax.bench.subjects import prepare, tokenize
from bert_jax.bench.subjects.prepare import watch
from bert_jax.bench.suite import BenchSizes, make_case, suite_for
from bert_jax.bench.workbench import BenchInputs, Workbench

HERE = "bert_jax.bench.sides.here"

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


SIZES = BenchSizes(rounds=1, preparation_megabytes=0.02, tokenizer_megabytes=0.02, feed_batches=3)
SUITE = replace(
    suite_for("cpu"),
    sizes=SIZES,
    feed=(make_case("padded, 32", "tiny", 8, 32), make_case("packed, 32", "tiny", 8, 32, packed=True)),
)


def test_it_runs_without_the_peers_that_are_not_here_and_names_them(prepared, tmp_path):
    """A side that no longer fits what it measures; a peer that is left out in silence."""
    inputs = BenchInputs(text=[str(prepared.text)], vocab=prepared.vocab / "vocab.txt")
    report = run_bench(SUITE, ["prepare", "tokenize", "feed"], tmp_path, inputs)
    assert failures(report) == []
    records = {record["name"]: record for entry in report["subjects"].values() for record in entry["records"]}
    assert records["tokenisation"]["different"] == 0
    assert set(records["tokenisation"]["ratios"]) == {"tokenizers encode_batch", "tokenizers encode_batch_fast"}
    assert len(set(records["tokenisation"]["tokens"].values())) == 1
    assert records["text to 1 epoch of masked rows"]["ratios"] == {}
    examples = [
        records[f"text to {epochs} of masked rows"]["examples"]["bert-jax"] for epochs in ("1 epoch", "5 epochs")
    ]
    assert examples[1] == 5 * examples[0] > 0
    (whole,) = (record for name, record in records.items() if name.startswith("prepare, "))
    one, two = (whole["processes"][side][0]["wall_seconds"] for side in ("one worker", "two workers"))
    assert whole["ratios"]["one worker"]["two workers"] == pytest.approx(one / two)
    for name in ("padded, 32", "packed, 32"):
        work = records[name]["work"]
        assert records[name]["text"] == "prepared"
        assert 0 < work["tokens"] <= work["slots"] == 3 * 8 * 32
    assert records["padded, 32"]["versions"]["ours"].keys() >= {"python", "numpy"}
    assert records["google-research/bert"]["absent"].endswith("give --google")
    text = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "| processes" in text
    assert "| ids" in text


def test_sides_are_run_in_turn_on_the_same_text(prepared, monkeypatch, tmp_path):
    """All rounds of one side before the other's would put a machine that grows slower on one side's account."""
    order, texts = [], set()

    def fresh(module, do, **arguments):
        order.append(do)
        texts.add((Path(arguments["text"]).read_text(encoding="utf-8"), arguments["vocab"]))
        if do == "compare_tokens":
            return {"sentences": 50, "different": 1}
        figures = {"cpu_seconds": 1.0, "tokens": 7}
        calls = dict.fromkeys(("main", "warm", "encode_batch", "encode_batch_fast"), figures)
        return calls | figures | {"examples": 1, "versions": {}}

    monkeypatch.setattr(tokenize, "fresh_process", fresh)
    monkeypatch.setattr(prepare, "fresh_process", fresh)
    inputs = BenchInputs(text=[str(prepared.text)], vocab=prepared.vocab / "vocab.txt", google=tmp_path)
    bench = Workbench(replace(SUITE, sizes=replace(SIZES, rounds=3)), tmp_path, inputs)
    (record,) = tokenize.measure(bench)
    assert order == ["tokenize", "tokenize_hugging_face"] * 3 + ["compare_tokens"]
    assert {len(one["samples"]) for one in record["rates"].values()} == {3}
    assert len(texts) == 1
    order.clear()
    texts.clear()
    record = prepare.measure_epochs(bench, "5 epochs")
    assert order == ["prepare", "prepare_googles"] * 3
    assert set(record["ratios"]) == {"google-research/bert, dupe_factor 5"}
    assert len(texts) == 1


def test_googles_script_runs_as_it_is_with_our_settings(tmp_path):
    """Its flags must be those that our side works with; the examples of the warm-up must not be counted."""
    pytest.importorskip("tensorflow")
    (tmp_path / "create_pretraining_data.py").write_text(PEER_SCRIPT.replace("FOLDER", str(tmp_path)))
    text, warm_up = tmp_path / "text.txt", tmp_path / "warm-up.txt"
    text.write_text("one\ntwo\nthree\n")
    warm_up.write_text("four\n")
    settings = {"repository": str(tmp_path), "warm_up": str(warm_up), "text": str(text), "vocab": "vocab.txt"}
    found = fresh_process(HERE, "prepare_googles", **settings, epochs=5, length=128, predictions=20)
    assert found["examples"] == 15
    flags = json.loads((tmp_path / "flags.json").read_text())
    assert flags["input_file"] == str(text)
    assert (flags["dupe_factor"], flags["max_seq_length"], flags["max_predictions_per_seq"]) == (5, 128, 20)
    assert (flags["masked_lm_prob"], flags["short_seq_prob"]) == (0.15, 0.1)


def test_a_side_that_fails_says_its_reason(tmp_path):
    with pytest.raises(SideError, match=r"vocab\.txt"):
        fresh_process(HERE, "tokenize", text=str(tmp_path / "missing.txt"), vocab=str(tmp_path / "vocab.txt"))


def test_documents_are_written_whole_up_to_the_size(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a1\na2\n\nb1\nb2\nb3\n\nc1\n")
    write_sentences([str(text)], 8e-6, tmp_path / "some.txt")
    assert (tmp_path / "some.txt").read_text() == "a1\na2\n\nb1\nb2\nb3\n\n"
    write_sentences([str(text)], 1, tmp_path / "short.txt", longest=1)
    assert (tmp_path / "short.txt").read_text() == "a1\n\nb1\n\nc1\n\n"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to read the memory from")
def test_memory_of_children_is_counted(tmp_path):
    """Looking at the main process alone would miss the workers."""
    child = "import time; held = b'x' * 80_000_000; time.sleep(1)"
    main = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = watch([sys.executable, "-c", main], tmp_path / "log.txt")
    assert found["main_peak_bytes"] < 80_000_000
    assert found["peak_bytes"] > found["main_peak_bytes"] + 80_000_000
