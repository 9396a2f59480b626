# SPDX-License-Identifier: Apache-2.0
"""The duel: times to the same loss, runs fitted to a time, the same text and masks on both sides, the page; our side as it
runs, and all of it beside the real Trainer where its Python is given. No speed is asserted."""

import itertools
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import small_config
from page_parts import Html, panels, plain, readings, rows, tiles

from bert_jax.base.errors import UserError
from bert_jax.bench import own_run
from bert_jax.bench.own_run import clock_lines, counted, Pace, points_of, run_for, take_pace
from bert_jax.bench.own_text import write_training_documents
from bert_jax.bench.report import as_markdown, failures
from bert_jax.bench.runner import make_suite, run_bench
from bert_jax.bench.side_process import SideError
from bert_jax.bench.subjects import duel
from bert_jax.bench.subjects.duel import compared_sides, Ground, OUR_RECIPE, OURS, peer_recipe, THEIR_RECIPE, time_to
from bert_jax.bench.suite import suite_for
from bert_jax.bench.tables import tables_of
from bert_jax.bench.workbench import BenchInputs
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.config.training import OptimizerConfig
from bert_jax.feed.shards import open_data
from bert_jax.pages.duel import duel_page
from bert_jax.tokenization import load_tokenizer
from bert_jax.use.evaluation import evaluate_data
from bert_jax.use.model import load

PEER_PYTHON = "BERT_JAX_PEER_PYTHON"  # a Python with torch, transformers and accelerate
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}

# ---- who won ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "seconds"),
    [
        (6.0, 20.0),  # a score itself
        (5.5, 25.0),  # half of the way
        (4.8, 38.0),  # the first time: it rises again
        (7.5, 10.0),  # below before it was scored first
        (4.0, None),
    ],
)
def test_the_time_to_a_loss_lies_in_a_line_between_two_scores(loss, seconds):
    curve = [(10.0, 7.0), (20.0, 6.0), (30.0, 5.0), (40.0, 4.75), (50.0, 5.2), (60.0, 4.5)]
    assert time_to(curve, loss) == (None if seconds is None else pytest.approx(seconds))


def test_a_loss_that_is_no_number_reaches_nothing():
    assert time_to([(10.0, 7.0), (20.0, math.nan)], 6.0) is None


def sides(ours, own, same) -> dict[str, dict]:
    """Sides with these losses at 10, 20, ... seconds."""
    told = {"recipe": "9 steps of 8 x 32", "preparation_seconds": 1.5, "steps": 10, "planned_steps": 10}
    curves = zip((THEIR_RECIPE, OURS, OUR_RECIPE), (own, ours, same), strict=True)
    return {
        side: {**told, "seconds": 10.0 * len(losses), "curve": [[10.0 * n, loss] for n, loss in enumerate(losses, 1)]}
        for side, losses in curves
    }


def test_the_better_recipe_is_the_opponent_and_the_ratio_is_of_times_to_its_last_loss():
    found = compared_sides(sides([7.0, 5.0, 4.0], [7.5, 7.4, 7.0], [7.2, 6.8, 6.0]))
    assert (found["opponent"], found["target_loss"]) == (OUR_RECIPE, 6.0)
    assert found["sides"][OURS]["seconds_to_the_loss"] == pytest.approx(15)
    assert found["sides"][OUR_RECIPE]["seconds_to_the_loss"] == 30
    assert "seconds_to_the_loss" not in found["sides"][THEIR_RECIPE]
    assert found["ratio"] == pytest.approx(2)
    assert not found["at_least"]
    assert compared_sides(sides([7.0, 5.0], [7.0, 6.0], [9.0, 8.0]))["opponent"] == THEIR_RECIPE
    broken = sides([7.0, 5.0], [7.0, float("nan")], [9.0, 8.0])  # the first one's own recipe came to no number
    assert compared_sides(broken)["opponent"] == OUR_RECIPE


def test_the_peer_is_given_the_first_time_that_it_was_there():
    """Its loss may rise before the end."""
    assert compared_sides(sides([8.0, 6.0], [9.0, 9.0, 9.0], [5.0, 4.0, 6.0]))["ratio"] == pytest.approx(0.5)


