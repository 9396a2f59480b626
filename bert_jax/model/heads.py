# SPDX-License-Identifier: Apache-2.0
"""Heads on the encoder: those of pre-training (masked LM, next sentence), and those of fine-tuned models.

BERT (1810.04805), section 3.1; google-research/bert, run_pretraining.py.

Shapes: B rows, S tokens, D features, M predicted positions, E packed examples, V vocabulary, C outputs of a task.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config.description import ModelDescription
from bert_jax.config.model import ModelConfig
from bert_jax.model.bilm import BiLmEncoder, BiLmHead, predicting_states
from bert_jax.model.custom_gradients import gelu, logits
from bert_jax.model.dropout import dropout, fold_seeds
from bert_jax.model.encoder import (
    Compute,
    Dense,
    Embeddings,
    Encoder,
    EncoderOutput,
    initial_weights,
    LayerNorm,
    take_positions,
)
from bert_jax.model.task_heads import TaskFeatures

ENCODER_INPUTS = ("input_ids", "segment_ids", "sequence_ids", "position_ids", "cls_positions")
# Folded into a row's seeds for the generator's dropout: beyond the sites of all layers and heads.
GENERATOR_SITE = 1 << 16


class BertOutput(NamedTuple):
    """The outputs of a model; None where it has no such head."""

    mlm_logits: jax.Array | None  # [B, M, V] float32
    nsp_logits: jax.Array | None  # [B, E, 2] float32; 0 = IsNext, 1 = NotNext
    task_logits: jax.Array | None  # float32; of rows [B, E, C] or of examples [N, 1, C], of tokens [B, S, C]
    encoder: EncoderOutput
    rtd_logits: jax.Array | None = None  # [B, S] float32; above 0: rather replaced
    rtl_logits: jax.Array | None = (
        None  # [B, M, V] float32 of a biLM, of the predicted positions themselves, from behind
    )


class MlmHead(nnx.Module):
    """Dense + GELU + LayerNorm, then the transposed word embedding (or a matrix of its own) + bias."""

    def __init__(self, config: ModelConfig, compute: Compute, *, rngs: nnx.Rngs):
        self.transform = Dense(config.hidden_size, config.table_size, config, compute, rngs=rngs)
        self.norm = LayerNorm(config, config.table_size)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))
        if not config.tie_word_embeddings:
            self.decoder = nnx.Param(initial_weights(config, rngs, (config.vocab_size, config.table_size)))
        self.config = config

    @jax.named_scope("heads")
    def __call__(self, x: jax.Array, word_embedding: jax.Array) -> jax.Array:
        """x [B, M, D], word_embedding [V, D] -> logits [B, M, V] float32."""
        x = self.norm(gelu(self.transform(x), self.config.hidden_act))
        decoder = word_embedding if self.config.tie_word_embeddings else self.decoder[...]
        return logits(x, decoder, self.bias[...])


class ReplacedTokenHead(nnx.Module):
    """Dense + GELU, then one number for each token: was it replaced? ELECTRA (2003.10555), section 3.1."""

    def __init__(self, config: ModelConfig, compute: Compute, *, rngs: nnx.Rngs):
        self.transform = Dense(config.hidden_size, config.hidden_size, config, compute, rngs=rngs)
        self.output = Dense(config.hidden_size, 1, config, compute, rngs=rngs)
        self.hidden_act = config.hidden_act

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, S, D] -> logits [B, S] float32."""
        return self.output(gelu(self.transform(x), self.hidden_act)).astype(jnp.float32)[..., 0]


class Generator(nnx.Module):
    """The masked LM of ELECTRA, whose samples replace tokens: layers and an MLM head on the discriminator's embeddings."""

    def __init__(self, config: ModelConfig, compute: Compute, *, rngs: nnx.Rngs):
        self.encoder = Encoder(config, compute, pooler=False, embeddings=False, rngs=rngs)
        self.mlm = MlmHead(config, compute, rngs=rngs)

    def __call__(
        self, batch: dict[str, jax.Array], embeddings: Embeddings, *, dropout_seeds: jax.Array | None
    ) -> jax.Array:
        """Return the logits [B, M, V] float32 of the masked positions; see `BertModel.__call__`."""
        seeds = None if dropout_seeds is None else fold_seeds(dropout_seeds, GENERATOR_SITE)
        encoded = self.encoder(*(batch[name] for name in ENCODER_INPUTS), dropout_seeds=seeds, embeddings=embeddings)
        return self.mlm(take_positions(encoded.sequence_output, batch["masked_lm_positions"]), embeddings.word[...])


