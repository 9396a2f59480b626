# SPDX-License-Identifier: Apache-2.0
"""Task distillation: the distance of every kind of head by SciPy, whole runs with a teacher, and what cannot be one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import refusal_of, run_stage
from conversion_samples import hugging_face_shapes, write_hugging_face
from finetune_samples import command, MODEL, read_lines, VOCABULARY, without_times, write_model, write_sst2, write_stsb
from scipy.special import expit, rel_entr, softmax

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.distill import DistillConfig
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.training import MeshConfig
from bert_jax.finetuning import prepared
from bert_jax.finetuning.directory import open_finetuned
from bert_jax.finetuning.distillation import soft_task_scores
from bert_jax.finetuning.prepared import FinetuneSetup, Wanted
from bert_jax.rerun.opening import wanted_of
from bert_jax.rerun.reproduce import reproduce
from bert_jax.tasks.rows import IGNORE
from bert_jax.train.distillation import Teacher

T = 2.5
RNG = np.random.default_rng(0)
WEIGHTS = np.array([1, 0, 1, 1], np.float32)
VALID = np.arange(6) < np.array([6, 4, 3, 5])[:, None]


def distance(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """T squared times the relative entropy of softmaxes over the last axis."""
    wanted, given = (softmax(one.astype(np.float64) / T, axis=-1) for one in (targets, logits))
    return T**2 * rel_entr(wanted, given).sum(-1)


def of_kind(kind: str, *shape: int, **batch: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray]:
    logits, targets = RNG.normal(0, 3, (2, *shape)).astype(np.float32)
    found = soft_task_scores(kind, logits, targets, {"example_weights": WEIGHTS, **batch}, T)
    return float(found.loss), float(found.weight), logits, targets


def test_classes_and_choices_are_compared_by_their_divergence():
    loss, weight, logits, targets = of_kind("classification", 4, 1, 3)
    assert (loss, weight) == (pytest.approx((distance(logits, targets)[:, 0] * WEIGHTS).sum(), rel=1e-5), 3)
    loss, weight, logits, targets = of_kind("choice", 8, 1, 1)  # two rows of an example are its choices
    pairs = [one.reshape(4, 2) for one in (logits, targets)]
    assert (loss, weight) == (pytest.approx((distance(*pairs) * WEIGHTS).sum(), rel=1e-5), 3)


def test_ratings_by_their_squared_difference():
    loss, weight, logits, targets = of_kind("regression", 4, 1, 1)
    assert (loss, weight) == (pytest.approx((np.square(logits - targets)[:, 0, 0] * WEIGHTS).sum(), rel=1e-5), 3)


def test_classes_of_which_any_number_is_right_by_that_of_each():
    loss, weight, logits, targets = of_kind("multi_label", 4, 1, 5)
    p, q = (expit(one[:, 0].astype(np.float64) / T) for one in (targets, logits))
    each = T**2 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean(-1)
    assert (loss, weight) == (pytest.approx((each * WEIGHTS).sum(), rel=1e-5), 3)


def test_tags_of_words_that_count_and_tokens_of_answers_without_padding():
    labels = np.where(VALID & (np.arange(6) % 2 == 0), 1, IGNORE)
    loss, weight, logits, targets = of_kind("tagging", 4, 6, 3, labels=labels)
    counted = labels != IGNORE
    assert (loss, weight) == (pytest.approx(distance(logits, targets)[counted].sum(), rel=1e-5), counted.sum())
    loss, weight, logits, targets = of_kind("span", 4, 6, 2, sequence_ids=VALID.astype(np.int32))
    each = [distance(logits[row, seen].T, targets[row, seen].T).mean() for row, seen in enumerate(VALID)]
    assert (loss, weight) == (pytest.approx((np.array(each) * WEIGHTS).sum(), rel=1e-5), 3)


# ---- whole runs ----------------------------------------------------------------------------------------------------

WIDER = replace(MODEL, hidden_size=24, num_attention_heads=3)
CONFIG = FinetuneConfig(mesh=MeshConfig(data=1), batch_size=8, max_length=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files of tasks, the model of a student and that of a teacher."""
    folder = tmp_path_factory.mktemp("task_distillation")
    write_sst2(folder / "sst2", train=64)
    write_model(folder / "small")
    write_model(folder / "large", WIDER, seed=1)
    return folder


def distilled(folder: Path, output: Path, *settings: str) -> list[str]:
    line = command("sst2", folder / "sst2", folder / "small", output, "--teacher", folder / "teacher")
    return [*line, "epochs=8", "distill.labels=0", *settings]


@pytest.fixture(scope="module")
def run(folder) -> Path:
    """The run of a student, beside a teacher that has learned SST-2."""
    run_stage(*command("sst2", folder / "sst2", folder / "large", folder / "teacher", "epochs=8"))
    run_stage(*distilled(folder, folder / "run"))
    return folder / "run"