def test_a_first_score_below_the_loss_is_a_bound_and_a_loss_never_reached_has_no_ratio():
    assert compared_sides(sides([5.0, 4.0], [9.0], [7.0, 6.0]))["at_least"]
    found = compared_sides(sides([8.0, 7.0], [9.0], [7.0, 6.0]))
    assert "ratio" not in found
    assert found["sides"][OURS]["seconds_to_the_loss"] == "never"


def test_scores_of_other_masks_are_not_compared():
    one = {"masked_tokens": 5, "unigram_loss": 3.25, "mask_histogram": {"mask": 4, "random": 1, "kept": 0}}
    assert duel.require_same_masks([one, dict(one)]) == one
    with pytest.raises(SideError, match="different masks"):
        duel.require_same_masks([one, one | {"unigram_loss": 3.5}])


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "rtd", "generator_share": 0.5},
        {"name": "mlm_sop"},
        {"masking": "whole_word"},
        {"mlm_probability": 0.1},
        {"name": "ltr"},
    ],
)
def test_an_objective_that_is_scored_on_other_tokens_is_refused(objective):
    duel.require_comparable(small_config(objective=ObjectiveConfig(name="mlm_full_sentences")))
    with pytest.raises(UserError, match=r"set objective\.name=mlm_nsp"):
        duel.require_comparable(small_config(objective=ObjectiveConfig(**objective), model=small_config().model))


# ---- our side --------------------------------------------------------------------------------------------------------


def test_a_run_is_fitted_to_its_time_with_phases_in_proportion():
    config = small_config()
    pace = Pace(overhead=10.0, step_seconds=(0.01, 0.04))
    fitted = pace.fitted(config, 100.0)
    spent = sum(phase.steps * one for phase, one in zip(fitted.phases, pace.step_seconds, strict=True))
    assert spent == pytest.approx(90, rel=0.01)
    assert fitted.phases[0].steps == 2 * fitted.phases[1].steps
    part, before = fitted.schedule_parts()[0], config.schedule_parts()[0]
    assert part.warmup_steps / part.steps == pytest.approx(before.warmup_steps / before.steps, rel=0.01)
    with pytest.raises(UserError, match=r"10 of 5 s pass before the first step.*bench\.duel_seconds"):
        pace.fitted(config, 5.0)


def test_phases_with_a_schedule_of_their_own_keep_its_share():
    phases = [replace(phase, steps=100, learning_rate=1e-3, warmup_steps=20) for phase in small_config().phases]
    scaled = small_config(phases=tuple(phases)).scaled(2.5)
    assert [(phase.steps, phase.warmup_steps) for phase in scaled.phases] == [(250, 50)] * 2
    long = replace(scaled, optimizer=OptimizerConfig(warmup_steps=10_000))  # which no phase uses
    assert long.scaled(2.0).optimizer == long.optimizer


@pytest.mark.parametrize(("name", "rate", "share"), [("adamw_bert", 4e-3, 0.05), ("muon", 2e-3, 0.1)])
def test_the_peer_gets_a_rate_for_adamw_where_ours_is_for_muon(tmp_path, name, rate, share):
    phase = PhaseConfig(sequence_length=16, steps=100, batch_size=16, max_predictions_per_seq=3)
    optimizer = OptimizerConfig(name=name, learning_rate=4e-3, warmup_steps=5, b2=0.98)
    config = small_config(phases=(phase,), optimizer=optimizer)
    recipe, found = peer_recipe(Ground(config, tmp_path, tmp_path, tmp_path, tmp_path, 300.0))
    assert (recipe["learning_rate"], found) == (rate, share)
    assert (recipe["per_device_train_batch_size"], recipe["adam_beta2"]) == (16, 0.98)


