# SPDX-License-Identifier: Apache-2.0
"""Whole runs: resume to the bit, stops, kills, and bad input, on the made-up corpus."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import made_up_text, run_stage, small_config

import bert_jax.pretraining
from bert_jax.checkpoint import Checkpoints
from bert_jax.config import MeshConfig, ModelConfig, OptimizerConfig, PhaseConfig, to_dict
from bert_jax.data.shards import open_data
from bert_jax.errors import Interrupted, UserError
from bert_jax.pretraining import pretrain
from bert_jax.sharding import make_mesh
from bert_jax.train_state import Training

CONFIG = small_config()
TOTAL = CONFIG.total_steps


@pytest.fixture(scope="module")
def few(prepared, tmp_path_factory) -> Path:
    """So little data that twelve steps go over it more than once at both lengths."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "text.txt").write_text(made_up_text(8), encoding="utf-8")
    options = ("--held-out", 0.3, "--sequence-length", 16, 32)
    run_stage(
        "prepare", "--input", folder / "text.txt", "--vocab", prepared.vocab, "--output", folder / "data", *options
    )
    train = open_data(folder / "data").split("train")
    for phase in CONFIG.phases:
        assert train.num_examples(phase.sequence_length) < phase.steps * phase.batch_size, (
            "an epoch must end in each phase"
        )
    return folder / "data"


@pytest.fixture(scope="module")
def straight(few, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    run = tmp_path_factory.mktemp("straight") / "run"
    pretrain(CONFIG, few, run, resume_command="")
    return run


def final_state(run: Path, config=CONFIG):
    """Everything the last checkpoint holds, as NumPy."""
    abstract = Training(config, make_mesh(config.mesh)).abstract_state
    checkpoints = Checkpoints(run / "checkpoints", config.keep_checkpoints)
    try:
        assert checkpoints.latest == TOTAL
        items = {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step)}
        return jax.tree.map(np.asarray, checkpoints.restore(TOTAL, items))
    finally:
        checkpoints.close()


def scores(run: Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def stop_after(monkeypatch, steps: int) -> None:
    """SIGTERM to ourselves when that many steps have been measured."""
    original = bert_jax.pretraining.Session.measured

    def measured(self, done, *arguments):
        original(self, done, *arguments)
        if done == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(bert_jax.pretraining.Session, "measured", measured)


def assert_same(run: Path, straight: Path) -> None:
    jax.tree.map(np.testing.assert_array_equal, final_state(run), final_state(straight))
    assert scores(run) == scores(straight)


def test_a_run_leaves_what_the_contract_names(straight):
    assert {path.name for path in straight.iterdir()} == {
        "checkpoints",
        "config.json",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "tensorboard",
        "tokenizer_config.json",
        "vocab.txt",
    }
    lines = scores(straight)
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 3),
        ("eval", 5),
        ("train", 6),
        ("train", 9),
        ("eval", 10),
        ("train", 12),
        ("eval", 12),
    ]
    assert [line["phase"] for line in lines if line["kind"] == "train"] == [0, 0, 1, 1]
    assert any((straight / "tensorboard").iterdir())


def test_the_objective_is_learned(prepared, tmp_path):
    """Held-out loss falls by half a nat in five steps: the whole path from text to update works."""
    pretrain(CONFIG, prepared.data, tmp_path / "run", resume_command="")
    begin, *_ = (line["mlm_loss"] for line in scores(tmp_path / "run") if line["kind"] == "eval")
    assert begin < np.log(CONFIG.model.vocab_size) - 0.5


@pytest.mark.parametrize("steps", [1, 5, 8, 10])
def test_stop_and_resume_equal_the_straight_run(few, straight, tmp_path, monkeypatch, steps):
    """Stopped by SIGTERM after k steps (within an interval of metrics, at the change of phase, inside phase two, across
    an epoch's end) and resumed: parameters, moments and metrics equal bit for bit."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted, match=r"saved at step \d+ of 12; go on with: again") as stopped:
            pretrain(CONFIG, few, run, resume_command="again")
    assert stopped.value.signal_number == signal.SIGTERM
    pretrain(CONFIG, few, run, resume_command="")
    assert_same(run, straight)


def test_a_stop_in_the_last_step_of_a_phase(few, straight, tmp_path, monkeypatch):
    """The signal comes when that step has been dispatched already and no save is due by the count of steps."""
    run, config = tmp_path / "run", replace(CONFIG, save_every=100)
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Interrupted, match="saved at step 8 of 12"):
            pretrain(config, few, run, resume_command="")
    assert (run / "checkpoints" / "8").is_dir()
    pretrain(config, few, run, resume_command="")
    assert_same(run, straight)


def test_resume_on_another_mesh(few, straight, tmp_path, monkeypatch):
    """Stopped on one device, resumed on 2 x 2 x 2: the same examples, the same losses to 1e-5."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Interrupted):
            pretrain(CONFIG, few, run, resume_command="")
    pretrain(replace(CONFIG, mesh=MeshConfig(2, 2, 2)), few, run, resume_command="")
    for line, expected in zip(scores(run), scores(straight), strict=True):
        assert line.pop("kind") == expected.pop("kind")
        assert line == pytest.approx(expected, rel=1e-5, abs=1e-5)
    found, wanted = final_state(run)["params"], final_state(straight)["params"]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-5), found, wanted)


