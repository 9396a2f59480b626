# SPDX-License-Identifier: Apache-2.0
"""The train step and the prediction step of a fine-tuned model, compiled once for each shape of batch."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.config.finetune import ResolvedConfig
from bert_jax.config.training import SchedulePart
from bert_jax.finetuning.losses import task_scores
from bert_jax.mesh.sharding import ROWS
from bert_jax.model.dropout import row_seeds
from bert_jax.process import stopping
from bert_jax.train.losses import Scores
from bert_jax.train.optimizer import learning_rate_schedule, make_optimizer
from bert_jax.train.state import DROPOUT, Training, TrainState

Arrays = dict[str, jax.Array]
Finetuning = Training[ResolvedConfig]


def compile_train_step(training: Finetuning, batch: Mapping[str, Any]) -> Callable[..., Any]:
    """Compile (state, batch) -> (state, sums) for batches like this one. The state is donated.

    `sums`: `loss`, `correct`, `weight`, `grad_norm`, `learning_rate`, `tokens` (valid ones), `places` (with padding).
    """
    own = _own_arguments(training)
    with stopping.building():
        compiled = stopping.compiled(lower_train_step(training, batch))
    return lambda state, batch: compiled(state, batch, *own)


def lower_train_step(training: Finetuning, batch: Mapping[str, Any]) -> jax.stages.Lowered:
    """The program of (state, batch, key of dropout, parts of the schedule), the same for every seed, rate and length."""
    state, everywhere = training.abstract_state, NamedSharding(training.mesh, P())
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, state)

    def step(state: TrainState, batch: Arrays, key: jax.Array, parts: list[Arrays]) -> tuple[TrainState, Arrays]:
        schedule = learning_rate_schedule([SchedulePart(**part) for part in parts])  # type: ignore[arg-type]
        return train_step(training, state, batch, key, schedule)

    jitted = jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, everywhere))
    with jax.set_mesh(training.mesh):
        return jitted.lower(state, _abstract(training, batch), *_own_arguments(training))


def _own_arguments(training: Finetuning) -> tuple[jax.Array, list[Arrays]]:
    """What differs between the runs of several seeds, or of a sweep: not constants, so that these share compiled programs."""
    parts = [asdict(part) for part in training.config.schedule_parts()]
    numbers = jax.tree.map(lambda value: np.asarray(value, np.float32 if isinstance(value, float) else np.int32), parts)
    return jax.device_put((training.key(DROPOUT), numbers), NamedSharding(training.mesh, P()))


def compile_prediction(training: Finetuning, batch: Mapping[str, Any]) -> Callable[..., Any]:
    """Compile (params, batch) -> task logits, whole on every device, for batches like this one."""

    def predict(params: Any, batch: Arrays) -> jax.Array:
        model = nnx.merge(training.graph, params)
        return model.task_logits(model.encode(batch), batch, None)

    jitted = jax.jit(predict, out_shardings=NamedSharding(training.mesh, P()))
    with jax.set_mesh(training.mesh):
        return stopping.compiled(jitted.lower(training.abstract_state.params, _abstract(training, batch)))


def _abstract(training: Finetuning, batch: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    rows = NamedSharding(training.mesh, ROWS)
    return {name: jax.ShapeDtypeStruct(field.shape, field.dtype, sharding=rows) for name, field in batch.items()}


def train_step(
    training: Finetuning, state: TrainState, batch: Arrays, key: jax.Array, schedule: optax.Schedule
) -> tuple[TrainState, Arrays]:
    """One optimizer step; `key` is of dropout. See `compile_train_step`."""
    seeds = row_seeds(key, state.step, batch["input_ids"].shape[0])

    def loss(params: Any) -> tuple[jax.Array, Scores]:
        scores = _scores(training, params, batch, seeds)
        return scores.loss / jnp.maximum(scores.weight, 1), scores

    gradients, scores = jax.grad(loss, has_aux=True)(state.params)
    optimizer = make_optimizer(training.config.optimizer, schedule)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    valid = batch["sequence_ids"] > 0
    sums = {
        **scores._asdict(),
        "grad_norm": optax.tree.norm(gradients),
        "learning_rate": schedule(state.step),
        "tokens": valid.sum(dtype=jnp.float32),
        "places": jnp.float32(valid.size),
    }
    return TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1), sums


def _scores(training: Finetuning, params: Any, batch: Arrays, seeds: jax.Array) -> Scores:
    """Of a frozen encoder nothing is dropped, and no gradient is computed through it: its outputs are features."""
    frozen = training.config.settings.freeze == "encoder"
    if frozen:
        params = {**params, "encoder": jax.lax.stop_gradient(params["encoder"])}
    model = nnx.merge(training.graph, params)
    encoded = model.encode(batch, dropout_seeds=None if frozen else seeds)
    task = training.description.task
    assert task is not None
    return task_scores(task.kind, model.task_logits(encoded, batch, seeds), batch)
