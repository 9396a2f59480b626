# SPDX-License-Identifier: Apache-2.0
"""The loss of pre-training: masked LM, and the label of a pair of segments. BERT (1810.04805), section 3.1.

Shapes: B rows, S tokens, M predicted positions, E packed examples, V vocabulary.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.base.types import PyTree
from bert_jax.feed.batch import batch_spec, BatchShape
from bert_jax.model.heads import BertOutput
from bert_jax.train.losses import cross_entropy, Scores
from bert_jax.train.state import Training
from bert_jax.train.step import Arrays, Loss


@dataclass(frozen=True)
class MaskedLmLoss(Loss):
    """The sum of two means: over predicted tokens (`mlm`) and, with `pairs`, over pairs of segments (`nsp`)."""

    pairs: bool
    mask_id: int  # for statistics alone

    def weights(self, batch: Arrays) -> Arrays:
        """Return the numbers of predicted tokens and of pairs."""
        weights = {"mlm": batch["masked_lm_weights"].sum()}
        return weights | {"nsp": batch["next_sentence_weights"].sum()} if self.pairs else weights

    def scores(self, training: Training, params: PyTree, batch: Arrays, seeds: jax.Array | None) -> dict[str, Scores]:
        """Return the sums of `mlm` and, with `pairs`, `nsp`; see `train.step.Loss`."""
        return self.scores_of(nnx.merge(training.graph, params)(batch, dropout_seeds=seeds), batch)

    def scores_of(self, output: BertOutput, batch: Arrays) -> dict[str, Scores]:
        """Return the sums of each term by the outputs of the model."""
        assert output.mlm_logits is not None
        mlm = cross_entropy(output.mlm_logits, batch["masked_lm_ids"], batch["masked_lm_weights"])
        if not self.pairs:
            return {"mlm": mlm}
        assert output.nsp_logits is not None
        labels, weights = batch["next_sentence_labels"], batch["next_sentence_weights"]
        return {"mlm": mlm, "nsp": cross_entropy(output.nsp_logits, labels, weights)}

    def statistics(self, batch: Arrays) -> Arrays:
        """Return the counts of `batch_statistics`."""
        return batch_statistics(batch, self.mask_id)


def batch_statistics(batch: Arrays, mask_id: int) -> Arrays:
    """Counts of a batch: rows, their tokens with padding, examples, valid tokens, the squared lengths of the examples,
    picked tokens that became [MASK] or were kept, pairs of label 1 (NotNext, or swapped).

    A random replacement that happens to draw the true id counts as kept, one that draws [MASK] as masked.
    """
    number = 1 + jnp.arange(batch["cls_positions"].shape[1])
    lengths = (batch["sequence_ids"][:, :, None] == number[None, None, :]).sum(1, dtype=jnp.float32)  # [B, E]
    shown = jnp.take_along_axis(batch["input_ids"], batch["masked_lm_positions"], axis=1)
    weights = batch["masked_lm_weights"]
    rows, size = batch["input_ids"].shape
    return {
        "rows": jnp.float32(rows),
        "row_tokens": jnp.float32(rows * size),
        "examples": (lengths > 0).sum(dtype=jnp.float32),
        "valid_tokens": lengths.sum(),
        "squared_lengths": jnp.square(lengths).sum(),
        "masked": (weights * (shown == mask_id)).sum(),
        "kept": (weights * (shown == batch["masked_lm_ids"])).sum(),
        "not_next": (batch["next_sentence_weights"] * batch["next_sentence_labels"]).sum(),
    }


def batch_fields(shape: BatchShape) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and type of every field of a batch of pre-training, for `compile_train_step`."""
    return {name: jax.ShapeDtypeStruct(size, dtype) for name, (size, dtype) in batch_spec(shape).items()}