RUN = """
import json, sys
from pathlib import Path
from bert_jax.config import from_dict
from bert_jax.pretraining import pretrain
pretrain(from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), resume_command="")
"""


def test_killed_in_a_save(few, straight, tmp_path, capsys):
    """SIGKILL as soon as the save of step 8 has begun: the newest complete checkpoint is used and the result is that of
    the straight run. A folder that a save has left half done is named and not used."""
    run = tmp_path / "run"
    command = [sys.executable, "-c", RUN, json.dumps(to_dict(CONFIG)), str(few), str(run)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(path.name.startswith("8") for path in (run / "checkpoints").glob("*")):
        assert process.poll() is None, "the run ended before its second save began"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()
    # What a save cut off a moment earlier leaves, whatever this kill has met.
    complete = min((run / "checkpoints").glob("[0-9]"), key=lambda path: path.name)
    shutil.copytree(complete, run / "checkpoints" / "9.orbax-checkpoint-tmp")
    pretrain(CONFIG, few, run, resume_command="")
    said = capsys.readouterr().err
    assert not list((run / "checkpoints").glob("*tmp*")), "what the cut off save left is removed"
    assert "a save was cut off (" in said
    assert "9.orbax-checkpoint-tmp" in said
    assert f"resuming {run} at step" in said
    assert_same(run, straight)


def test_a_finished_run_says_so(few, straight, capsys):
    before = scores(straight)
    pretrain(CONFIG, few, straight, resume_command="")
    assert "has finished its 12 steps" in capsys.readouterr().err
    assert scores(straight) == before


def test_a_loss_that_is_not_finite_stops_the_run(few, tmp_path):
    """The step is named and nothing is overwritten: the checkpoints are those of before."""
    config = replace(CONFIG, optimizer=OptimizerConfig(learning_rate=1e30, warmup_steps=0), save_every=1)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"step \d: the loss or the gradient is not finite \(mlm_loss=.*nothing is o"):
        pretrain(config, few, run, resume_command="")
    steps = [int(path.name) for path in (run / "checkpoints").glob("[0-9]*")]
    checkpoints = Checkpoints(run / "checkpoints", 3)
    abstract = Training(config, make_mesh(config.mesh)).abstract_state
    for step in steps:
        sums = checkpoints.restore(step, {"params": abstract.params})["record"]["window"]["sums"]
        assert all(np.isfinite(value) for value in sums.values())
    checkpoints.close()
    assert not (run / "metrics.jsonl").exists()


# ---- bad input: refused by name before anything is compiled ---------------------------------------------------------


def phase(**changes) -> PhaseConfig:
    return replace(CONFIG.phases[0], **changes)


