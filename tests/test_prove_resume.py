# SPDX-License-Identifier: Apache-2.0
"""A proof without a kill is none."""

import json
import sys
import time
from pathlib import Path

import pytest
from bert_jax.tools import prove_resume
from bert_jax.tools.prove_resume import draw_moments, kill_at, Moment

from bert_jax.base.errors import UserError
from bert_jax.runs.directory import RunDirectory


def run_with(folder: Path, steps: list[int], seconds: float = 3.0) -> RunDirectory:
    folder.mkdir(exist_ok=True)
    run = RunDirectory(folder)
    lines = [{"kind": "data", "step": 0}, *({"kind": "train", "step": step, "seconds": seconds} for step in steps)]
    run.metrics_file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return run


def test_moments_are_within_the_steps(tmp_path):
    """After a line of metrics and well before the next: never while it imports or compiles, never after the end."""
    run = run_with(tmp_path, [10, 20, 30, 40])
    drawn = [draw_moments(run, kills=2) for _ in range(200)]
    assert {moment.step for moments in drawn for moment in moments} == {10, 20, 30}
    assert all(first.step < second.step for first, second in drawn)
    seconds = [moment.seconds for moments in drawn for moment in moments]
    assert 0 <= min(seconds) < 0.2 < 1.3 < max(seconds) <= 1.5


@pytest.mark.parametrize("steps", [[], [5], [5, 10]])
def test_too_few_lines_to_draw_from_are_refused(tmp_path, steps):
    with pytest.raises(UserError, match=f"there are {len(steps)}: set log_every lower"):
        draw_moments(run_with(tmp_path, steps), kills=2)


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
    assert prove_resume.last_step(run) == last


@pytest.mark.parametrize(("hits", "status"), [([True, True], 0), ([True, False], 1), ([False, False], 1)])
def test_a_kill_that_hit_nothing_proves_nothing(tmp_path, monkeypatch, capsys, hits, status):
    """Both runs are then the same for another reason."""
    answers = iter(hits)
    monkeypatch.setattr(prove_resume.subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr(prove_resume, "open_run", RunDirectory)
    monkeypatch.setattr(prove_resume, "draw_moments", lambda *_: [Moment(10, 0.1), Moment(20, 0.1)])
    monkeypatch.setattr(prove_resume, "kill_at", lambda *_: next(answers))
    monkeypatch.setattr(prove_resume, "compare", lambda *_: [])
    arguments = ["tiny", "--data", "data", "--output", str(tmp_path / "new")]
    assert prove_resume.main(arguments) == status
    assert (f"{sum(hits)} of 2 kills hit" in capsys.readouterr().err) == (status == 1)


@pytest.mark.parametrize("extra", [["--output", "."], ["--output", "new", "--kills", "0"]])
def test_what_would_pass_without_a_kill_is_refused(extra, capsys):
    """An output of an earlier proof, whose run is done; no kills at all."""
    with pytest.raises(SystemExit) as stop:
        prove_resume.main(["tiny", "--data", "data", *extra])
    assert stop.value.code == 2
    assert extra[1 if len(extra) == 2 else 2] in capsys.readouterr().err
