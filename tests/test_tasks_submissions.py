# SPDX-License-Identifier: Apache-2.0
"""Predictions as files: GLUE's submissions in the official layout, and one line an example."""

import json
import zipfile

import pytest

from bert_jax.base.errors import UserError
from bert_jax.tasks.examples import ChoiceExample, TextExample
from bert_jax.tasks.own import own_task
from bert_jax.tasks.scoring.glue import class_numbers, read_predictions
from bert_jax.tasks.submissions import predicted_word, write_predictions, write_submission, zip_submissions
from bert_jax.tasks.table import GLUE, TASKS

# File, predictions and the spelling of one of each class (rating), in the sample submission that the GLUE site gave out.
# QNLI's test file has had 5,463 pairs since the task's second version.
OFFICIAL = {
    "cola": {"test": ("CoLA.tsv", 1063)},
    "sst2": {"test": ("SST-2.tsv", 1821)},
    "mrpc": {"test": ("MRPC.tsv", 1725)},
    "stsb": {"test": ("STS-B.tsv", 1379)},
    "qqp": {"test": ("QQP.tsv", 390965)},
    "mnli": {"test": ("MNLI-m.tsv", 9796), "test_mismatched": ("MNLI-mm.tsv", 9847)},
    "qnli": {"test": ("QNLI.tsv", 5463)},
    "rte": {"test": ("RTE.tsv", 3000)},
    "wnli": {"test": ("WNLI.tsv", 146)},
    "ax": {"test": ("AX.tsv", 1104)},
}


def examples(count: int, labels: list[float | None] | None = None) -> list[TextExample]:
    return [
        TextExample(str(number), ("a",), labels[number] if labels else None, f"test.tsv, line {number + 2}")
        for number in range(count)
    ]


def test_files_and_numbers_are_those_of_the_site():
    found = {
        name: {split: (submission.file, submission.examples) for split, submission in TASKS[name].submissions.items()}
        for name in GLUE
    }
    assert found == OFFICIAL


@pytest.mark.parametrize(
    ("task", "predictions", "words"),
    [
        ("cola", [0, 1], ["0", "1"]),
        ("mnli", [0, 1, 2], ["contradiction", "entailment", "neutral"]),
        ("qnli", [0, 1], ["entailment", "not_entailment"]),
        ("wnli", [0, 1], ["0", "1"]),
        ("stsb", [3.69251, 5.2, -0.1, 2], ["3.693", "5.000", "0.000", "2.000"]),
    ],
)
def test_predictions_are_spelt_as_the_site_wants_them(task, predictions, words):
    assert [predicted_word(TASKS[task], prediction) for prediction in predictions] == words


def test_a_submission_has_a_header_and_a_line_for_each_example(tmp_path):
    path = write_submission(TASKS["wnli"], "test", examples(146), [0, 1] * 73, tmp_path / "glue")
    assert path == tmp_path / "glue" / "WNLI.tsv"
    lines = path.read_text().split("\n")
    assert lines[:3] == ["index\tprediction", "0\t0", "1\t1"]
    assert lines[-2:] == ["145\t1", ""]


