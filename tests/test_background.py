# SPDX-License-Identifier: Apache-2.0
"""docs/background.md: its commands exist as they stand there, and its figures are those of the program."""

import re
import shlex
from pathlib import Path

import pytest
from test_idle_options import parser_of

from bert_jax.cli import STAGES
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import config_names, override
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


@pytest.mark.parametrize(("size", "parameters"), [("base", 109_482_240), ("large", 335_141_888)])
def test_sizes_are_those_that_are_counted(size, parameters):
    from bert_jax.pipelines.describe import count

    facts = count(override(PretrainConfig(), [f"model={size}"]))
    assert facts["encoder_parameters"] == parameters
    assert f"{parameters:,}" in TEXT
    if size == "base":
        assert f"{facts['formula_parameters']:,}" in TEXT
        assert facts["formula_parameters"] == 108_375_552
