# SPDX-License-Identifier: Apache-2.0
"""The BERT encoder: embeddings, layers, pooler. BERT (1810.04805), section 3; google-research/bert, modeling.py.

Layers are stacked: each parameter of `layers` has a leading axis L and the layers run under `jax.lax.scan`, compiled
once. Parameters are float32; the computation runs in `Compute.dtype`, with softmax and LayerNorm in float32.

Shapes: B rows, S tokens, D features, H heads, F features of the feed-forward layer, E packed examples, L layers,
V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bert_jax.config.model import ModelConfig
from bert_jax.mesh.sharding import keep_rows
from bert_jax.model.attention import attention, RESIDUALS
from bert_jax.model.custom_gradients import dense, gelu, gelu_dense, kernel_gradient, layer_norm
from bert_jax.model.dropout import dropout, fold_seeds

# What is dropped in a layer, as numbers folded into a row's seeds; attention takes one site for each head after these.
EMBEDDING_SITE = 0
ATTENTION_OUTPUT_SITE = 1
FEED_FORWARD_OUTPUT_SITE = 2
FIRST_HEAD_SITE = 3


@dataclass(frozen=True)
class Compute:
    """How the network is computed; none of it changes what is computed beyond rounding."""

    dtype: Any = jnp.float32  # of activations and matrix products; JAX has no type for what it takes here
    remat: str = "none"  # what the backward pass computes again: none, dots (all but matrix products), full
    scan_layers: bool = True  # False: the loop over layers is unrolled
    attention: str = "auto"


class EncoderOutput(NamedTuple):
    """The encoder's outputs."""

    sequence_output: jax.Array  # [B, S, D] of the last layer
    pooled_output: jax.Array | None  # [B, E, D] the [CLS] of each packed example, or its last token, through the pooler
    all_layers: jax.Array | None  # [L + 1, B, S, D] embeddings, then each layer; None unless asked for


