# SPDX-License-Identifier: Apache-2.0
"""The run directory's files."""

import json
from pathlib import Path

import pytest
from tokenization_samples import VOCABULARY

from bert_jax.base.errors import UserError
from bert_jax.base.files import write_json
from bert_jax.config.description import ModelDescription
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import to_dict
from bert_jax.runs.directory import append_metrics, forget_metrics_after, open_run, RunDirectory, start_or_resume
from bert_jax.tokenization import WordPieceTokenizer


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


def test_metrics_are_not_written_through_links(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text('{"step": 5}\n{"step": 10}\n')
    before = theirs.read_text()
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.metrics_file.symlink_to(theirs)
    with pytest.raises(UserError, match=r"metrics.jsonl is a link, and nothing outside an output is written: remove"):
        append_metrics(run, {"step": 1})
    (run.path / "metrics.jsonl.partial").symlink_to(theirs)
    assert forget_metrics_after(run, 5) == 1
    assert theirs.read_text() == before
    assert run.metrics_file.read_text() == '{"step": 5}\n'


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


def test_a_run_may_begin_with_a_link_for_its_checkpoints(tmp_path):
    for folder in ("disk", "run"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    assert start_or_resume(tmp_path / "run", PretrainConfig(), PASSPORT, Vocabulary()).config() == PretrainConfig()
    (tmp_path / "run" / "config.json").unlink()
    (tmp_path / "disk" / "5").mkdir()  # somebody's checkpoints
    with pytest.raises(UserError, match="is not empty"):
        start_or_resume(tmp_path / "run", PretrainConfig(), PASSPORT, Vocabulary())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "cd" * 32}, r"trained with another vocabulary \(9 entries, [0-9a-f]{12}\) than the data's"),
        ({"splits": {"train": {"shards": [{"sha256": "2"}]}}}, "was trained on other data than this --data"),
    ],
)
def test_a_run_goes_on_with_its_own_data_only(tmp_path, change, message):
    own = PASSPORT | {"tokenizer": TOKENIZER.fingerprint}
    start_or_resume(tmp_path, PretrainConfig(), own, TOKENIZER)
    moved = own | {"bert_jax": "a later version", "warnings": ["of it"]}
    assert start_or_resume(tmp_path, PretrainConfig(), moved, TOKENIZER).manifest() == own
    with pytest.raises(UserError, match=message):
        start_or_resume(tmp_path, PretrainConfig(), own | change, TOKENIZER)


TOKENIZER = WordPieceTokenizer(VOCABULARY, lowercase=True)


def lines_changed_round(folder):
    file = folder / "vocab.txt"
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([*others, first]) + "\n")


def another_tokenizer(folder):
    WordPieceTokenizer(VOCABULARY, lowercase=False).save(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lines_changed_round, "do not belong together"),
        (another_tokenizer, r"are not those that the run was trained with \([0-9a-f]{12}\.\.\.\): copy both"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "tokenizer_config.json is missing: copy it"),
        (lambda folder: (folder / "vocab.txt").unlink(), "vocab.txt is missing"),
    ],
)
def test_a_run_with_other_tokenizer_files_does_not_go_on(tmp_path, damage, message):
    own = PASSPORT | {"tokenizer": TOKENIZER.fingerprint}
    run = start_or_resume(tmp_path, PretrainConfig(), own, TOKENIZER)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        start_or_resume(tmp_path, PretrainConfig(), own, TOKENIZER)
    with pytest.raises(UserError, match=message):
        run.tokenizer()


def converted(folder: Path, config: PretrainConfig) -> None:
    """A run as a conversion leaves it after 7 steps, with an optimizer's state; its arrays are not looked at."""
    TOKENIZER.save(folder)
    write_json(folder / "config.json", to_dict(config))
    write_json(folder / "model.json", ModelDescription(config.model).to_dict())
    (folder / "checkpoints" / "7" / "optimizer").mkdir(parents=True)


def test_a_converted_run_is_gone_on_with_in_a_run_of_its_own(tmp_path):
    converted(tmp_path, PretrainConfig())
    command = rf"holds a converted model: .*bert-jax pretrain CONFIG --from {tmp_path} --data DATA --output NEW"
    with pytest.raises(UserError, match=command):
        start_or_resume(tmp_path, PretrainConfig(), PASSPORT, TOKENIZER)
    assert not (tmp_path / "passport.json").exists()


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is not a run directory \(no config.json\): make one with bert-jax pretrain"):
        open_run(tmp_path)


MODEL_RECORD = {"path": "model", "keep": None, "entries": None, "longest": 16, "summary": "BERT", "weights_sha256": "0"}


@pytest.mark.parametrize("read", ["source", "teacher"])
@pytest.mark.parametrize("changes", [{"path": ...}, {"path": 1}, {"path": []}])
def test_a_record_of_another_model_is_whole_or_refused(tmp_path, read, changes):
    """The bug: a traceback of the command that went on with the run."""
    record = {name: value for name, value in {**MODEL_RECORD, **changes}.items() if value is not ...}
    (tmp_path / f"{read}.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"{read}\.json (lacks 'path'|holds other values).*: restore the file"):
        getattr(RunDirectory(tmp_path), read)()
    (tmp_path / f"{read}.json").write_text(json.dumps(MODEL_RECORD))
    assert getattr(RunDirectory(tmp_path), read)() == MODEL_RECORD


@pytest.mark.parametrize("content", [{"settings": None}, {"settings": {"optimizer": 3}}])
def test_settings_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "finetune.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"finetune\.json holds other values"):
        RunDirectory(tmp_path).averaging()
