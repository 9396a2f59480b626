# SPDX-License-Identifier: Apache-2.0
"""Every product of the mesh's axes trains as one device does. More cuts, with micro-batches: test_train_step.py."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from conftest import small_config

from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import MeshConfig
from bert_jax.feed.batch import batch_spec, BatchShape
from bert_jax.mesh.sharding import make_mesh, put_on_mesh
from bert_jax.train.masked_lm import batch_fields, MaskedLmLoss
from bert_jax.train.state import Training
from bert_jax.train.step import compile_train_step

SHAPE = BatchShape(rows=16, sequence_length=16, max_predictions=3)
STEPS = 3
MASK = 4
CONFIG: PretrainConfig = small_config(
    # Eight heads, so that tensor=8 can cut them.
    model=replace(small_config().model, hidden_size=32, num_attention_heads=8),
    phases=(PhaseConfig(sequence_length=16, steps=8, batch_size=16, max_predictions_per_seq=3),),
)


def made_up_batch(seed: int) -> dict[str, np.ndarray]:
    """Rows of different lengths and numbers of predictions."""
    rng = np.random.default_rng(seed)
    batch = {name: np.zeros(size, dtype) for name, (size, dtype) in batch_spec(SHAPE).items()}
    valid = np.arange(SHAPE.sequence_length)[None, :] < rng.integers(5, SHAPE.sequence_length + 1, (SHAPE.rows, 1))
    batch["input_ids"][valid] = rng.integers(5, CONFIG.model.vocab_size, valid.sum())
    batch["sequence_ids"][valid] = 1
    batch["position_ids"][:] = np.arange(SHAPE.sequence_length)
    predicted = np.arange(SHAPE.max_predictions)[None, :] < rng.integers(0, SHAPE.max_predictions + 1, (SHAPE.rows, 1))
    batch["masked_lm_positions"][predicted] = rng.integers(1, 5, predicted.sum())
    batch["masked_lm_ids"][predicted] = rng.integers(5, CONFIG.model.vocab_size, predicted.sum())
    batch["masked_lm_weights"][predicted] = 1
    batch["next_sentence_labels"][:] = rng.integers(0, 2, (SHAPE.rows, 1))
    batch["next_sentence_weights"][:] = 1
    return batch


def training_on(mesh: MeshConfig) -> Training:
    return Training(replace(CONFIG, mesh=mesh), make_mesh(mesh))


def losses(training: Training, initial: Any) -> np.ndarray:
    """[steps, 3]: both losses and the gradient's norm, with dropout 0.1."""
    state = jax.device_put(initial, jax.tree.map(lambda leaf: leaf.sharding, training.abstract_state))
    step = compile_train_step(training, MaskedLmLoss(pairs=True, mask_id=MASK), batch_fields(SHAPE))
    found = []
    for number in range(STEPS):
        state, sums = step(state, put_on_mesh(training.mesh, made_up_batch(number)))
        found.append([float(sums[name]) for name in ("mlm_loss", "nsp_loss", "grad_norm")])
    return np.array(found)


@pytest.fixture(scope="module")
def initial() -> Any:
    """The state that all begin with, on the host; that a mesh draws the same is tested in test_train_step.py."""
    return jax.tree.map(np.asarray, training_on(MeshConfig(1)).initial_state())


@pytest.fixture(scope="module")
def one_device(initial) -> np.ndarray:
    expected = losses(training_on(MeshConfig(1)), initial)
    assert len(np.unique(expected)) == expected.size, "the steps differ"
    return expected


@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(4, 2, 1), MeshConfig(1, 1, 8), MeshConfig(2, 2, 1, dcn=2), MeshConfig(1, 2, 2, dcn=2)],
    ids=str,
)
def test_losses_and_gradient_norms_are_those_of_one_device(one_device, initial, mesh):
    np.testing.assert_allclose(losses(training_on(mesh), initial), one_device, rtol=1e-5)


def test_kernels_gathered_in_bfloat16_train_as_copies_do(initial):
    """Every copy would round them alike, and two summands have one sum: the losses are the same."""
    copies, cut = (replace(CONFIG, mesh=mesh, compute_dtype="bfloat16") for mesh in (MeshConfig(2), MeshConfig(1, 2)))
    found, expected = (losses(Training(config, make_mesh(config.mesh)), initial) for config in (cut, copies))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
