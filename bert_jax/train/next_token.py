# SPDX-License-Identifier: Apache-2.0
"""The loss of a left-to-right model: each token but the last of its example predicts the next one.

Radford et al. 2018, "Improving language understanding by generative pre-training", equation 1; the rows and "LTR & No NSP" of
BERT (1810.04805), section 5.1.

Shapes: B rows, M predicted positions (as many as a row has tokens), P of these at once, D features, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.base.types import PyTree
from bert_jax.train.losses import cross_entropy, Scores
from bert_jax.train.masked_lm import MaskedLmLoss
from bert_jax.train.state import Training
from bert_jax.train.step import Arrays

POSITIONS_AT_ONCE = 64  # of each row: logits of more than [B, 64, V] never are in memory together
OF_MASKS = ("masked", "kept")


@dataclass(frozen=True)
class NextTokenLoss(MaskedLmLoss):
    """The mean over the tokens that have a next one (`ltr`)."""

    def weights(self, batch: Arrays) -> Arrays:
        """Return the number of tokens that have a next one."""
        return {"ltr": batch["masked_lm_weights"].sum()}

    def scores(self, training: Training, params: PyTree, batch: Arrays, seeds: jax.Array | None) -> dict[str, Scores]:
        """Return the sums of `ltr`; see `train.step.Loss`."""
        model = nnx.merge(training.graph, params)
        (x,) = model.predicting_states(model.encode(batch, dropout_seeds=seeds), batch, seeds)
        return {"ltr": in_pieces(model.token_logits, x, batch["masked_lm_ids"], batch["masked_lm_weights"])}

    def statistics(self, batch: Arrays) -> Arrays:
        """Return the counts of `batch_statistics` but those of masks."""
        return {name: count for name, count in super().statistics(batch).items() if name not in OF_MASKS}


def in_pieces(head: Callable[[jax.Array], jax.Array], x: jax.Array, labels: jax.Array, weights: jax.Array) -> Scores:
    """Return the sums of `cross_entropy` with the logits of `POSITIONS_AT_ONCE` positions of each row at a time.

    The backward pass computes a piece's logits again, so that neither pass keeps all of them.

    Args:
      head: [B, P, D] -> logits [B, P, V] float32.
      x: [B, M, D].
      labels, weights: [B, M].
    """
    positions = x.shape[1]
    pieces = -(-positions // POSITIONS_AT_ONCE)

    def cut(array: jax.Array) -> jax.Array:
        """[B, M, ...] -> [pieces, B, P, ...], filled up with zeros, which weigh nothing."""
        size = -(-positions // pieces)
        padding = [(0, 0), (0, pieces * size - positions), *[(0, 0)] * (array.ndim - 2)]
        filled = jnp.pad(array, padding).reshape(array.shape[0], pieces, size, *array.shape[2:])
        return jnp.moveaxis(filled, 1, 0)

    def add(total: Scores, piece: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Scores, None]:
        x, labels, weights = piece
        return Scores(*map(jnp.add, total, cross_entropy(head(x), labels, weights))), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(jax.checkpoint(add), Scores(zero, zero, zero), (cut(x), cut(labels), cut(weights)))[0]
