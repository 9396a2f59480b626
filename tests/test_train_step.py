# SPDX-License-Identifier: Apache-2.0
"""The train step on meshes and micro-batches: the same loss, gradient and update, however the batch is cut."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import small_config

from bert_jax.batch import BatchShape
from bert_jax.config import MeshConfig, ModelConfig, ObjectiveConfig
from bert_jax.evaluation import put_on_mesh
from bert_jax.sharding import make_mesh
from bert_jax.train_state import Training
from bert_jax.train_step import batch_statistics, compile_eval_step, compile_train_step, train_step

B, S, M = 16, 16, 4
VOCAB, MASK = 96, 4
SHAPE = BatchShape(B, S, M)
MODEL = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=32,
)


def make_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of different lengths with different numbers of predictions, from none to four."""
    rng = np.random.default_rng(seed)
    valid = np.arange(S)[None, :] < rng.integers(6, S + 1, (B, 1))
    predicted = np.arange(M)[None, :] < (np.arange(B)[:, None] * 5 // B)
    return {
        "input_ids": np.where(valid, rng.integers(5, VOCAB, (B, S)), 0).astype(np.int32),
        "segment_ids": np.where(valid, np.arange(S)[None, :] > 4, 0).astype(np.int32),
        "sequence_ids": valid.astype(np.int32),
        "position_ids": np.broadcast_to(np.arange(S), (B, S)).astype(np.int32),
        "masked_lm_positions": np.where(predicted, 1 + np.arange(M)[None, :], 0).astype(np.int32),
        "masked_lm_ids": np.where(predicted, rng.integers(5, VOCAB, (B, M)), 0).astype(np.int32),
        "masked_lm_weights": predicted.astype(np.float32),
        "cls_positions": np.zeros((B, 1), np.int32),
        "next_sentence_labels": rng.integers(0, 2, (B, 1)).astype(np.int32),
        "next_sentence_weights": np.ones((B, 1), np.float32),
    }


def training_on(mesh: tuple[int, int, int], micro_batches: int = 1, **changes) -> Training:
    config = small_config(model=MODEL, mesh=MeshConfig(*mesh), micro_batches=micro_batches, **changes)
    # The first phase's batch is that of the tests.
    return Training(config, make_mesh(config.mesh))


def run_steps(training: Training, steps: int = 3):
    """(sums of each step, parameters and moments after them)."""
    state = training.initial_state()
    step = compile_train_step(training, SHAPE, MASK)
    history = []
    for number in range(steps):
        state, sums = step(state, put_on_mesh(training.mesh, make_batch(number)))
        history.append({name: float(value) for name, value in sums.items()})
    return history, jax.tree.map(np.asarray, (state.params, state.opt_state))


@pytest.fixture(scope="module")
def one_device():
    """Three steps on one device, with dropout 0.1."""
    return run_steps(training_on((1, 1, 1)))


@pytest.mark.parametrize(
    ("mesh", "micro_batches"),
    [((8, 1, 1), 1), ((1, 8, 1), 1), ((2, 2, 2), 1), ((1, 1, 4), 1), ((1, 1, 1), 4), ((2, 2, 1), 2)],
)
def test_any_cut_gives_the_same_steps(one_device, mesh, micro_batches):
    """Meshes and micro-batches with unequal masked counts, some with none: losses, gradient norm, parameters and both
    moments, which hold the gradients, to 1e-5, dropout included."""
    history, state = run_steps(training_on(mesh, micro_batches))
    for sums, expected in zip(history, one_device[0], strict=True):
        assert sums == pytest.approx(expected, rel=1e-5, abs=1e-5)
    jax.tree.map(
        lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5), state, one_device[1]
    )


def test_steps_do_change_the_parameters(one_device):
    """The comparison above must compare something."""
    begin = jax.tree.map(np.asarray, training_on((1, 1, 1)).initial_state().params)
    moved = jax.tree.map(lambda old, new: float(np.abs(old - new).max()), begin, one_device[1][0])
    # The key's bias shifts all scores of a query alike: softmax does not see it, its gradient is rounding noise.
    moved["encoder"]["layers"]["attention"]["key"].pop("bias")
    # Segment and position rows, every kernel, every bias: all have moved by more than the tolerance.
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_parameters_are_cut_over_the_mesh():
    """State is created sharded: with fsdp=8 a device holds an eighth of a kernel and of its moments."""
    state = training_on((1, 8, 1)).initial_state()
    kernel = state.params["encoder"]["layers"]["feed_forward"]["intermediate"]["kernel"]
    assert kernel.shape == (2, 32, 64)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 4, 64)}
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert all(leaf.sharding == kernel.sharding for leaf in moments)
    assert len(moments) == 2  # first and second


