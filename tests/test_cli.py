# SPDX-License-Identifier: Apache-2.0
"""The command line: help, errors in one line, exit statuses."""

import errno
import os
import subprocess
import sys

import pytest
from conftest import refusal_of

from bert_jax.base.errors import TryAgain, UserError
from bert_jax.cli import main, STAGES

HEAVY = ("jax", "flax", "tensorflow", "optax", "orbax", "tokenizers", "numpy", "etils", "fsspec", "gcsfs")


def test_help_names_every_stage(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {stage} " in printed for stage in STAGES)


def test_without_a_stage_the_usage_is_printed(capsys):
    assert main([]) == 2
    assert "usage: bert-jax" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_reader_that_has_gone_is_no_error(option):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from bert_jax.cli import entry; entry()", option]
    with os.fdopen(write) as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_unknown_stage(capsys):
    assert main(["pretain"]) == 2
    assert capsys.readouterr().err == (
        "bert-jax pretain: there is no stage 'pretain': did you mean pretrain? bert-jax --help has them all\n"
    )


def test_help_imports_nothing_heavy():
    """What keeps `bert-jax --help` under a second."""
    check = f"""
import sys
from bert_jax.cli import main
main(["--help"])
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("a setting is wrong: mend it"), 2),
        (TryAgain("storage does not answer: run the same command again"), 75),
        (FileNotFoundError(errno.ENOENT, "no such file", "x"), 2),
        (OSError(errno.ENOSPC, "no space", "x"), 2),
        (OSError(errno.EACCES, "not allowed", "x"), 2),
        (OSError(errno.EIO, "i/o error", "x"), 75),
        (OSError(errno.ESTALE, "stale file handle", "x"), 75),
    ],
)
def test_what_a_scheduler_may_try_again_ends_with_75(error, status, monkeypatch, capsys):
    """docs/clusters.md: 2 would fail again, 75 need not."""

    def fail(_):
        raise error

    monkeypatch.setattr("bert_jax.pipelines.report.main", fail)
    assert main(["report", "run"]) == status
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert ("run the same command again" in told) == (status == 75 or "no space" in told or "disk full" in told)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_help(stage, capsys):
    with pytest.raises(SystemExit) as stop:
        main([stage, "--help"])
    assert stop.value.code == 0
    assert f"usage: bert-jax {stage}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "bsae"], "there is no configuration 'bsae': name a .py file or one of base, bilm, "),
        (["pretrain", "nowhere/mine.py"], "nowhere/mine.py: no such configuration file"),
        (["pretrain", "tiny", "optimizer.leaning_rate=1"], "did you mean 'optimizer.learning_rate'?"),
        (["pretrain", "tiny"], "nowhere is missing: run bert-jax prepare"),
        (["describe", "tiny", "model.num_attention_heads=3"], "model.hidden_size=128 is not divisible by"),
        (["evaluate", "nowhere"], "nowhere is missing: give a checkpoint's directory"),
        (["fill-mask", "nowhere", "a [MASK]"], "nowhere is missing: give a checkpoint's directory"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_status_two(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "pretrain":
        arguments = [*arguments, "--data", "nowhere", "--output", "run"]
    if arguments[0] == "evaluate":
        arguments = [*arguments, "--data", "nowhere"]
    assert message in refusal_of(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    from bert_jax.base.errors import UserError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        main(["report", "nowhere", "--debug"])


@pytest.mark.parametrize("stage", ["corpus", "vocab", "prepare", "pretrain"])
def test_an_output_that_cannot_be_written(stage, prepared, tmp_path, capsys):
    """A file stands where the output's parent should be."""
    (tmp_path / "file").write_text("in the way")
    output = ["--output", str(tmp_path / "file" / "output")]
    arguments = {
        "corpus": ["--megabytes", "0.01"],
        "vocab": ["--input", prepared.text, "--size", "100"],
        "prepare": ["--input", prepared.text, "--vocab", prepared.vocab],
        "pretrain": [
            *("tiny", "phases.0.sequence_length=16", "phases.0.max_predictions_per_seq=3"),
            *("phases.0.steps=1", "optimizer.warmup_steps=0", "mesh.data=1", "--data", prepared.data),
        ],
    }[stage]
    assert main([stage, *map(str, arguments), *output]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert printed[-1].startswith(f"bert-jax {stage}: ")
    assert "file" in printed[-1]
    assert "Traceback" not in "".join(printed)
