# SPDX-License-Identifier: Apache-2.0
"""The cost clock: over restarts and kills, judged, drawn; what the device waits for."""

import json
import threading
import time
from pathlib import Path

import pytest
from made_up_runs import lines, write_run

from bert_jax.checks.cost import check_cost, cost_words
from bert_jax.checks.examination import run_findings
from bert_jax.checks.findings import NOTE, OK, WARNING
from bert_jax.pages import pretrain
from bert_jax.pages.cost import cost_section
from bert_jax.runs.cost import Cost, PARTS
from bert_jax.runs.directory import forget_metrics_after, RunDirectory
from bert_jax.runs.reading import load_run, read_metrics
from bert_jax.train.clock import CostClock
from bert_jax.train.loop import DataWait


def clock_line(step: int, restarts: int = 0, **seconds: float) -> dict:
    return {"kind": "clock", "step": step, **dict.fromkeys(PARTS, 0.0), **seconds, "restarts": restarts}


def write(folder: Path, made: list[dict]) -> RunDirectory:
    run = RunDirectory(folder)
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in made))
    return run


def newest(run: RunDirectory) -> Cost:
    cost = Cost.of(read_metrics(run.metrics_file)[0])
    assert cost is not None
    return cost


def test_work_after_the_checkpoint_is_lost_and_no_second_is_forgotten(tmp_path):
    """Killed at step 30 and gone on from step 20, then killed again before the first new line."""
    made = [{"kind": "train", "step": step} for step in (10, 20, 30)]
    run = write(
        tmp_path,
        [
            *made[:2],
            clock_line(20, compile=5, steps=20, restart=2),
            made[2],
            clock_line(30, compile=5, steps=31, restart=2),
        ],
    )
    saved = {"compile": 5.0, "steps": 20.5, "restart": 2.0}
    for restart in (1, 2):
        assert forget_metrics_after(run, 20) == (1 if restart == 1 else 0)
        kept = newest(run)
        assert (kept.total, kept.restarts) == (38.0, restart)
        clock = CostClock()
        clock.resume(saved, {**kept.seconds, "restarts": kept.restarts})
        assert clock.seconds["steps"] == 20.5
        assert clock.seconds["restart"] == 2 + 10.5
        assert sum(clock.seconds.values()) == pytest.approx(38.0)
    assert [line["step"] for line in read_metrics(run.metrics_file)[0] if line["kind"] == "train"] == [10, 20]


def test_a_run_that_begins_anew_has_lost_all(tmp_path):
    run = write(tmp_path, [{"kind": "data", "step": 0}, clock_line(0, compile=9), clock_line(10, compile=9, steps=4)])
    forget_metrics_after(run, -1)
    clock = CostClock()
    clock.resume({}, newest(run).seconds)
    assert (clock.seconds["restart"], clock.seconds["compile"], clock.seconds["steps"]) == (4, 9, 0)


@pytest.mark.parametrize(
    ("seconds", "severity", "words"),
    [
        ({"steps": 700, "data_wait": 300}, WARNING, "data-bound"),
        ({"steps": 950, "data_wait": 60}, NOTE, "data-bound"),
        ({"steps": 700, "save": 300, "data_wait": 50}, WARNING, "save-bound"),
        ({"steps": 700, "restart": 290}, WARNING, "restart-bound"),
        ({"steps": 700, "evaluation": 300}, NOTE, "evaluation-bound"),
        ({"steps": 990, "compile": 10}, OK, "goodput 99%"),
        ({"steps": 9, "compile": 90}, OK, "too short"),
    ],
)
def test_one_verdict(seconds, severity, words):
    (finding,) = check_cost(Cost({**dict.fromkeys(PARTS, 0.0), **seconds}))
    assert finding.severity == severity
    assert words in finding.seen


def test_without_a_clock_nothing_is_said():
    assert check_cost(None) == [] == cost_section(None)


def test_goodput_is_the_share_of_steps_that_count():
    cost = Cost({**dict.fromkeys(PARTS, 0.0), "steps": 75.0, "restart": 25.0}, restarts=3)
    assert cost.goodput == 0.75
    assert "3 restarts" in cost_words(cost)


def test_the_doctor_and_the_page_say_it(tmp_path):
    bad = {"kind": "bad", "step": 900, "action": "skip", "count": 1, "moved": 0, "first": 900, "last": 900}
    made = [*lines(), bad, clock_line(22_000, restarts=2, steps=7_000, data_wait=3_000)]
    run = load_run(write_run(tmp_path / "run", made))
    found = {finding.subject: finding for finding in run_findings(run)}
    assert found["Data wait"].severity == WARNING
    assert "skip of 900 to 900" in found["Bad steps"].seen
    assert "bert-jax replay" in found["Bad steps"].command
    (section,) = [section for section in pretrain.page_of(run).sections if section.name == "cost"]
    assert section.parts[0].words.startswith("Data-bound")
    assert section.parts[1].parts[0].bars[1].share == pytest.approx(0.3)


def test_waiting_while_the_device_computes_costs_nothing():
    """The second batch comes while the first step is computed, the third when the device has nothing left to do."""
    steps: list[threading.Event] = []

    class Computing:
        def block_until_ready(self):
            steps[len(ended)].wait(60)
            ended.append(self)

    def feed():
        yield {}
        time.sleep(0.01)
        yield {}
        for step in steps:
            step.set()
        time.sleep(0.2)
        yield {}

    told, ended = [], []
    with DataWait(told.append) as wait:
        for _ in wait.over(feed()):
            steps.append(threading.Event())
            wait.follow({"loss": Computing()})
            noted = len(told)
        steps[-1].set()
    assert noted == 2, "of the first batch, and of the one that came late"
    assert told[1] > 0
