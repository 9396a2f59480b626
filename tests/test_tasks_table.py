# SPDX-License-Identifier: Apache-2.0
"""The table of tasks: names, labels in the official order, files, hyper-parameters, and tasks of one's own."""

import dataclasses

import pytest

from bert_jax.base.errors import UserError
from bert_jax.config.description import TaskHead
from bert_jax.tasks.own import own_task
from bert_jax.tasks.table import BATCH_SIZES, EPOCHS, find_task, GLUE, LEARNING_RATES, TASKS

# What get_labels() of google-research/bert's run_classifier.py and, for the tasks that it lacks, of the GLUE processors
# of transformers 4 returns.
OFFICIAL_LABELS = {
    "cola": "0 1",
    "sst2": "0 1",
    "mrpc": "0 1",
    "qqp": "0 1",
    "mnli": "contradiction entailment neutral",
    "qnli": "entailment not_entailment",
    "rte": "entailment not_entailment",
    "wnli": "0 1",
    "ax": "contradiction entailment neutral",
}


def test_every_task_of_the_paper_is_there():
    glue = "cola sst2 mrpc stsb qqp mnli qnli rte wnli ax"
    assert " ".join(GLUE) == glue
    assert " ".join(TASKS) == f"{glue} squad1 squad2 cmrc drcd swag conll2003 weibo"


def test_labels_are_in_the_official_order():
    """Another order would exchange the classes of every converted classifier."""
    found = {name: " ".join(TASKS[name].labels) for name in GLUE if TASKS[name].labels}
    assert found == OFFICIAL_LABELS
    assert TASKS["stsb"].labels is None
    assert TASKS["stsb"].rating == (0, 5)


def test_meanings_are_the_names_that_tfds_gives_the_same_numbers():
    """tensorflow_datasets/text/glue.py, label_classes: of mnli they are in another order and so found by word."""
    assert {name: TASKS[name].meanings for name in GLUE if TASKS[name].meanings} == {
        "cola": ("unacceptable", "acceptable"),
        "sst2": ("negative", "positive"),
        "mrpc": ("not_equivalent", "equivalent"),
        "qqp": ("not_duplicate", "duplicate"),
        "wnli": ("not_entailment", "entailment"),
    }


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_entries_are_whole(task):
    assert TASKS[task.name] is task
    assert task.metrics
    assert task.files
    if isinstance(task.columns, dict):
        assert task.columns.keys() == task.files.keys()
    if task.labels is not None and task.kind == "classification":
        TaskHead(task.kind, len(task.labels), task.labels)
    assert "train" in task.files or TASKS[task.trains_with].labels == task.labels
    assert task.submissions.keys() <= task.files.keys()


def test_settings_are_those_of_the_paper():
    """Sections 4.1 to 4.4 and appendix A.3."""
    assert (LEARNING_RATES, BATCH_SIZES, EPOCHS) == ((5e-5, 3e-5, 2e-5), (16, 32), (2, 3, 4))
    settings = {name: (task.batch_size, task.learning_rate, task.epochs) for name, task in TASKS.items()}
    assert all(settings[name] == (32, 2e-5, 3) for name in GLUE)
    assert settings["squad1"] == (32, 5e-5, 3)
    assert settings["squad2"] == (48, 5e-5, 2)
    assert settings["swag"] == (16, 2e-5, 3)


@pytest.mark.parametrize(
    ("written", "name"), [("sst2", "sst2"), ("SST-2", "sst2"), ("sts_b", "stsb"), ("SQuAD 1.1", "squad1"), ("AX", "ax")]
)
def test_names_are_found_however_they_are_written(written, name):
    assert find_task(written).name == name


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"there is no task mnly: did you mean mnli.*The tasks are cola, sst2"):
        find_task("mnly")
    with pytest.raises(UserError, match="there is no task 42: The tasks are"):
        find_task("42")


