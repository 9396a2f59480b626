# SPDX-License-Identifier: Apache-2.0
"""`bert-jax data check`: the official files by their counts, and files that have been through the hands of others."""

import csv
import json
from pathlib import Path

import pytest
from conftest import real_data

from bert_jax.base.errors import UserError
from bert_jax.checks.findings import NOTE, OK, PROBLEM, WARNING
from bert_jax.checks.task_files import check_task_files
from bert_jax.cli import main
from bert_jax.tasks import official
from bert_jax.tasks.official import OFFICIAL, OfficialFile
from bert_jax.tasks.table import TASKS


def found(folder, task="sst2"):
    """(severity, subject) -> what was seen, in the order of splits."""
    return [(one.severity, one.subject, one.placed) for one in check_task_files(folder, task).findings]


def said(findings, severity, subject):
    return [seen for level, name, seen in findings if (level, name) == (severity, subject)]


@pytest.fixture
def small(monkeypatch):
    """SST-2 as if its official files had 4, 2 and 3 examples."""
    sizes = {"train": OfficialFile(4), "dev": OfficialFile(2), "test": OfficialFile(3)}
    monkeypatch.setattr(official, "OFFICIAL", {"sst2": sizes})
    monkeypatch.setattr("bert_jax.checks.task_files.OFFICIAL", {"sst2": sizes})


def write_sst2(folder: Path) -> Path:
    folder.mkdir()
    train = ['a "good" film\t1', "bad\t0", '"quoted"\t1', "so-so\t0"]
    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *train]) + "\n")
    (folder / "dev.tsv").write_text("sentence\tlabel\ngood\t1\nbad\t0\n")
    (folder / "test.tsv").write_text("index\tsentence\n0\ta\n1\tb\n2\tc\n")
    return folder


def test_every_task_of_the_table_has_its_facts():
    assert OFFICIAL.keys() == TASKS.keys()
    for name, task in TASKS.items():
        assert OFFICIAL[name].keys() == task.files.keys(), name
        for split, submission in task.submissions.items():
            assert OFFICIAL[name][split].examples == submission.examples


@pytest.mark.parametrize("task", ["cola", "sst2", "stsb"])
def test_official_files_are_in_order(task):
    findings = check_task_files(real_data("glue"), task).findings
    assert {one.severity for one in findings} == {OK}
    counts = [one.value for one in findings if one.subject == "Lines"]
    assert counts == [OFFICIAL[task][split].examples for split in ("train", "dev", "test")]


def test_official_files_with_a_published_hash_are_known_by_it():
    assert said(found(real_data("zh"), "cmrc"), OK, "Hash")[0].startswith(
        "dev: cmrc2018_dev.json is the official file, byte for byte"
    )
    astray = said(found(real_data("zh"), "cmrc"), NOTE, "Answers")
    assert astray[0].startswith("dev: ")
    # SQuAD from a mirror: its questions, in other bytes.
    squad = found(real_data("squad"), "squad1")
    assert len(said(squad, OK, "Lines")) == 2
    assert len(said(squad, WARNING, "Hash")) == 2


def test_whole_files_without_traps_are_fine(tmp_path, small, capsys):
    folder = write_sst2(tmp_path / "SST-2")
    assert {severity for severity, *_ in found(folder)} == {OK}
    assert found(tmp_path)  # GLUE's folder around it
    assert main(["data", "check", str(folder), "--task", "SST-2"]) == 0
    assert "nothing to complain of" in capsys.readouterr().out


def test_files_that_are_missing_are_named(tmp_path, small):
    folder = write_sst2(tmp_path / "sst2")
    for name in ("dev.tsv", "test.tsv"):
        (folder / name).unlink()
    assert said(found(folder), PROBLEM, "Files") == ["dev: no dev.tsv (officially 2 examples)"]
    assert said(found(folder), NOTE, "Files") == ["test: no test.tsv (officially 3 examples)"]


def test_rows_that_a_csv_reader_merged_are_found(tmp_path, small, capsys):
    """Read with quoting, a lone quote swallows the rows up to the next one."""
    folder = write_sst2(tmp_path / "sst2")
    lines = ["sentence\tlabel\n", '"good\t1\n', 'bad"\t0\n']
    assert (folder / "dev.tsv").write_text("".join(lines))
    assert {severity for severity, *_ in found(folder)} == {OK}
    rows = list(csv.reader(lines, delimiter="\t"))
    assert len(rows) == 2  # the header, and two that became one
    cells = [" ".join(cell.split()) for row in rows for cell in row]
    (folder / "dev.tsv").write_text("{}\t{}\n{}\t{}\n".format(*cells))
    assert main(["data", "check", str(folder), "--task", "sst2", "--json"]) == 1
    problem = next(one for one in json.loads(capsys.readouterr().out)["findings"] if one["severity"] == PROBLEM)
    assert (problem["where"], problem["seen"]) == ("dev", "dev.tsv has 1 examples, and officially there are 2")
    assert "quotes" in problem["causes"]


def test_texts_that_were_quoted_on_the_way_are_found(tmp_path, small):
    folder = write_sst2(tmp_path / "sst2")
    rows = [line.split("\t") for line in (folder / "train.tsv").read_text().splitlines()]
    with (folder / "train.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)
    assert [seen.partition(" texts")[0] for seen in said(found(folder), WARNING, "Quotes")] == ["train: 2"]


def test_shuffled_ids_and_ids_of_another_file_are_told_apart(tmp_path, small):
    folder = write_sst2(tmp_path / "sst2")
    (folder / "test.tsv").write_text("index\tsentence\n2\tc\n0\ta\n1\tb\n")
    assert "are in another order, from test.tsv, line 2 on" in said(found(folder), WARNING, "Ids")[0]
    (folder / "test.tsv").write_text("index\tsentence\n0\tc\n7\ta\n9\tb\n")
    assert "are not 0 to 2, from test.tsv, line 3 on, which is 7" in said(found(folder), PROBLEM, "Ids")[0]


def test_missing_labels_and_labels_of_one_kind_are_found(tmp_path, small):
    folder = write_sst2(tmp_path / "sst2")
    (folder / "dev.tsv").write_text("sentence\tlabel\ngood\t-1\nbad\t-1\n")
    (folder / "train.tsv").write_text("sentence\tlabel\na\t1\nb\t1\nc\t1\nd\t1\n")
    findings = found(folder)
    assert said(findings, PROBLEM, "Labels") == ["train: every one of 4 examples has the label 1"]
    assert "label -1 is not one of" in said(findings, PROBLEM, "Files")[0]


@pytest.mark.parametrize(
    ("folder", "task", "message"), [("none", "sst2", "is no folder"), (".", "sst3", "there is no task sst3")]
)
def test_what_cannot_be_looked_at_is_refused(tmp_path, folder, task, message):
    with pytest.raises(UserError, match=message):
        check_task_files(tmp_path / folder, task)
