# SPDX-License-Identifier: Apache-2.0
"""What an earlier version wrote is read: prepared data, stopped and finished runs, a conversion (golden/earlier/README.md).

Figures agree to 1e-5: the files were made on another CPU, with other compiler flags.
"""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_stage

from bert_jax.cli import main
from bert_jax.feed.examples import make_examples
from bert_jax.feed.packing import make_arrangement
from bert_jax.feed.shards import open_data, TRAIN
from bert_jax.finetuning.directory import open_finetuned, OwnTask
from bert_jax.finetuning.prepared import Wanted
from bert_jax.finetuning.run import finetune
from bert_jax.runs.directory import open_run
from bert_jax.train.pretraining import pretrain

ARCHIVE = Path(__file__).parent / "golden" / "earlier" / "files.tar.xz"
TIMED = ("seconds", "per_second", "utilization", "memory", "mfu")  # parts of the names of figures of the machine


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def figures(file: Path) -> list[dict]:
    """The lines of a metrics.jsonl without what depends on the machine; floats within 1e-5."""
    return [
        {
            name: pytest.approx(value, rel=1e-5, abs=1e-5) if isinstance(value, float) else value
            for name, value in record.items()
            if not any(part in name for part in TIMED)
        }
        for record in records(file)
    ]


def assert_has(file: Path, expected: list[dict]) -> None:
    """The metrics hold every expected figure; they may hold more."""
    found = [record for record in records(file) if record["kind"] != "clock"]
    assert [(one["kind"], one["step"]) for one in found] == [(one["kind"], one["step"]) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert {name: one[name] for name in other} == other


def test_prepared_data_gives_the_same_batches(earlier, capsys):
    assert main(["doctor", str(earlier / "data")]) == 1  # so little text is a finding
    assert "43 training documents of 110 tokens" in capsys.readouterr().out
    data, config = open_data(earlier / "data"), open_run(earlier / "finished").config()
    expected = dict(np.load(earlier / "first_batches.npz"))
    for phase in config.phases:
        examples = make_examples(data.split(TRAIN), data.load_tokenizer(), config, phase)
        batch = make_arrangement(examples, config.packing, phase.batch_size).batch(config.seed, 0)
        own = {name for name in expected if name.startswith(f"{phase.sequence_length}/")}
        assert own == {f"{phase.sequence_length}/{name}" for name in batch}
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[f"{phase.sequence_length}/{name}"])


def test_a_stopped_run_goes_on_to_the_same_end(earlier):
    run = open_run(earlier / "stopped")
    pretrain(run.config(), earlier / "data", run.path, resume_command="")
    assert_has(run.metrics_file, figures(earlier / "finished" / "metrics.jsonl"))
    run_stage("evaluate", run.path, "--data", earlier / "data")
    found, expected = (json.loads((earlier / name / "evaluation.json").read_text()) for name in ("stopped", "finished"))
    for name in ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "unigram_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    run_stage("report", run.path)
    assert f"{expected['mlm_loss']:.3f}" in (run.path / "report.html").read_text(encoding="utf-8")


def test_a_conversion_is_read_both_ways(earlier):
    """Both hold the same weights; the directory of Hugging Face's has four rows more, of padding."""
    run_stage("convert", "--compare", earlier / "huggingface", earlier / "converted", "--padding-rows", "drop")
    run_stage("convert", "--to", "huggingface", earlier / "converted", earlier / "again")
    run_stage("convert", "--compare", earlier / "again", earlier / "converted")


def test_a_stopped_fine_tuned_run_goes_on_to_the_same_scores(earlier):
    stopped = open_finetuned(earlier / "finetuned-stopped")
    task = OwnTask("classification", ("text",), "label")
    settings = replace(stopped.settings(), stride=None)  # which the task gave
    wanted = Wanted(task, str(earlier / "task"), earlier / "converted", settings)
    finetune(wanted, stopped.path, resume_command="")
    assert_has(stopped.metrics_file, figures(earlier / "finetuned" / "metrics.jsonl"))
    found, expected = (
        json.loads((earlier / name / "scores.json").read_text()) for name in ("finetuned-stopped", "finetuned")
    )
    assert found["scores"] == {"dev": pytest.approx(expected["scores"]["dev"], rel=1e-5)}


def test_a_fine_tuned_run_predicts_the_same(earlier):
    expected = records(earlier / "finetuned" / "predictions" / "test.jsonl")
    assert len({record["predicted"] for record in expected}) == 2
    run_stage("predict", earlier / "finetuned", "--data", earlier / "task", "--output", earlier / "predicted")
    found = records(earlier / "predicted" / "test.jsonl")
    for one, other in zip(found, expected, strict=True):
        assert one == other | {"probabilities": pytest.approx(other["probabilities"], abs=1e-5)}
    run_stage("report", earlier / "finetuned")
    assert "66.7" in (earlier / "finetuned" / "report.html").read_text(encoding="utf-8")
