# SPDX-License-Identifier: Apache-2.0
"""The losses of fine-tuned heads, as sums over the examples that count.

BERT (1810.04805), section 4; google-research/bert, run_classifier.py and run_squad.py.

Shapes: B rows, S tokens, N examples, C classes or choices.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.base.types import PyTree
from bert_jax.tasks.rows import IGNORE
from bert_jax.train.losses import cross_entropy, Scores
from bert_jax.train.state import Training
from bert_jax.train.step import Arrays, Loss


@dataclass(frozen=True)
class TaskLoss(Loss):
    """The mean of a task's loss over the examples that count, under the name `task`."""

    kind: str  # of the task
    frozen_encoder: bool = False  # nothing is dropped in it and no gradient goes through it: its outputs are features

    def weights(self, batch: Arrays) -> Arrays:
        """Return the number of examples, or of tagged words."""
        counted = batch["labels"] != IGNORE if self.kind == "tagging" else batch["example_weights"]
        return {"task": counted.astype(jnp.float32).sum()}

    def scores(self, training: Training, params: PyTree, batch: Arrays, seeds: jax.Array | None) -> dict[str, Scores]:
        """Return the sums of `task`; see `train.step.Loss`."""
        return {"task": task_scores(self.kind, self.logits(training, params, batch, seeds), batch)}

    def logits(self, training: Training, params: PyTree, batch: Arrays, seeds: jax.Array | None) -> jax.Array:
        """Return the outputs of the head, float32; see `BertModel.task_logits`."""
        if self.frozen_encoder:
            params = {**params, "encoder": jax.lax.stop_gradient(params["encoder"])}
        model = nnx.merge(training.graph, params)
        encoded = model.encode(batch, dropout_seeds=None if self.frozen_encoder else seeds)
        logits = model.task_logits(encoded, batch, seeds)
        assert logits is not None
        return logits

    def statistics(self, batch: Arrays) -> Arrays:
        """Return the counts of valid tokens and of all, padding included."""
        valid = batch["sequence_ids"] > 0
        return {"valid_tokens": valid.sum(dtype=jnp.float32), "row_tokens": jnp.float32(valid.size)}


def task_scores(kind: str, logits: jax.Array, batch: Arrays) -> Scores:
    """Sums of the loss and of right predictions over a batch.

    Args:
      kind: one of `description.TASKS`.
      logits: of `BertModel.task_logits`, float32.
      batch: the encoder's fields, `example_weights` [N], and
        classification, choice: `labels` [N] int32; regression: `targets` [N] float32; multi_label: `targets` [N, C] float32,
        1 where a class is right (of packed rows all have [B, E] in the place of [N]); tagging: `labels` [B, S] int32;
        span: `spans` [B, 2] int32, and `row_examples` [B] where a question's windows share one softmax.
    """
    if kind == "span":
        return span_scores(logits, batch)
    if kind == "tagging":
        weights = (batch["labels"] != IGNORE).astype(jnp.float32)
        return cross_entropy(logits, jnp.maximum(batch["labels"], 0), weights)
    weights, scores = by_example(logits, batch)
    if kind == "regression":
        squares = jnp.square(scores[:, 0] - batch["targets"].reshape(-1))
        return Scores((squares * weights).sum(), jnp.zeros(()), weights.sum())
    if kind == "multi_label":
        return multi_label_scores(scores, batch["targets"].reshape(scores.shape), weights)
    return cross_entropy(scores, batch["labels"].reshape(-1), weights)


def by_example(logits: jax.Array, batch: Arrays) -> tuple[jax.Array, jax.Array]:
    """Return the weights [N] and the scores [N, C] of examples, whose choices are neighbouring rows; of packed rows [B * E]."""
    weights = batch["example_weights"].reshape(-1)
    return weights, logits.reshape(len(weights), -1)


def multi_label_scores(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> Scores:
    """The binary cross-entropy of each class, as a mean over the classes; right is an example with all classes right.

    Args:
      logits, targets: [N, C] float32.
      weights: [N] float32.
    """
    losses = jax.nn.softplus(logits) - logits * targets  # -log sigmoid(logit) where 1, -log(1 - sigmoid(logit)) where 0
    correct = ((logits >= 0) == (targets > 0)).all(-1)
    return Scores((losses.mean(-1) * weights).sum(), (correct * weights).sum(), weights.sum())


def span_scores(logits: jax.Array, batch: Arrays) -> Scores:
    """The mean of the two cross-entropies, of the first and of the last token; padding is not among the choices.

    Without `row_examples` each window is an example. With them the softmax goes over all windows of a question, and what is
    right is every token that is in one of them (1710.10723, section 3.2, "shared norm").
    """
    logits = jnp.where(batch["sequence_ids"][:, :, None] > 0, logits, -jnp.inf)
    if "row_examples" in batch:
        both = [_shared_norm(logits[:, :, end], batch["spans"][:, end], batch) for end in (0, 1)]
    else:
        # A row that fills up has no token: its scores are finite, and do not count.
        logits = jnp.where(batch["sequence_ids"][:, :1, None] > 0, logits, 0)
        weights = batch["example_weights"]
        both = [cross_entropy(logits[:, :, end], batch["spans"][:, end], weights) for end in (0, 1)]
    return Scores((both[0].loss + both[1].loss) / 2, (both[0].correct + both[1].correct) / 2, both[0].weight)


def _shared_norm(logits: jax.Array, gold: jax.Array, batch: Arrays) -> Scores:
    """[B, S], [B] -> sums over questions."""
    examples, weights = batch["row_examples"], batch["example_weights"]
    count = len(weights)
    answered = batch["spans"].any(-1)
    has_answer = jax.ops.segment_max(answered.astype(jnp.int32), examples, count) > 0
    # Of a question with an answer the windows that hold it; of another [CLS] of every window.
    is_gold = answered | ~has_answer[jnp.minimum(examples, count - 1)]
    right = jnp.where(is_gold, jnp.take_along_axis(logits, gold[:, None], axis=1)[:, 0], -jnp.inf)
    # A shift by a constant changes neither; it keeps the exponentials in range.
    highest = jax.lax.stop_gradient(jax.ops.segment_max(logits.max(-1), examples, count))
    highest = jnp.where(jnp.isfinite(highest), highest, 0)
    shift = highest[jnp.minimum(examples, count - 1)]
    tiny = jnp.finfo(jnp.float32).tiny

    def log_sum(values: jax.Array) -> jax.Array:
        return jnp.log(jnp.maximum(jax.ops.segment_sum(values, examples, count), tiny))

    loss = log_sum(jnp.exp(logits - shift[:, None]).sum(-1)) - log_sum(jnp.exp(right - shift))
    correct = jax.ops.segment_max(right, examples, count) >= highest
    return Scores((loss * weights).sum(), (correct * weights).sum(), weights.sum())