class BertModel(nnx.Module):
    """Encoder with the heads that a description names: for pre-training MLM and NSP, the softmax of a biLM, or what tells
    replaced tokens apart with the generator that makes them."""

    def __init__(self, description: ModelDescription, compute: Compute | None = None, *, rngs: nnx.Rngs):
        config, compute, task = description.model, compute or Compute(), description.task
        make = BiLmEncoder if config.is_recurrent else Encoder
        self.encoder: Encoder | BiLmEncoder = make(config, compute, pooler=description.pooler, rngs=rngs)
        self.config = config
        generator = description.generator
        self.generator = Generator(generator, compute, rngs=rngs) if generator is not None else None
        self.rtd = ReplacedTokenHead(config, compute, rngs=rngs) if description.rtd else None
        mlm: MlmHead | BiLmHead | None = None
        if description.mlm and generator is None:
            mlm = BiLmHead(config, rngs=rngs) if config.is_recurrent else MlmHead(config, compute, rngs=rngs)
        self.mlm = mlm
        self.nsp = Dense(config.hidden_size, 2, config, compute, rngs=rngs) if description.nsp else None
        size = description.teacher_size
        self.teacher_projection = Dense(config.hidden_size, size, config, compute, rngs=rngs) if size else None
        self.features = features = TaskFeatures(task, config, rngs=rngs) if task else None
        self.task = Dense(features.width, task.outputs, config, compute, rngs=rngs) if features and task else None
        self.needs_all_layers = bool(task and task.layers)
        self.head_site = config.num_hidden_layers + 1  # of dropout: behind those of the layers

    def __call__(
        self, batch: dict[str, jax.Array], *, dropout_seeds: jax.Array | None = None, all_layers: bool = False
    ) -> BertOutput:
        """Predict a batch; the MLM head (the generator's, where there is one) sees the masked positions only.

        Args:
          batch: the inputs named in `bert_jax.feed.batch`; labels are not needed, `masked_lm_positions` by an MLM head only.
          dropout_seeds: [B, 2] uint32, or None: nothing is dropped (evaluation).
          all_layers: return the output of every layer too.
        """
        encoded = self.encode(batch, dropout_seeds=dropout_seeds, all_layers=all_layers)
        mlm_logits, rtl_logits = self.generated(batch, dropout_seeds), None
        if self.mlm is not None:
            states = self.predicting_states(encoded, batch, dropout_seeds)
            mlm_logits, *others = map(self.token_logits, states)
            rtl_logits = others[0] if others else None
        pooled = encoded.pooled_output
        with jax.named_scope("heads"):
            nsp_logits = self.nsp(pooled).astype(jnp.float32) if self.nsp is not None and pooled is not None else None
            rtd_logits = None if self.rtd is None else self.rtd(encoded.sequence_output)
        task_logits = self.task_logits(encoded, batch, dropout_seeds)
        return BertOutput(mlm_logits, nsp_logits, task_logits, encoded, rtd_logits, rtl_logits)

    def predicting_states(
        self, encoded: EncoderOutput, batch: dict[str, jax.Array], dropout_seeds: jax.Array | None
    ) -> tuple[jax.Array, ...]:
        """Return the states that the head for tokens reads at the predicted positions, dropped once more.

        [B, M, D], or of a biLM [B, M, D / 2] forward and backward.
        """
        x, positions = encoded.sequence_output, batch["masked_lm_positions"]
        if not self.config.is_recurrent:
            return (take_positions(x, positions),)
        seeds = None if dropout_seeds is None else fold_seeds(dropout_seeds, self.head_site)
        return predicting_states(dropout(x, self.config.hidden_dropout_prob, seeds), positions)

    def token_logits(self, states: jax.Array) -> jax.Array:
        """The logits [B, M, V] float32 of `predicting_states`."""
        assert self.mlm is not None and self.encoder.embeddings is not None
        return self.mlm(states, self.encoder.embeddings.word[...])

    def generated(self, batch: dict[str, jax.Array], dropout_seeds: jax.Array | None) -> jax.Array | None:
        """The generator's logits of the masked positions [B, M, V] float32; None without one."""
        if self.generator is None:
            return None
        assert isinstance(self.encoder.embeddings, Embeddings)
        return self.generator(batch, self.encoder.embeddings, dropout_seeds=dropout_seeds)

    def replaced(self, batch: dict[str, jax.Array], dropout_seeds: jax.Array | None) -> jax.Array:
        """The logits [B, S] float32 of each token having been replaced; above 0: rather yes."""
        assert self.rtd is not None
        return self.rtd(self.encode(batch, dropout_seeds=dropout_seeds).sequence_output)

    def encode(
        self, batch: dict[str, jax.Array], *, dropout_seeds: jax.Array | None = None, all_layers: bool = False
    ) -> EncoderOutput:
        """The encoder alone; all layers also where the fine-tuned head reads them."""
        return self.encoder(
            *(batch[name] for name in ENCODER_INPUTS),
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


def tokens_before(batch: Mapping[str, jax.Array]) -> jax.Array:
    """The ids at the predicted positions [B, M]: what a biLM tells of them from behind, where nothing is masked."""
    return jnp.take_along_axis(batch["input_ids"], batch["masked_lm_positions"], axis=1)
