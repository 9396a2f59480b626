# SPDX-License-Identifier: Apache-2.0
"""Runs over real processes with two devices each, beside the same run on one device: equal to rounding; and what is made of
a trained model by several processes, beside what one makes: the same bytes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from bucket_emulator import BUCKET
from conftest import run_stage, small_config
from finetune_samples import command, read_lines, WORDS, write_model, write_sst2

import bert_jax
from bert_jax.base.errors import EXIT_TRY_AGAIN
from bert_jax.base.paths import any_path
from bert_jax.cli import main
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.settings import to_dict
from bert_jax.config.training import MeshConfig, OptimizerConfig
from bert_jax.feed.examples import make_examples
from bert_jax.feed.packing import make_arrangement
from bert_jax.feed.shards import open_data
from bert_jax.mesh.sharding import make_mesh
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.cost import without_clock
from bert_jax.train.masked_lm import MaskedLmLoss
from bert_jax.train.pretraining import pretrain
from bert_jax.train.state import Training

STEPS = 24
CONFIG = small_config(
    model=replace(small_config().model, attention_probs_dropout_prob=0.0),  # one dropout is enough; compiles faster
    phases=(PhaseConfig(sequence_length=16, steps=STEPS, batch_size=16, max_predictions_per_seq=3),),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    log_every=1,
    eval_every=0,
    save_every=1000,
)
# A loss that takes the logarithm of a negative number in the batch whose tokens have the sum POISON.
POISONED = """
import os
import jax.numpy as jnp
from bert_jax.train.masked_lm import MaskedLmLoss
scores = MaskedLmLoss.scores
def poisoned(self, training, params, batch, seeds):
    found = scores(self, training, params, batch, seeds)
    bad = batch["input_ids"].sum() == int(os.environ["POISON"])
    return {**found, "mlm": found["mlm"]._replace(loss=found["mlm"].loss + jnp.log(jnp.where(bad, -1.0, 1.0)))}
MaskedLmLoss.scores = poisoned
"""
# `bert-jax ARGUMENTS`. PACE: seconds that each step takes at least.
WORKER = f"""
import os, sys, time
from bert_jax.cli import entry
if "POISON" in os.environ:
    exec({POISONED!r})
if pace := float(os.environ.get("PACE", 0)):
    from bert_jax.train.session import Session
    measured = Session.measured
    def slowly(self, *arguments):
        time.sleep(pace)
        measured(self, *arguments)
    Session.measured = slowly
entry()
"""


def start(config: PretrainConfig, data: Path, run: Path, pace: float = 0.0, count: int = 2) -> list[subprocess.Popen]:
    """`bert-jax pretrain` in several processes."""
    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.parent / f"{run.name}.json"
    file.write_text(json.dumps(to_dict(config)))
    return start_all(["pretrain", str(file), "--data", str(data), "--output", str(run)], run, pace, count)


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_all(arguments: list[str], run: Path, pace: float = 0.0, count: int = 2) -> list[subprocess.Popen]:
    """A command in several processes of two devices each; a single one has no others to find."""
    port = unused_port()
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"  # the last of a name counts
    command = [sys.executable, "-c", WORKER, *arguments]
    processes = []
    for number in range(count):
        place = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count), "--process-id", str(number)]
        with (run.parent / f"{run.name}.{number}.err").open("a") as said:
            environment = {**os.environ, "XLA_FLAGS": flags, "PACE": str(pace)}
            processes.append(
                subprocess.Popen([*command, *place[: 6 * (count > 1)]], env=environment, stderr=said, stdout=said)
            )
    return processes


def finish(processes: list[subprocess.Popen], run: Path) -> list[int]:
    """Exit statuses; what the processes said is shown where a test fails."""
    try:
        return [process.wait(timeout=300) for process in processes]
    finally:
        for number, process in enumerate(processes):
            process.kill()
            print(f"--- process {number}\n{(run.parent / f'{run.name}.{number}.err').read_text()}")


def lines(run: Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return without_clock(found)


def parameters(run: Path, config: PretrainConfig = CONFIG):
    abstract = Training(config, make_mesh(CONFIG.mesh)).abstract_state.params
    checkpoints = Checkpoints(run / "checkpoints")
    restored = checkpoints.restore(config.total_steps, {"params": abstract})["params"]
    checkpoints.close()
    return jax.tree.map(np.asarray, restored)


def assert_same(run: Path, alone: Path, config: PretrainConfig = CONFIG) -> None:
    """Every line of metrics to 1e-5, the last parameters to 1e-6."""
    for found, expected in zip(lines(run), lines(alone), strict=True):
        assert found.pop("kind") == expected.pop("kind")
        if "mlm_loss" in expected:
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
        else:
            assert found == expected
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-6),
        parameters(run, config),
        parameters(alone, config),
    )


MEETING = """
import os, sys, threading
from bert_jax.base.errors import EXIT_TRY_AGAIN, TryAgain
from bert_jax.mesh import distributed
from bert_jax.mesh.dealing import dealt_out
coordinator, process, occasion = sys.argv[1], int(sys.argv[2]), sys.argv[3]
distributed.initialize(coordinator, 3, process)
distributed.meet("first save", 60)
distributed.MEETING_SECONDS = 2
def work(items):
    if process == 1:
        threading.Event().wait(60)  # alive, and never at the second occasion
    yield from items