def test_submissions_that_the_site_would_refuse_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"WNLI.tsv would have 3 predictions, and GLUE's test file has 146"):
        write_submission(TASKS["wnli"], "test", examples(3), [0, 0, 1], tmp_path)
    with pytest.raises(UserError, match="GLUE takes no predictions for dev of WNLI: it takes test of CoLA"):
        write_submission(TASKS["wnli"], "dev", examples(146), [0] * 146, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_zip_has_what_is_there_and_what_lacks_is_told(tmp_path):
    with pytest.raises(
        UserError, match=r"has no submission file, which takes all of GLUE's test file: it would be one of CoLA.tsv"
    ):
        zip_submissions(tmp_path, tmp_path / "glue.zip")
    write_submission(TASKS["wnli"], "test", examples(146), [0] * 146, tmp_path)
    write_submission(TASKS["ax"], "test", examples(1104), [2] * 1104, tmp_path)
    (tmp_path / "notes.txt").write_text("not for the site")
    missing = zip_submissions(tmp_path, tmp_path / "out" / "glue.zip")
    lacking = ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE"]
    assert missing == [f"{name}.tsv" for name in lacking]
    with zipfile.ZipFile(tmp_path / "out" / "glue.zip") as archive:
        assert archive.namelist() == ["WNLI.tsv", "AX.tsv"]
        assert archive.read("AX.tsv").startswith(b"index\tprediction\n0\tneutral\n")
    first = (tmp_path / "out" / "glue.zip").read_bytes()
    zip_submissions(tmp_path, tmp_path / "out" / "glue.zip")
    assert (tmp_path / "out" / "glue.zip").read_bytes() == first


PROBABILITIES = [[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]


def test_predictions_as_tsv(tmp_path):
    path = tmp_path / "new" / "predictions.tsv"
    write_predictions(TASKS["mnli"], examples(2, [0, 1]), [0, 2], PROBABILITIES, path)
    assert path.read_text() == (
        "index\tprediction\tlabel\tp(contradiction)\tp(entailment)\tp(neutral)\n"
        "0\tcontradiction\tcontradiction\t0.700000\t0.200000\t0.100000\n"
        "1\tneutral\tentailment\t0.250000\t0.250000\t0.500000\n"
    )


def test_predictions_are_read_by_the_scorer(tmp_path):
    path = tmp_path / "predictions.tsv"
    write_predictions(TASKS["mnli"], examples(2), [0, 2], PROBABILITIES, path)
    assert path.read_text().startswith("index\tprediction\tp(")  # no column for labels that are not known
    words = {word: number for number, word in enumerate(TASKS["mnli"].labels)}
    assert class_numbers(read_predictions(path, ["0", "1"]), words).tolist() == [0, 2]


def test_predictions_as_json_lines(tmp_path):
    path = tmp_path / "predictions.jsonl"
    write_predictions(TASKS["sst2"], examples(2, [1, None]), [1, 0], [[0.1, 0.9], [0.8, 0.2]], path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"index": "0", "prediction": "1", "label": "1", "probabilities": {"0": 0.1, "1": 0.9}},
        {"index": "1", "prediction": "0", "probabilities": {"0": 0.8, "1": 0.2}},
    ]
    write_predictions(TASKS["stsb"], examples(1, [4.25]), [4.5], None, path)
    assert json.loads(path.read_text()) == {"index": "0", "prediction": 4.5, "label": 4.25}


def test_ratings_without_a_range_are_written_as_they_are(tmp_path):
    """Three decimals, which are STS-B's, made 0.000 of each small one."""
    task, path = own_task("regression", [0], label=1), tmp_path / "predictions.jsonl"
    values = [0.00013, 0.00029, 1234566.75]
    write_predictions(task, examples(3, [0.00012, 0.00031, 1234567.0]), values, None, path)
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["prediction"] for line in written] == values
    assert [line["label"] for line in written] == [0.00012, 0.00031, 1234567.0]


def test_choices_of_different_number(tmp_path):
    task = own_task("choice", ["start"], label="right", choices=["all"])
    pairs = [(("a", "b"),) * count for count in (2, 3)]
    choices = [ChoiceExample("q\t1", pair, 1, "") for pair in pairs]
    write_predictions(task, choices, [1, 2], [[0.4, 0.6], [0.1, 0.2, 0.7]], tmp_path / "p.tsv")
    assert (tmp_path / "p.tsv").read_text() == (
        "index\tprediction\tlabel\tp(0)\tp(1)\tp(2)\n"
        "q 1\t1\t1\t0.400000\t0.600000\t\n"
        "q 1\t2\t1\t0.100000\t0.200000\t0.700000\n"
    )


def test_another_ending_or_number_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"predictions are written as .tsv or .jsonl"):
        write_predictions(TASKS["sst2"], examples(1), [1], None, tmp_path / "predictions.csv")
    with pytest.raises(ValueError, match="2 and 1 must be the same number"):
        write_predictions(TASKS["sst2"], examples(2), [1], None, tmp_path / "predictions.tsv")
