# SPDX-License-Identifier: Apache-2.0
"""The pure train and evaluation steps, compiled ahead of time: one compilation for each shape of batch, never another.

Shapes: B rows of the global batch, A micro-batches.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.feed.batch import batch_spec, BatchShape
from bert_jax.mesh.sharding import COPIES, ROWS, uncut
from bert_jax.model.dropout import row_seeds
from bert_jax.process import stopping
from bert_jax.train.losses import cross_entropy, Scores
from bert_jax.train.state import DROPOUT, Training, TrainState

Arrays = dict[str, jax.Array]


def compile_train_step(training: Training, shape: BatchShape, mask_id: int) -> Callable[..., Any]:
    """Compile (state, batch) -> (state, sums) for one shape of batch. The state is donated.

    `sums` are the float32 scalars of `train_step`.
    """
    with stopping.building():
        return stopping.compiled(lower_train_step(training, shape, mask_id))


def lower_train_step(training: Training, shape: BatchShape, mask_id: int) -> jax.stages.Lowered:
    """The step of `compile_train_step` before the compiler: its text says what was asked for."""

    def step(state: TrainState, batch: Arrays) -> tuple[TrainState, Arrays]:
        return train_step(training, state, batch, mask_id)

    state = training.abstract_state
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, NamedSharding(training.mesh, P())))
    with jax.set_mesh(training.mesh):  # the fused attention asks for it
        return jitted.lower(state, abstract_batch(training, shape))


def compile_eval_step(training: Training, shape: BatchShape) -> Callable[..., Any]:
    """Compile (params, batch) -> (MLM Scores, NSP Scores) without dropout, for one shape of batch."""

    def step(params: Any, batch: Arrays) -> tuple[Scores, Scores]:
        return pretraining_scores(training, params, batch, None)

    jitted = jax.jit(step, out_shardings=NamedSharding(training.mesh, P()))
    with jax.set_mesh(training.mesh):
        return stopping.compiled(jitted.lower(training.abstract_state.params, abstract_batch(training, shape)))


def abstract_batch(training: Training, shape: BatchShape) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a global batch with their shardings."""
    rows = NamedSharding(training.mesh, ROWS)
    return {name: jax.ShapeDtypeStruct(size, dtype, sharding=rows) for name, (size, dtype) in batch_spec(shape).items()}


def train_step(training: Training, state: TrainState, batch: Arrays, mask_id: int) -> tuple[TrainState, Arrays]:
    """One optimizer step on a global batch.

    Returns the new state and sums over the batch: `mlm_loss`, `mlm_correct`, `mlm_weight` and the same for `nsp`,
    `grad_norm` (before clipping), `parameter_norm` (after the update), `learning_rate`, `valid_tokens`, and how the picked
    tokens were treated.
    """
    rows = batch["input_ids"].shape[0]
    seeds = row_seeds(training.key(DROPOUT), state.step, rows)  # [B, 2]
    gradients, (mlm, nsp) = accumulate_gradients(training, state.params, batch, seeds)
    updates, opt_state = training.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    sums = {
        **{f"mlm_{name}": value for name, value in mlm._asdict().items()},
        **{f"nsp_{name}": value for name, value in nsp._asdict().items()},
        **batch_statistics(batch, mask_id),
        "grad_norm": optax.tree.norm(gradients),
        "parameter_norm": optax.tree.norm(params),
        "learning_rate": training.schedule(state.step),
    }
    return TrainState(params, opt_state, state.step + 1), sums


def accumulate_gradients(
    training: Training, params: Any, batch: Arrays, seeds: jax.Array
) -> tuple[Any, tuple[Scores, Scores]]:
    """The gradient of the global batch, summed over micro-batches.

    Every sum is divided by the weights of the global batch, known beforehand, so any split of the rows over
    micro-batches and devices gives the same gradient, whatever the masked counts of the parts are.
    """
    weights = batch["masked_lm_weights"].sum(), batch["next_sentence_weights"].sum()

    def loss(params: Any, part: Arrays, seeds: jax.Array) -> tuple[jax.Array, tuple[Scores, Scores]]:
        mlm, nsp = pretraining_scores(training, params, part, seeds)
        total = mlm.loss / jnp.maximum(weights[0], 1)
        if training.config.objective.nsp:
            total = total + nsp.loss / jnp.maximum(weights[1], 1)
        return total, (mlm, nsp)

    gradient = jax.grad(loss, has_aux=True)
    parts = training.config.micro_batches
    if parts == 1:
        return gradient(params, batch, seeds)

    def own_sum(params: Any, batch: Arrays, seeds: jax.Array) -> Any:
        return summed_over_parts(partial(gradient, params), (batch, seeds), parts)

    return on_each_copy(own_sum, training.mesh)(params, batch, seeds)


def summed_over_parts(function: Callable[..., Any], rows: Any, parts: int) -> Any:
    """The sum of `function(*part)` over the micro-batches that the arrays `rows` are split into, one after the other."""

    def add_part(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(*part)), None

    micro = jax.tree.map(partial(split_rows, parts=parts), rows)
    shapes = jax.eval_shape(function, *jax.tree.map(lambda x: x[0], micro))
    return jax.lax.scan(add_part, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), micro)[0]


def split_rows(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [A, B / A, ...]: micro-batch a takes rows a, a + A, ..., so no row leaves its device."""
    x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
    axes = uncut(ROWS[0])
    return jax.lax.with_sharding_constraint(x, P(None, axes)) if axes else x


def on_each_copy(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function(params, *rows)` by every copy of the parameters on its own rows, and the results summed at the end.

    The partitioner alone would sum the gradients of all copies after every micro-batch. It is left to do so where both
    `fsdp` and `tensor` cut what a copy holds: XLA of jaxlib 0.12.0 aborts on such a mesh below a `shard_map`.
    """
    copies = tuple(axis for axis in COPIES if mesh.shape[axis] > 1)
    if not copies or (mesh.shape["fsdp"] > 1 and mesh.shape["tensor"] > 1):
        return function

    def own(params: Any, *rows: Any) -> Any:
        return jax.lax.psum(function(params, *rows), copies)

    def mapped(params: Any, *rows: Any) -> Any:
        specs = (P(), *(P(copies) for _ in rows))
        # Unchecked: otherwise differentiation sums what copies share, the parameters, in every micro-batch again.
        return jax.shard_map(own, in_specs=specs, out_specs=P(), axis_names=set(copies), check_vma=False)(params, *rows)

    return mapped


def pretraining_scores(
    training: Training, params: Any, batch: Arrays, seeds: jax.Array | None
) -> tuple[Scores, Scores]:
    """The sums of masked LM and next sentence prediction over a batch."""
    output = nnx.merge(training.graph, params)(batch, dropout_seeds=seeds)
    mlm = cross_entropy(output.mlm_logits, batch["masked_lm_ids"], batch["masked_lm_weights"])
    nsp = cross_entropy(output.nsp_logits, batch["next_sentence_labels"], batch["next_sentence_weights"])
    return mlm, nsp


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