def test_first_weights_belong_to_a_recipe(tmp_path, monkeypatch):
    """By ours the peer begins with our range, or that of positions where ours are Muon's; by its own with BertConfig's."""
    asked = {}

    def told(peer, function, python, environment, **arguments):
        asked.update(arguments)
        return {"planned_steps": 9, "batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 1, "optimizer": "adamw"}

    monkeypatch.setattr(duel, "fresh_process", told)
    model = replace(small_config().model, initializer_range=0.03, position_initializer_range=0.12)
    for name, deviation in (("adamw", 0.03), ("muon", 0.12)):
        config = small_config(model=model, optimizer=OptimizerConfig(name=name, warmup_steps=1))
        ground = Ground(config, tmp_path, tmp_path, tmp_path, tmp_path, 300.0)
        duel.train_peer(ground, tmp_path, OUR_RECIPE)
        assert asked["model"]["initializer_range"] == deviation
    duel.train_peer(ground, tmp_path, THEIR_RECIPE)
    assert "initializer_range" not in asked["model"]


def test_checkpoints_have_the_first_reading_of_their_step(tmp_path):
    """The next phase is compiled at the same step; a line under way is no line yet; saving and scoring do not count."""
    clock = {"kind": "clock", "restart": 1.0, "compile": 2.0, "data_wait": 0.5, "save": 70.0, "evaluation": 90.0}
    lines = [
        clock | {"step": 0, "steps": 0.0},
        {"kind": "train", "step": 10, "loss": 1.0},
        clock | {"step": 10, "steps": 4.0},
        clock | {"step": 10, "steps": 4.0, "compile": 8.0},
        clock | {"step": 13, "steps": 5.0, "compile": 8.0},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines) + '{"kind": "clo'
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    for name in ("10", "12", "13", "14.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    points = points_of(tmp_path)
    assert [(point["step"], point["seconds"]) for point in points] == [(10, 7.5), (13, 14.5)]
    assert Path(points[0]["model"]) == tmp_path / "checkpoints" / "10"


def test_our_side_runs_is_stopped_by_its_clock_and_is_scored_at_every_checkpoint(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(own_run, "ON_THE_CPU", own_run.ON_THE_CPU | QUICK)
    config = small_config()
    pace = take_pace(config, prepared.data, tmp_path / "pace")
    assert pace.overhead > 0 < min(pace.step_seconds)
    endless = replace(config.scaled(50_000), save_every=20)
    run_for(endless, prepared.data, tmp_path / "run", limit := pace.overhead + 6)
    points = points_of(tmp_path / "run")
    assert len(points) > 1
    assert points[-1]["step"] < endless.total_steps
    assert points[-1]["seconds"] >= limit
    assert points[-1]["seconds"] == pytest.approx(counted(clock_lines(tmp_path / "run")[-1]))
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(points))
    data = open_data(prepared.data)
    for point in points[:2]:
        model = load(point["model"], dtype=None)
        assert model.origin.step == point["step"]
        assert math.isfinite(evaluate_data(model, data, "validation", 16)["mlm_loss"])
    with pytest.raises(SideError, match="bert-jax pretrain failed"):
        run_for(config, tmp_path, tmp_path / "none", 10.0)
    with pytest.raises(SideError, match=r"over before bert-jax pretrain had a step: give more bench\.duel_seconds"):
        run_for(endless, prepared.data, tmp_path / "short", 0.0)


# ---- what both sides are given ---------------------------------------------------------------------------------------


def test_the_peers_documents_are_those_of_our_training_split(prepared, tmp_path):
    """As many of each entry of the vocabulary, also where a source is taken one and a half times; none is held out."""
    tokenizer = load_tokenizer(prepared.vocab)
    written = write_training_documents([str(prepared.text)], tmp_path / "train.txt")
    documents = (tmp_path / "train.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    data = open_data(prepared.data)
    assert written == len(documents) == data.manifest["splits"]["train"]["documents"] < 200
    ids = np.concatenate([tokenizer.encode(document).ids for document in documents])
    np.testing.assert_array_equal(np.bincount(ids, minlength=tokenizer.vocab_size), data.token_counts())
    more = write_training_documents([f"{prepared.text}@1.5"], tmp_path / "more.txt")
    assert written < more < 2 * written


def test_without_what_it_needs_it_is_left_out_and_says_what_is_missing(prepared, tmp_path):
    suite, inputs = suite_for("cpu"), BenchInputs(text=[str(prepared.text)], vocab=prepared.vocab / "vocab.txt")
    given = replace(inputs, peer_python=Path("/some/python"))
    named = make_suite("cpu", 1, ("small", small_config()), ["seed=3"])
    assert named.duel is not None
    assert named.duel[1].seed == 3
    cases = [
        (named, BenchInputs(), "--text and --vocab"),
        (named, inputs, "--peer-python"),
        (suite, given, "CONFIG, such as demo"),
    ]
    for each, have, missing in cases:
        report = run_bench(each, ["duel"], None, have)
        assert failures(report) == []
        (record,) = report["subjects"]["duel"]["records"]
        assert record["absent"].endswith(f"give {missing}")


# ---- the page --------------------------------------------------------------------------------------------------------

CONDITIONS = {"cpu": "Some <CPU>", "cores": 2, "date": "2026-11-29T12:00:00+00:00", "versions": {"jax": "0.12"}}


def record_of(found: dict) -> dict:
    shape = {"layers": 2, "hidden": 128, "vocabulary": 4096, "sequence_length": 64, "documents": 1234}
    told = {"masked_tokens": 5678, "unigram_entropy": 6.4, "seconds": 30.0, "peer_versions": {"torch": "2.13"}}
    return {"name": "demo", "kind": "duel", **shape, **told, **compared_sides(found)}


def test_the_page_shows_the_ratio_the_curves_and_every_side():
    record = record_of(sides([7.0, 5.0, 4.0], [7.5, 7.4, 7.0], [7.2, 6.8, 6.0]))
    page = duel_page(json.loads(json.dumps(record)), CONDITIONS, "bert-jax bench demo --only duel")
    assert Html(page).stands_alone()
    assert page.status == "2.0 times as fast"
    assert not page.findings
    assert tiles(page)["Held-out loss, ours"][0] == "4.000"
    assert tiles(page)["Held-out loss, Trainer"][0] == "6.000"
    panel = panels(page)["Held-out loss"]
    assert readings(panel) == {"bert-jax": "4.000", "Trainer": "6.000", "2nd recipe": "7.000"}
    assert panel.chart is not None
    assert panel.chart.level is not None
    assert panel.chart.level.value == 6.0
    shown = rows(page)
    assert shown[f"{OUR_RECIPE}the opponent"][-1] == "30.0 s"
    assert shown[OURS][-1] == "15.0 s"
    assert shown[THEIR_RECIPE][-1] == ""


def test_a_side_whose_schedule_did_not_end_with_its_time_is_named():
    record = record_of(sides([7.0, 5.0, 4.0], [7.5, 7.4], [7.2, 6.8, 6.0]))
    record["sides"][OUR_RECIPE]["planned_steps"] = 90
    page = duel_page(record, CONDITIONS, "again")
    assert [finding.subject for finding in page.findings] == [THEIR_RECIPE, OUR_RECIPE]
    assert "10 of 10 steps in 20 of 30 s" in page.findings[0].seen


def test_the_page_of_a_duel_that_was_lost_says_so_and_gives_no_ratio():
    record = record_of(sides([8.0, 7.0], [9.0], [7.0, 6.0]))
    page = duel_page(record, CONDITIONS, "again")
    assert page.state == "problem"
    assert tiles(page)["Times as fast"][0] == "never"
    assert "Ours never reached the 6.000 nats" in plain(Html(page).text)
    (table,) = tables_of({"records": [record]})
    assert "never" in table


# ---- beside the peer -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(PEER_PYTHON not in os.environ, reason=f"{PEER_PYTHON} does not name a Python with transformers")
def test_a_whole_duel_beside_trainer(prepared, tmp_path, monkeypatch):
    """Both learn, are scored on the same masks, and stop by the clock; the report and the page are there."""
    monkeypatch.setattr(own_run, "ON_THE_CPU", own_run.ON_THE_CPU | QUICK)
    config = small_config(phases=(replace(small_config().phases[1], steps=20),))
    suite = make_suite("cpu", 1, ("small", config), ["bench.duel_seconds=40"])
    inputs = BenchInputs(Path(os.environ[PEER_PYTHON]), [str(prepared.text)], prepared.vocab / "vocab.txt")
    report = run_bench(suite, ["duel"], tmp_path, inputs, "bert-jax bench")
    assert failures(report) == []
    (record,) = report["subjects"]["duel"]["records"]
    assert list(record["sides"]) == [THEIR_RECIPE, OURS, OUR_RECIPE]
    for one in record["sides"].values():
        assert 5 < one["seconds"] < 60  # a pace that was taken on a busy machine is wrong
        assert one["preparation_seconds"] > 0
        assert 2 < len(one["curve"]) == len(one["points"])
        assert one["loss"] < one["curve"][0][1]
    assert record["name"] in (tmp_path / "duel.html").read_text(encoding="utf-8")
    assert "Duel, small: Ours" in as_markdown(report)