def test_tasks_of_ones_own():
    task = own_task("classification", ["question", "answer"], label="right", id="key", labels=["no", "yes"])
    assert (task.kind, task.labels, task.columns.header) == ("classification", ("no", "yes"), True)
    assert task.files["train"] == ("train.tsv", "train.csv", "train.jsonl")
    assert not own_task("regression", [1], label=0).columns.header
    assert own_task("choice", ["start"], label="right", choices=["a", "b", "c"]).labels == ("0", "1", "2")
    assert own_task("choice", ["start"], label="right", choices=["all"]).labels is None
    assert own_task("tagging", ["words"], label="tags").files["train"][0] == "train.jsonl"
    assert own_task("tagging").columns is None
    assert own_task("tagging").files["train"] == ("train.conll", "train.conllu", "train.txt")
    assert own_task("span").columns is None


@pytest.mark.parametrize(
    ("labels", "positive", "metrics", "f1_of"),
    [
        (["no", "yes"], None, ("accuracy", "mcc", "f1"), "yes"),
        (["no", "yes"], "no", ("accuracy", "mcc", "f1"), "no"),
        (["a", "b", "c"], None, ("accuracy", "mcc", "macro_f1"), None),
    ],
)
def test_f1_is_of_one_of_two_classes_or_the_mean_of_all(labels, positive, metrics, f1_of):
    """Decided by the classes of the task alone, whether they are named or found in the training file."""
    task = own_task("classification", ["text"], label="label", labels=labels, positive=positive)
    found = own_task("classification", ["text"], label="label", positive=positive).with_classes(labels)
    assert task == found
    assert (task.metrics, task.f1_of) == (metrics, f1_of)


def test_f1_of_a_task_of_the_table_says_its_class_in_words():
    assert (TASKS["mrpc"].f1_of, TASKS["qqp"].f1_of) == ("equivalent", "duplicate")
    assert {TASKS[name].f1_of for name in ("sst2", "stsb", "squad1", "conll2003", "swag")} == {None}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "parsing"}, "parsing is no kind of task: choose one of classification"),
        ({"kind": "classification"}, "0 columns are named as text, and classification has 1 or 2"),
        ({"kind": "classification", "text": ["a", "b", "c"]}, "3 columns are named as text"),
        ({"kind": "tagging", "text": ["a", "b"]}, "2 columns are named as text, and tagging has 1"),
        ({"kind": "classification", "text": ["a"], "label": 1}, "by name and by number"),
        ({"kind": "choice", "text": ["a"]}, "choice with 0 columns of choices"),
        ({"kind": "regression", "text": ["a"], "choices": ["b", "c"]}, "regression with 2 columns of choices"),
        ({"kind": "classification", "text": ["a"], "labels": ["x", "x"]}, "one is given twice"),
        ({"kind": "classification", "text": ["a"], "labels": ["1", "1.0"]}, "one is given twice"),
        ({"kind": "regression", "text": ["a"], "labels": ["x", "y"]}, "a regression has numbers"),
        ({"kind": "span", "text": ["a"]}, "span has no columns"),
        ({"kind": "regression", "text": ["a"], "positive": "1"}, "--positive belongs to classification"),
        ({"kind": "tagging", "positive": "1"}, "--positive belongs to classification"),
        (
            {"kind": "classification", "text": ["a"], "labels": ["x", "y"], "positive": "z"},
            "--positive z: the 2 classes are x, y: name one of them",
        ),
        (
            {"kind": "classification", "text": ["a"], "labels": ["x", "y", "z"], "positive": "z"},
            "F1 of more than two is their mean: leave it out",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        own_task(**arguments)


def test_columns_of_a_split():
    assert TASKS["cola"].columns_of("train").text == (3,)
    assert TASKS["cola"].columns_of("test").text == ("sentence",)
    assert TASKS["sst2"].columns_of("dev") == TASKS["sst2"].columns_of("test")
    with pytest.raises(ValueError, match="squad1 has no columns"):
        TASKS["squad1"].columns_of("train")


def test_an_entry_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TASKS["sst2"].epochs = 4
