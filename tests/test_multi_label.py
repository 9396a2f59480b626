# SPDX-License-Identifier: Apache-2.0
"""Classes of which any number is right: read from columns of three kinds, trained, scored, predicted, reported."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bert_jax.pipelines import predict
from finetune_samples import command, MODEL, read_lines, sentences, write_model

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.finetuning.degenerate import judge
from bert_jax.finetuning.losses import task_scores
from bert_jax.finetuning.multi_label_split import sigmoid
from bert_jax.finetuning.saved import confusion_lines, SavedModel
from bert_jax.finetuning.split import Outcome
from bert_jax.pages.finetune import page_of
from bert_jax.pages.template import render
from bert_jax.runs.finetuned import load_finetuned
from bert_jax.tasks.columns import read_examples, with_labels
from bert_jax.tasks.own import own_task
from bert_jax.tasks.scoring import multi_label
from bert_jax.tasks.table import Task

OPTIONS = ["--kind", "multi_label", "--text-column", "text"]


# ---- reading -------------------------------------------------------------------------------------------------------


def labels_in(folder: Path, name: str, content: str, split: str = "train", **options) -> tuple[Task, list]:
    """The task with its classes and the labels of a file."""
    (folder / name).write_text(content, encoding="utf-8")
    task = with_labels(own_task("multi_label", ["text"], **options), folder)
    return task, [example.label for example in read_examples(task, split, folder)[0]]


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("train.tsv", "text\tis\nx\tb; a\ny\t\nz\tc;\n", {"label": "is", "separator": ";"}),
        ("train.csv", 'text,is\nx,"[""b"", ""a""]"\ny,[]\nz,"[""c""]"\n', {"label": "is"}),
        (
            "train.jsonl",
            '{"text": "x", "is": ["b", "a"]}\n{"text": "y", "is": []}\n{"text": "z", "is": ["c"]}\n',
            {"label": "is"},
        ),
        ("train.tsv", "c\ttext\ta\tb\n0\tx\t1\t1\n0\ty\t0\t0\n1.0\tz\t0\t0\n", {"labels": ["a", "b", "c"]}),
        (
            "train.jsonl",
            '{"text": "x", "a": 1, "b": true, "c": 0}\n{"text": "y", "a": 0, "b": false, "c": 0.0}\n'
            '{"text": "z", "a": false, "b": 0, "c": 1.0}\n',
            {"labels": ["a", "b", "c"]},
        ),
    ],
)
def test_classes_are_read_from_lists_and_from_columns(tmp_path, name, content, options):
    task, labels = labels_in(tmp_path, name, content, **options)
    assert task.labels == ("a", "b", "c")
    assert labels == [(0, 1), (), (2,)]
    assert task.metrics == ("micro_f1", "macro_f1", "subset_accuracy")


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    task, labels = labels_in(tmp_path, "train.tsv", "text\tis\nx\t10 9\ny\t2\n", label="is", separator=" ")
    assert task.labels == ("2", "9", "10")
    assert labels == [(1, 2), (0,)]


@pytest.mark.parametrize(
    ("content", "options", "labels"),
    [
        ("text\tis\nx\ta\ny\t\n", {"label": "is", "separator": ","}, [(0,), None]),
        ("text\nx\n", {"label": "is", "separator": ","}, [None]),
        ("text\ta\tb\nx\t-1\t-1\ny\t1\t0\n", {"labels": ["a", "b"]}, [None, (0,)]),
        ("text\nx\n", {"labels": ["a", "b"]}, [None]),
    ],
)
def test_a_test_file_may_not_tell(tmp_path, content, options, labels):
    task = own_task("multi_label", ["text"], **{"labels": ["a", "b"], **options})
    (tmp_path / "test.tsv").write_text(content)
    assert [example.label for example in read_examples(task, "test", tmp_path)[0]] == labels


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (
            "text\tis\nx\ta, b\n",
            {"label": "is"},
            r"train\.tsv, line 2: 'a, b' stands where classes must be.*--separator",
        ),
        ("text\tis\nx\t\n", {"label": "is", "separator": ","}, "no example has a class"),
        ("text\tis\nx\t\\N\n", {"label": "is", "separator": ","}, "line 2 does not tell its classes"),
        ("text\tis\nx\ta,d\n", {"label": "is", "separator": ",", "labels": ["a", "b"]}, "class d is not one of a, b"),
        ("text\ta\tb\nx\t1\t2\n", {"labels": ["a", "b"]}, "line 2: 2 stands where 0 or 1 must"),
        ("text\ta\tb\nx\t1\t\n", {"labels": ["a", "b"]}, "line 2: nothing stands where 0 or 1 must"),
        ("text\ta\nx\t1\n", {"labels": ["a", "b"]}, "has no column b"),
        ("text\ta\nx\t1\n", {}, "multi_label needs --label-column"),
        ("text\ta\nx\t1\n", {"labels": ["a"], "separator": ","}, "multi_label needs --label-column"),
    ],
)
def test_what_tells_no_classes_is_refused_by_place(tmp_path, content, options, words):
    with pytest.raises(UserError, match=words):
        labels_in(tmp_path, "train.tsv", content, **options)


def test_a_separator_of_one_class_is_refused():
    with pytest.raises(UserError, match="--separator belongs to multi_label"):
        own_task("classification", ["text"], label="is", separator=";")


# ---- scores and loss -----------------------------------------------------------------------------------------------


def test_scores_are_those_of_scikit_learn():
    """f1_score(average="micro" and "macro", zero_division=0) and accuracy_score of scikit-learn 1.9, of these matrices."""
    rng = np.random.default_rng(0)
    gold, predicted = rng.random((50, 6)) < 0.3, rng.random((50, 6)) < 0.4
    gold[:, 2] = False  # never right, and predicted
    gold[:, 4] = predicted[:, 4] = False  # neither
    found = multi_label.scores(("micro_f1", "macro_f1", "subset_accuracy"), gold, predicted)
    published = {"micro_f1": 0.30344827586206896, "macro_f1": 0.21820210215747746, "subset_accuracy": 0.04}
    assert found == pytest.approx(published, rel=1e-12)


def test_nothing_right_and_nothing_predicted_is_nothing():
    none = np.zeros((2, 3), bool)
    assert multi_label.scores(("micro_f1", "macro_f1", "subset_accuracy"), none, none) == {
        "micro_f1": 0.0,
        "macro_f1": 0.0,
        "subset_accuracy": 1.0,
    }


def test_the_loss_is_the_binary_cross_entropy_of_each_class():
    logits = jnp.array([[[2.0, -1.0, 0.5]], [[-3.0, 4.0, -20.0]], [[9.0, 9.0, 9.0]]])  # [N, 1, C]
    targets = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    batch = {"targets": targets, "example_weights": jnp.array([1.0, 1.0, 0.0])}
    scores = task_scores("multi_label", logits, batch)
    shares = sigmoid(np.asarray(logits[:2, 0]))
    wanted = np.asarray(targets[:2])
    losses = -(wanted * np.log(shares) + (1 - wanted) * np.log1p(-shares))
    assert task_scores("multi_label", jnp.full((3, 1, 3), -200.0), batch).loss < 200
    assert scores.loss == pytest.approx(losses.mean(-1).sum(), rel=1e-6)
    assert (scores.correct, scores.weight) == (1.0, 2.0)  # the first has a class too many
    gradient = jax.grad(lambda x: task_scores("multi_label", x, batch).loss)(logits)[:2, 0]
    np.testing.assert_allclose(gradient, (shares - wanted) / 3, rtol=1e-5, atol=1e-7)


def test_one_set_of_classes_for_everything_is_degenerate():
    gold = np.array([[True, False], [False, True], [False, False]] * 20)
    outcome = Outcome({"micro_f1": 0.0}, gold, np.zeros_like(gold), [], lambda folder: [])
    found = judge("multi_label", outcome, FinetuneConfig(), 100, 0.5).degenerate
    assert found.kind == "one set of classes"
    assert "40 are of others" in found.explanation
    assert judge("multi_label", Outcome({}, gold, gold, [], list), FinetuneConfig(), 100, 0.5).degenerate is None
    same = np.zeros_like(gold)
    assert judge("multi_label", Outcome({}, same, same, [], list), FinetuneConfig(), 100, 0.5).undecided is not None


# ---- a run ---------------------------------------------------------------------------------------------------------


NAMES = ("bad", "good", "kind")


def classes_of(text: str) -> list[str]:
    """A text with "good" is of two classes, one with "bad" of one."""
    return ["good", "kind"] if "good" in text.split() else ["bad"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, data and a run that has learned them."""
    folder = tmp_path_factory.mktemp("multi_label")
    write_model(folder / "model", dataclasses.replace(MODEL, num_hidden_layers=1))  # half as long to compile
    (folder / "data").mkdir()
    for name, number, seed in (("train", 96, 0), ("dev", 24, 1)):
        lines = [f"{text}\t{';'.join(classes_of(text))}" for text, _ in sentences(number, seed)]
        (folder / "data" / f"{name}.tsv").write_text("\n".join(["text\tis", *lines]) + "\n", encoding="utf-8")
    options = [*OPTIONS, "--label-column", "is", "--separator", ";", "epochs=6"]
    assert main(command("own", folder / "data", folder / "model", folder / "run", *options)) == 0
    return folder


