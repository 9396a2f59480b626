# SPDX-License-Identifier: Apache-2.0
"""Whole runs by the command: learned, stopped and resumed, on one and on eight devices, nothing learned, every family."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import refusal_of
from finetune_samples import (
    command,
    read_lines,
    without_times,
    write_conll,
    write_model,
    write_squad,
    write_sst2,
    write_stsb,
    write_swag,
)

import bert_jax
import bert_jax.feed.feed
from bert_jax.cli import main
from bert_jax.train.session import Session

LENGTH = "epochs=8"  # of 12 steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, SST-2 of 96 + 24 examples, and `run`, which was never stopped."""
    folder = tmp_path_factory.mktemp("finetune")
    write_model(folder / "model")
    write_sst2(folder / "sst2", train=96)
    assert main(sst2(folder, "run")) == 0
    return folder


def sst2(folder: Path, output: str, *more: object) -> list[str]:
    return command("sst2", folder / "sst2", folder / "model", folder / output, LENGTH, *more)


def params(path: Path) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(bert_jax.load(path).params)]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# ---- one run -------------------------------------------------------------------------------------------------------


def test_one_word_is_learned(folder):
    scores = read(folder / "run" / "scores.json")
    assert scores["scores"] == {"dev": {"accuracy": 1.0}}
    assert scores["main"] == {"metric": "accuracy", "split": "dev", "value": 1.0}
    assert (scores["degenerate"], scores["seed"], scores["step"]) == (None, 0, 96)
    predictions = read_lines(folder / "run" / "predictions" / "dev.jsonl")
    assert [line["predicted"] for line in predictions] == [number % 2 for number in range(24)]


def test_metrics_have_every_interval_and_epoch(folder):
    lines = read_lines(folder / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(4, 97, 4))
    assert [line["step"] for line in lines if line["kind"] == "dev"] == list(range(12, 97, 12))
    rates = {line["step"]: line["learning_rate"] for line in lines if line["kind"] == "train"}
    warmup = int(0.1 * 96)
    for done, rate in rates.items():  # of the step before
        published = 1e-2 * ((done - 1) / warmup if done - 1 < warmup else 1 - (done - 1) / 96)
        assert rate == pytest.approx(published, rel=1e-5)


def test_only_the_newest_checkpoint_is_kept_and_without_moments(folder):
    [checkpoint] = [path for path in (folder / "run" / "checkpoints").iterdir() if path.name.isdecimal()]
    assert checkpoint.name == "96"
    assert not (checkpoint / "optimizer").exists()
    assert (checkpoint / "params").is_dir()


def test_the_encoder_is_that_of_the_model_and_the_head_is_new(folder):
    """Loaded as any model; what was not trained is not kept."""
    tuned, model = bert_jax.load(folder / "run"), bert_jax.load(folder / "model")
    assert tuned.description.task.labels == ("0", "1")
    assert not tuned.description.mlm
    assert not tuned.description.nsp
    before, after = (one.params["encoder"]["embeddings"]["word"] for one in (model, tuned))
    unused = tuned.tokenizer.encode("7").ids[0]  # in no text: decay alone, by a hundredth of the sum of rates
    rates = sum(1e-2 * (step / 9 if step < 9 else 1 - step / 96) for step in range(96))
    np.testing.assert_allclose(after[unused] / before[unused], 1 - 0.01 * rates, rtol=1e-3)