def test_a_student_learns_from_the_teacher_alone(run, folder, capsys):
    """Labels weigh nothing, and are still measured; the checkpoint is the student's."""
    lines = [line for line in read_lines(run / "metrics.jsonl") if line["kind"] == "train"]
    assert lines[-1]["soft_loss"] < 0.5 * lines[0]["soft_loss"]
    assert {"loss", "accuracy"} <= lines[-1].keys()
    scores, taught = (json.loads((path / "scores.json").read_text())["main"] for path in (run, folder / "teacher"))
    assert taught["value"] == 1
    assert scores["value"] > 0.9
    record = open_finetuned(run).record["teacher"]
    assert (record["path"], record["format"]) == (str(folder / "teacher"), "bert-jax")
    assert set(bert_jax.load(run).params) == {"encoder", "task"}
    run_stage("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Distance from the teacher" in page
    assert record["summary"] in page


def test_a_stopped_run_goes_on_to_the_bit_and_is_computed_again(run, folder, tmp_path):
    again = Path(shutil.copytree(run, tmp_path / "again"))
    stopped = distilled(folder, tmp_path / "stopped", "keep_checkpoints=99")
    run_stage(*stopped)
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "64")
    (tmp_path / "stopped" / "scores.json").unlink()
    run_stage(*stopped)
    assert without_times(read_lines(tmp_path / "stopped" / "metrics.jsonl")) == without_times(
        read_lines(again / "metrics.jsonl")
    )
    assert reproduce(run, tmp_path / "reproduced").equal
    assert open_finetuned(tmp_path / "reproduced").record["teacher"] == open_finetuned(run).record["teacher"]


def test_a_run_goes_on_with_its_own_teacher_alone(run, folder, tmp_path, capsys):
    line = distilled(folder, run)
    assert wanted_of(open_finetuned(run), None, lambda config: config).teacher == folder / "teacher"
    line.remove("--teacher")
    line.remove(str(folder / "teacher"))
    assert "distill.labels=0.0 says what is learned of a teacher: name it with --teacher" in refusal_of(capsys, *line)
    line.remove("distill.labels=0")
    assert f"the teacher: {folder / 'teacher'} -> None" in refusal_of(capsys, *line)


def write_tuned(folder: Path, *labels: str) -> Path:
    """A classifier of Hugging Face's with drawn weights."""
    description = ModelDescription(WIDER, mlm=False, nsp=False, task=TaskHead("classification", len(labels), labels))
    shapes = hugging_face_shapes(description)
    weights = {name: np.full(shape, "LayerNorm.weight" in name, np.float32) for name, shape in shapes.items()}
    return write_hugging_face(folder, description, weights, VOCABULARY)


def refused(match: str, folder: Path, task: str, teacher: Path, data: str | None = None, **distill: float) -> None:
    config = replace(CONFIG, distill=DistillConfig(**distill))
    with pytest.raises(UserError, match=match):
        FinetuneSetup(Wanted(task, str(folder / (data or task)), folder / "small", config, teacher=teacher))


def test_what_cannot_teach_a_task_is_refused(folder, tmp_path):
    teacher = write_tuned(tmp_path / "teacher", "negative", "positive")  # as the table means 0 and 1
    setup = FinetuneSetup(Wanted("sst2", str(folder / "sst2"), folder / "small", CONFIG, teacher=teacher))
    assert setup.record()["teacher"]["format"] == "huggingface"
    turned = write_tuned(tmp_path / "turned", "positive", "negative")
    refused(r"has the labels 1, 0, and this run 0, 1: name a model of the same labels", folder, "sst2", turned)
    refused(r"holds .* with pooler, MLM, NSP, and no fine-tuned head", folder, "sst2", folder / "large")
    refused(r"distill.soft=0, and nothing is learned of it", folder, "sst2", teacher, soft=0.0)
    write_stsb(folder / "stsb")
    refused(r"was fine-tuned for classification, and this is STS-B \(regression\)", folder, "stsb", teacher)
    refused(r"distill.temperature=3 is of classes, and STS-B has ratings", folder, "stsb", teacher, temperature=3.0)
    (teacher / "vocab.txt").write_text((teacher / "vocab.txt").read_text().replace("film", "movie"))
    refused(r"--teacher .* has another vocabulary", folder, "sst2", teacher)


def test_a_teacher_whose_bilstm_reads_a_row_wants_a_text_in_each(folder, monkeypatch):
    """Of packed rows it would say one thing for all of a row's texts."""
    opened = prepared.open_task_teacher

    def with_lstm(*asked: Any) -> Teacher:
        teacher = opened(*asked)
        assert teacher.description.task is not None
        head = replace(teacher.description.task, lstm=4)
        return replace(teacher, description=replace(teacher.description, task=head))

    monkeypatch.setattr(prepared, "open_task_teacher", with_lstm)
    teacher = write_tuned(folder / "lstm", "negative", "positive")
    wanted = Wanted("sst2", str(folder / "sst2"), folder / "small", CONFIG, teacher=teacher)
    with pytest.raises(UserError, match=r"its BiLSTM over a text reads a row, .*: add packing=buckets"):
        FinetuneSetup(wanted)
    FinetuneSetup(replace(wanted, config=replace(CONFIG, packing="buckets")))
