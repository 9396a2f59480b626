# SPDX-License-Identifier: Apache-2.0
"""The run directory's files."""

import json

import pytest

from bert_jax.errors import UserError
from bert_jax.run_directory import append_metrics, forget_metrics_after, open_run, RunDirectory, write_json


def test_metrics_after_a_step_are_taken_back(tmp_path):
    run = RunDirectory(tmp_path)
    for step in (10, 20, 20, 30):
        append_metrics(run, {"step": step})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 4')  # torn by a kill
    assert forget_metrics_after(run, 20) == 2
    assert [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()] == [10, 20, 20]
    assert forget_metrics_after(run, 20) == 0
    assert forget_metrics_after(RunDirectory(tmp_path / "new"), 0) == 0


def test_a_json_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"word": "词"})
    with pytest.raises(TypeError):
        write_json(path, {"word": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"word": "词"}


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is not a run directory \(no config.json\): make one with bert-jax pretrain"):
        open_run(tmp_path)
