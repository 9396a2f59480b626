# SPDX-License-Identifier: Apache-2.0
"""The subject `finetune` runs our side, and says what it measured. No speed is asserted."""

from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.base.errors import UserError
from bert_jax.bench.runner import run_bench
from bert_jax.bench.subjects import finetune
from bert_jax.bench.suite import BenchSizes, suite_for
from bert_jax.bench.tables import tables_of
from bert_jax.bench.workbench import BenchInputs
from bert_jax.conversion.checkpoints import Asked, open_checkpoint


@pytest.fixture
def data(prepared, tmp_path) -> Path:
    """A folder with a few sentences and classes."""
    words = [line for line in prepared.text.read_text(encoding="utf-8").split("\n") if line][:41]
    lines = [f"{text}\t{number % 2}" for number, text in enumerate(words)]
    (tmp_path / "train.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    return tmp_path


def test_our_side_runs_and_the_missing_peer_is_named(data, prepared, monkeypatch):
    """A side that no longer fits the command it measures."""
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    monkeypatch.setattr(finetune, "ON_THE_CPU", finetune.ON_THE_CPU | quick)
    suite = suite_for("cpu")
    suite = replace(
        suite,
        sizes=BenchSizes(rounds=1, finetune_models="1x8", finetune_examples=40),
        finetune=replace(suite.finetune, batch_size=16, max_length=32),
    )
    inputs = BenchInputs(data=data, vocab=prepared.vocab / "vocab.txt")
    report = run_bench(suite, ["finetune"], None, inputs)
    absent, record = report["subjects"]["finetune"]["records"]
    assert absent["absent"].endswith("give --peer-python")
    (ours,) = record["sides"].values()
    assert ours["training"]["examples_per_second"]["median"] > 0 < ours["prediction"]["examples_per_second"]["median"]
    assert all(0 < ours[what]["valid_share"]["median"] <= 1 for what in ("training", "prediction"))
    (sample,) = ours["samples"]
    assert sample["training"]["programs"] == 1
    assert record["compilation_seconds"]["median"] == sample["training"]["compilation_seconds"] > 0
    assert report["conditions"]["sizes"]["finetune_examples"] == 40
    (table,) = tables_of(report["subjects"]["finetune"])
    assert "| bert-jax finetune |" in table


def samples(training: float, prediction: float, compilation: float | None = None) -> list[dict]:
    own = {} if compilation is None else {"compilation_seconds": compilation}
    both = {"training": training, "prediction": prediction}
    return [{what: {"examples_per_second": rate, "valid_share": 0.5, **own} for what, rate in both.items()}]


def test_ratios_are_ours_to_the_peers_and_compilation_is_paid_by_the_difference():
    """A ratio upside down; seconds that compiling costs divided by our speed alone."""
    sides = {"ours": samples(400, 900, 10), "slower": samples(100, 300), "faster": samples(800, 1800)}
    record = finetune.compared_runs("4x128", sides)
    assert record["compilation_seconds"]["median"] == 10
    slower, faster = record["sides"]["slower"], record["sides"]["faster"]
    assert (slower["training"]["ratio"], slower["prediction"]["ratio"]) == (4, 3)
    assert slower["examples_to_pay_back"] == pytest.approx(10 / (1 / 100 - 1 / 400))
    assert (faster["training"]["ratio"], faster["examples_to_pay_back"]) == (0.5, "never")
    (table,) = tables_of({"records": [record]})
    *_, slower_row, faster_row = ([cell.strip() for cell in row.split("|")] for row in table.splitlines())
    assert slower_row[-2] == "1,333"
    assert faster_row[-2] == "never"
    assert "4.00x" in slower_row


def test_both_sides_get_the_same_texts_and_a_checkpoint_that_is_whole(data, prepared, tmp_path):
    finetune.write_data(data, 5, tmp_path / "data")
    lines = (tmp_path / "data" / "train.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == (data / "train.tsv").read_text(encoding="utf-8").splitlines()[:6]
    with pytest.raises(UserError, match=r"has 41 examples: set bench\.finetune_examples"):
        finetune.write_data(data, 42, tmp_path / "more")
    finetune.write_model("2x128", prepared.vocab / "vocab.txt", 32, tmp_path / "model")
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
