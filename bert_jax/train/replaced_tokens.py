# SPDX-License-Identifier: Apache-2.0
"""The loss of replaced-token detection. ELECTRA (2003.10555), sections 3.1 and 3.2; google-research/electra, pretrain_model.py.

A small generator predicts the masked tokens, and a sample of its prediction stands in each of their places. The
discriminator then says of every token whether it is the text's own. No gradient goes through the samples.

Shapes: B rows, S tokens, M predicted positions, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.base.types import PyTree
from bert_jax.model.dropout import fold_seeds, hash_column, hash_row, join_hashes
from bert_jax.model.heads import BertModel, GENERATOR_SITE
from bert_jax.train.losses import binary_cross_entropy, cross_entropy, Scores
from bert_jax.train.masked_lm import MaskedLmLoss
from bert_jax.train.state import Training
from bert_jax.train.step import Arrays

SAMPLING_SITE = GENERATOR_SITE + 1  # folded into a row's seeds


class Replaced(NamedTuple):
    """A batch as the discriminator sees it."""

    input_ids: jax.Array  # [B, S] int32, the text with samples in the masked places
    labels: jax.Array  # [B, S] float32, 1 where a token is not the text's own


@dataclass(frozen=True)
class ReplacedTokenLoss(MaskedLmLoss):
    """The generator's mean over masked tokens (`mlm`), and 50 times the discriminator's over all valid tokens (`rtd`)."""

    def weights(self, batch: Arrays) -> Arrays:
        """Return the numbers of predicted tokens and of valid ones."""
        return super().weights(batch) | {"rtd": (batch["sequence_ids"] > 0).sum(dtype=jnp.float32)}

    def scores(self, training: Training, params: PyTree, batch: Arrays, seeds: jax.Array | None) -> dict[str, Scores]:
        """Return the sums of `mlm` and `rtd`, and two that are only counted: `replaced`, over the tokens that were replaced
        (right: found), and `flagged`, over those that the discriminator says were replaced (right: they were)."""
        return scores_of(nnx.merge(training.graph, params), batch, seeds)


def scores_of(model: BertModel, batch: Arrays, seeds: jax.Array | None) -> dict[str, Scores]:
    """Return what `ReplacedTokenLoss.scores` does, of a model with a generator."""
    mlm_logits = model.generated(batch, seeds)
    assert mlm_logits is not None
    own = example_seeds(batch) if seeds is None else fold_seeds(seeds, SAMPLING_SITE)
    shown = replace_tokens(batch, sample(jax.lax.stop_gradient(mlm_logits), batch["masked_lm_positions"], own))
    logits = model.replaced({**batch, "input_ids": shown.input_ids}, seeds)
    valid = (batch["sequence_ids"] > 0).astype(jnp.float32)
    flagged = (logits > 0).astype(jnp.float32)
    return {
        "mlm": cross_entropy(mlm_logits, batch["masked_lm_ids"], batch["masked_lm_weights"]),
        "rtd": binary_cross_entropy(logits, shown.labels, valid),
        "replaced": binary_cross_entropy(logits, shown.labels, valid * shown.labels),
        "flagged": binary_cross_entropy(logits, shown.labels, valid * flagged),
    }


def sample(logits: jax.Array, positions: jax.Array, seeds: jax.Array) -> jax.Array:
    """Draw an entry for each masked position from softmax(logits), by Gumbel's trick.

    The noise is an integer function of (row's seeds, position, entry): the same on any mesh and in any micro-batch. Only
    where two entries are level to the rounding of their logits can another mesh draw another one.

    Args:
      logits: [B, M, V] float32.
      positions: [B, M] int32, in the row.
      seeds: [B, 2] uint32.

    Returns:
      [B, M] int32.
    """
    entries = jnp.arange(logits.shape[-1], dtype=jnp.uint32)[None, :]
    rows = hash_row(seeds[:, 0, None], positions.astype(jnp.uint32))  # [B, M]
    columns = hash_column(seeds[:, 1, None], entries)  # [B, V]
    bits = join_hashes(rows[:, :, None], columns[:, None, :])
    uniform = ((bits >> 8).astype(jnp.float32) + 0.5) * 2.0**-24  # inside (0, 1)
    return jnp.argmax(logits - jnp.log(-jnp.log(uniform)), axis=-1).astype(jnp.int32)


def replace_tokens(batch: Arrays, drawn: jax.Array) -> Replaced:
    """Put the drawn ids [B, M] into the masked places of the text; one that equals the text's own counts as the text's."""
    positions, counted = batch["masked_lm_positions"], batch["masked_lm_weights"] > 0
    shown = jnp.take_along_axis(
        batch["input_ids"], positions, axis=1
    )  # what fills up a row's M positions keeps its token

    def put(ids: jax.Array) -> jax.Array:
        return jax.vmap(lambda row, at, new: row.at[at].set(new))(batch["input_ids"], positions, ids)

    text, replaced = put(jnp.where(counted, batch["masked_lm_ids"], shown)), put(jnp.where(counted, drawn, shown))
    return Replaced(replaced, (text != replaced).astype(jnp.float32))


def example_seeds(batch: Arrays) -> jax.Array:
    """Seeds for held-out data [B, 2]: of a row's tokens alone, so that its samples are the same in every run and batch."""
    ids = batch["input_ids"].astype(jnp.uint32)
    place = jnp.arange(ids.shape[1], dtype=jnp.uint32)[None, :]
    valid = batch["sequence_ids"] > 0
    sums = [
        jnp.where(valid, join_hashes(hash_row(jnp.uint32(start), ids), hash_column(jnp.uint32(start), place)), 0)
        for start in (1, 2)
    ]
    return jnp.stack([one.sum(1, dtype=jnp.uint32) for one in sums], axis=-1)