REFUSED = {
    "vocabulary beyond the model": (
        lambda: replace(CONFIG, model=replace(CONFIG.model, vocab_size=50)),
        r"its vocabulary has \d+ entries and model.vocab_size=50 is smaller: set model.vocab_size=\d+",
    ),
    "sequence beyond the position table": (
        lambda: replace(CONFIG, model=replace(CONFIG.model, max_position_embeddings=16)),
        "phases.1.sequence_length=32 is beyond the position table of model.max_position_embeddings=16",
    ),
    "hidden size and heads": (
        lambda: replace(CONFIG, model=ModelConfig(hidden_size=16, num_attention_heads=3)),
        "model.hidden_size=16 is not divisible by model.num_attention_heads=3",
    ),
    "batch and mesh": (
        lambda: replace(CONFIG, mesh=MeshConfig(8), phases=(phase(batch_size=12),)),
        r"phases.0.batch_size=12 is not divisible by micro_batches=1 x data=8 x fsdp=1 = 8: use 8 or 16",
    ),
    "batch and micro-batches": (
        lambda: replace(CONFIG, micro_batches=3),
        "phases.0.batch_size=16 is not divisible by micro_batches=3",
    ),
    "mesh and devices": (
        lambda: replace(CONFIG, mesh=MeshConfig(16)),
        "mesh data=16, fsdp=1, tensor=1 needs 16 devices and there are 8",
    ),
    "predictions that do not fit": (
        lambda: replace(CONFIG, phases=(phase(max_predictions_per_seq=1),)),
        "phases.0.max_predictions_per_seq=1 does not hold the 15% .* set phases.0.max_predictions_per_seq=2",
    ),
    "a mesh that cannot cut a parameter": (
        lambda: replace(
            CONFIG, mesh=MeshConfig(1, 8, 1), model=replace(CONFIG.model, hidden_size=12), phases=(phase(),)
        ),
        r"the parameter \S+ of shape \(.*\) cannot be cut over the mesh data=1, fsdp=8, tensor=1",
    ),
    "a warm-up that never ends": (
        lambda: replace(CONFIG, optimizer=OptimizerConfig(warmup_steps=12)),
        "a warm-up of 12 steps never ends in the 12 steps of its schedule: lower optimizer.warmup_steps",
    ),
    "a length that was not prepared": (
        lambda: replace(CONFIG, phases=(phase(sequence_length=24, max_predictions_per_seq=4),)),
        "bert-jax prepare .*--sequence-length.* 24",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_compiling(few, tmp_path, case):
    make_config, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        pretrain(make_config(), few, tmp_path / "run", resume_command="")
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_configuration(few, straight):
    changed = replace(CONFIG, optimizer=replace(CONFIG.optimizer, learning_rate=2e-2), seed=3)
    with pytest.raises(
        UserError, match=r"another configuration \(optimizer.learning_rate: 0.01 -> 0.02; seed: 0 -> 3\)"
    ):
        pretrain(changed, few, straight, resume_command="")


def test_data_of_another_vocabulary(prepared, straight, tmp_path):
    vocab, data = tmp_path / "vocab", tmp_path / "data"
    run_stage("vocab", "--input", prepared.text, "--output", vocab, "--size", 80)
    run_stage("prepare", "--input", prepared.text, "--vocab", vocab, "--output", data, "--sequence-length", 16, 32)
    with pytest.raises(
        UserError, match=f"was trained with another vocabulary.*prepare the data with --vocab {straight}"
    ):
        pretrain(CONFIG, data, straight, resume_command="")


def test_a_truncated_shard(few, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(few, data)
    shard = min(data.glob("train-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"{shard.name}.*bytes.*prepare"):
        pretrain(CONFIG, data, tmp_path / "run", resume_command="")


def test_an_output_that_is_something_else(prepared, few, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and is not a run directory"):
        pretrain(CONFIG, few, tmp_path, resume_command="")
    with pytest.raises(UserError, match="is not empty and is not a run directory"):
        pretrain(CONFIG, few, prepared.vocab, resume_command="")


def test_a_write_that_fails(few, straight, tmp_path):
    """A checkpoint that cannot be written ends the run in one line with status 2; the one before it stays."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    shutil.rmtree(run / "checkpoints" / "12")
    limited = (
        "import resource, sys; from bert_jax.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000)); sys.exit(main(sys.argv[1:]))"
    )
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_dict(CONFIG)))
    command = ["pretrain", str(config), "--data", str(few), "--output", str(run)]
    done = subprocess.run([sys.executable, "-c", limited, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "bert-jax pretrain: " in done.stderr
    assert "a checkpoint could not be written (OUT_OF_RANGE" in done.stderr
    assert (run / "checkpoints" / "8").is_dir()


def test_disk_full(few, tmp_path, monkeypatch, capsys):
    """Too little space for a checkpoint is said before one is begun; with space again the run goes on."""
    run = tmp_path / "run"
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000))
        with pytest.raises(UserError, match=r"disk full: a checkpoint takes 0.\d MiB and 0.0 MiB are free"):
            pretrain(CONFIG, few, run, resume_command="")
    assert not list((run / "checkpoints").iterdir())
    pretrain(CONFIG, few, run, resume_command="")
    assert [line["step"] for line in scores(run)] == [3, 5, 6, 9, 10, 12, 12]
