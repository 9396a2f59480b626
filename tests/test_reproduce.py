# SPDX-License-Identifier: Apache-2.0
"""A run computed again; a proof without a kill is none; one batch learned by heart."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import refusal_of, small_config
from finetune_samples import command, write_model, write_sst2

from bert_jax.base.errors import UserError
from bert_jax.checks.findings import NOTE, OK, PROBLEM, WARNING
from bert_jax.cli import main
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.config.settings import to_dict
from bert_jax.finetuning.directory import Finetuned
from bert_jax.rerun import overfit as overfitting
from bert_jax.rerun import reproduce as reproducing
from bert_jax.rerun.opening import wanted_of
from bert_jax.rerun.overfit import Overfit, overfit
from bert_jax.rerun.replay import replay
from bert_jax.rerun.reproduce import _require_comparable, draw_moments, kill_at, kill_on_the_way, Moment
from bert_jax.runs.directory import RunDirectory
from bert_jax.train.pretraining import pretrain

CONFIG = small_config(
    phases=(PhaseConfig(sequence_length=16, steps=8, batch_size=16, max_predictions_per_seq=3),),
    eval_every=0,
    log_every=2,
)
CONFIG = replace(CONFIG, model=replace(CONFIG.model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reproduced") / "run"
    pretrain(CONFIG, prepared.data, folder, resume_command="")
    return folder


def test_the_first_steps_again_and_what_differs(run, tmp_path, capsys):
    """Equal to the bit; then a line and the environment of the run are changed."""
    again = ["reproduce", str(run), "--steps", "4", "--output", str(tmp_path / "again")]
    assert main(again) == 0
    told = capsys.readouterr().out
    assert "have the sha256 in passport.json" in told
    assert "equal bit for bit at step 4" in told
    before = {name: (run / name).read_text() for name in ("metrics.jsonl", "environment.json")}
    lines = [json.loads(line) for line in before["metrics.jsonl"].splitlines()]
    changed = [{**line, "mlm_loss": 9.0} if (line["kind"], line["step"]) == ("train", 4) else line for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    (run / "environment.json").write_text(json.dumps({**json.loads(before["environment.json"]), "jax": "0.1"}))
    try:
        assert main(again) == 1
    finally:
        for name, text in before.items():
            (run / name).write_text(text)
    told = capsys.readouterr().out
    assert "step 4, train: mlm_loss 9.0 then" in told
    assert "jax: 0.1 then" in told


def test_more_steps_than_there_are_to_compare_with_are_refused(run, tmp_path, capsys):
    assert "from 1 to 8 steps" in refusal_of(capsys, "reproduce", run, "--steps", "9", "--output", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_steps_of_which_the_run_has_left_nothing_are_refused(tmp_path):
    """The bug: nothing was compared, and that was called equal bit for bit."""
    run = RunDirectory(tmp_path)
    lines = [{"kind": "data", "step": 0}, {"kind": "clock", "step": 1}, {"kind": "train", "step": 100}]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.checkpoints / "50").mkdir(parents=True)
    for steps in (1, 99):
        with pytest.raises(UserError, match=rf"--steps {steps}: .*nothing to compare with.*: name 100 or more"):
            _require_comparable(run, steps)
    for steps in (50, 100):
        _require_comparable(run, steps)


def test_a_run_is_not_compared_with_itself(run, tmp_path, capsys):
    """By another name too. The bug: it is finished, so nothing was computed, and it equals itself bit for bit."""
    (tmp_path / "link").symlink_to(run)
    for output in (run, tmp_path / "link"):
        assert "is the run itself" in refusal_of(capsys, "reproduce", run, "--output", output)


@pytest.mark.parametrize(
    "changes", [{"source": None}, {"source": {"path": "model"}}, {"task": {}}, {"data": ...}, {"teacher": {}}]
)
def test_a_finetune_json_that_does_not_say_what_was_trained_on_is_refused(tmp_path, changes):
    """The bug: a traceback of `replay`, `reproduce` and `doctor --overfit`."""
    source = {"path": "model", "from_scratch": False}
    record = {
        "task": {"name": "sst2"},
        "data": "data",
        "source": source,
        "settings": to_dict(FinetuneConfig()),
    } | changes
    record = {name: value for name, value in record.items() if value is not ...}
    with pytest.raises(UserError, match=rf"^{tmp_path}/finetune\.json (lacks|holds other values)"):
        wanted_of(Finetuned(tmp_path, record), None, lambda config: config)


def test_a_fine_tuned_run_too(tmp_path, capsys):
    """The first steps again, a step looked at, a batch by heart: by what the run itself says of task, data and model."""
    model, data = write_model(tmp_path / "model"), write_sst2(tmp_path / "SST-2")
    assert main(command("sst2", data, model, tmp_path / "run", "epochs=3", "save_every=4", "keep_checkpoints=9")) == 0
    assert main(["reproduce", str(tmp_path / "run"), "--steps", "8", "--output", str(tmp_path / "again")]) == 0
    assert "equal bit for bit at step 8" in capsys.readouterr().out
    looked = replay(tmp_path / "run", step=6)
    assert not looked.is_bad, looked.found.bad
    assert {place.layer for place in looked.found.largest} == {None, 1, 2}
    assert any("good" in text for _, text in looked.texts)
    learned = overfit(tmp_path / "run")
    assert learned.finding().severity == OK


# ---- kills ---------------------------------------------------------------------------------------------------------


def clock(steps: list[int], seconds: float = 3.0) -> list[dict]:
    """Lines of a run that takes so many seconds from one line to the next."""
    times = [{"kind": "clock", "step": step, "steps": n * seconds, "data_wait": 0.0} for n, step in enumerate(steps)]
    return [{"kind": "data", "step": 0}, *times]


def test_moments_are_within_the_steps():
    """After a line of metrics and well before the next: never while it imports or compiles, never after the end."""
    drawn = [draw_moments(clock([10, 20, 30, 40]), kills=2) for _ in range(200)]
    assert {moment.step for moments in drawn for moment in moments} == {10, 20, 30}
    assert all(first.step < second.step for first, second in drawn)
    seconds = [moment.seconds for moments in drawn for moment in moments]
    assert 0 <= min(seconds) < 0.2 < 1.3 < max(seconds) <= 1.5
    assert {moment.step for _ in range(50) for moment in draw_moments(clock([10, 20, 30, 40]), 1, steps=20)} == {10}


@pytest.mark.parametrize("steps", [[], [5], [5, 10]])
def test_too_few_lines_to_draw_from_are_refused(steps):
    with pytest.raises(UserError, match=f"there are {len(steps)}: set log_every lower"):
        draw_moments(clock(steps), kills=2)


COMES_TO = """
import json, sys, time
for step in range(0, int(sys.argv[2]) + 1, 10):
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps({"kind": "train", "step": step}) + "\\n")
    time.sleep(0.02)