def test_losses_are_weighted_means():
    """The sums divide to the mean over real predictions: doubling a filler's label or a row's weight shows."""
    training = training_on((1, 1, 1))
    step = compile_eval_step(training, SHAPE)
    params = training.initial_state().params
    batch = make_batch()
    mlm, nsp = step(params, put_on_mesh(training.mesh, batch))
    assert float(mlm.weight) == batch["masked_lm_weights"].sum()
    assert float(nsp.weight) == B
    filler = {**batch, "masked_lm_ids": np.where(batch["masked_lm_weights"] > 0, batch["masked_lm_ids"], 7)}
    assert float(step(params, put_on_mesh(training.mesh, filler))[0].loss) == float(mlm.loss)
    # Untrained: near ln V and ln 2.
    assert float(mlm.loss / mlm.weight) == pytest.approx(np.log(VOCAB), abs=0.1)
    assert float(nsp.loss / nsp.weight) == pytest.approx(np.log(2), abs=0.1)


def test_without_nsp_its_head_gets_no_gradient():
    """Row S32: segments stay, the label is not predicted."""
    training = training_on((1, 1, 1), objective=ObjectiveConfig("mlm_pairs"))
    state = training.initial_state()
    before = np.asarray(state.params["nsp"]["kernel"])
    batch = {name: jax.numpy.asarray(field) for name, field in make_batch().items()}
    step = jax.jit(lambda state: train_step(training, state, batch, MASK))
    state, _ = step(step(state)[0])  # the first step has learning rate 0
    mu = state.opt_state[1].mu
    assert not np.asarray(mu["nsp"]["kernel"]).any()
    assert np.asarray(mu["mlm"]["bias"]).any()
    np.testing.assert_allclose(np.asarray(state.params["nsp"]["kernel"]), before, rtol=1e-3)  # decay only


def test_dropout_changes_with_the_step_and_the_seed():
    """Keys are fold_in(key, step): the same batch gives another loss at another step."""
    training = training_on((1, 1, 1))
    step = compile_train_step(training, SHAPE, MASK)
    batch = put_on_mesh(training.mesh, make_batch())
    other = replace(training, config=replace(training.config, seed=1))
    steps = {0: step, 1: compile_train_step(other, SHAPE, MASK)}
    state = training.initial_state()
    losses = []
    for seed, number in ((0, 0), (0, 0), (0, 1), (1, 0)):
        begin = jax.tree.map(jax.numpy.copy, state)  # a step donates its state
        _, sums = steps[seed](begin._replace(step=jax.device_put(np.int32(number), begin.step.sharding)), batch)
        losses.append(float(sums["mlm_loss"]))
    assert losses[0] == losses[1]
    assert len(set(losses[1:])) == 3


def test_statistics_of_a_batch():
    """Counts by hand (row S14: shares are measured, not assumed)."""
    batch = {
        "input_ids": np.array([[2, MASK, 8, 9, 3, 0], [2, 7, 8, MASK, 6, 3]]),
        "sequence_ids": np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 2, 2, 2]]),
        "masked_lm_positions": np.array([[1, 2, 3], [3, 0, 0]]),
        "masked_lm_ids": np.array([[5, 8, 6], [9, 0, 0]]),
        "masked_lm_weights": np.array([[1, 1, 1], [1, 0, 0]], np.float32),
        "cls_positions": np.array([[0, 0], [0, 3]]),
        "next_sentence_labels": np.array([[1, 1], [0, 1]]),
        "next_sentence_weights": np.array([[1, 0], [1, 1]], np.float32),
    }
    found = batch_statistics({name: jax.numpy.asarray(field) for name, field in batch.items()}, MASK)
    assert {name: float(value) for name, value in found.items()} == {
        "valid_tokens": 11,
        "squared_lengths": 25 + 9 + 9,
        "masked": 2,
        "kept": 1,
        "not_next": 2,
    }
