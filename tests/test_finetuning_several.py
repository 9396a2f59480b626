# SPDX-License-Identifier: Apache-2.0
"""Several runs: seeds, the grid, retries. The runs themselves are made up here; test_finetuning_run.py has real ones."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from bert_jax.base import stopping
from bert_jax.base.errors import Interrupted, UserError
from bert_jax.cli import main
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.finetuning import several
from bert_jax.finetuning.degenerate import Degenerate
from bert_jax.finetuning.directory import open_finetuned
from bert_jax.finetuning.run import Result, Wanted
from bert_jax.train.loop import listen_for_stop

WANTED = Wanted("sst2", "data", Path("model"), FinetuneConfig(seed=3))
NOTHING = Degenerate("one class", "every example is class 0")


@pytest.fixture
def runs(monkeypatch):
    """Seed -> value, None: it learns nothing; which (seed, folder) were asked for, in order."""
    values: dict[int, float | None] = {}
    asked: list[tuple[int, str]] = []

    def finetune(wanted: Wanted, output: Path, *, resume_command: str) -> Result:
        seed = wanted.config.seed
        asked.append((seed, output.name))
        output.mkdir(parents=True, exist_ok=True)
        owner = output / "seed"
        if owner.is_file() and owner.read_text() != str(seed):
            raise UserError(f"{output}: holds another fine-tuned run (seed: {owner.read_text()} -> {seed})")
        owner.write_text(str(seed))
        (output / "finetune.json").write_text(json.dumps({"seed": seed}))
        value = values.get(seed, 0.9)
        failed = NOTHING if value is None else None
        return Result(output, "accuracy", "dev", 0.5 if value is None else value, {"dev": {"accuracy": value}}, failed)

    monkeypatch.setattr(several, "finetune", finetune)
    return values, asked


def test_seeds_are_summarised_without_those_that_collapsed(runs, tmp_path):
    values, asked = runs
    values |= {3: 0.90, 4: None, 5: 0.94, 6: 0.86}
    record = several.run_all(several.seeds(WANTED, 4), tmp_path, resume_command="")
    assert asked == [(3, "seed-3"), (4, "seed-4"), (5, "seed-5"), (6, "seed-6")]
    mean = (0.90 + 0.94 + 0.86) / 3
    spread = (sum((value - mean) ** 2 for value in (0.90, 0.94, 0.86)) / 2) ** 0.5
    assert record["mean"] == pytest.approx(mean)
    assert record["standard_deviation"] == pytest.approx(spread)
    assert (record["best"], record["collapsed"]) == ("seed-5", 1)
    assert (record["metric"], record["split"], record["title"]) == ("accuracy", "dev", "SST-2")
    assert [run["seed"] for run in record["runs"] if run["degenerate"]] == [4]
    assert json.loads((tmp_path / "seeds.json").read_text()) == record
    assert open_finetuned(tmp_path).path == tmp_path / "seed-5"


def test_all_collapsed(runs, tmp_path):
    runs[0].update({3: None, 4: None})
    record = several.run_all(several.seeds(WANTED, 2), tmp_path, resume_command="")
    assert (record["mean"], record["standard_deviation"], record["best"], record["collapsed"]) == (None, None, None, 2)
    with pytest.raises(UserError, match="none of its runs has learned anything"):
        open_finetuned(tmp_path)


def test_one_run_has_no_deviation(runs, tmp_path):
    record = several.run_all(several.seeds(WANTED, 1), tmp_path, resume_command="")
    assert (record["mean"], record["standard_deviation"]) == (0.9, None)


def test_the_grid_of_the_paper():
    """Appendix A.3: batch size 16, 32; rate 5e-5, 3e-5, 2e-5; 2, 3, 4 epochs. What is set is not searched."""
    settings = {
        (c.optimizer.learning_rate, c.batch_size, c.epochs) for c in (e.wanted.config for e in several.grid(WANTED))
    }
    assert settings == {(rate, size, n) for rate in (5e-5, 3e-5, 2e-5) for size in (16, 32) for n in (2, 3, 4)}
    fixed = Wanted("sst2", "data", Path("model"), FinetuneConfig(batch_size=8))
    entries = several.grid(fixed)
    assert {entry.wanted.config.batch_size for entry in entries} == {8}
    assert len(entries) == len({entry.folder for entry in entries}) == 9


def test_a_failed_run_is_kept_and_the_next_seed_tried(runs, tmp_path, capsys):
    values, asked = runs
    values |= {3: None, 4: None, 5: 0.8}
    result = several.with_retries(WANTED, tmp_path / "run", 4, resume_command="")
    assert (result.value, result.degenerate, result.path) == (0.8, None, tmp_path / "run")
    assert asked == [(3, "run"), (4, "run"), (5, "run")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-failed-3", "run-failed-4"]
    assert "one class: every example is class 0" in capsys.readouterr().err


def test_the_same_command_goes_on_after_retries(runs, tmp_path):
    """The failed ones are found where they were put; nothing is refused as another run."""
    values, asked = runs
    values |= {3: None, 4: 0.8}
    first = several.with_retries(WANTED, tmp_path / "run", 2, resume_command="")
    asked.clear()
    assert several.with_retries(WANTED, tmp_path / "run", 2, resume_command="") == first
    assert asked == [(3, "run-failed-3"), (4, "run")]


def test_retries_come_to_an_end(runs, tmp_path):
    values, asked = runs
    values |= dict.fromkeys(range(3, 9))
    result = several.with_retries(WANTED, tmp_path / "run", 1, resume_command="")
    assert result.degenerate == NOTHING
    assert asked == [(3, "run"), (4, "run")]
    assert several.with_retries(WANTED, tmp_path / "other", 0, resume_command="").degenerate == NOTHING
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run", "run-failed-3"]


def test_the_command_tells_every_run(runs, tmp_path, capsys):
    runs[0].update({0: 0.9, 1: None, 2: 0.8})
    named = ("sst2", "--data", "data", "--model", "model", "--output", str(tmp_path / "runs"))
    assert main(["finetune", *named, "--seeds", "3"]) == 0
    printed = capsys.readouterr().out
    assert "seed-1" in printed
    assert "degenerate: one class" in printed
    assert "dev accuracy: mean 0.8500, standard deviation 0.0707, best seed-0, collapsed 1" in printed


@pytest.mark.parametrize(
    "begin",
    [
        lambda output: several.run_all(several.seeds(WANTED, 2), output, resume_command="again"),
        lambda output: several.with_retries(WANTED, output, 1, resume_command="again"),
    ],
    ids=["seeds", "retries"],
)
def test_a_stop_behind_the_last_step_of_a_run_keeps_the_next_from_beginning(runs, begin, tmp_path, monkeypatch):
    """Of seeds, and of retries: the run that was ending answers the signal, and no other hears of it."""
    values, asked = runs
    values[3] = None
    run = several.finetune

    def finetune(*arguments, **options):
        result = run(*arguments, **options)
        with listen_for_stop():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        return result

    monkeypatch.setattr(several, "finetune", finetune)
    with stopping.watching(), pytest.raises(Interrupted, match="go on with: again"):
        begin(tmp_path / "out")
    assert [seed for seed, _ in asked] == [3]