time.sleep(float(sys.argv[3]))
"""


@pytest.mark.parametrize(("last", "stays", "hit"), [(30, 60, True), (20, 0, False)])
def test_a_kill_waits_for_its_step(tmp_path, last, stays, hit):
    run = RunDirectory(tmp_path)
    command = [sys.executable, "-c", COMES_TO, str(run.metrics_file), str(last), str(stays)]
    begin = time.monotonic()
    assert kill_at(command, run, Moment(30, 0.05)) == hit
    assert time.monotonic() - begin < 30
    assert reproducing.last_step(run) == last


def test_what_is_to_be_killed_does_not_outlive_the_command(tmp_path, monkeypatch):
    """A signal that this process alone gets, as of `timeout`: the other one would train on in a folder that has gone."""
    begun: list[subprocess.Popen] = []

    def stopped(_):
        raise KeyboardInterrupt

    def begin(*arguments, popen=subprocess.Popen, **options):
        begun.append(popen(*arguments, **options))
        return begun[0]

    monkeypatch.setattr(reproducing.subprocess, "Popen", begin)
    monkeypatch.setattr(reproducing, "last_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        kill_at([sys.executable, "-c", "import time; time.sleep(60)"], RunDirectory(tmp_path), Moment(30, 0.05))
    assert begun[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize(("hits", "tries"), [([True, True], 1), ([True, False, True, True], 2), ([False] * 3, 3)])
def test_a_kill_that_hit_nothing_is_tried_again_and_proves_nothing(tmp_path, monkeypatch, hits, tries):
    answers, begun = iter(hits), []
    monkeypatch.setattr(reproducing, "draw_moments", lambda *_: [Moment(10, 0.1), Moment(20, 0.1)])
    monkeypatch.setattr(reproducing, "read_metrics", lambda *_: ([], []))

    def kill(command, run, moment):
        if moment.step == 10:
            assert not run.path.exists(), "from the beginning"
            begun.append(moment)
            run.path.mkdir()
        return next(answers)

    monkeypatch.setattr(reproducing, "kill_at", kill)
    arguments = [], RunDirectory(tmp_path / "run"), tmp_path / "killed", 2, None
    if hits[-1]:
        assert len(kill_on_the_way(*arguments)) == 2
    else:
        with pytest.raises(UserError, match="3 times a kill missed the run"):
            kill_on_the_way(*arguments)
    assert len(begun) == tries


def test_a_folder_in_which_kills_may_miss_is_refused(tmp_path, capsys):
    assert "is there already" in refusal_of(capsys, "reproduce", "run", "--kills", "2", "--output", tmp_path)


# ---- one batch -----------------------------------------------------------------------------------------------------


def test_one_batch_of_a_run_is_learned_by_heart(run, monkeypatch):
    """Sixteen rows of three predictions, in seconds; with a rate of nothing they are not."""
    monkeypatch.setattr(overfitting, "MOST_STEPS", 400)
    learned = overfit(run)
    assert learned.rows == 16
    assert learned.losses[0] > 4
    assert learned.finding().severity == OK


@pytest.mark.parametrize(
    ("losses", "severity"),
    [
        ([5.0, 1.0, 0.1, 0.1], OK),
        ([5.0, 2.0, 1.0, 1.0], NOTE),
        ([5.0, 4.0, 3.0], WARNING),
        ([5.0, 4.9, 5.1], PROBLEM),
        ([5.0, math.nan], PROBLEM),
    ],
)
def test_what_the_judge_says_of_a_curve(losses, severity):
    found = Overfit(8, losses, 3.0, 1e-3).finding()
    assert found.severity == severity
    assert "8 rows" in found.seen


def test_the_curve_falls_as_the_losses_do():
    curve = Overfit(8, [8.0, 4.0, 1.0, 0.1], 3.0, 1e-3).curve()
    assert curve == "█▅▂▁"


def test_a_configuration_needs_data(capsys):
    assert "name it with --data" in refusal_of(capsys, "doctor", "--overfit", "tiny")
