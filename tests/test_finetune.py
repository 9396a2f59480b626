# SPDX-License-Identifier: Apache-2.0
"""The command line of `bert-jax finetune`: what users get wrong, each in one line with exit status 2. No step is taken."""

import json
from pathlib import Path

import pytest
from conftest import refusal_of
from finetune_samples import command, questions, write_conll, write_model, write_squad, write_sst2, write_swag


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and the files of four tasks; not to be written to."""
    folder = tmp_path_factory.mktemp("bad")
    write_model(folder / "model")
    write_sst2(folder / "sst2")
    write_conll(folder / "conll2003")
    write_squad(folder / "squad1", "1.1")
    write_swag(folder / "swag")
    return folder


def own(folder: Path, data: Path, output: Path, *more: object) -> list[str]:
    return command("own", data, folder / "model", output, *more)


@pytest.mark.parametrize(
    ("task", "more", "message"),
    [
        ("sst", (), "there is no recipe sst: did you mean sst2?"),
        ("ax", (), "ax has no training data: bert-jax finetune mnli, then bert-jax predict --task ax"),
        ("sst2", ("max_length=40",), "max_length=40 is beyond the 32 positions of the model: set max_length=32"),
        ("sst2", ("leaning_rate=1",), "unknown setting 'leaning_rate': did you mean 'optimizer.learning_rate'?"),
        ("sst2", ("layers=-4",), "layers: the head is to read -4, and the model has 1 to 2"),
        ("sst2", ("packing=packed", "lstm=4"), "packing=packed: a BiLSTM over a text reads a row: leave it out"),
        ("squad1", ("packing=packed",), "packing=packed is for classification"),
        ("sst2", ("batch_size=6", "mesh.data=4"), "batch_size=6"),
        (
            "sst2",
            ("optimizer.freeze=3",),
            "optimizer.freeze=3 is more layers than model.num_hidden_layers=2: use as many",
        ),
        ("sst2", ("too_long=error", "max_length=8"), "set too_long to truncate or windows, or a larger max_length"),
        ("swag", ("too_long=windows", "max_length=8"), "too_long=windows cannot be had with choices"),
        ("squad1", ("max_query_length=14",), "max_length=16 leaves no room for text beside a question of"),
        ("conll2003", ("tag_scheme=BIO3",), "BIO3"),
        ("sst2", ("--kind", "classification"), "--kind describes your own data: use it with bert-jax finetune own"),
        ("sst2", ("--label-column", "label"), "--label-column describes your own data"),
        ("sst2", ("--positive", "1"), "--positive describes your own data"),
        ("sst2", ("--skip", "bert.nothing"), "--skip bert.nothing: "),
        ("sst2", ("max_answer_length=9",), "max_answer_length is for span and does nothing in classification"),
        (
            "conll2003",
            ("fusion=max",),
            "fusion is for classification, multi_label, regression and does nothing in tagging",
        ),
        (
            "conll2003",
            ("--text-column", "4", "--label-column", "1"),
            "word column 4 is not one of 0 to 3, or -1 to -4 from the end",
        ),
        ("conll2003", ("--labels", "PER"), "eng.train, line 3, word"),
        ("sst2", ("--seeds", "0"), "--seeds 0: at least 1"),
        ("sst2", ("--seeds", "2", "--sweep"), "--sweep and --seeds: one at a time"),
        ("sst2", ("--seeds", "2", "--retries", "1"), "--retries belongs to a single run"),
        ("mrpc", (), "train.tsv"),
    ],
)
def test_refused(folder, tmp_path, capsys, task, more, message):
    data = folder / (task if (folder / task).exists() else "sst2")
    assert message in refusal_of(capsys, *command(task, data, folder / "model", tmp_path / "run", *more))
    assert not (tmp_path / "run").exists(), "nothing may be left behind by what is refused"


def test_no_data(folder, tmp_path, capsys):
    error = refusal_of(capsys, *command("sst2", tmp_path / "nowhere", folder / "model", tmp_path / "run"))
    assert "nowhere is missing" in error
    (tmp_path / "empty").mkdir()
    error = refusal_of(capsys, *command("sst2", tmp_path / "empty", folder / "model", tmp_path / "run"))
    assert "has no train.tsv, which is train of SST-2" in error


def test_no_model(folder, tmp_path, capsys):
    error = refusal_of(capsys, *command("sst2", folder / "sst2", tmp_path / "nowhere", tmp_path / "run"))
    assert "nowhere" in error


def test_a_model_without_vocabulary(folder, tmp_path, capsys):
    model = write_model(tmp_path / "model")
    (model / "vocab.txt").unlink()
    error = refusal_of(capsys, *command("sst2", folder / "sst2", model, tmp_path / "run"))
    assert "has no vocabulary: put its vocab.txt beside it, or give --vocab" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train.tsv is empty"),
        ("sentence\tlabel\n", "train.tsv has no examples"),
        ("sentence\nthe film is good\n", "train.tsv has no column label, and train needs labels"),
        ("text\tlabel\nthe film is good\t1\n", "its columns are text, label"),
        (
            "sentence\tlabel\nthe film is good\t1\nthe plot is bad\tnone\n",
            "train.tsv, line 3: label none is not one of",
        ),
        ("sentence\tlabel\nthe film is good\t1\nthe plot is bad\t\n", "train.tsv, line 3 has no label"),
    ],
)
def test_a_training_file_that_cannot_be_learned_from(folder, tmp_path, capsys, text, message):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.tsv").write_text(text, encoding="utf-8")
    assert message in refusal_of(capsys, *command("sst2", data, folder / "model", tmp_path / "run"))


def test_a_dev_split_without_examples(folder, tmp_path, capsys):
    data = write_sst2(tmp_path / "data")
    (data / "dev.tsv").write_text("sentence\tlabel\n")
    error = refusal_of(capsys, *command("sst2", data, folder / "model", tmp_path / "run"))
    assert "dev.tsv has no examples: is it the right file?" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["train", "dev"])
def test_a_question_without_an_answer(folder, tmp_path, capsys, file):
    data = write_squad(tmp_path / "data", "1.1")
    content = questions(4, 1, "1.1")
    content["data"][0]["paragraphs"][1]["qas"][0]["answers"] = []
    (data / f"{file}-v1.1.json").write_text(json.dumps(content))
    error = refusal_of(capsys, *command("squad1", data, folder / "model", tmp_path / "run", "max_query_length=4"))
    assert f"{file}-v1.1.json, data[0].paragraphs[1].qas[0] ('q1') has no answer: add one" in error


def test_answers_that_are_nowhere(folder, tmp_path, capsys):
    """Each is left out and counted; where none is left there is nothing to learn."""
    data = write_squad(tmp_path / "data", "1.1")
    content = questions(4, 1, "1.1")
    for paragraph in content["data"][0]["paragraphs"]:
        paragraph["qas"][0]["answers"][0]["text"] = "elsewhere"
    (data / "train-v1.1.json").write_text(json.dumps(content))
    error = refusal_of(capsys, *command("squad1", data, folder / "model", tmp_path / "run", "max_query_length=4"))
    assert "no training example is left" in error
    assert "4 answers that are nowhere in their context" in error


def test_tags_without_a_scheme(folder, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "eng.train").write_text("the DT\nfilm NN\n\nis VB\ngood JJ\n")
    asked = command("conll2003", data, folder / "model", tmp_path / "run", "tag_scheme=IOB2")
    assert "tag_scheme=IOB2: the tags of" in refusal_of(capsys, *asked)
    for idle in ("constrained=true", "broken_tags=refuse"):
        error = refusal_of(capsys, *command("conll2003", data, folder / "model", tmp_path / "run", idle))
        assert f"{idle.split('=')[0]} is of tags that follow a scheme" in error
    (data / "eng.train").write_text("the\nfilm\n")
    error = refusal_of(capsys, *command("conll2003", data, folder / "model", tmp_path / "run"))
    assert "eng.train" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "your own data needs --kind: classification, multi_label, regression, choice, span, tagging"),
        (("--kind", "classification"), "name them with --text-column"),
        (("--kind", "classification", "--text-column", "words"), "train.tsv"),
        (("--kind", "classification", "--text-column", "sentence"), "name their column with --label-column"),
        (
            ("--kind", "regression", "--text-column", "sentence", "--label-column", "label", "--labels", "0", "1"),
            "--labels belongs to",
        ),
        (
            ("--kind", "classification", "--text-column", "sentence", "--label-column", "label", "--positive", "2"),
            "--positive 2: the 2 classes are 0, 1: name one of them",
        ),
        (
            (
                "--kind",
                "classification",
                "--text-column",
                "sentence",
                "--label-column",
                "label",
                "--labels",
                "0",
                "1",
                "epochs=2",
            ),
            "--labels takes epochs=2 for one of its words: write settings before --labels",
        ),
        (
            ("--kind", "choice", "--text-column", "sentence", "--label-column", "label"),
            "choice with 0 columns of choices",
        ),
        (("--kind", "span", "--text-column", "sentence"), "span has no columns"),
        (
            ("--kind", "classification", "--text-column", "sentence", "--label-column", "label", "--labels", "1", "2"),
            "line 2: label 0 is not one of 1, 2",
        ),
    ],
)
def test_own_data_that_is_not_described(folder, tmp_path, capsys, more, message):
    assert message in refusal_of(capsys, *own(folder, folder / "sst2", tmp_path / "run", *more))


@pytest.mark.parametrize(("task", "more"), [("conll2003", ()), ("own", ("--kind", "tagging"))])
def test_running_numbers_are_not_trained_on(folder, tmp_path, capsys, task, more):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_text("1 ann B-PER\n2 is O\n\n1 rome B-LOC\n")
    error = refusal_of(capsys, *command(task, data, folder / "model", tmp_path / "run", *more))
    assert "train.txt: its first column is a running number" in error
    assert "--text-column 1 --label-column -1" in error


def test_a_folder_that_holds_something_else(folder, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    error = refusal_of(capsys, *command("sst2", folder / "sst2", folder / "model", tmp_path / "run"))
    assert "is not empty and is no fine-tuned run: choose another --output" in error