def test_classes_are_learned_each_by_itself(folder):
    scores = json.loads((folder / "run" / "scores.json").read_text())
    assert scores["main"] == {"metric": "micro_f1", "split": "dev", "value": 1.0}
    assert scores["degenerate"] is None
    records = read_lines(folder / "run" / "predictions" / "dev.jsonl")
    gold, predicted = (
        np.array([[number in record[field] for number in range(3)] for record in records])
        for field in ("label", "predicted")
    )
    assert multi_label.scores(tuple(scores["scores"]["dev"]), gold, predicted) == scores["scores"]["dev"]
    shares = np.array([record["probabilities"] for record in records])
    assert ((shares >= 0.5) == predicted).all()
    assert [[NAMES[n] for n in record["label"]] for record in records] == [
        classes_of(record["text"]) for record in records
    ]
    assert {"kind": "multi_label", "outputs": 3, "labels": list(NAMES)}.items() <= json.loads(
        (folder / "run" / "model.json").read_text()
    )["task"].items()


def test_a_file_of_predictions_spells_classes_as_the_data_does(folder):
    lines = (folder / "run" / "predictions" / "dev.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["index", "prediction", "label", "p(bad)", "p(good)", "p(kind)"]
    records = read_lines(folder / "run" / "predictions" / "dev.jsonl")
    told = [[part.split(";") if part else [] for part in line.split("\t")[1:3]] for line in lines[1:]]
    assert told == [[[NAMES[n] for n in record[field]] for field in ("predicted", "label")] for record in records]


def test_a_loaded_model_and_the_report_agree_with_the_run(folder):
    """What `evaluate` and `predict` print; one model, so that it is compiled once."""
    known = read_lines(folder / "run" / "predictions" / "dev.jsonl")
    model = SavedModel(folder / "run")
    outcome = model.outcome(model.split(str(folder / "data"), "dev"))
    assert outcome.scores == {"micro_f1": 1.0, "macro_f1": 1.0, "subset_accuracy": 1.0}
    rows = {line.split()[0]: line.split()[1:] for line in confusion_lines(model.task, outcome) if line}
    support = [sum(number in record["label"] for record in known) for number in range(3)]
    assert [rows[name] for name in NAMES] == [["1.0000"] * 3 + [str(times)] * 2 for times in support]
    told = [predict._told(record, model) for record in model.of_lines([record["text"] for record in known])[0].records]
    assert [line["predicted"] for line in told] == [[NAMES[n] for n in record["predicted"]] for record in known]
    assert list(told[0]["probabilities"]) == list(NAMES)
    page = render(page_of(load_finetuned(folder / "run")))
    assert all(words in page for words in ("all decisions together", "Micro F1, dev", "any number of classes right"))
