# SPDX-License-Identifier: Apache-2.0
"""Experiment trackers: what they get and when, over a resume, and that one which fails stops nothing.

The trackers themselves are tested offline where they are installed.
"""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.base.errors import UserError
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.training import TRACKERS
from bert_jax.finetuning.prepared import Wanted
from bert_jax.finetuning.run import finetune
from bert_jax.runs import trackers
from bert_jax.runs.directory import append_metrics, RunDirectory
from bert_jax.runs.trackers import curves, OPENED, require_installed, Tracking
from bert_jax.train.pretraining import pretrain

CONFIG = {"seed": 3, "optimizer": {"learning_rate": 0.1}}


class Recording:
    """A tracker that notes what it gets."""

    seen: list
    fails = 0

    def __init__(self, run, known, config):
        self.id = known or "new"
        self.seen.append(("open", known))

    def log(self, points):
        if Recording.fails:
            Recording.fails -= 1
            raise ConnectionError("no route to host\nmore")
        self.seen.extend(points)

    def close(self):
        self.seen.append("close")


@pytest.fixture
def recorded(monkeypatch):
    Recording.seen, Recording.fails = [], 0
    monkeypatch.setattr(trackers, "OPENED", {"wandb": Recording})
    return Recording.seen


def line(step: int) -> dict:
    return {"kind": "train", "step": step, "phase": 0, "loss": float(step), "warnings": []}


def point(step: int) -> tuple:
    return step, {"train/loss": float(step)}


def log(run: RunDirectory, *steps: int) -> None:
    for step in steps:
        append_metrics(run, line(step))


def test_the_tables_agree():
    assert tuple(OPENED) == TRACKERS


def test_a_line_is_handed_over_once_its_checkpoint_is_there(tmp_path, recorded):
    """Killed behind a checkpoint of step 20: the same tracked run goes on, and no step is there twice."""
    run, said = RunDirectory(tmp_path), []
    first = Tracking("wandb", run, CONFIG, said.append)
    log(run, 10, 20, 30)
    first.hand_over(20)
    first.close()
    run.metrics_file.write_text("".join(json.dumps(line(step)) + "\n" for step in (10, 20)))
    again = Tracking("wandb", run, CONFIG, said.append)
    log(run, 30, 40)
    again.hand_over(40)
    again.close()
    assert recorded == [("open", None), point(10), point(20), "close", ("open", "new"), point(30), point(40), "close"]
    assert said == []


def test_a_tracker_that_fails_is_said_once_and_tried_again(tmp_path, recorded):
    run, said = RunDirectory(tmp_path), []
    Recording.fails = 2
    tracking = Tracking("wandb", run, CONFIG, said.append)
    log(run, 10, 20, 30)
    for step in (10, 20, 30):
        tracking.hand_over(step)
    tracking.close()
    assert [entry for entry in recorded if entry not in ("close", ("open", None))] == [point(10), point(20), point(30)]
    assert len(said) == 2
    assert "no route to host: the run goes on" in said[0]
    assert "failed 2 times" in said[1]


def test_one_that_is_not_installed_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    require_installed(None)
    with pytest.raises(UserError, match=r"tracker=mlflow: is not installed: pip install 'bert-jax\[mlflow\]'"):
        require_installed("mlflow")


def test_it_is_refused_before_data_and_model_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    missing, output = tmp_path / "missing", tmp_path / "run"
    with pytest.raises(UserError, match="tracker=wandb: is not installed"):
        pretrain(replace(PretrainConfig(), tracker="wandb"), missing, output, resume_command="")
    wanted = Wanted("sst2", str(missing), missing, replace(FinetuneConfig(), tracker="wandb"))
    with pytest.raises(UserError, match="tracker=wandb: is not installed"):
        finetune(wanted, output, resume_command="")


def test_curves_are_numbers_under_the_kind_of_their_line():
    assert curves({"kind": "eval", "step": 5, "mlm_loss": 2.0, "words": "x"}) == {"eval/mlm_loss": 2.0}


# ---- the trackers, offline -----------------------------------------------------------------------------------------


def track(name: str, run: RunDirectory) -> str:
    """Two starts of a run; returns the id of the tracked one."""
    ids, said = set(), []
    for steps in ((10, 20), (30,)):
        log(run, *steps)
        tracking = Tracking(name, run, CONFIG, said.append)
        tracking.hand_over(steps[-1])
        tracking.close()
        ids.add(json.loads((run.path / "tracker.json").read_text())["id"])
    assert said == []
    (found,) = ids
    return found


@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_a_local_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    found = track("mlflow", RunDirectory(tmp_path))
    client = mlflow.MlflowClient()
    assert [(metric.step, metric.value) for metric in client.get_metric_history(found, "train/loss")] == [
        (10, 10.0),
        (20, 20.0),
        (30, 30.0),
    ]
    assert client.get_run(found).data.params["optimizer.learning_rate"] == "0.1"


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    found = track("wandb", RunDirectory(tmp_path))
    folders = sorted((tmp_path / "wandb").glob(f"offline-run-*-{found}"))
    assert folders, "under one id, to be sent by wandb sync"


@pytest.mark.filterwarnings("ignore")
def test_trackio_in_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    found = track("trackio", RunDirectory(tmp_path))
    (base,) = Path(tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(base) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [(name, step, json.loads(values)["train/loss"]) for name, step, values in rows] == [
        (found, 10, 10.0),
        (found, 20, 20.0),
        (found, 30, 30.0),
    ]
