# SPDX-License-Identifier: Apache-2.0
"""One word has one meaning: every option of every parser stands in the tables of docs/cli.md, with the same value."""

import argparse
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import refusal_of
from test_idle_options import parser_of

from bert_jax.cli import main, STAGES

DOCUMENT = Path(__file__).parents[1] / "docs" / "cli.md"
HEADS = ("Arguments without an option", "Options", "Earlier spellings")


def table(head: str) -> list[list[str]]:
    """The rows of the table under a head, without code marks."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {head}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [
        [cell.strip().replace("\\|", "|").replace("`", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
    ]


def value_of(action: argparse.Action) -> str:
    """What stands behind an option, as the table has it."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if action.metavar is None and action.choices is not None:
        return ", ".join(map(str, action.choices))
    named = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
    return " ".join(map(str, named))


def actions_of(parser: argparse.ArgumentParser, stage: str) -> Iterator[tuple[str, argparse.Action]]:
    """The options and arguments of a stage and of what is below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from actions_of(inner, f"{stage} {name}")
        elif action.dest != "help":
            yield stage, action


@pytest.fixture(scope="module")
def actions() -> list[tuple[str, argparse.Action]]:
    with pytest.MonkeyPatch.context() as patch:
        parsers = {stage: parser_of(stage, patch) for stage in (*STAGES, "vocab extend")}
    return [pair for stage, parser in parsers.items() for pair in actions_of(parser, stage)]


def stages_by_word(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    found = defaultdict(set)
    for word, stage in pairs:
        found[word].add(stage)
    return {word: ", ".join(sorted(stages)) for word, stages in found.items()}


def test_every_option_is_a_row_and_every_row_an_option(actions):
    shown = [(stage, action) for stage, action in actions if action.help != argparse.SUPPRESS and action.option_strings]
    used = {(names_of(action)[-1], value_of(action)) for _, action in shown}
    written = [(name, value) for name, value, _, _ in table("Options")]
    assert sorted(used) == sorted(written), (
        "an option's name and value are not a row of docs/cli.md, or a row is of no option"
    )
    names = [name for name, _ in written]
    assert names == sorted(set(names)), "rows of docs/cli.md are in order, each name once"


def test_the_stages_of_every_option_are_those_of_its_row(actions):
    used = stages_by_word(
        (names_of(action)[-1], stage)
        for stage, action in actions
        if action.help != argparse.SUPPRESS and action.option_strings
    )
    assert used == {name: stages for name, _, _, stages in table("Options")}


def names_of(action: argparse.Action) -> list[str]:
    """The long names of an option."""
    return [name for name in action.option_strings if name.startswith("--") and not name.startswith("--no-")]


def test_every_argument_without_an_option_is_a_row(actions):
    used = stages_by_word((str(action.metavar), stage) for stage, action in actions if not action.option_strings)
    assert used == {name: stages for name, _, stages in table("Arguments without an option")}


def test_every_earlier_spelling_is_a_row(actions):
    used = defaultdict(set)
    for stage, action in actions:
        if action.help == argparse.SUPPRESS:
            used[action.option_strings[0], re.sub(r"bert-jax finetune TASK.*", "RECIPE", action.now)].add(stage)
    written = {(former, now): set(stages.split(", ")) for stages, former, now in table("Earlier spellings")}
    assert used == written


def test_the_document_has_no_other_table():
    assert re.findall("^## (.*)", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE) == list(HEADS)


def test_an_earlier_spelling_is_taken_and_answered(capsys):
    """The bug: a script for an earlier version stops, or goes on without a word."""
    parser = importlib.import_module("bert_jax.pipelines.embed").parser()
    arguments = parser.parse_args(["M", "--input", "a", "--output", "b", "--shard-size", "7", "--task", "span"])
    assert (arguments.shard_size, arguments.kind) == (7, "span")
    assert capsys.readouterr().err.splitlines() == [
        "--shard-size is written --shard-vectors now",
        "--task is written --kind now",
    ]


FINETUNE = ("finetune", "sst2", "--data", "D", "--model", "M", "--output", "O")
PRETRAIN = ("pretrain", "tiny", "--data", "D", "--output", "O")


@pytest.mark.parametrize(
    ("line", "here"),
    [
        ((*PRETRAIN, "--batch-size", "64"), "phases.0.batch_size=VALUE"),
        ((*PRETRAIN, "--max-length", "64"), "phases.0.sequence_length=VALUE"),
        ((*PRETRAIN, "--seed", "1"), "seed=VALUE"),
        ((*PRETRAIN, "max_length=64"), "phases.0.sequence_length"),
        ((*PRETRAIN, "output=RUN"), "--output RUN"),
        ((*FINETUNE, "--learning-rate", "1e-4"), "optimizer.learning_rate=VALUE"),
        ((*FINETUNE, "--num-epochs", "3"), "see bert-jax finetune --help"),
        ((*FINETUNE, "seeds=3"), "--seeds 3"),
        ((*FINETUNE, "sweep=true"), "--sweep"),
        ((*FINETUNE, "phases.0.steps=9"), "epochs"),
        (("finetune", "base", *FINETUNE[2:]), "bert-jax pretrain base"),
        (("pretrain", "sst2_tiny", *PRETRAIN[2:]), "bert-jax finetune sst2_tiny"),
        (FINETUNE[:1] + FINETUNE[2:], "bert-jax finetune NAME"),
        (("evaluate", "--model", "M", "--data", "D"), "MODEL"),
        (("embed", "M", "--output", "O", "--input", "I", "--text", "T"), "--input"),
        (("evaluate", "M", "--input", "T"), "--text"),
        (("convert", "M", "--output", "O", "--to", "tf1"), "DST"),
        (("report", "--run", "R"), "RUN"),
    ],
)
def test_another_stages_spelling_is_answered_with_the_one_here(line, here, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert here in refusal_of(capsys, *line)


@pytest.mark.parametrize(
    ("line", "said", "then"),
    [
        (
            "plan tiny --topology local --json no/p.json",
            "--json no/p.json is written --output no/p.json now",
            "no/p.json: ",
        ),
        ("predict nowhere --task tagging", "--task tagging is written --kind tagging now", "nowhere is missing"),
        (
            "finetune --task sst2 --data D --model M --output O epochs=x",
            "--task is written bert-jax finetune TASK, without an option, now",
            "epochs='x' is not of type",
        ),
    ],
)
def test_a_command_of_earlier_versions_is_the_present_one(line, said, then, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == said
    assert then in last
