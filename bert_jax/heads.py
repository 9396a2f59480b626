# SPDX-License-Identifier: Apache-2.0
"""What stands on the encoder: the pre-training heads (masked LM, next sentence), and those of fine-tuned models.

BERT (1810.04805), section 3.1; google-research/bert, run_pretraining.py.

Shapes: B rows, S tokens, D features, M predicted positions, E packed examples, V vocabulary, C outputs of a task.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ModelConfig
from bert_jax.encoder import (
    Compute,
    Dense,
    Encoder,
    EncoderOutput,
    initial_weights,
    LayerNorm,
    take_positions,
)
from bert_jax.model_description import ModelDescription, TASKS
from bert_jax.residuals import gelu, logits


class BertOutput(NamedTuple):
    """What a model returns; None where it has no such head."""

    mlm_logits: jax.Array | None  # [B, M, V] float32
    nsp_logits: jax.Array | None  # [B, E, 2] float32; 0 = IsNext, 1 = NotNext
    task_logits: jax.Array | None  # float32; of pooled examples [B, E, C], of tokens [B, S, C]
    encoder: EncoderOutput


class MlmHead(nnx.Module):
    """Dense + GELU + LayerNorm, then the transposed word embedding (or a matrix of its own) + bias."""

    def __init__(self, config: ModelConfig, compute: Compute, *, rngs: nnx.Rngs):
        self.transform = Dense(config.hidden_size, config.hidden_size, config, compute, rngs=rngs)
        self.norm = LayerNorm(config)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))
        if not config.tie_word_embeddings:
            self.decoder = nnx.Param(initial_weights(config, rngs, (config.vocab_size, config.hidden_size)))
        self.config = config

    def __call__(self, x: jax.Array, word_embedding: jax.Array) -> jax.Array:
        """x [B, M, D], word_embedding [V, D] -> logits [B, M, V] float32."""
        x = self.norm(gelu(self.transform(x), self.config.hidden_act))
        decoder = word_embedding if self.config.tie_word_embeddings else self.decoder[...]
        return logits(x, decoder, self.bias[...])


class BertModel(nnx.Module):
    """Encoder with the heads that a description names: for pre-training MLM and NSP."""

    def __init__(self, description: ModelDescription, compute: Compute | None = None, *, rngs: nnx.Rngs):
        config, compute, task = description.model, compute or Compute(), description.task
        self.encoder = Encoder(config, compute, pooler=description.pooler, rngs=rngs)
        self.mlm = MlmHead(config, compute, rngs=rngs) if description.mlm else None
        self.nsp = Dense(config.hidden_size, 2, config, compute, rngs=rngs) if description.nsp else None
        self.task = Dense(config.hidden_size, task.outputs, config, compute, rngs=rngs) if task else None
        self.task_source = TASKS[task.kind] if task else None

    def __call__(
        self, batch: dict[str, jax.Array], *, dropout_seeds: jax.Array | None = None, all_layers: bool = False
    ) -> BertOutput:
        """Predict a batch; the MLM head sees the masked positions only.

        Args:
          batch: the inputs named in `bert_jax.batch`; labels are not needed, `masked_lm_positions` by an MLM head only.
          dropout_seeds: [B, 2] uint32, or None: nothing is dropped (evaluation).
          all_layers: return the output of every layer too.
        """
        encoded = self.encoder(
            batch["input_ids"],
            batch["segment_ids"],
            batch["sequence_ids"],
            batch["position_ids"],
            batch["cls_positions"],
            dropout_seeds=dropout_seeds,
            all_layers=all_layers,
        )
        mlm_logits = None
        if self.mlm is not None:
            picked = take_positions(encoded.sequence_output, batch["masked_lm_positions"])
            mlm_logits = self.mlm(picked, self.encoder.embeddings.word[...])
        pooled, tokens = encoded.pooled_output, encoded.sequence_output
        nsp_logits = _applied(self.nsp, pooled)
        task_logits = _applied(self.task, pooled if self.task_source == "pooled" else tokens)
        return BertOutput(mlm_logits, nsp_logits, task_logits, encoded)


def _applied(head: Dense | None, x: jax.Array | None) -> jax.Array | None:
    return None if head is None or x is None else head(x).astype(jnp.float32)
