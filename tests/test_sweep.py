# SPDX-License-Identifier: Apache-2.0
"""Sweeps: how compute is dealt out, what cannot be compared, and a whole one that is gone on with."""

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Prepared, refusal_of, small_config

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.config.settings import to_dict
from bert_jax.config.training import OptimizerConfig
from bert_jax.model.accounting import run_flops
from bert_jax.study.sweep import folder_name, make_sweep, SweepPlan

RATES = "optimizer.learning_rate=1e-4,1e-3,1e-2"


@pytest.fixture
def recipe(tmp_path) -> str:
    """A configuration of two phases of one layer, as a file whose name a shell would cut."""
    phases = (
        replace(small_config().phases[0], steps=80),
        PhaseConfig(sequence_length=32, steps=16, batch_size=8, max_predictions_per_seq=5),
    )
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=None, warmup_share=0.1)
    file = tmp_path / "a small one.json"
    config = small_config(phases=phases, optimizer=optimizer, log_every=1, save_every=4, eval_every=0, eval_batches=2)
    file.write_text(json.dumps(to_dict(config)))
    return str(file)


def sweep(recipe: str, prepared: Prepared, output, *settings: str, compute: float | None = None) -> SweepPlan:
    return make_sweep(recipe, settings, compute, 1, prepared.data, output)


def test_each_rung_halves_and_doubles(recipe, prepared, tmp_path):
    plan = sweep(recipe, prepared, tmp_path, RATES, "optimizer.weight_decay=0.0,0.01,0.1")
    assert [(rung.combinations, rung.share) for rung in plan.rungs] == [(9, 1 / 8), (5, 1 / 4), (3, 1 / 2), (2, 1)]
    assert plan.compute == 9 / 8 + 5 / 4 + 3 / 2 + 2
    assert plan.combinations[1] == ("optimizer.learning_rate=1e-4", "optimizer.weight_decay=0.01")
    assert plan.config(plan.combinations[0], plan.rungs[-1], 0).total_steps == plan.base.total_steps


def test_the_runs_of_a_rung_take_the_same_compute(recipe, prepared, tmp_path):
    """Whatever the model and the batch; phases keep their shares, the warm-up its own of the schedule."""
    steps = ("phases.0.steps=400000", "phases.1.steps=40000", "optimizer.warmup_steps=44000", "phases.0.batch_size=8")
    plan = sweep(recipe, prepared, tmp_path, *steps, "model=tiny,mini", "micro_batches=1,2", compute=3.0)
    for rung in plan.rungs:
        configs = [plan.config(combination, rung, 0) for combination in plan.combinations]
        wanted = rung.share * run_flops(plan.base) * 3 / plan.compute
        for config in configs:
            assert run_flops(config) == pytest.approx(wanted, rel=0.02)
            assert config.phases[0].steps == pytest.approx(10 * config.phases[1].steps, rel=0.1)
            assert config.optimizer.warmup_share == pytest.approx(0.1)
        assert len({config.total_steps for config in configs}) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "nothing to compare"),
        (("objective.mlm_probability=0.1,0.15",), "held-out loss is of other tokens"),
        (("phases.1.max_predictions_per_seq=5,6",), "held-out loss is of other tokens"),
        (("optimizer.name=lamb,sgdd",), "sgdd"),
        (
            (RATES, "optimizer.weight_decay=0.0,0.1", "phases.1.steps=1"),
            "phases.1 of 1 steps would have none in rung 1 of 3",
        ),
        (("optimizer.learning_rate=1e-3,1e-3",), "both called learning_rate=1e-3"),
        ((RATES, "optimizer.learning_rate=5e-4"), "give optimizer.learning_rate once, with all of its values"),
        (("seed=1,2",), "seed=1,2: runs that differ in the seed alone"),
        (("eval_batches=1,2",), "eval_batches=1,2: losses of different held-out text"),
        (("phases.1.batch_size=8,6",), "take batches whose rows divide the 16 that are scored"),
    ],
)
def test_what_cannot_be_compared_is_refused(recipe, prepared, tmp_path, settings, said):
    with pytest.raises(UserError) as caught:
        sweep(recipe, prepared, tmp_path, *settings)
    assert said in str(caught.value)


def test_settings_are_taken_in_the_order_they_are_given(recipe, prepared, tmp_path):
    """As `pretrain` takes them, and the command for the best repeats them so."""
    plan = sweep(recipe, prepared, tmp_path, "model=tiny,mini", "model.num_hidden_layers=1", compute=1000.0)
    models = [plan.config(combination, plan.rungs[0], 0).model for combination in plan.combinations]
    assert [(model.num_hidden_layers, model.hidden_size) for model in models] == [(1, 128), (1, 256)]
    assert plan.settings_with(plan.combinations[1]) == ["model=mini", "model.num_hidden_layers=1"]


def test_larger_batches_are_scored_on_the_same_rows(recipe, prepared, tmp_path):
    plan = sweep(recipe, prepared, tmp_path, "phases.1.batch_size=4,8,16", "phases.1.steps=400")
    configs = [plan.config(combination, plan.rungs[-1], 0) for combination in plan.combinations]
    assert [(config.phases[1].batch_size, config.eval_batches) for config in configs] == [(4, 4), (8, 2), (16, 1)]


def test_names_of_folders():
    assert folder_name(("optimizer.learning_rate=1e-3", "model=mini")) == "learning_rate=1e-3,model=mini"
    assert folder_name(("optimizer.eps=0.5", "phases.0.batch_size=8")) == "eps=0.5,batch_size=8"


def test_a_sweep_ends_with_the_best_and_is_gone_on_with(recipe, prepared, tmp_path, capsys):
    output = tmp_path / "sweep"
    one = json.loads(Path(recipe).read_text())
    Path(recipe).write_text(json.dumps(one | {"phases": [one["phases"][0] | {"steps": 10}]}))
    command = list(map(str, ["sweep", recipe, "--data", prepared.data, "--output", output, RATES]))
    assert main(command) == 0
    record = json.loads((output / "sweep.json").read_text())
    first, last = record["rungs"]
    assert [len(first["runs"]), len(last["runs"])] == [3, 2]
    means = [run["mean"] for run in first["runs"]]
    assert means == sorted(means)
    assert {run["name"] for run in first["runs"][:2]} == {run["name"] for run in last["runs"]}
    assert [run["kept"] for run in first["runs"]] == [True, True, False]
    best = last["runs"][0]
    run = output / "rung-1" / best["name"] / "seed-0"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert best["mean"] == [line for line in lines if line["kind"] == "eval"][-1]["mlm_loss"]
    assert math.isfinite(best["mean"])
    page = (output / "report.html").read_text()
    assert best["settings"][0] in page
    assert shlex.split(record["command"])[2] == recipe

    capsys.readouterr()
    before = (output / "sweep.json").read_bytes()
    assert main(command) == 0
    assert "3 runs, 3 finished" in capsys.readouterr().err
    assert (output / "sweep.json").read_bytes() == before
    assert "another sweep" in refusal_of(capsys, *command, "optimizer.clip_norm=2.0")