try:
    if occasion == "second save":
        list(work([]))
        distributed.meet("second save", 2)
    with dealt_out(range(9), work, "vectors") as found:
        list(found)
except TryAgain as error:
    print(error, flush=True)
    distributed.leave()
    os._exit(EXIT_TRY_AGAIN)
"""


@pytest.mark.parametrize("occasion", ["second save", "exchange of vectors"])
def test_a_process_that_does_not_come_is_named_and_the_others_end_to_be_tried_again(occasion):
    coordinator = f"127.0.0.1:{unused_port()}"
    command = [sys.executable, "-c", MEETING, coordinator]
    processes = [
        subprocess.Popen([*command, str(number), occasion], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    try:
        for waiting in (processes[2], processes[0]):
            said, errors = waiting.communicate(timeout=100)
            assert waiting.returncode == EXIT_TRY_AGAIN, errors
            assert f"process 1 on {socket.gethostname()} did not come within 2 s to the {occasion}" in said
            assert "in meet" in errors, "the stacks of all threads"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


GOING = """
import sys, time
from bert_jax.mesh import distributed
distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), heartbeat_seconds=10)
print("joined", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("victim", [0, 1], ids=["the coordinator", "another"])
def test_a_process_that_is_killed_ends_the_other_to_be_tried_again(victim):
    """Where JAX would abort, with a status (134) that no queue knows: at once, or after the time without a sign of life."""
    command = [sys.executable, "-c", GOING, f"127.0.0.1:{unused_port()}"]
    processes = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "joined\n"
        processes[victim].kill()
        _, errors = processes[1 - victim].communicate(timeout=100)
        assert processes[1 - victim].returncode == EXIT_TRY_AGAIN, errors
        assert "another process has gone" in errors.splitlines()[-1]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


WRITING = """
import sys
from bert_jax.mesh import distributed
from bert_jax.mesh.dealing import dealt_out
coordinator, process = sys.argv[1], int(sys.argv[2])
distributed.initialize(coordinator, 3, process)
try:
    with dealt_out(range(int(sys.argv[3])), iter, "vectors", at_once=1) as found:
        for vector in found:
            if distributed.is_main() and vector == 4:
                raise OSError("disk full")
except Exception as error:
    print(error, flush=True)
distributed.leave()
"""


@pytest.mark.parametrize("results", [5, 20], ids=["at the end", "on the way"])
def test_all_processes_end_where_the_main_one_cannot_write(results):
    """Where the others would wait for its next results until JAX aborts them."""
    command = [sys.executable, "-c", WRITING, f"127.0.0.1:{unused_port()}"]
    processes = [
        subprocess.Popen(
            [*command, str(number), str(results)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for number in range(3)
    ]
    try:
        for number, process in enumerate(processes):
            said, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            assert said.splitlines()[-1].startswith("process 0 gave up: it says why" if number else "disk full")
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_two_processes_a_stop_another_mesh_and_another_number_of_processes(prepared, tmp_path):
    """Two processes with copies of the parameters, stopped by a SIGTERM to one of them, and resumed by two whose
    parameters are cut over both, and by one alone: metrics and parameters are those of the run on one device."""
    alone, run, copy = tmp_path / "alone", tmp_path / "run", tmp_path / "copy"
    processes = start(replace(CONFIG, mesh=MeshConfig(data=4)), prepared.data, run, pace=0.1)
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").is_file() or len(lines(run)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    assert finish(processes, run) == [128 + signal.SIGTERM] * 2
    assert 1 < lines(run)[-1]["step"] < STEPS, "stopped in the middle"
    shutil.copytree(run, copy)
    assert finish(start(replace(CONFIG, mesh=MeshConfig(1, 2, 2)), prepared.data, run), run) == [0, 0]
    pretrain(CONFIG, prepared.data, alone, resume_command="")
    assert_same(run, alone)
    pretrain(CONFIG, prepared.data, copy, resume_command="")
    assert_same(copy, alone)


@pytest.mark.parametrize("stop", [False, True], ids=["whole", "stopped"])
def test_three_processes_train_as_one(prepared, tmp_path, stop):
    """Rows cut in three, heads and vocabulary in two; a SIGTERM to the last one stops all three, and three go on."""
    steps = STEPS if stop else 6  # enough to be stopped in the middle
    config = replace(CONFIG, phases=(replace(CONFIG.phases[0], steps=steps, batch_size=12),))
    together = replace(config, mesh=MeshConfig(data=3, tensor=2))
    alone, run = tmp_path / "alone", tmp_path / "run"
    if stop:
        processes = start(together, prepared.data, run, pace=0.1, count=3)
        deadline = time.monotonic() + 300
        while not (run / "metrics.jsonl").is_file() or len(lines(run)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes[2].send_signal(signal.SIGTERM)
        assert finish(processes, run) == [128 + signal.SIGTERM] * 3
        assert 1 < lines(run)[-1]["step"] < STEPS, "stopped in the middle"
    assert finish(start(together, prepared.data, run, count=3), run) == [0] * 3
    pretrain(config, prepared.data, alone, resume_command="")
    assert_same(run, alone, config)


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_two_processes_go_on_past_a_bad_step_as_one_does(prepared, tmp_path, monkeypatch, action):
    """Parameters cut over both processes: the same decision, batches, metrics and capsule as on one device."""
    data = open_data(prepared.data)
    examples = make_examples(data.split("train"), data.load_tokenizer(), CONFIG, CONFIG.phases[0])
    batch = make_arrangement(examples, "padded", 16).batch(CONFIG.seed, 5)
    monkeypatch.setenv("POISON", str(int(batch["input_ids"].sum())))
    both, alone = tmp_path / "both", tmp_path / "alone"
    config = replace(CONFIG, on_bad_step=action, save_every=4)
    assert finish(start(replace(config, mesh=MeshConfig(1, 2, 2)), prepared.data, both), both) == [0, 0]
    monkeypatch.setattr(MaskedLmLoss, "scores", MaskedLmLoss.scores)  # put back after the test
    exec(POISONED, {})
    pretrain(config, prepared.data, alone, resume_command="")
    (bad,) = (line for line in lines(both) if line["kind"] == "bad")
    assert (bad["count"], bad["first"], bad["last"]) == ((1, 6, 6) if action == "skip" else (1, 5, 6))
    assert_same(both, alone)
    capsules = [json.loads((run / "bad_steps" / "step-00000006.json").read_text()) for run in (both, alone)]
    for name in ("action", "batch", "examples", "checkpoint", "seed"):
        assert capsules[0][name] == capsules[1][name]
    assert capsules[0]["parameter_norms"].keys() == capsules[1]["parameter_norms"].keys()


def test_fine_tuning_in_two_processes_on_a_bucket_gives_the_scores_and_parameters_of_one_here(tmp_path, emulator):
    """Batches, dev scores, predictions and the folder of a run, each process on its own rows of every batch; model, task and
    run on the bucket, beside one process on the disk."""
    model, data = write_model(tmp_path / "model"), write_sst2(tmp_path / "sst2", train=40)
    there = any_path(f"gs://{BUCKET}/two")
    for path in (path for folder in (model, data) for path in folder.rglob("*") if path.is_file()):
        (there / str(path.relative_to(tmp_path))).write_bytes(path.read_bytes())
    both, alone = there / "both", tmp_path / "alone"
    tuning = command("sst2", there / "sst2", there / "model", both, "epochs=2", "mesh.data=4")
    assert finish(start_all(tuning, tmp_path / "both"), tmp_path / "both") == [0, 0]
    assert main(command("sst2", data, model, alone, "epochs=2")) == 0
    run_stage("report", both)
    assert (both / "report.html").is_file()
    for found, expected in zip(lines(both), lines(alone), strict=True):
        assert found.pop("kind") == expected.pop("kind")
        assert found.pop("split", None) == expected.pop("split", None)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    scores = [json.loads((run / "scores.json").read_text()) for run in (both, alone)]
    assert scores[0]["scores"] == scores[1]["scores"]
    assert scores[0]["device"].startswith("4 x ")
    predicted = [
        [record["predicted"] for record in read_lines(run / "predictions" / "dev.jsonl")] for run in (both, alone)
    ]
    assert predicted[0] == predicted[1]
    for one, other in zip(*(jax.tree.leaves(bert_jax.load(run).params) for run in (both, alone)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


# ---- a trained model at work ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def pretrained(prepared, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("models") / "pretrained"
    config = replace(CONFIG, phases=(replace(CONFIG.phases[0], steps=3),))
    pretrain(config, prepared.data, run, resume_command="")
    return run


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """Files of more batches than one exchange takes."""
    return write_sst2(tmp_path_factory.mktemp("task") / "sst2", dev=2400)


@pytest.fixture(scope="module")
def tuned(model, task, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("models") / "tuned"
    assert main(command("sst2", task, model, run, "epochs=1")) == 0
    return run


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Lines of three blocks."""
    file = tmp_path_factory.mktemp("texts") / "lines.txt"
    words = np.random.default_rng(0).choice(WORDS, (9000, 5))
    file.write_text("".join(f"{' '.join(line[: 1 + number % 5])}\n" for number, line in enumerate(words)))
    return file


USES = {
    "embed": "embed {model} --input {texts} --shard-vectors 5000 --output",
    "predict": "predict {tuned} --data {task} --output",
    "evaluate": "evaluate {pretrained} --data {prepared.data} --split train --json --output",
    "evaluate-text": "evaluate {pretrained} --text {prepared.text} --pseudo-perplexity 300 --output",
    "evaluate-tuned": "evaluate {tuned} --data {task} --output",
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("use", USES)
def test_several_processes_write_what_one_writes(use, count, request, tmp_path):
    """To the byte; only the main process writes and prints."""
    named = {name: request.getfixturevalue(name) for name in re.findall(r"{(\w+)", USES[use])}
    made: list[dict[str, bytes]] = []
    for processes in (1, count):
        folder = tmp_path / f"of{processes}"
        folder.mkdir()
        arguments = USES[use].format(**named).split()
        assert finish(start_all([*arguments, str(folder / "made")], folder, count=processes), folder) == [0] * processes
        files = [path for path in folder.rglob("*") if path.is_file()]
        made.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert made[0]
    assert made[1] == made[0]
    for number in range(1, count):
        others = (tmp_path / f"of{count}.{number}.err").read_text()
        assert not [line for line in others.splitlines() if line and not re.search("Gloo|peer ranks", line)], others


def test_a_line_that_is_refused_is_named_by_all_processes_as_by_one(model, texts, tmp_path):
    """The second process meets it, and the third a later one."""
    lines = texts.read_text().splitlines()
    for number in (5000, 8999):
        lines[number] = "film " * 40
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    arguments = ["embed", str(model), "--input", str(tmp_path / "lines.txt"), "--output"]
    run = tmp_path / "vectors"
    assert finish(start_all([*arguments, str(run)], run, count=3), run) == [2] * 3
    for number in range(3):
        assert "lines.txt, line 5001: " in (tmp_path / f"vectors.{number}.err").read_text().splitlines()[-1]
