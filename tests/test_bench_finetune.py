# SPDX-License-Identifier: Apache-2.0
"""The benchmark of fine-tuning runs our side, and says what it measured. No speed is asserted."""

import json
from pathlib import Path

import pytest
from bert_jax.tools import bench_finetune, bench_finetune_sides
from bert_jax.tools.bench_finetune import Speed

from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.errors import UserError


@pytest.fixture
def data(prepared, tmp_path) -> list[str]:
    """Options for a few sentences with classes."""
    words = [line for line in prepared.text.read_text(encoding="utf-8").split("\n") if line][:41]
    lines = [f"{text}\t{number % 2}" for number, text in enumerate(words)]
    (tmp_path / "train.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    vocab = prepared.vocab / "vocab.txt"
    return ["--data", str(tmp_path), "--vocab", str(vocab), "--output", str(tmp_path / "bench.json")]


def test_our_side_runs_and_the_missing_peer_is_named(data, monkeypatch, capsys):
    """A side that no longer fits the command it measures."""
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    monkeypatch.setattr(bench_finetune, "ON_THE_CPU", bench_finetune.ON_THE_CPU | quick)
    sizes = ["--sizes", "1x8", "--examples", "40", "--batch-size", "16", "--max-length", "32", "--repetitions", "1"]
    sizes += ["--ours", '{"buckets": 1}']
    assert bench_finetune.main([*data, *sizes]) == 0
    printed = capsys.readouterr()
    assert "| 1 layers of 8 | bert-jax finetune |" in printed.out
    assert "Left out: Hugging Face's Trainer (give --peer-python)" in printed.out
    report = json.loads(Path(data[-1]).read_text(encoding="utf-8"))
    (line,) = report["table"]
    assert line["training"] > 0 < line["prediction"]
    assert 0 < line["training_valid"] <= 1 >= line["prediction_valid"] > 0
    training = report["samples"]["1x8"]["bert-jax finetune: training"][0]
    assert training["programs"] == 1
    assert line["compilation"] == training["compilation_seconds"] > 0
    assert report["conditions"]["examples"] == 40


def speeds(training: float, prediction: float, compilation: float | None = None) -> dict[str, list]:
    own = {} if compilation is None else {"compilation_seconds": compilation}
    return {
        "training": [{"examples_per_second": training, "valid_share": 0.5, **own}],
        "prediction": [{"examples_per_second": prediction, "valid_share": 0.5, **own}],
    }


def test_ratios_are_ours_to_the_peers_and_compilation_is_paid_by_the_difference():
    """A ratio upside down; seconds that compiling costs divided by our speed alone."""
    sides = {"ours": speeds(400, 900, 10), "slower": speeds(100, 300), "faster": speeds(800, 1800)}
    found = {f"{title}: {what}": one for title, both in sides.items() for what, one in both.items()}
    ours, slower, faster = bench_finetune.compared("4x128", found, list(sides))
    assert (ours.model, ours.compilation, ours.training_ratio) == ("4 layers of 128", 10, None)
    assert (slower.training_ratio, slower.prediction_ratio) == (4, 3)
    assert slower.paid_back == pytest.approx(10 / (1 / 100 - 1 / 400))
    assert (faster.training_ratio, faster.paid_back) == (0.5, None)
    row = bench_finetune.table([slower]).split("\n")[-1]
    assert row == "| 4 layers of 128 | slower | 100 | 4.00x | 50% | 300 | 3.00x | 50% |  | 1,333 |"
    assert bench_finetune.table([faster]).endswith("| never |")
    assert isinstance(ours, Speed)


def test_both_sides_get_the_same_texts_and_a_checkpoint_that_is_whole(data, prepared, tmp_path):
    bench_finetune.write_data(tmp_path, 5, tmp_path / "data")
    lines = (tmp_path / "data" / "train.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == (tmp_path / "train.tsv").read_text(encoding="utf-8").splitlines()[:6]
    assert [label for _, label in bench_finetune_sides._texts(str(tmp_path / "data"))] == [0, 1, 0, 1, 0]
    with pytest.raises(UserError, match="has 41 examples: ask for no more with --examples"):
        bench_finetune.write_data(tmp_path, 42, tmp_path / "more")
    bench_finetune.write_model("2x128", prepared.vocab / "vocab.txt", 32, tmp_path / "model")
    opened = open_checkpoint(tmp_path / "model", Asked())
    model = opened.description.model
    assert (model.num_hidden_layers, model.num_attention_heads, model.intermediate_size) == (2, 2, 512)
    assert opened.tokenizer is not None
    assert opened.tokenizer.vocab_size == model.vocab_size
    assert opened.description.task is not None
    assert opened.description.task.outputs == 2
    weights = {row.ours: opened.weight(row) for row in opened.rows}
    assert all((value == 0).all() for name, value in weights.items() if name.endswith("/bias"))
    assert all((value == 1).all() for name, value in weights.items() if name.endswith("/scale"))
    kernels = [value for name, value in weights.items() if not name.endswith(("/bias", "/scale"))]
    assert all(abs(value.std() - 0.02) < 0.004 for value in kernels if value.size > 1000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--sizes", "big"], "--sizes big is not LAYERSxHIDDEN: write 4x128"),
        (["--repetitions", "0"], "--repetitions 0 is not possible"),
        (["--peer-python", "/nowhere/python"], "/nowhere/python is missing"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(data, change, words, capsys):
    assert bench_finetune.main([*data, *change]) == 2
    assert words in capsys.readouterr().err