def test_a_finished_run_is_recognised(folder, capsys):
    """Its scores are read: nothing is predicted again."""
    before = (folder / "run" / "metrics.jsonl").read_bytes()
    written = (folder / "run" / "scores.json").stat().st_mtime_ns
    assert main(sst2(folder, "run")) == 0
    assert (folder / "run" / "scores.json").stat().st_mtime_ns == written
    printed = capsys.readouterr()
    assert (
        f"has finished its 96 steps; to train on, begin a new run with its encoder (--model {folder / 'run'}"
        in printed.err
    )
    assert "dev accuracy 1.0000" in printed.out
    assert (folder / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_with_other_settings_is_refused_by_name(folder, capsys):
    error = refusal_of(capsys, *sst2(folder, "run", "optimizer.learning_rate=1e-3", "seed=4"))
    assert (
        "holds another fine-tuned run (optimizer.learning_rate: 0.01 -> 0.001; seed: 0 -> 4): choose another --output"
        in error
    )


# ---- stopped, and on other devices ---------------------------------------------------------------------------------


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    measured = Session.measured

    def acting(self: Session, done: int, *rest: Any) -> None:
        measured(self, done, *rest)
        if done == step:
            act()

    monkeypatch.setattr(Session, "measured", acting)


def killed() -> None:
    raise RuntimeError("killed")


@pytest.fixture(scope="module")
def stopped(folder):
    """A run that was killed after its step 79 and stopped by a signal after its step 86, within intervals and epochs."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 79, killed)
        with pytest.raises(RuntimeError, match="killed"):
            main(sst2(folder, "stopped"))
    steps = [line["step"] for line in read_lines(folder / "stopped" / "metrics.jsonl")]
    assert max(steps) == 76
    assert not (folder / "stopped" / "scores.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 85, lambda: signal.raise_signal(signal.SIGTERM))
        assert main(sst2(folder, "stopped")) == 128 + signal.SIGTERM
    return folder / "stopped"


def test_stopped_and_resumed_is_never_stopped(folder, stopped, capsys, monkeypatch):
    """Bit for bit: parameters, metrics, predictions, scores. Nothing of it needs TensorFlow, whose import takes seconds."""
    imported: list[bool] = []
    monkeypatch.setattr(bert_jax.feed.feed, "_tf_feed", lambda: imported.append(True))
    assert not (stopped / "scores.json").exists()
    shutil.copytree(stopped, folder / "eight")
    assert main(sst2(folder, "stopped")) == 0
    assert "at step 86 of 96" in capsys.readouterr().err
    assert not imported
    for one, other in zip(params(folder / "run"), params(stopped), strict=True):
        np.testing.assert_array_equal(one, other)
    assert without_times(read_lines(stopped / "metrics.jsonl")) == without_times(
        read_lines(folder / "run" / "metrics.jsonl")
    )
    for name in ("dev.jsonl", "dev.tsv"):
        assert (stopped / "predictions" / name).read_bytes() == (folder / "run" / "predictions" / name).read_bytes()
    times = ("seconds", "examples_per_second")
    one, other = (
        {k: v for k, v in read(path / "scores.json").items() if k not in times} for path in (folder / "run", stopped)
    )
    assert one == other


def test_devices_do_not_change_what_is_learned(folder, stopped):
    """The last steps on eight devices, of a run whose others were on one."""
    if not (folder / "eight").exists():
        shutil.copytree(stopped, folder / "eight")
    assert main(sst2(folder, "eight", "mesh.data=8")) == 0
    assert read(folder / "eight" / "scores.json")["device"].startswith("8 x ")
    one, other = (without_times(read_lines(folder / name / "metrics.jsonl")) for name in ("run", "eight"))
    for mine, theirs in zip(one, other, strict=True):
        for name in ("loss", "accuracy", "grad_norm"):
            if name in mine:
                assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-6), (mine["step"], name)
    for mine, theirs in zip(params(folder / "run"), params(folder / "eight"), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-5)


# ---- nothing learned -----------------------------------------------------------------------------------------------


def test_a_run_that_learns_nothing_is_marked_and_retried(folder, capsys):
    """A rate of next to nothing: kept beside, explained, and the next seed tried; again, both are found."""
    asked = sst2(
        folder, "nothing", "optimizer.learning_rate=1e-12", "optimizer.name=adamw_bert", "epochs=1", "--retries", "1"
    )
    assert main(asked) == 0
    printed = capsys.readouterr()
    for seed, name in ((0, "nothing-failed-0"), (1, "nothing")):
        scores = read(folder / name / "scores.json")
        assert scores["degenerate"]["kind"] in ("one class", "loss at chance")
        assert "set optimizer.name=adamw" in scores["degenerate"]["explanation"]
        assert scores["seed"] == seed
    assert "this run is degenerate" in printed.err
    assert "again with the next seed" in printed.err
    assert main(asked) == 0
    assert "has finished its 12 steps" in capsys.readouterr().err


def test_finished_runs_of_seeds_are_recognised(folder, capsys):
    """As after a stop between two of them."""
    asked = sst2(folder, "seeds", "--seeds", "1")
    shutil.copytree(folder / "run", folder / "seeds" / "seed-0")
    assert main(asked) == 0
    assert "dev accuracy: mean 1.0000, best seed-0, collapsed 0" in capsys.readouterr().out
    assert read(folder / "seeds" / "seeds.json")["mean"] == 1.0


# ---- every family --------------------------------------------------------------------------------------------------


def finetuned(folder: Path, task: str, write: Any, *more: object) -> tuple[Path, dict[str, Any]]:
    """A run of a task, and its scores."""
    output = folder / task
    assert main(command(task, write(folder / f"{task}-data"), folder / "model", output, *more)) == 0
    return output, read(output / "scores.json")


def test_regression(folder):
    output, scores = finetuned(folder, "stsb", write_stsb, "epochs=4")
    lines = read_lines(output / "predictions" / "dev.jsonl")
    predicted, gold = (np.array([line[name] for line in lines]) for name in ("predicted", "label"))
    assert scores["scores"]["dev"]["pearson"] == pytest.approx(np.corrcoef(predicted, gold)[0, 1], abs=1e-6)
    losses = [line["loss"] for line in read_lines(output / "metrics.jsonl") if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert scores["main"]["metric"] == "spearman"


def test_choice(folder):
    output, scores = finetuned(folder, "swag", write_swag, "epochs=6")
    assert scores["scores"]["dev"]["accuracy"] == 1.0
    assert {len(line["probabilities"]) for line in read_lines(output / "predictions" / "dev.jsonl")} == {4}


def test_tagging(folder):
    output, scores = finetuned(folder, "conll2003", write_conll, "epochs=6")
    assert scores["scores"]["dev"]["f1"] == 100.0
    conll = (output / "predictions" / "dev.conll").read_text(encoding="utf-8")
    assert main(["score", "conll", str(output / "predictions" / "dev.conll")]) == 0
    assert "\nann NN O B-PER B-PER\n" in conll


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_questions(folder, version, capsys):
    task = f"squad{version[0]}"
    output, scores = finetuned(
        folder, task, lambda path: write_squad(path, version), "epochs=6", "max_query_length=4", "normalisation=nbest"
    )
    found = scores["scores"]["dev"]
    assert found["f1"] > 60
    data = folder / f"{task}-data" / f"dev-v{version}.json"
    predictions = output / "predictions" / "dev_predictions.json"
    capsys.readouterr()
    asked = ["score", "squad", "--version", version, "--data", data, "--predictions", predictions, "--json"]
    assert main([str(part) for part in asked]) == 0
    official = json.loads(capsys.readouterr().out)
    assert official["f1"] == pytest.approx(found["f1"])
    kept = read(output / "finetune.json")["found"]
    assert (set(kept) == {"null_threshold"}) == (version == "2.0")
