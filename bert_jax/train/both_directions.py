# SPDX-License-Identifier: Apache-2.0
"""The loss of a biLM: each token but the last of its example predicts the next one, and each but the first the one before.

ELMo (1802.05365), section 3.1: the sum of both log-likelihoods; the two models share the table of word pieces and the softmax.

Shapes: B rows, M predicted positions (as many as a row has tokens), P features of a direction, V vocabulary.
"""

from dataclasses import dataclass

import jax
from flax import nnx

from bert_jax.base.types import PyTree
from bert_jax.model.heads import tokens_before
from bert_jax.train.losses import Scores
from bert_jax.train.next_token import in_pieces, NextTokenLoss
from bert_jax.train.state import Training
from bert_jax.train.step import Arrays


@dataclass(frozen=True)
class BothDirectionsLoss(NextTokenLoss):
    """The sum of two means: over the tokens that have a next one (`ltr`), and over those that have one before (`rtl`)."""

    def weights(self, batch: Arrays) -> Arrays:
        """Return the number of tokens that have a next one, which is that of those that have one before."""
        weights = super().weights(batch)
        return weights | {"rtl": weights["ltr"]}

    def scores(self, training: Training, params: PyTree, batch: Arrays, seeds: jax.Array | None) -> dict[str, Scores]:
        """Return the sums of `ltr` and `rtl`; see `train.step.Loss`."""
        model = nnx.merge(training.graph, params)
        encoded = model.encode(batch, dropout_seeds=seeds)
        labels = {"ltr": batch["masked_lm_ids"], "rtl": tokens_before(batch)}
        states = dict(zip(labels, model.predicting_states(encoded, batch, seeds), strict=True))
        return {
            term: in_pieces(model.token_logits, states[term], labels[term], batch["masked_lm_weights"])
            for term in labels
        }
