# SPDX-License-Identifier: Apache-2.0
"""The train step: a frozen encoder is features alone, and the head's first step is what its formula says."""

from dataclasses import fields, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import pytest
from finetune_samples import MODEL
from flax import nnx

from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.finetune import ResolvedConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import MeshConfig, OptimizerConfig
from bert_jax.finetuning.losses import TaskLoss
from bert_jax.finetuning.prediction import TaskTraining
from bert_jax.mesh.sharding import make_mesh, put_on_mesh
from bert_jax.model.dropout import row_seeds
from bert_jax.train.optimizer import learning_rate_schedule, make_optimizer
from bert_jax.train.state import DROPOUT, Training, TrainState
from bert_jax.train.step import accumulate_gradients, lower_train_step, train_step

RATE = 1e-2
N, S = 5, 8  # the last row fills up
SMALL = replace(MODEL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)


def training(freeze: str = "none", steps: int = 10, **settings: Any) -> TaskTraining:
    known = {field.name for field in fields(OptimizerConfig)}
    recipe = {"name": "adamw", "freeze": freeze, "learning_rate": RATE, "warmup_steps": 0, "weight_decay": 0.0}
    optimizer = OptimizerConfig(**recipe | {name: value for name, value in settings.items() if name in known})
    others = {name: value for name, value in settings.items() if name not in known}
    return training_of(ResolvedConfig(optimizer=optimizer, model=SMALL, steps_per_epoch=steps, epochs=1.0, **others))


def training_of(config: ResolvedConfig, head: TaskHead = TaskHead("classification", 3)) -> TaskTraining:  # noqa: B008
    description = ModelDescription(SMALL, mlm=False, nsp=False, task=head)
    return Training(config, make_mesh(MeshConfig(data=1)), description)


def batch() -> dict[str, np.ndarray]:
    valid = np.arange(S) < np.array([8, 5, 6, 3, 0])[:, None]
    ids = np.random.default_rng(0).integers(5, SMALL.vocab_size, (N, S))
    return {
        "input_ids": np.where(valid, ids, 0).astype(np.int32),
        "segment_ids": np.zeros((N, S), np.int32),
        "sequence_ids": valid.astype(np.int32),
        "position_ids": np.tile(np.arange(S, dtype=np.int32), (N, 1)),
        "cls_positions": np.zeros((N, 1), np.int32),
        "example_weights": np.array([1, 1, 1, 1, 0], np.float32),
        "labels": np.array([0, 1, 2, 1, 0], np.int32),
    }


def loss_of(of: TaskTraining) -> TaskLoss:
    return TaskLoss("classification", frozen_encoder=of.config.optimizer.freeze == "encoder")


def lowered(of: TaskTraining) -> Any:
    return lower_train_step(of, loss_of(of), batch())


def products(of: TaskTraining) -> int:
    """Matrix products of a step, as traced."""
    key = of.key(DROPOUT)
    return str(
        jax.make_jaxpr(lambda state: train_step(of, loss_of(of), state, batch(), key, of.schedule))(of.abstract_state)
    ).count("dot_general")


def test_a_frozen_encoder_is_features_alone():
    """Nothing is dropped in it, no gradient goes through it, and the head learns as on features made before."""
    of = training("encoder")
    rng = np.random.default_rng(0)
    before = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), of.abstract_state.params)
    moments = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), of.abstract_state.opt_state)
    state = TrainState(before, moments, np.int32(0))

    @jax.jit
    def step(state: TrainState) -> tuple[TrainState, Any, jax.Array]:
        features = nnx.merge(of.graph, state.params).encode(batch()).pooled_output
        return *train_step(of, loss_of(of), state, batch(), of.key(DROPOUT), of.schedule), features

    after, sums, features = step(state)
    assert float(sums["task_weight"]) == 4
    for one, other in zip(jax.tree.leaves(before["encoder"]), jax.tree.leaves(after.params["encoder"]), strict=True):
        np.testing.assert_array_equal(one, other)

    x = np.asarray(features, np.float64)[:4, 0]  # the four that are there
    kernel, bias = (before["task"][name].astype(np.float64) for name in ("kernel", "bias"))
    shares = np.exp(x @ kernel + bias)
    shares /= shares.sum(-1, keepdims=True)
    error = (shares - np.eye(3)[batch()["labels"][:4]]) / 4
    gradients = {"kernel": x.T @ error, "bias": error.sum(0)}
    loss = -np.log(shares[np.arange(4), batch()["labels"][:4]]).sum()
    np.testing.assert_allclose(sums["task_loss"], loss, rtol=1e-5)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    np.testing.assert_allclose(sums["grad_norm"], norm, rtol=1e-4)
    for name, gradient in gradients.items():
        # The first step of Adam with bias correction: the sign of the gradient, but for epsilon.
        gradient = gradient / max(norm, 1)
        wanted = before["task"][name] - RATE * gradient / (np.abs(gradient) + 1e-6)
        np.testing.assert_allclose(after.params["task"][name], wanted, atol=1e-5)


