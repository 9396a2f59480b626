# SPDX-License-Identifier: Apache-2.0
"""What stands on the encoder: the pre-training heads (masked LM, next sentence), and those of fine-tuned models.

BERT (1810.04805), section 3.1; google-research/bert, run_pretraining.py.

Shapes: B rows, S tokens, D features, M predicted positions, E packed examples, V vocabulary, C outputs of a task.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config.description import ModelDescription
from bert_jax.config.model import ModelConfig
from bert_jax.model.custom_gradients import gelu, logits
from bert_jax.model.dropout import fold_seeds
from bert_jax.model.encoder import (
    Compute,
    Dense,
    Encoder,
    EncoderOutput,
    initial_weights,
    LayerNorm,
    take_positions,
)
from bert_jax.model.task_heads import TaskFeatures


class BertOutput(NamedTuple):
    """The outputs of a model; None where it has no such head."""

    mlm_logits: jax.Array | None  # [B, M, V] float32
    nsp_logits: jax.Array | None  # [B, E, 2] float32; 0 = IsNext, 1 = NotNext
    task_logits: jax.Array | None  # float32; of rows [B, E, C] or of examples [N, 1, C], of tokens [B, S, C]
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

    @jax.named_scope("heads")
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
        self.features = features = TaskFeatures(task, config, rngs=rngs) if task else None
        self.task = Dense(features.width, task.outputs, config, compute, rngs=rngs) if features and task else None
        self.needs_all_layers = bool(task and task.layers)
        self.head_site = config.num_hidden_layers + 1  # of dropout: behind those of the layers

    def __call__(
        self, batch: dict[str, jax.Array], *, dropout_seeds: jax.Array | None = None, all_layers: bool = False
    ) -> BertOutput:
        """Predict a batch; the MLM head sees the masked positions only.

        Args:
          batch: the inputs named in `bert_jax.feed.batch`; labels are not needed, `masked_lm_positions` by an MLM head only.
          dropout_seeds: [B, 2] uint32, or None: nothing is dropped (evaluation).
          all_layers: return the output of every layer too.
        """
        encoded = self.encode(batch, dropout_seeds=dropout_seeds, all_layers=all_layers)
        mlm_logits = None
        if self.mlm is not None:
            picked = take_positions(encoded.sequence_output, batch["masked_lm_positions"])
            mlm_logits = self.mlm(picked, self.encoder.embeddings.word[...])
        pooled = encoded.pooled_output
        with jax.named_scope("heads"):
            nsp_logits = self.nsp(pooled).astype(jnp.float32) if self.nsp is not None and pooled is not None else None
        return BertOutput(mlm_logits, nsp_logits, self.task_logits(encoded, batch, dropout_seeds), encoded)

    def encode(
        self, batch: dict[str, jax.Array], *, dropout_seeds: jax.Array | None = None, all_layers: bool = False
    ) -> EncoderOutput:
        """The encoder alone; all layers also where the fine-tuned head reads them."""
        return self.encoder(
            batch["input_ids"],
            batch["segment_ids"],
            batch["sequence_ids"],
            batch["position_ids"],
            batch["cls_positions"],
            dropout_seeds=dropout_seeds,
            all_layers=all_layers or self.needs_all_layers,
        )

    @jax.named_scope("heads")
    def task_logits(
        self, encoded: EncoderOutput, batch: dict[str, jax.Array], dropout_seeds: jax.Array | None
    ) -> jax.Array | None:
        """The scores of the fine-tuned head alone; None without one."""
        if self.task is None or self.features is None:
            return None
        seeds = None if dropout_seeds is None else fold_seeds(dropout_seeds, self.head_site)
        return self.task(self.features(encoded, batch, seeds)).astype(jnp.float32)
