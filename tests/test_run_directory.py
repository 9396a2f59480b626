# SPDX-License-Identifier: Apache-2.0
"""The run directory's files."""

import json

import pytest

from bert_jax.config import PretrainConfig
from bert_jax.errors import UserError
from bert_jax.run_directory import append_metrics, forget_metrics_after, open_run, RunDirectory, start_or_resume


def test_metrics_after_a_step_are_taken_back(tmp_path):
    run = RunDirectory(tmp_path)
    for step in (10, 20, 20, 30):
        append_metrics(run, {"step": step})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 4')  # torn by a kill
    assert forget_metrics_after(run, 20) == 2
    assert [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()] == [10, 20, 20]
    assert forget_metrics_after(run, 20) == 0
    append_metrics(run, {"kind": "data", "step": 0})
    assert forget_metrics_after(run, 0) == 3
    assert forget_metrics_after(run, -1) == 1, "a run that begins again measures its data again"
    assert forget_metrics_after(RunDirectory(tmp_path / "new"), 0) == 0


class Vocabulary:
    """A tokenizer as far as a run directory needs one."""

    def save(self, directory):
        (directory / "sentencepiece.model").write_bytes(b"model")


PASSPORT = {"tokenizer": "ab" * 32, "vocab_size": 9, "splits": {"train": {"shards": [{"sha256": "1"}]}}}


def test_a_start_that_was_cut_off_begins_again(tmp_path):
    """Anything that is written before config.json may lie there, whole or in part; nothing else may."""
    for name in (
        "vocab.txt",
        "sentencepiece.model",
        "tokenizer_config.json.partial",
        "passport.json",
        "config.json.partial",
    ):
        (tmp_path / name).write_text("of an earlier start")
    run = start_or_resume(tmp_path, PretrainConfig(), PASSPORT, Vocabulary())
    assert run.manifest() == PASSPORT
    assert run.config() == PretrainConfig()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "passport.html").write_text("mine")
    with pytest.raises(UserError, match="is not empty and is not a run directory: choose another --output"):
        start_or_resume(tmp_path / "other", PretrainConfig(), PASSPORT, Vocabulary())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "cd" * 32}, r"trained with another vocabulary \(9 entries, abababababab\) than the data's"),
        ({"splits": {"train": {"shards": [{"sha256": "2"}]}}}, "was trained on other data than this --data"),
    ],
)
def test_a_run_goes_on_with_its_own_data_only(tmp_path, change, message):
    start_or_resume(tmp_path, PretrainConfig(), PASSPORT, Vocabulary())
    moved = PASSPORT | {"bert_jax": "a later version", "warnings": ["of it"]}
    assert start_or_resume(tmp_path, PretrainConfig(), moved, Vocabulary()).manifest() == PASSPORT
    with pytest.raises(UserError, match=message):
        start_or_resume(tmp_path, PretrainConfig(), PASSPORT | change, Vocabulary())


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is not a run directory \(no config.json\): make one with bert-jax pretrain"):
        open_run(tmp_path)
