# SPDX-License-Identifier: Apache-2.0
"""The biLM: language models of LSTMs forward and backward, one beside the other. ELMo (1802.05365), section 3.

Both read one table of word pieces and have one softmax; each has LSTM layers of its own, projected, with residual connections
from each layer to the next. They meet nowhere: the first half of a layer's features has read a token and those before it, the
second half the token and those behind it. Layer 0, the tokens, has each vector twice, so that all layers have one size.

Shapes: B rows, S tokens, D features of a layer, P = D / 2 of a direction, U units, E packed examples, L layers, M predicted
positions, V vocabulary.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config.model import ModelConfig
from bert_jax.mesh.sharding import keep_rows
from bert_jax.model.custom_gradients import logits
from bert_jax.model.dropout import dropout, fold_seeds
from bert_jax.model.encoder import (
    Compute,
    Dense,
    EncoderOutput,
    initial_weights,
    pooler_activation,
    rematerialised,
    take_positions,
)
from bert_jax.model.lstm import BiLstm


class TokenTable(nnx.Module):
    """The vectors of word pieces."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.word = nnx.Param(initial_weights(config, rngs, (config.vocab_size, config.table_size)))


class BiLmEncoder(nnx.Module):
    """Token vectors and L layers of LSTMs in both directions; what it returns is what `model.encoder.Encoder` does.

    Dropout is on the input of each layer, and once more before the softmax, as in allenai/bilm-tf (training.py).
    """

    def __init__(self, config: ModelConfig, compute: Compute, *, pooler: bool, rngs: nnx.Rngs):
        self.compute, self.config = compute, config
        self.embeddings = TokenTable(config, rngs=rngs)
        width, units = config.table_size, config.lstm_units or 0
        keys = jax.random.split(rngs.params(), config.num_hidden_layers)
        make = nnx.vmap(lambda key: BiLstm(width, units, width, dtype=compute.dtype, rngs=nnx.Rngs(key)))
        self.layers = make(keys)
        self.pooler = Dense(config.hidden_size, config.hidden_size, config, compute, rngs=rngs) if pooler else None

    def __call__(
        self,
        input_ids: jax.Array,
        segment_ids: jax.Array,
        sequence_ids: jax.Array,
        position_ids: jax.Array,
        cls_positions: jax.Array,
        *,
        dropout_seeds: jax.Array | None = None,
        all_layers: bool = False,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
          input_ids, sequence_ids: [B, S] int32, see `bert_jax.feed.batch`.
          segment_ids, position_ids: [B, S], which a biLM does not read: it counts no places, and pairs are told by [SEP].
          cls_positions: [B, E], for their number alone: a text's vector is the mean of its tokens'.
          dropout_seeds: [B, 2] uint32, or None: nothing is dropped (evaluation).
          all_layers: return the tokens' vectors and the output of every layer too.
        """
        tokens = self.embeddings.word[...][input_ids].astype(
            self.compute.dtype
        )  # so that gradients are summed in float32
        layers = [keep_rows(jnp.concatenate([tokens, tokens], axis=-1))]
        for number in range(self.config.num_hidden_layers):
            # Sites of dropout are the numbers of layers, from 1.
            seeds = None if dropout_seeds is None else fold_seeds(dropout_seeds, number + 1)
            layers.append(self._run_layer(number, layers[-1], sequence_ids, seeds))
        pooled = None
        if self.pooler is not None:
            means = text_means(layers[-1], sequence_ids, cls_positions.shape[1])
            pooled = pooler_activation(self.pooler(means), self.config)
        return EncoderOutput(layers[-1], pooled, jnp.stack(layers) if all_layers else None)

    def _run_layer(self, number: int, x: jax.Array, sequence_ids: jax.Array, seeds: jax.Array | None) -> jax.Array:
        """The output [B, S, D] of a layer, counted from 0; the first has no residual connection."""
        graph, stacked = nnx.split(self.layers)
        rate = self.config.hidden_dropout_prob

        def run(x: jax.Array, parameters: nnx.State) -> jax.Array:
            layer = nnx.merge(graph, parameters)
            x = dropout(x, rate, seeds)
            y = layer.each(*jnp.split(x, 2, axis=-1), sequence_ids)
            return x + y if number else y

        unrolled = replace(self.compute, scan_layers=False)  # which the layers are here
        return keep_rows(rematerialised(run, unrolled)(x, jax.tree.map(lambda leaf: leaf[number], stacked)))


class BiLmHead(nnx.Module):
    """The softmax of both directions: the transposed table of word pieces (or a matrix of its own) + bias."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))
        if not config.tie_word_embeddings:
            self.decoder = nnx.Param(initial_weights(config, rngs, (config.vocab_size, config.table_size)))
        self.tied = config.tie_word_embeddings

    @jax.named_scope("heads")
    def __call__(self, x: jax.Array, word_embedding: jax.Array) -> jax.Array:
        """x [B, M, P], word_embedding [V, P] -> logits [B, M, V] float32."""
        return logits(x, word_embedding if self.tied else self.decoder[...], self.bias[...])


def predicting_states(x: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the states that predict both ways over a border of two tokens of one example.

    Args:
      x: [B, S, D] of the last layer.
      positions: [B, M] of the token before each border.

    Returns:
      [B, M, P] twice: forward of that token, which predicts the one behind the border; backward of that one, which predicts
      the token itself.
    """
    forward, backward = jnp.split(x, 2, axis=-1)
    return take_positions(forward, positions), take_positions(backward, jnp.minimum(positions + 1, x.shape[1] - 1))


def text_means(x: jax.Array, sequence_ids: jax.Array, examples: int) -> jax.Array:
    """Return the mean over the tokens of each packed example, 0 where there is none: [B, S, D], [B, S] -> [B, E, D]."""
    number = 1 + jnp.arange(examples)
    own = (sequence_ids[:, :, None] == number[None, None, :]).astype(jnp.float32)  # [B, S, E]
    sums = jnp.einsum("bse,bsd->bed", own, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return keep_rows((sums / jnp.maximum(own.sum(1), 1)[:, :, None]).astype(x.dtype))
