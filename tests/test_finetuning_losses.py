# SPDX-License-Identifier: Apache-2.0
"""Losses of fine-tuned heads against NumPy restatements, example by example, with rows and examples that fill up."""

from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.finetuning.losses import task_scores
from bert_jax.tasks.rows import IGNORE
from bert_jax.train.losses import Scores

B, S, C = 6, 5, 3


def run(kind: str, logits: np.ndarray, batch: dict[str, np.ndarray]) -> tuple[Scores, np.ndarray]:
    """Sums, and the gradient of the loss."""

    def loss(logits: jax.Array, batch: Any) -> tuple[jax.Array, Scores]:
        scores = task_scores(kind, logits, batch)
        return scores.loss, scores

    (_, scores), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(logits.astype(np.float32), batch)
    return scores, np.asarray(gradient)


def check(found: Scores, loss: float, correct: float, weight: float) -> None:
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    assert (float(found.correct), float(found.weight)) == (correct, weight)


def log_softmax(row: np.ndarray) -> np.ndarray:
    row = row.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def logits_of(*shape: int) -> np.ndarray:
    return 3 * np.random.default_rng(len(shape)).standard_normal(shape)


def test_classification():
    logits, labels = logits_of(B, 1, C), np.array([0, 2, 1, 1, 0, 0], np.int32)
    weights = np.array([1, 1, 1, 1, 0, 0], np.float32)
    found, gradient = run("classification", logits, {"labels": labels, "example_weights": weights})
    loss = -sum(log_softmax(logits[n, 0])[labels[n]] for n in range(4))
    check(found, loss, sum(logits[n, 0].argmax() == labels[n] for n in range(4)), 4)
    assert (gradient[4:] == 0).all()
    shares = np.exp([log_softmax(logits[n, 0]) for n in range(4)])
    np.testing.assert_allclose(gradient[:4, 0], shares - np.eye(C)[labels[:4]], atol=1e-6)


def test_regression():
    logits, targets = logits_of(B, 1, 1), np.array([0, 5, 2.5, 1, 0, 0], np.float32)
    weights = np.array([1, 1, 1, 1, 0, 0], np.float32)
    found, gradient = run("regression", logits, {"targets": targets, "example_weights": weights})
    check(found, ((logits[:4, 0, 0] - targets[:4]) ** 2).sum(), 0, 4)
    np.testing.assert_allclose(gradient[:4, 0, 0], 2 * (logits[:4, 0, 0] - targets[:4]), rtol=1e-5)
    assert (gradient[4:] == 0).all()


def test_choice_is_a_softmax_over_the_rows_of_an_example():
    logits, labels = logits_of(B, 1, 1), np.array([1, 0, 0], np.int32)
    weights = np.array([1, 1, 0], np.float32)
    found, gradient = run("choice", logits, {"labels": labels, "example_weights": weights})
    pairs = logits[:, 0, 0].reshape(3, 2)
    check(
        found,
        -sum(log_softmax(pairs[n])[labels[n]] for n in range(2)),
        sum(pairs[n].argmax() == labels[n] for n in range(2)),
        2,
    )
    assert (gradient[4:] == 0).all()


def test_tagging_counts_labelled_tokens_alone():
    logits = logits_of(B, S, C)
    labels = np.full((B, S), IGNORE, np.int32)
    labels[0, 1:4], labels[1, 2], labels[3, 1:3] = (0, 2, 1), 1, (2, 2)
    found, gradient = run("tagging", logits, {"labels": labels})
    places = np.argwhere(labels != IGNORE)
    loss = -sum(log_softmax(logits[b, s])[labels[b, s]] for b, s in places)
    check(found, loss, sum(logits[b, s].argmax() == labels[b, s] for b, s in places), 6)
    assert (gradient[labels == IGNORE] == 0).all()
    none, gradient = run("tagging", logits, {"labels": np.full((B, S), IGNORE, np.int32)})
    check(none, 0, 0, 0)
    assert (gradient == 0).all()


LENGTHS = np.array([5, 3, 4, 5, 0, 0])
SEQUENCE_IDS = (np.arange(S) < LENGTHS[:, None]).astype(np.int32)


def test_span_of_each_window():
    """run_squad.py: the mean of two cross-entropies over the tokens of a window; padding is no choice."""
    logits = logits_of(B, S, 2)
    logits[1, 4] = 50  # padding, which would win
    spans = np.array([[1, 3], [2, 2], [0, 0], [4, 4], [0, 0], [0, 0]], np.int32)
    weights = (LENGTHS > 0).astype(np.float32)
    found, gradient = run("span", logits, {"sequence_ids": SEQUENCE_IDS, "spans": spans, "example_weights": weights})
    loss, correct = 0.0, 0.0
    for row in range(4):
        for end in (0, 1):
            own = logits[row, : LENGTHS[row], end]
            loss -= log_softmax(own)[spans[row, end]] / 2
            correct += (own.argmax() == spans[row, end]) / 2
    check(found, loss, correct, 4)
    assert np.isfinite(gradient).all()
    assert (gradient[SEQUENCE_IDS == 0] == 0).all()
    assert (gradient[SEQUENCE_IDS == 1] != 0).any()


@pytest.mark.parametrize("scale", [1, 60])
def test_span_normalised_over_all_windows_of_a_question(scale):
    """1710.10723, section 3.2: log of the sum over all tokens of all windows, less that over the right ones.

    Question 0 has its answer in windows 0 and 1, question 1 has none in its two windows, question 2 is not there.
    """
    logits = scale * logits_of(B, S, 2)
    spans = np.array([[1, 3], [2, 2], [0, 0], [0, 0], [0, 0], [0, 0]], np.int32)
    batch = {
        "sequence_ids": SEQUENCE_IDS,
        "spans": spans,
        "row_examples": np.array([0, 0, 1, 1, 3, 3], np.int32),
        "example_weights": np.array([1, 1, 0], np.float32),
    }
    found, gradient = run("span", logits, batch)
    loss, correct = 0.0, 0.0
    for rows in ((0, 1), (2, 3)):
        for end in (0, 1):
            every = np.concatenate([logits[row, : LENGTHS[row], end] for row in rows])
            right = np.array([logits[row, spans[row, end], end] for row in rows])
            total, wanted = (np.logaddexp.reduce(values.astype(np.float64)) for values in (every, right))
            # Of what is further below than float32 reaches, the loss says 87 (the smallest number's logarithm).
            loss += (total - max(wanted, every.max() + np.log(np.finfo(np.float32).tiny))) / 2
            correct += (right.max() >= every.max()) / 2
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    assert (float(found.correct), float(found.weight)) == (correct, 2)
    assert np.isfinite(gradient).all()
    assert (gradient[SEQUENCE_IDS == 0] == 0).all()
    if scale == 1:
        for rows in ((0, 1), (2, 3)):  # what a softmax over the question gives: the gradients of its tokens add up to 0
            np.testing.assert_allclose(gradient[list(rows)].sum((0, 1)), 0, atol=1e-6)