def texts(valid: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch of drawn texts, one in each row of `valid` [B, S], where its tokens are true."""
    return {
        "input_ids": np.where(valid, rng.integers(5, SMALL.vocab_size, valid.shape), 0).astype(np.int32),
        "segment_ids": np.zeros(valid.shape, np.int32),
        "sequence_ids": valid.astype(np.int32),
        "position_ids": np.tile(np.arange(S, dtype=np.int32), (len(valid), 1)),
        "cls_positions": np.zeros((len(valid), 1), np.int32),
    }


def drawn_parameters(of: Training) -> Any:
    drawn = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: drawn.normal(0, 0.1, leaf.shape).astype(np.float32), of.abstract_state.params)


@pytest.mark.parametrize("kind", ["classification", "choice"])
def test_micro_batches_change_nothing(kind):
    """The gradient of 8 examples, of which some fill up, at once and in 2 and 4 parts, dropout included; the rows of an
    example stay together."""
    choices, examples = (2, 8) if kind == "choice" else (1, 8)
    rng = np.random.default_rng(1)
    valid = np.arange(S) < rng.integers(3, S + 1, examples * choices)[:, None]
    many = {
        **texts(valid, rng),
        "example_weights": np.array([1, 1, 0, 1, 1, 1, 0, 1], np.float32),
        "labels": rng.integers(0, 2, examples).astype(np.int32),
    }

    def gradient(parts: int) -> Any:
        head = TaskHead(kind, 1 if kind == "choice" else 2)
        of = training_of(ResolvedConfig(model=SMALL, micro_batches=parts, scan_layers=None), head)
        params = drawn_parameters(of)
        seeds = row_seeds(of.key(DROPOUT), 0, len(valid))
        return jax.jit(partial(accumulate_gradients, of, TaskLoss(kind)))(params, many, seeds)

    whole, scores = gradient(1)
    assert float(scores["task"].weight) == 6
    for parts in (4,) if kind == "classification" else (2,):
        found, own_scores = gradient(parts)
        assert float(own_scores["task"].loss) == pytest.approx(float(scores["task"].loss), rel=1e-5)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-6), found, whole)


def test_no_backward_pass_is_made_through_a_frozen_encoder():
    assert products(training("encoder")) < 0.6 * products(training("none"))


def test_a_sweep_shares_programs():
    """Seed, rate, length and warm-up are no constants of the program; weight decay is one."""
    text = lowered(training()).as_text()
    assert lowered(training(steps=70, seed=3, learning_rate=2e-5, warmup_steps=7)).as_text() == text
    assert lowered(training(weight_decay=0.1)).as_text() != text


@pytest.mark.parametrize(("name", "schedule"), [("lamb", "cosine"), ("adamw_bert", "constant")])
def test_fine_tuning_steps_are_those_of_pretraining_s_optimizer(name, schedule):
    """On the same gradients, with the same settings: every optimizer and schedule of the tables."""
    recipe = {"name": name, "schedule": schedule, "learning_rate": RATE, "warmup_steps": 2, "weight_decay": 0.1}
    of = training(steps=6, **recipe)
    phase = PhaseConfig(sequence_length=S, steps=6, max_predictions_per_seq=2)
    pretraining = PretrainConfig(model=SMALL, phases=(phase,), optimizer=OptimizerConfig(**recipe))
    other = make_optimizer(pretraining.optimizer, learning_rate_schedule(pretraining.schedule_parts(), schedule))
    loss, key, rows = loss_of(of), of.key(DROPOUT), batch()
    state = of.initial_state()
    step = jax.jit(lambda state: train_step(of, loss, state, rows, key, of.schedule)[0])
    own = jax.jit(lambda params, number: accumulate_gradients(of, loss, params, rows, row_seeds(key, number, N))[0])
    params, kept = state.params, other.init(state.params)
    for number in range(4):
        updates, kept = jax.jit(other.update)(own(params, number), kept, params)
        params, state = optax.apply_updates(params, updates), step(state)
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("kind", ["classification", "span"])
def test_windows_of_a_text_are_one_example_on_several_devices(kind):
    """The rows of an example may lie on another device than its weight: 4 examples in 8 rows, one of which fills up."""
    rng = np.random.default_rng(1)
    valid = np.arange(S) < np.array([8, 8, 5, 8, 4, 8, 6, 0])[:, None]
    windows = {
        **texts(valid, rng),
        "row_examples": np.array([0, 0, 0, 1, 1, 2, 3, 4], np.int32),
        "example_weights": np.ones(4, np.float32),
        "labels": np.array([0, 1, 2, 1], np.int32),
        "spans": np.array([[0, 0], [2, 3], [0, 0], [1, 1], [0, 0], [3, 5], [0, 0], [0, 0]], np.int32),
    }

    def step(devices: int) -> tuple[Any, dict[str, jax.Array]]:
        of = training_of(ResolvedConfig(model=SMALL, scan_layers=None), TaskHead(kind, 2 if kind == "span" else 3))
        of = replace(of, mesh=make_mesh(MeshConfig(data=devices)))
        params = drawn_parameters(of)
        arrays, seeds = put_on_mesh(of.mesh, windows), row_seeds(of.key(DROPOUT), 0, len(valid))
        with jax.set_mesh(of.mesh):
            return jax.device_get(jax.jit(partial(accumulate_gradients, of, TaskLoss(kind)))(params, arrays, seeds))

    (wanted, scores), (found, own_scores) = step(1), step(2)
    np.testing.assert_allclose(own_scores["task"], scores["task"], rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, wanted)
