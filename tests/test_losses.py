# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy as (sum, weight) pairs against NumPy, in float64."""

import jax
import numpy as np

from bert_jax.train import losses

cross_entropy = jax.jit(losses.cross_entropy)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (4, 5, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, (4, 5)).astype(np.int32)
LABELS[:, :2] = LOGITS.argmax(-1)[:, :2]  # some predictions are right
WEIGHTS = (RNG.random((4, 5)) < 0.6).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_sums_equal_a_log_softmax_in_numpy():
    scores = cross_entropy(LOGITS, LABELS, WEIGHTS)
    losses = -np.take_along_axis(log_softmax(LOGITS), LABELS[..., None], -1)[..., 0]
    np.testing.assert_allclose(scores.loss, (losses * WEIGHTS).sum(), rtol=1e-6)
    assert scores.correct == ((LOGITS.argmax(-1) == LABELS) * WEIGHTS).sum()
    assert scores.weight == WEIGHTS.sum()
    assert 0 < scores.correct < scores.weight < LABELS.size
    assert all(value.dtype == np.float32 and value.shape == () for value in scores)


def test_gradient_is_softmax_less_the_label():
    """And exactly 0 where the weight is: a filler's label and logits do not count."""
    gradient = jax.jit(jax.grad(lambda logits: cross_entropy(logits, LABELS, WEIGHTS).loss))(LOGITS)
    expected = (np.exp(log_softmax(LOGITS)) - np.eye(7)[LABELS]) * WEIGHTS[..., None]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6)
    assert (np.asarray(gradient)[WEIGHTS == 0] == 0).all()


def test_of_equal_logits_the_first_is_the_prediction():
    """As argmax has it, so that one label at most is right: a network of all-equal logits is not always right."""
    logits = np.array([[2, 5, 5, 1], [0, 0, 0, 0]], np.float32)
    for label, right in enumerate([[0, 1], [1, 0], [0, 0], [0, 0]]):
        labels = np.full(2, label, np.int32)
        for row in range(2):
            weights = (np.arange(2) == row).astype(np.float32)
            assert cross_entropy(logits, labels, weights).correct == right[row]


def test_weight_0_leaves_an_entry_out():
    base = cross_entropy(LOGITS, LABELS, WEIGHTS)
    left_out = WEIGHTS == 0
    other = cross_entropy(
        np.where(left_out[..., None], RNG.normal(0, 9, LOGITS.shape).astype(np.float32), LOGITS),
        np.where(left_out, 0, LABELS),
        WEIGHTS,
    )
    np.testing.assert_array_equal(base, other)


def test_no_weight_at_all_gives_zero_sums():
    """A micro-batch without a masked token adds nothing: 0, not NaN."""
    scores = cross_entropy(LOGITS, LABELS, 0 * WEIGHTS)
    np.testing.assert_array_equal(scores, (0, 0, 0))


def test_sums_of_parts_are_the_sums_of_the_whole():
    """Unlike means, whatever the weights of the parts."""
    whole = cross_entropy(LOGITS, LABELS, WEIGHTS)
    parts = [cross_entropy(LOGITS[rows], LABELS[rows], WEIGHTS[rows]) for rows in (slice(0, 1), slice(1, 4))]
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]], np.float32)
    scores = cross_entropy(logits, np.array([0, 1], np.int32), np.ones(2, np.float32))
    np.testing.assert_allclose(scores.loss, 1e4, rtol=1e-6)
