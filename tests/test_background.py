# SPDX-License-Identifier: Apache-2.0
"""docs/background.md: its commands exist as they stand there, and its figures are those of the program."""

import json
import re
import shlex
from pathlib import Path

import pytest
from test_idle_options import parser_of

from bert_jax.base.errors import UserError
from bert_jax.cli import STAGES
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import config_names, load_config, override
from bert_jax.conversion.config_files import read_hugging_face
from bert_jax.study.table import find_study
from bert_jax.tasks.table import TASKS

TEXT = (Path(__file__).parents[1] / "docs" / "background.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| (.+) \| `(bert-jax [^`]+)` \|$", TEXT, re.MULTILINE)


def test_every_row_of_the_table_has_a_command():
    rows = TEXT.split("## What shows it")[1].count("\n| ") - 1  # without the head
    assert len(TABLE) == rows > 25


@pytest.mark.parametrize("line", [command for _, command in TABLE])
def test_the_command_is_understood(line, monkeypatch):
    """The stage, its options and their values, and its settings; nothing is run."""
    _, *words = shlex.split(line)
    stage = words.pop(0) if words[:2] != ["vocab", "extend"] else f"{words.pop(0)} {words.pop(0)}"
    assert stage.split()[0] in STAGES
    parser = parser_of(stage, monkeypatch)
    monkeypatch.undo()
    if stage == "score":  # its scorers have parsers of their own
        parser.parse_args(words)
        return
    arguments = parser.parse_intermixed_args(words)
    if stage == "pretrain":
        override(PretrainConfig(), arguments.settings)
        assert arguments.config in config_names()
    if stage == "finetune":
        override(FinetuneConfig(), arguments.settings)
        assert arguments.recipe in TASKS
    if stage == "study":
        find_study(arguments.name)
    if stage == "probe":
        assert arguments.task in TASKS


def test_the_named_settings_and_options_of_the_prose_are_there(monkeypatch):
    for setting in set(re.findall(r"`(objective(?:\.\w+)?=\w+)`", TEXT)):
        override(PretrainConfig(), [setting])
    for name in re.findall(r"`--(seeds|retries)`", TEXT):
        assert name in {action.dest for action in parser_of("finetune", monkeypatch)._actions}


# What transformers calls the models that the timeline says are refused.
REFUSED = {
    "GPT": "openai-gpt",
    "GPT-2": "gpt2",
    "ERNIE": "ernie",
    "XLNet": "xlnet",
    "RoBERTa": "roberta",
    "ALBERT": "albert",
    "T5": "t5",
    "BigBird": "big_bird",
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_of_the_timeline_are_refused_by_name(name, tmp_path):
    (row,) = re.findall(rf"^\| 20\d\d \| {name}(?: of Baidu)? \(.*$", TEXT, re.MULTILINE)
    assert "refuses" in row
    (tmp_path / "config.json").write_text(json.dumps({"model_type": REFUSED[name]}))
    with pytest.raises(UserError, match=f"is the config of a {REFUSED[name]} model, which is no BERT"):
        read_hugging_face(tmp_path / "config.json")


@pytest.mark.parametrize(("size", "parameters"), [("base", 109_482_240), ("large", 335_141_888), ("bilm", 91_190_272)])
def test_sizes_are_those_that_are_counted(size, parameters):
    from bert_jax.pipelines.describe import count

    facts = count(load_config(size))
    assert facts["encoder_parameters"] == parameters
    assert f"{parameters:,}" in TEXT
    if size == "base":
        assert f"{facts['formula_parameters']:,}" in TEXT
        assert facts["formula_parameters"] == 108_375_552
