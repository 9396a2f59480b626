# SPDX-License-Identifier: Apache-2.0
"""`make demo` in small: every stage in its order, each used again as it is, on text of the installed packages."""

import json
import re
import shlex
from pathlib import Path

import pytest

from bert_jax.cli import main

ROOT = Path(__file__).parents[1]
SMALL = {
    "corpus": ["--megabytes", "0.2"],
    "pretrain": [
        *(f"phases.{number}.steps={steps}" for number, steps in enumerate((2, 1, 2, 1))),
        *(f"phases.{number}.batch_size={rows}" for number, rows in enumerate((16, 8, 16, 8))),
        *("mesh.data=1", "eval_batches=2", "optimizer.warmup_steps=1"),
    ],
}


def stages(folder: Path) -> list[list[str]]:
    """The commands of the Makefile's target `demo`, with less text and fewer steps."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ndemo:")[1].split("\n\n")[0]
    commands = re.findall(r"@\$\(BIN\)/bert-jax (.*)", recipe.replace("\\\n", " "))
    commands = [command.replace("$(DEMO)", str(folder)).replace("$(SEED)", "0") for command in commands]
    return [[*words, *SMALL.get(words[0], [])] for words in map(shlex.split, commands)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    commands = stages(folder)
    assert [words[0] for words in commands] == [
        "corpus",
        "vocab",
        "prepare",
        "pretrain",
        "evaluate",
        "report",
        "fill-mask",
    ]
    for words in commands:
        assert main(words) == 0, words
    return folder


def test_it_leaves_a_report_and_scores(demo):
    scores = json.loads((demo / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert scores["step"] == 6
    page = (demo / "run" / "report.html").read_text(encoding="utf-8")
    assert f"{scores['mlm_loss']:.3f}" in page


def test_a_second_demo_reuses_what_is_there(demo, capsys):
    """Nothing is made again: no file of text, vocabulary, data or checkpoints is newer."""
    made = {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.is_file() and path.parent.name != "run"}
    for words in stages(demo)[:4]:
        assert main(words) == 0
    capsys.readouterr()
    after = {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.is_file() and path.parent.name != "run"}
    assert after == made
