# SPDX-License-Identifier: Apache-2.0
"""Parts between the encoder and a fine-tuned model's dense layer: a choice of layers, a BiLSTM, windows fused.

Shapes: B rows, S tokens, E texts in a row, D features of the encoder, K chosen layers, H features of one direction of the
LSTM, N examples.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config.description import TaskHead
from bert_jax.config.model import ModelConfig
from bert_jax.model.bilm import text_means
from bert_jax.model.custom_gradients import exact
from bert_jax.model.dropout import dropout
from bert_jax.model.encoder import EncoderOutput, initial_weights, last_positions, take_positions
from bert_jax.model.lstm import BiLstm


class ScalarMix(nnx.Module):
    """scale * sum_k softmax(weights)_k x_k of K layers, weights and scale learned.

    ELMo (1802.05365), equation 1.
    """

    def __init__(self, layers: int):
        self.weights = nnx.Param(jnp.zeros(layers))
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[K, B, S, D] -> [B, S, D] float32."""
        shares, x = jax.nn.softmax(self.weights[...]), x.astype(jnp.float32)
        return self.scale[...] * jnp.einsum("k,kbsd->bsd", shares, x, precision=exact(x.dtype))


class WindowFusion(nnx.Module):
    """One vector of an example from those of its windows: their mean, maximum, or a mean with learned weights."""

    def __init__(self, task: TaskHead, inputs: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.kind = task.fusion
        # Weights are softmax(x . query): a mean to begin with.
        self.query = nnx.Param(initial_weights(config, rngs, (inputs,))) if task.fusion == "attention" else None

    def __call__(self, x: jax.Array, examples: jax.Array, count: int) -> jax.Array:
        """[B, 1, D] of rows, [B] int32 number of the example of each (`count`: of none) -> [N, 1, D] float32."""
        x = x[:, 0].astype(jnp.float32)

        def summed(values: jax.Array) -> jax.Array:
            return jax.ops.segment_sum(values, examples, count)

        if self.kind == "max":
            has_rows = summed(jnp.ones((len(x), 1))) > 0
            return jnp.where(has_rows, jax.ops.segment_max(x, examples, count), 0)[:, None]
        weights = jnp.ones(len(x))
        if self.query is not None:
            scores = jnp.dot(x, self.query[...], precision=exact(x.dtype))
            highest = jax.ops.segment_max(scores, examples, count)
            highest = jnp.where(jnp.isfinite(highest), highest, 0)
            # Rows of no example: whatever their scores are, no infinity may reach the gradient.
            weights = jnp.exp(jnp.where(examples < count, scores - highest[jnp.minimum(examples, count - 1)], 0))
        total = jnp.maximum(summed(weights), jnp.finfo(jnp.float32).tiny)
        return (summed(x * weights[:, None]) / total[:, None])[:, None]


class TaskFeatures(nnx.Module):
    """The features that the dense layer of a task reads."""

    def __init__(self, task: TaskHead, config: ModelConfig, *, rngs: nnx.Rngs):
        self.task, self.config = task, config
        self.mix = ScalarMix(len(task.layers)) if task.layers and task.combine == "mix" else None
        self.lstm = BiLstm(task.lstm_inputs(config.hidden_size), task.lstm, rngs=rngs) if task.lstm else None
        self.width = task.width(config.hidden_size)
        self.fusion = WindowFusion(task, self.width, config, rngs=rngs) if task.is_pooled else None

    def __call__(self, encoded: EncoderOutput, batch: dict[str, jax.Array], seeds: jax.Array | None) -> jax.Array:
        """Features of texts [B, E, W], of examples [N, 1, W] where `batch` groups rows, or of tokens [B, S, W].

        Args:
          encoded: with all layers where `task.layers` are given.
          batch: `sequence_ids`, `cls_positions`; and for texts of several windows `row_examples` [B] int32 (N: of none) and
            `example_weights` [N].
          seeds: [B, 2] of the head's dropout, or None. Spans have none, as in run_squad.py.
        """
        x = self._tokens(encoded, batch["sequence_ids"], batch["cls_positions"])
        if self.task.kind != "span":
            x = dropout(x, self.config.hidden_dropout_prob, seeds)
        if self.fusion is not None and "row_examples" in batch:
            x = self.fusion(x, batch["row_examples"], len(batch["example_weights"]))
        return x

    def _tokens(self, encoded: EncoderOutput, sequence_ids: jax.Array, cls_positions: jax.Array) -> jax.Array:
        if self.task.needs_pooler:
            assert encoded.pooled_output is not None  # ModelDescription sees to it
            return encoded.pooled_output
        x = self._chosen(encoded)
        if self.lstm is None:
            return self._of_text(x, sequence_ids, cls_positions) if self.task.is_pooled else x
        x = self.lstm(x, sequence_ids)
        return BiLstm.ends(x) if self.task.is_pooled else x

    def _of_text(self, x: jax.Array, sequence_ids: jax.Array, cls_positions: jax.Array) -> jax.Array:
        """Return the vectors that a row's texts are read from, [B, E, W].

        [CLS]; in a causal model the last token, which sees all; in a biLM, none of whose tokens does, the mean of all.
        """
        texts = cls_positions.shape[1]
        if self.config.is_recurrent:
            return text_means(x, sequence_ids, texts)
        if self.config.causal:
            return take_positions(x, last_positions(sequence_ids, texts))
        return x[:, :1] if texts == 1 else take_positions(x, cls_positions)

    def _chosen(self, encoded: EncoderOutput) -> jax.Array:
        """The chosen layers as one: [B, S, W]."""
        if not self.task.layers:
            return encoded.sequence_output
        assert encoded.all_layers is not None
        chosen = encoded.all_layers[jnp.asarray(self.task.layers)]  # [K, B, S, D]
        if self.mix is not None:
            return self.mix(chosen)
        combined = {"sum": jnp.sum, "mean": jnp.mean}
        if self.task.combine in combined:
            return combined[self.task.combine](chosen, axis=0)
        return jnp.concatenate(list(chosen), axis=-1)