class Dense(nnx.Module):
    """x [..., in] -> x @ kernel + bias [..., out]."""

    def __init__(self, inputs: int, outputs: int, config: ModelConfig, compute: Compute, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(initial_weights(config, rngs, (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.compute = compute

    def __call__(self, x: jax.Array) -> jax.Array:
        return dense(x.astype(self.compute.dtype), self.kernel[...], self.bias[...])


class LayerNorm(nnx.Module):
    """Normalises the last axis, in float32; returns the dtype of its input."""

    def __init__(self, config: ModelConfig, size: int | None = None):
        size = size or config.hidden_size
        self.scale = nnx.Param(jnp.ones(size))
        self.bias = nnx.Param(jnp.zeros(size))
        self.epsilon = config.layer_norm_eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class Embeddings(nnx.Module):
    """Word + position + segment, LayerNorm, dropout."""

    def __init__(self, config: ModelConfig, compute: Compute, *, rngs: nnx.Rngs):
        width = config.table_size
        self.word = nnx.Param(initial_weights(config, rngs, (config.vocab_size, width)))
        positions, deviation = (config.max_position_embeddings, width), config.position_initializer_range
        self.position = nnx.Param(initial_weights(config, rngs, positions, deviation))
        self.segment = nnx.Param(initial_weights(config, rngs, (config.type_vocab_size, width)))
        self.norm = LayerNorm(config, width)
        self.dropout_rate = config.hidden_dropout_prob
        self.dtype = compute.dtype

    @jax.named_scope("embedding")
    def __call__(
        self, input_ids: jax.Array, position_ids: jax.Array, segment_ids: jax.Array, seeds: jax.Array | None
    ) -> jax.Array:
        """[B, S] ids -> [B, S, D], D being the features of the tables."""
        x = self.word[...][input_ids] + look_up(self.position[...], position_ids, self.dtype)
        x = x + look_up(self.segment[...], segment_ids, self.dtype)
        x = self.norm(x)
        seeds = None if seeds is None else fold_seeds(seeds, EMBEDDING_SITE)
        return keep_rows(dropout(x, self.dropout_rate, seeds).astype(self.dtype))


class SelfAttention(nnx.Module):
    """Multi-head attention and its output projection."""

    def __init__(self, config: ModelConfig, compute: Compute, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.query = Dense(width, width, config, compute, rngs=rngs)
        self.key = Dense(width, width, config, compute, rngs=rngs)
        self.value = Dense(width, width, config, compute, rngs=rngs)
        self.output = Dense(width, width, config, compute, rngs=rngs)
        self.config = config
        self.compute = compute

    @jax.named_scope("attention")
    def __call__(self, x: jax.Array, sequence_ids: jax.Array, seeds: jax.Array | None) -> jax.Array:
        """[B, S, D] -> [B, S, D]."""
        heads = self.config.num_attention_heads
        split = (*x.shape[:2], heads, self.config.head_size)
        if seeds is not None:
            head_sites = FIRST_HEAD_SITE + jnp.arange(heads)
            seeds = fold_seeds(seeds[:, None, :], head_sites[None, :])  # [B, H, 2]
        context = attention(
            self.query(x).reshape(split),
            self.key(x).reshape(split),
            self.value(x).reshape(split),
            sequence_ids,
            dropout_rate=self.config.attention_probs_dropout_prob,
            dropout_seeds=seeds,
            causal=self.config.causal,
            implementation=self.compute.attention,
        )
        return self.output(context.reshape(x.shape))


class FeedForward(nnx.Module):
    """Two dense layers with GELU between them."""

    def __init__(self, config: ModelConfig, compute: Compute, *, rngs: nnx.Rngs):
        self.intermediate = Dense(config.hidden_size, config.intermediate_size, config, compute, rngs=rngs)
        self.output = Dense(config.intermediate_size, config.hidden_size, config, compute, rngs=rngs)
        self.hidden_act = config.hidden_act

    @jax.named_scope("feed_forward")
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, S, D] -> [B, S, D]."""
        return gelu_dense(self.intermediate(x), self.output.kernel[...], self.output.bias[...], self.hidden_act)


class EncoderLayer(nnx.Module):
    """Post-LN: each sub-layer's output is dropped, added to its input, normalised."""

    def __init__(self, config: ModelConfig, compute: Compute, *, rngs: nnx.Rngs):
        self.attention = SelfAttention(config, compute, rngs=rngs)
        self.attention_norm = LayerNorm(config)
        self.feed_forward = FeedForward(config, compute, rngs=rngs)
        self.feed_forward_norm = LayerNorm(config)
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(self, x: jax.Array, sequence_ids: jax.Array, seeds: jax.Array | None) -> jax.Array:
        """[B, S, D] -> [B, S, D]; `seeds` [B, 2] are this layer's own."""

        def drop(y: jax.Array, site: int) -> jax.Array:
            return dropout(y, self.dropout_rate, None if seeds is None else fold_seeds(seeds, site))

        attended = self.attention(x, sequence_ids, seeds)
        x = self.attention_norm(x + drop(attended, ATTENTION_OUTPUT_SITE))
        return self.feed_forward_norm(x + drop(self.feed_forward(x), FEED_FORWARD_OUTPUT_SITE))


class Encoder(nnx.Module):
    """Embeddings, L layers, pooler: the 109,482,240 (base) or 335,141,888 (large) parameters of BERT.

    Where the tables have features of their own, a dense layer leads from them to the layers (ELECTRA, 2003.10555, section 3.3).
    """

    def __init__(
        self,
        config: ModelConfig,
        compute: Compute | None = None,
        *,
        pooler: bool = True,
        embeddings: bool = True,
        rngs: nnx.Rngs,
    ):
        """Draw an encoder; without `embeddings` it is called with those of another one."""
        self.compute = compute = compute or Compute()
        self.config = config
        self.embeddings = Embeddings(config, compute, rngs=rngs) if embeddings else None
        projected = config.is_projected
        self.embeddings_project = (
            Dense(config.table_size, config.hidden_size, config, compute, rngs=rngs) if projected else None
        )
        keys = jax.random.split(rngs.params(), config.num_hidden_layers)
        self.layers = nnx.vmap(lambda key: EncoderLayer(config, compute, rngs=nnx.Rngs(key)))(keys)
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
        embeddings: Embeddings | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
          input_ids, segment_ids, sequence_ids, position_ids: [B, S] int32, see `bert_jax.feed.batch`.
          cls_positions: [B, E] int32; a causal model reads the last token of each example instead.
          dropout_seeds: [B, 2] uint32, or None: nothing is dropped (evaluation).
          all_layers: return the output of the embeddings and of every layer too.
          embeddings: another encoder's, for one that was made without.
        """
        embeddings = self.embeddings if embeddings is None else embeddings
        assert embeddings is not None
        x = embeddings(input_ids, position_ids, segment_ids, dropout_seeds)
        if self.embeddings_project is not None:
            x = keep_rows(self.embeddings_project(x))
        last, each = self._run_layers(x, sequence_ids, dropout_seeds, all_layers)
        places = last_positions(sequence_ids, cls_positions.shape[1]) if self.config.causal else cls_positions
        pooled = pooler_activation(self.pooler(take_positions(last, places)), self.config) if self.pooler else None
        stacked = jnp.concatenate([x[None], each]) if all_layers else None
        return EncoderOutput(last, pooled, stacked)

    def last_projections(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return queries, keys and values [B, S, D] of the last layer, by what enters it [B, S, D]."""
        graph, parameters = nnx.split(self.layers)
        attention = nnx.merge(graph, jax.tree.map(lambda stacked: stacked[-1], parameters)).attention
        return attention.query(x), attention.key(x), attention.value(x)

    def _run_layers(
        self, x: jax.Array, sequence_ids: jax.Array, seeds: jax.Array | None, all_layers: bool
    ) -> tuple[jax.Array, Any]:
        """Scan the stacked layers: the last output [B, S, D] and, if asked for, every one [L, B, S, D]."""
        graph, parameters = nnx.split(self.layers)

        def body(x: jax.Array, layer: tuple[Any, jax.Array]) -> tuple[jax.Array, jax.Array | None]:
            parameters, number = layer
            own_seeds = None if seeds is None else fold_seeds(seeds, number)
            x = keep_rows(nnx.merge(graph, parameters)(keep_rows(x), sequence_ids, own_seeds))
            return x, (x if all_layers else None)

        # Layers count from 1: number 0 is the embeddings, whose site 0 must not meet a layer's.
        numbers = 1 + jnp.arange(self.config.num_hidden_layers)
        unroll = 1 if self.compute.scan_layers else self.config.num_hidden_layers
        return jax.lax.scan(rematerialised(body, self.compute), x, (parameters, numbers), unroll=unroll)


def pooler_activation(x: jax.Array, config: ModelConfig) -> jax.Array:
    """Apply a pooler's activation, `config.pooler_act`, to what its dense layer gives."""
    return jnp.tanh(x) if config.pooler_act == "tanh" else gelu(x, config.hidden_act)


def rematerialised(body: Callable, compute: Compute) -> Callable:
    """The scan's body under the remat policy `none`, `dots` or `full`."""
    if compute.remat == "none":
        return body
    # A fused kernel is no matrix product to the policy: what its backward pass needs is saved by name.
    policies = jax.checkpoint_policies
    dots = policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(RESIDUALS)
    )
    saved = dots if compute.remat == "dots" else None
    # Inside a loop the compiler cannot merge the second computation with the first; unrolled it could.
    return jax.checkpoint(body, policy=saved, prevent_cse=not compute.scan_layers)


def take_positions(x: jax.Array, positions: jax.Array) -> jax.Array:
    """x [B, S, D] at positions [B, N] -> [B, N, D]."""
    return keep_rows(jnp.take_along_axis(x, positions[:, :, None], axis=1))


def last_positions(sequence_ids: jax.Array, examples: int) -> jax.Array:
    """Return where the last token of each packed example stands, 0 where there is none: [B, S] -> [B, E] int32."""
    number = 1 + jnp.arange(examples)
    own = sequence_ids[:, :, None] == number[None, None, :]  # [B, S, E]
    return jnp.where(own, jnp.arange(sequence_ids.shape[1])[None, :, None], 0).max(1).astype(jnp.int32)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(table: jax.Array, ids: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Rows of a small table, float32; the gradient is a product with one-hot rows in `dtype`, not a scatter.

    table [N, D], ids [B, S] -> [B, S, D].
    """
    return table[ids]


def _look_up_forward(
    table: jax.Array, ids: jax.Array, dtype: DTypeLike
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return table[ids], (table, ids)


def _look_up_backward(
    dtype: DTypeLike, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, None]:
    table, ids = residuals
    return kernel_gradient(jax.nn.one_hot(ids, table.shape[0], dtype=dtype), gradient.astype(dtype)), None


look_up.defvjp(_look_up_forward, _look_up_backward)


def initial_weights(
    config: ModelConfig, rngs: nnx.Rngs, shape: tuple[int, ...], deviation: float | None = None
) -> jax.Array:
    """Truncated normal: standard deviation `deviation`, else `initializer_range`, before the cut at two of them."""
    draw = jax.nn.initializers.truncated_normal(deviation or config.initializer_range)
    return draw(rngs.params(), shape, jnp.float32)
