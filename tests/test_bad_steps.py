# SPDX-License-Identifier: Apache-2.0
"""Steps that must not count: what a run does about them, what it leaves, and whether a resumed run does the same."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bucket_emulator import BUCKET
from conftest import small_config, TOPICS

import bert_jax.train.session
from bert_jax.base.errors import Interrupted, UserError
from bert_jax.base.paths import any_path
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.mesh.sharding import make_mesh
from bert_jax.rerun.finite import examine, REGIONS
from bert_jax.rerun.replay import _nearest, _own_dtype, replay, Replayed, report
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.cost import without_clock
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.reading import read_metrics
from bert_jax.train.bad_steps import BadSteps, not_finite, total_loss
from bert_jax.train.capsule import read_capsule
from bert_jax.train.masked_lm import MaskedLmLoss
from bert_jax.train.pretraining import pretrain, Pretraining
from bert_jax.train.state import Training
from bert_jax.train.step import without_bad_step

CONFIG = small_config(
    phases=(PhaseConfig(sequence_length=16, steps=8, batch_size=16, max_predictions_per_seq=3),),
    eval_every=0,
    log_every=2,
)
CONFIG = replace(CONFIG, model=replace(CONFIG.model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
BAD = 6  # the step whose batch is poisoned


@pytest.fixture
def poisoned(monkeypatch):
    """A loss that takes the logarithm of a negative number in one batch, which is known by the sum of its tokens."""
    seen: dict[int, int] = {}
    batches = Pretraining.batches

    def noted(self, span, first):
        for step, batch in enumerate(batches(self, span, first), start=first + 1):
            seen[step] = int(batch["input_ids"].sum())
            yield batch

    monkeypatch.setattr(Pretraining, "batches", noted)
    scores = MaskedLmLoss.scores

    def poison(self, training, params, batch, seeds):
        found = scores(self, training, params, batch, seeds)
        bad = batch["input_ids"].sum() == POISON
        with jax.named_scope("loss"):
            return {**found, "mlm": found["mlm"]._replace(loss=found["mlm"].loss + jnp.log(jnp.where(bad, -1.0, 1.0)))}

    monkeypatch.setattr(MaskedLmLoss, "scores", poison)
    return seen


POISON = -1


@pytest.fixture(scope="module", autouse=True)
def poison_of(prepared):
    """The sum of the tokens of the batch that is poisoned."""
    global POISON
    from bert_jax.feed.examples import make_examples
    from bert_jax.feed.packing import make_arrangement
    from bert_jax.feed.shards import open_data

    data = open_data(prepared.data)
    examples = make_examples(data.split("train"), data.load_tokenizer(), CONFIG, CONFIG.phases[0])
    batches = [make_arrangement(examples, "padded", 16).batch(CONFIG.seed, step) for step in range(12)]
    sums = [int(batch["input_ids"].sum()) for batch in batches]
    assert sums.count(sums[BAD - 1]) == 1
    POISON = sums[BAD - 1]


def lines(run: Path, kind: str) -> list[dict]:
    return [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if line["kind"] == kind]


def all_lines(run: Path) -> list[dict]:
    return without_clock([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])


def final_params(run: Path, config: PretrainConfig = CONFIG):
    abstract = Training(config, make_mesh(config.mesh)).abstract_state
    with Checkpoints(run / "checkpoints") as checkpoints:
        restored = checkpoints.restore(config.total_steps, {"params": abstract.params})
    return jax.tree.map(np.asarray, restored["params"])


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    original = bert_jax.train.session.Session.measured

    def measured(self, done, *arguments):
        original(self, done, *arguments)
        if done == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(bert_jax.train.session.Session, "measured", measured)


# ---- the rule ------------------------------------------------------------------------------------------------------


def test_a_spike_is_measured_by_the_median_and_its_deviation():
    """Against NumPy; the step before is not known yet when one begins, so it is left out."""
    rng = np.random.default_rng(0)
    losses = rng.normal(5, 0.1, 40)
    bad = BadSteps(replace(CONFIG, spike=6.0))
    for step, loss in enumerate(losses, start=1):
        assert bad.why(step, {"mlm_loss": 10 * loss, "mlm_weight": 10.0}) is None
    known = losses[:39]
    limit = np.median(known) + 6 * 1.4826 * np.median(np.abs(known - np.median(known)))
    assert bad.limit(41) == pytest.approx(limit)
    assert "beyond" in (bad.why(41, {"mlm_loss": limit + 0.01, "mlm_weight": 1.0}) or "")
    assert bad.losses[-1][0] == 40, "a spike is no measure for others"
    assert BadSteps(CONFIG).limit(41) == math.inf
    again = BadSteps(bad.config)
    again.restore(json.loads(json.dumps(bad.record())))
    assert again == bad


def test_the_loss_is_the_sum_of_the_means():
    sums = {"mlm_loss": 60.0, "mlm_weight": 20.0, "nsp_loss": 5.6, "nsp_weight": 8.0, "a_loss": 0.0, "a_weight": 0.0}
    assert total_loss(sums, CONFIG) == pytest.approx(3.7)


@pytest.mark.parametrize("name", ["mlm_loss", "task_loss", "new_loss", "grad_norm", "parameter_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_every_loss_and_norm_must_be_finite(name, value):
    assert not_finite({"mlm_loss": 1.0, "valid_tokens": math.inf}) == ""
    assert f"{name}={value}" in not_finite({"mlm_loss": 1.0, name: value})


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_stopped_with_a_capsule_that_is_replayed(prepared, tmp_path, poisoned):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=rf"^step {BAD}: .*mlm_loss=nan.*bert-jax replay") as refused:
        pretrain(CONFIG, prepared.data, run, resume_command="")
    assert "lower optimizer.learning_rate" in str(refused.value)
    capsule = json.loads((run / "bad_steps" / f"step-{BAD:08}.json").read_text())
    assert (capsule["step"], capsule["action"], capsule["checkpoint"], capsule["seed"]) == (BAD, "stop", 4, CONFIG.seed)
    assert np.shape(capsule["examples"]["indices"]) == (16, 1)
    assert capsule["sums"]["mlm_loss"] == "nan"
    norms = capsule["parameter_norms"]["encoder/layers/feed_forward/output/kernel"]
    assert len(norms) == CONFIG.model.num_hidden_layers
    found = replay(run)
    (bad,) = found.found.bad
    assert (bad.name, bad.value, bad.place) == ("log", "NaN", ("forward", None, "loss")), (
        "and what is -inf on purpose is not"
    )
    assert {place.region for place in found.found.largest} >= set(REGIONS)
    assert {(place.layer, place.direction) for place in found.found.largest} >= {(1, "forward"), (1, "backward")}
    told = report(found)
    assert "first log makes NaN of finite numbers: loss, forward" in told
    assert any(word in told for words in TOPICS.values() for word in words), f"texts of the batch: {told}"
    logged = lines(run, "train")
    assert [line["step"] for line in logged] == [2, 4]


def test_the_schedule_goes_on_past_a_skipped_step():
    """The rate of a step is that of its number, as metrics say; what is put back are the moments."""
    training = Training(replace(CONFIG, on_bad_step="skip"), make_mesh(CONFIG.mesh))
    old = training.abstract_state
    old = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), old)
    new = jax.tree.map(lambda leaf: leaf + np.ones((), leaf.dtype), old)
    sums = {"mlm_loss": jnp.float32(jnp.nan), "mlm_weight": jnp.float32(1.0)}
    kept, _ = without_bad_step(training, old, new, sums, jnp.float32(jnp.inf))
    counts = {name: int(value) for path, value in jax.tree_util.tree_leaves_with_path(kept.opt_state)
              if (name := jax.tree_util.keystr(path)).endswith(".count")}  # fmt: skip
    assert sorted(counts.values()) == [0] * (len(counts) - 1) + [1], counts
    assert int(kept.step) == 1
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(kept.params))


def test_a_torn_line_of_a_bad_step_is_no_line(tmp_path):
    """As any that cannot be read: the run goes on, and says so."""
    (tmp_path / "metrics.jsonl").write_text('{"kind": "bad", "step": 1}\n')
    assert read_metrics(tmp_path / "metrics.jsonl") == ([], [1])


def test_a_step_is_taken_again_from_what_its_run_had_then(tmp_path):
    """Of a checkpoint that the run made after it was rolled back, batches behind the bad one are in it."""
    run = RunDirectory(tmp_path)
    for folder in (run.checkpoints / "120", run.bad_steps / "checkpoints" / "100"):
        (folder / "optimizer").mkdir(parents=True)
    assert _nearest(run, 150) == (run.checkpoints, 120)
    assert _nearest(run, 150, newest=100) == (run.bad_steps / "checkpoints", 100)
    assert _nearest(run, 150, newest=0) == (None, 0)


def write_capsules(run: RunDirectory, **named: dict) -> None:
    run.bad_steps.mkdir()
    for name, changes in named.items():
        content = {"step": 6, "why": "nan", "moved": 0, "checkpoint": 4} | changes
        (run.bad_steps / f"{name.replace('_', '-')}.json").write_text(json.dumps(content))


def test_the_newest_capsule_is_that_of_the_last_batch(tmp_path):
    """After a rollback steps are counted anew, so neither the last step nor the last name is the newest."""
    run = RunDirectory(tmp_path)
    write_capsules(
        run,
        step_00000006={},
        step_00000005_batch_8={"step": 5, "moved": 3},
        step_00000005_batch_12={"step": 5, "moved": 7},
        step_notes={},
    )
    for step in (None, 5):
        assert (read_capsule(run, step) or {})["moved"] == 7
    assert (read_capsule(run, 6) or {})["moved"] == 0
    assert read_capsule(run, 7) is None


@pytest.mark.parametrize("changes", [{"checkpoint": "four"}, {"checkpoint": [1]}, {"moved": -3}, {"step": 6.5}])
def test_a_capsule_with_other_values_is_refused(tmp_path, changes):
    write_capsules(RunDirectory(tmp_path), step_00000006=changes)
    with pytest.raises(UserError, match=r"step-00000006\.json holds other values than it should.*: remove it$"):
        read_capsule(RunDirectory(tmp_path), None)


def test_a_capsule_without_its_checkpoint_is_refused(tmp_path):
    """The bug: a traceback of `replay`."""
    run = RunDirectory(tmp_path)
    run.bad_steps.mkdir()
    (run.bad_steps / "step-00000006.json").write_text('{"step": 6, "why": "nan", "moved": 0}')
    with pytest.raises(UserError, match=r"step-00000006\.json lacks 'checkpoint': remove it"):
        read_capsule(run, None)


def test_a_loss_that_a_mask_makes_infinite_is_not_fine():
    """No operation makes an infinity of finite numbers where a label stands behind a mask, and the loss is infinite."""

    def loss(x):
        masked = jnp.where(jnp.arange(3) < 2, x, -jnp.inf)
        return -jax.nn.log_softmax(masked)[2]

    value, looked = examine(loss, jnp.zeros(3), layers=9)
    assert looked.bad == []
    replayed = Replayed(6, None, looked, None, "float32", [], {"task_loss": float(value), "task_weight": 1.0}, [])
    assert replayed.is_bad
    assert "NOT FINITE" in report(replayed)
    assert "every operation is finite" not in report(replayed)


@pytest.mark.parametrize(("platform", "dtype"), [("tpu", "bfloat16"), ("cpu", "float32"), (None, "float32")])
def test_auto_is_the_type_that_the_run_had_wherever_it_is_taken_again(tmp_path, platform, dtype):
    """The bug: a run of bfloat16 by `auto`, the default, was looked at in float32 alone."""
    run = RunDirectory(tmp_path)
    if platform is not None:
        run.environment_file.write_text(json.dumps({"platform": platform}))
    assert CONFIG.compute_dtype == "auto"
    assert _own_dtype(run, Training(CONFIG, make_mesh(CONFIG.mesh))) == dtype


def test_skipped_its_update_is_left_out_and_a_resumed_run_does_the_same(prepared, tmp_path, poisoned, monkeypatch):
    config = replace(CONFIG, on_bad_step="skip")
    pretrain(config, prepared.data, tmp_path / "straight", resume_command="")
    (line,) = lines(tmp_path / "straight", "bad")
    assert (line["step"], line["action"], line["count"], line["first"], line["last"]) == (BAD, "skip", 1, BAD, BAD)
    losses = [line["loss"] for line in lines(tmp_path / "straight", "train")]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    with monkeypatch.context() as patch:
        stop_after(patch, BAD)
        with pytest.raises(Interrupted):
            pretrain(config, prepared.data, tmp_path / "resumed", resume_command="")
    pretrain(config, prepared.data, tmp_path / "resumed", resume_command="")
    assert all_lines(tmp_path / "resumed") == all_lines(tmp_path / "straight")
    jax.tree.map(np.testing.assert_array_equal, final_params(tmp_path / "resumed"), final_params(tmp_path / "straight"))


def test_rolled_back_past_its_batches(prepared, tmp_path, poisoned, monkeypatch):
    config = replace(CONFIG, on_bad_step="rollback")
    pretrain(config, prepared.data, tmp_path / "straight", resume_command="")
    (line,) = lines(tmp_path / "straight", "bad")
    assert (line["step"], line["count"], line["moved"], line["first"], line["last"]) == (4, 1, 2, 5, 6)
    assert [line["step"] for line in lines(tmp_path / "straight", "train")] == [2, 4, 6, 8]
    assert max(poisoned) == 10, "the batches of steps 7 to 10 were taken for steps 5 to 8"
    kept = tmp_path / "straight" / "bad_steps" / "checkpoints" / "4"
    assert (kept / "optimizer").is_dir()
    # Killed after the rollback, before there is another checkpoint.
    with monkeypatch.context() as patch:
        patch.setattr(bert_jax.train.session.Session, "save", fails_after(5))
        with pytest.raises(RuntimeError):
            pretrain(config, prepared.data, tmp_path / "resumed", resume_command="")
    pretrain(config, prepared.data, tmp_path / "resumed", resume_command="")
    assert all_lines(tmp_path / "resumed") == all_lines(tmp_path / "straight")
    jax.tree.map(np.testing.assert_array_equal, final_params(tmp_path / "resumed"), final_params(tmp_path / "straight"))


def test_rolled_back_on_a_bucket_as_on_a_disk(prepared, tmp_path, poisoned, emulator):
    """Before the first save too, when no line of metrics is there yet but on this machine."""
    config = replace(CONFIG, on_bad_step="rollback", save_every=1_000)
    there = any_path(f"gs://{BUCKET}/rolled-back")
    for run in (there, tmp_path / "here"):
        pretrain(config, prepared.data, run, resume_command="")
    assert all_lines(there) == all_lines(tmp_path / "here")
    assert [line["step"] for line in all_lines(there) if line["kind"] == "train"] == [2, 4, 6, 8]


def fails_after(step: int):
    save = bert_jax.train.session.Session.save

    def failing(self, done, state):
        if done > step:
            raise RuntimeError("killed")
        save(self, done, state)

    return failing


def test_one_too_many_stops_the_run():
    config = replace(CONFIG, on_bad_step="skip", most_bad_steps=1)
    bad = BadSteps(config, count=1)
    with pytest.raises(UserError, match="most_bad_steps=1"):
        bad.bounded(7, "the loss is not finite")
