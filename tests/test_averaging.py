# SPDX-License-Identifier: Apache-2.0
"""Runs by Muon with an average of the weights: on any mesh, resumed to the bit, and what is scored, converted and loaded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import small_config
from finetune_samples import command, write_model, write_sst2

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.training import MeshConfig, OptimizerConfig
from bert_jax.conversion.convert import convert
from bert_jax.conversion.further import pretrain_further, Start
from bert_jax.feed.shards import open_data
from bert_jax.mesh.sharding import make_mesh
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.train.pretraining import pretrain
from bert_jax.train.state import Training
from bert_jax.use.evaluation import evaluate_data

PLAIN = OptimizerConfig(name="muon", schedule="wsd", learning_rate=1e-2, warmup_steps=2)
CONFIG = small_config(
    phases=small_config().phases[:1],
    optimizer=replace(PLAIN, average=0.5),
    mesh=MeshConfig(data=1, fsdp=2),
    save_every=1,
    keep_checkpoints=9,
    eval_every=4,
)


def saved(run: Path, step: int, config=CONFIG) -> tuple[dict, tuple]:
    """The items `params` and `optimizer` of a checkpoint, as NumPy."""
    abstract = Training(config, make_mesh(config.mesh)).abstract_state
    items = {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step)}
    with Checkpoints(run / "checkpoints") as checkpoints:
        restored = checkpoints.restore(step, items)
    return jax.tree.map(np.asarray, (restored["params"], restored["optimizer"]))


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory) -> dict[str, Path]:
    """The same run with an average and without."""
    folder = tmp_path_factory.mktemp("averaging")
    for name, config in (("average", CONFIG), ("plain", replace(CONFIG, optimizer=PLAIN))):
        pretrain(config, prepared.data, folder / name, resume_command="")
    return {name: folder / name for name in ("average", "plain")}


def test_a_checkpoint_s_parameters_are_the_average_and_training_goes_on_from_the_others(runs):
    plain = replace(CONFIG, optimizer=PLAIN)
    trained = [saved(runs["plain"], step, plain)[0] for step in range(1, 9)]
    abstract = Training(CONFIG, make_mesh(CONFIG.mesh))
    expected = jax.tree.map(np.asarray, abstract.initial_state().params)
    for step, params in enumerate(trained, 1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, expected, params)
    found, (opt_state, step) = saved(runs["average"], 8)
    assert step == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    jax.tree.map(np.testing.assert_array_equal, opt_state[-1].average, trained[-1])
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (found, trained[-1])), strict=True))


def test_the_average_is_cut_as_the_parameters_are():
    state = Training(CONFIG, make_mesh(CONFIG.mesh)).abstract_state
    cut = [leaf.sharding for leaf in jax.tree.leaves(state.params)]
    assert cut == [leaf.sharding for leaf in jax.tree.leaves(state.opt_state[-1].average)]
    assert any("fsdp" in str(sharding.spec) for sharding in cut)


def test_resumed_it_is_the_straight_run(runs, prepared, tmp_path):
    """After step 3 and on: average, momentum and weights to the bit."""
    again = Path(shutil.copytree(runs["average"], tmp_path / "again"))
    for step in range(4, 9):
        shutil.rmtree(again / "checkpoints" / str(step))
    pretrain(CONFIG, prepared.data, again, resume_command="")
    jax.tree.map(np.testing.assert_array_equal, saved(again, 8), saved(runs["average"], 8))


def test_what_is_loaded_scored_and_converted_is_the_average_and_says_so(runs, prepared, tmp_path, capsys):
    model = bert_jax.load(runs["average"])
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, model.params), saved(runs["average"], 8)[0])
    told = "weights averaged over the steps (optimizer.average=0.5)"
    scores = evaluate_data(model, open_data(prepared.data), "validation", None)
    assert scores["weights"] == told
    assert evaluate_data(bert_jax.load(runs["plain"]), open_data(prepared.data), "validation", None)["weights"] is None
    certificate = convert(runs["average"], tmp_path / "huggingface", "huggingface")
    assert certificate.holds
    assert told in certificate.notes
    capsys.readouterr()
    assert main(["report", str(runs["average"])]) == 0
    assert told in (runs["average"] / "report.html").read_text(encoding="utf-8")


def test_a_run_begins_with_the_average_of_another_and_not_with_its_moments(runs, prepared, tmp_path, capsys):
    """Its own average begins there too. The state of the optimizer is that of other weights: it is left out, and said."""
    certificate = convert(runs["average"], tmp_path / "run", "bert-jax")
    assert certificate.holds
    assert any("these are their average" in note for note in certificate.notes)
    start = Start(runs["average"], keep="moments")
    with pytest.raises(UserError, match=r"--keep moments: .*these are their average\): leave it out"):
        pretrain_further(CONFIG, [], start, prepared.data, tmp_path / "moments", resume_command="")
    pretrain_further(CONFIG, [], replace(start, keep=None), prepared.data, tmp_path / "further", resume_command="")
    begin, (opt_state, _) = saved(tmp_path / "further", 0)
    jax.tree.map(np.testing.assert_array_equal, begin, saved(runs["average"], 8)[0])
    jax.tree.map(np.testing.assert_array_equal, opt_state[-1].average, begin)
    end = saved(tmp_path / "further", 8)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(end))


def test_fine_tuning_scores_and_keeps_the_average(tmp_path, capsys):
    """A finished run keeps no optimizer's state; scored again it gives the scores of its end."""
    write_model(tmp_path / "model")
    write_sst2(tmp_path / "sst2", train=96)
    recipe = ("optimizer.name=muon", "optimizer.average=0.9", "optimizer.schedule=inverse_sqrt", "epochs=2")
    arguments = command("sst2", tmp_path / "sst2", tmp_path / "model", tmp_path / "run", *recipe)
    assert main(arguments) == 0
    first = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]
    told = "weights averaged over the steps (optimizer.average=0.9)"
    assert told in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "sst2"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["scores"] == first["dev"]
    assert record["weights"] == told
    predictions = (tmp_path / "run" / "predictions" / "dev.jsonl").read_bytes()
    (tmp_path / "run" / "scores.json").unlink()
    shutil.rmtree(tmp_path / "run" / "predictions")
    assert main(arguments) == 0
    assert (tmp_path / "run" / "predictions" / "dev.jsonl").read_bytes() == predictions
