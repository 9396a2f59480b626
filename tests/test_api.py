# SPDX-License-Identifier: Apache-2.0
"""`import bert_jax` does what the command line does."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import run_stage
from test_earlier_files import earlier  # noqa: F401  # a fixture

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.finetuning.directory import OwnTask
from bert_jax.preparation.request import PrepareSettings
from bert_jax.runs.directory import open_run

SMALL = PrepareSettings(sequence_lengths=(32,), held_out=0.3)


def test_importing_it_imports_nothing_heavy():
    heavy = "print([name for name in ('jax', 'numpy', 'tensorflow', 'optax') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"import sys, bert_jax; {heavy}"], capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_preparing_gives_the_data_of_the_command_line(earlier, tmp_path):  # noqa: F811
    text, vocabulary = tmp_path / "text.txt", earlier / "data" / "vocab.txt"
    text.write_text("\n\n".join(f"word {number}.\nanother sentence {number}." for number in range(40)))
    passport = bert_jax.prepare([text], vocabulary, tmp_path / "ours", SMALL)
    run_stage(
        "prepare", "--input", text, "--vocab", vocabulary, "--output", tmp_path / "theirs",
        "--sequence-length", 32, "--held-out", 0.3,
    )  # fmt: skip
    assert json.loads((tmp_path / "theirs" / "passport.json").read_text())["splits"] == passport["splits"]


def test_a_run_from_its_first_step_to_a_fine_tuned_model(earlier, tmp_path, capsys):  # noqa: F811
    config = open_run(earlier / "finished").config()
    phase = replace(config.phases[0], steps=3)
    config = replace(config, phases=(phase,), optimizer=replace(config.optimizer, warmup_steps=1))
    run = bert_jax.pretrain(config, earlier / "data", tmp_path / "run")

    scores = bert_jax.evaluate(run.path, earlier / "data")
    capsys.readouterr()
    run_stage("evaluate", run.path, "--data", earlier / "data", "--json")
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(scores))
    with pytest.raises(UserError, match="nothing to score"):
        bert_jax.evaluate(bert_jax.load(run.path))

    assert bert_jax.convert(run.path, tmp_path / "elsewhere", "huggingface").holds
    own = tmp_path / "own"
    own.mkdir()
    for split in ("train", "dev"):
        rows = "".join(f"word {number}\t{'ab'[number % 2]}\n" for number in range(8))
        (own / f"{split}.tsv").write_text(f"text\tlabel\n{rows}")
    result = bert_jax.finetune(
        OwnTask("classification", ("text",), "label"), own, run.path, tmp_path / "out",
        FinetuneConfig(epochs=1, batch_size=8, max_length=16),
    )  # fmt: skip
    assert 0 <= result.scores["dev"]["accuracy"] <= 1
    assert (tmp_path / "out" / "scores.json").exists()
