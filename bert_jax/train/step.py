# SPDX-License-Identifier: Apache-2.0
"""The train step of every run: gradients over micro-batches, the optimizer, sums; compiled once for each shape of batch.

What is trained on stands in a `Loss` (masked_lm.py, and of fine-tuning finetuning/losses.py): this file knows no task.

Shapes: B rows of the global batch, N examples of it (the rows themselves, or groups of neighbouring rows), A micro-batches.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.base.stopping import building, compiled
from bert_jax.base.types import PyTree
from bert_jax.config.training import SchedulePart
from bert_jax.mesh.sharding import on_own_rows, put_whole, ROWS, uncut
from bert_jax.model.dropout import row_seeds
from bert_jax.train.bad_steps import SKIPPED, total_loss, watched
from bert_jax.train.losses import Scores, term_weight
from bert_jax.train.optimizer import learning_rate_schedule, make_optimizer
from bert_jax.train.state import DROPOUT, Training, TrainState

Arrays = dict[str, jax.Array]
type Fields = Mapping[str, jax.Array | np.ndarray | jax.ShapeDtypeStruct]  # of a batch, whose shapes and types count


class Loss(Protocol):
    """The function that a run minimises, in the parts that the train step needs."""

    @property
    def fixed(self) -> PyTree:
        """Arrays on the mesh that `scores` reads beside the parameters and no step changes, such as a teacher's, by name."""
        return {}

    def weights(self, batch: Arrays) -> Arrays:
        """Return the weight of each term over the global batch, by name: what its loss is divided by.

        They are known before the forward pass, so every part of a batch is divided by the whole's.
        """

    def scores(self, training: Training, params: PyTree, batch: Arrays, seeds: jax.Array | None) -> dict[str, Scores]:
        """Return the sums of each term over a part of a batch; `seeds` [B, 2] are of dropout, None drops nothing.

        `params` holds what is `fixed`, too.
        """

    def statistics(self, batch: Arrays) -> Arrays:
        """Return counts of a batch that are not of its loss, float32 scalars by name."""


@dataclass(frozen=True)
class CompiledStep:
    """A train step for batches of one shape: call it with (state, batch) for (state, sums). The state is donated."""

    training: Training
    program: jax.stages.Compiled
    fixed: PyTree  # of the loss
    limits: dict[float, jax.Array] = field(default_factory=dict)  # the newest, on the devices

    @cached_property
    def _arguments(self) -> tuple[jax.Array, list[Arrays], PyTree]:
        everywhere = NamedSharding(self.training.mesh, P())
        with jax.transfer_guard("allow"):  # at the first step
            key = jax.jit(lambda: self.training.key(DROPOUT), out_shardings=everywhere)()
            numbers = jax.tree.map(lambda number: put_whole(number, everywhere), schedule_numbers(self.training))
            return key, numbers, self.fixed

    def __call__(self, state: TrainState, batch: Arrays, limit: float = math.inf) -> tuple[TrainState, Arrays]:
        """Take a step; see `train_step`. A loss beyond `limit` is bad, where the run skips bad steps."""
        if not skips(self.training):
            return self.program(state, batch, *self._arguments)
        if limit not in self.limits:
            self.limits.clear()
            with jax.transfer_guard("allow"):
                everywhere = NamedSharding(self.training.mesh, P())
                self.limits[limit] = put_whole(np.asarray(limit, np.float32), everywhere)
        return self.program(state, batch, *self._arguments, self.limits[limit])


def compile_train_step(
    training: Training, loss: Loss, batch: Fields, options: Mapping[str, str] | None = None
) -> CompiledStep:
    """Compile the train step for batches with the fields of this one; `options` are the compiler's."""
    with building():
        return CompiledStep(training, compiled(lower_train_step(training, loss, batch), options), loss.fixed)


def lower_train_step(training: Training, loss: Loss, batch: Fields) -> jax.stages.Lowered:
    """Lower (state, batch, key of dropout, parts of the schedule, what is fixed) -> (state, sums); behind these the limit of a
    loss, where bad steps are skipped.

    What differs between the runs of several seeds, or of a sweep, is no constant of it, so that these share programs.
    """

    def step(
        state: TrainState, batch: Arrays, key: jax.Array, parts: list[Arrays], fixed: PyTree, *limit: jax.Array
    ) -> tuple[TrainState, Arrays]:
        numbers = [SchedulePart(**part) for part in parts]  # type: ignore[arg-type]
        schedule = learning_rate_schedule(numbers, training.config.optimizer.schedule)
        return train_step(training, loss, state, batch, key, schedule, *limit, fixed=fixed)

    state, everywhere = training.abstract_state, NamedSharding(training.mesh, P())
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, everywhere))
    own = jax.eval_shape(lambda numbers: (training.key(DROPOUT), numbers), schedule_numbers(training))
    limit = (jax.ShapeDtypeStruct((), jnp.float32),) if skips(training) else ()
    own, limit = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), (own, limit)
    )
    with jax.set_mesh(training.mesh):  # the fused attention asks for it
        return jitted.lower(state, abstract_batch(training, batch), *own, loss.fixed, *limit)


def schedule_numbers(training: Training) -> list[dict[str, np.ndarray]]:
    """Return the parts of a run's schedule as scalars, int32 and float32."""
    parts = [asdict(part) for part in training.config.schedule_parts()]
    return jax.tree.map(lambda value: np.asarray(value, np.float32 if isinstance(value, float) else np.int32), parts)


def compile_scores(training: Training, loss: Loss, batch: Fields) -> Callable[..., PyTree]:
    """Compile (params, batch) -> Scores of each term without dropout, for batches with the fields of this one."""

    def score(params: PyTree, batch: Arrays, fixed: PyTree) -> dict[str, Scores]:
        return loss.scores(training, {**params, **fixed}, batch, None)

    jitted = jax.jit(score, out_shardings=NamedSharding(training.mesh, P()))
    with jax.set_mesh(training.mesh):
        lowered = jitted.lower(training.abstract_state.params, abstract_batch(training, batch), loss.fixed)
    return partial(_with_fixed, compiled(lowered), loss.fixed)


def _with_fixed(program: jax.stages.Compiled, fixed: PyTree, params: PyTree, batch: Arrays) -> PyTree:
    return program(params, batch, fixed)


def abstract_batch(training: Training, batch: Fields) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the fields of a global batch, given as anything with `shape` and `dtype`, with their shardings."""
    rows = NamedSharding(training.mesh, ROWS)
    return {name: jax.ShapeDtypeStruct(field.shape, field.dtype, sharding=rows) for name, field in batch.items()}


def train_step(
    training: Training,
    loss: Loss,
    state: TrainState,
    batch: Arrays,
    key: jax.Array,
    schedule: optax.Schedule,
    limit: jax.Array | None = None,
    *,
    fixed: PyTree = None,
) -> tuple[TrainState, Arrays]:
    """Take one optimizer step on a global batch.

    Args:
      key: of dropout.
      schedule: step -> learning rate.
      limit: [] float32, of the loss; where it is given, a bad step leaves the state as it was, but for its number.
      fixed: `loss.fixed`, as an argument of the compiled step; None: as it is.

    Returns:
      The new state, and sums over the batch: `TERM_loss`, `TERM_correct` and `TERM_weight` of each term of the loss, its
      statistics, `grad_norm` (before clipping), `parameter_norm` (after the update), `learning_rate`; with a limit `skipped`.
    """
    seeds = row_seeds(key, state.step, batch["input_ids"].shape[0])  # [B, 2]
    gradients, scores = accumulate_gradients(training, loss, state.params, batch, seeds, fixed)
    with jax.named_scope("optimizer"):
        optimizer = make_optimizer(training.config.optimizer, schedule)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    sums = {
        **{f"{term}_{name}": value for term, one in scores.items() for name, value in one._asdict().items()},
        **loss.statistics(batch),
        "grad_norm": optax.tree.norm(gradients),
        "parameter_norm": optax.tree.norm(params),
        "learning_rate": schedule(state.step),
    }
    new = TrainState(params, opt_state, state.step + 1)
    return (new, sums) if limit is None else without_bad_step(training, state, new, sums, limit)


def skips(training: Training) -> bool:
    """Whether the step itself decides if it counts."""
    return training.config.on_bad_step == "skip"


def without_bad_step(
    training: Training, old: TrainState, new: TrainState, sums: Arrays, limit: jax.Array
) -> tuple[TrainState, Arrays]:
    """Return the new state, of a bad step the old one under the new number; `skipped` of the sums says which."""
    finite = jnp.stack([jnp.isfinite(value) for value in watched(sums).values()]).all()
    good = finite & (total_loss(sums, training.config, jnp.maximum) <= limit)
    kept = jax.tree.map(lambda after, before: jnp.where(good, after, before), new, old)
    opt_state = jax.tree.map(
        lambda one, after: after if isinstance(one, optax.ScaleByScheduleState) else one,
        kept.opt_state,
        new.opt_state,
        is_leaf=lambda one: isinstance(one, optax.ScaleByScheduleState),
    )  # the schedule is of steps, and goes on
    return kept._replace(opt_state=opt_state, step=new.step), {**sums, SKIPPED: 1.0 - good.astype(jnp.float32)}


def accumulate_gradients(
    training: Training, loss: Loss, params: PyTree, batch: Arrays, seeds: jax.Array, fixed: PyTree = None
) -> tuple[PyTree, dict[str, Scores]]:
    """Return the gradient of the global batch and its scores, summed over micro-batches.

    Every sum is divided by the weights of the global batch, known beforehand, so any split of the rows over
    micro-batches and devices gives the same gradient, whatever the counts of the parts are.
    """
    weights = loss.weights(batch)
    # Of a term that counts nothing no gradient is computed.
    counted = {term: share for term in weights if (share := term_weight(term, training.config))}
    fixed = loss.fixed if fixed is None else fixed

    def total(params: PyTree, fixed: PyTree, part: Arrays, seeds: jax.Array) -> tuple[jax.Array, dict[str, Scores]]:
        scores = loss.scores(training, {**params, **fixed}, part, seeds)
        first, *others = (
            share * (scores[term].loss / jnp.maximum(weights[term], 1)) for term, share in counted.items()
        )
        return sum(others, first), scores

    gradient = jax.grad(total, has_aux=True)
    parts = training.config.micro_batches
    rows_per_example = len(seeds) // len(batch.get("example_weights", seeds))

    def own_sum(kept: tuple[PyTree, PyTree], batch: Arrays, seeds: jax.Array) -> tuple[PyTree, dict[str, Scores]]:
        if parts == 1:
            return gradient(*kept, batch, seeds)
        return summed_over_parts(partial(gradient, *kept), (batch, seeds), parts, rows_per_example)

    if "row_examples" in batch:  # an example's rows may lie on several devices, so none can sum its own alone
        return own_sum((params, fixed), batch, seeds)
    return on_own_rows(own_sum, training.mesh, training.compute.dtype)((params, fixed), batch, seeds)


def summed_over_parts(function: Callable[..., PyTree], rows: PyTree, parts: int, rows_per_example: int = 1) -> PyTree:
    """Return the sum of `function(*part)` over the micro-batches that the arrays `rows` are split into, one after the other.

    The last of `rows` has a row for each row of the batch; fields of examples are shorter by `rows_per_example`.
    """

    def add_part(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(*part)), None

    examples = len(rows[-1]) // rows_per_example
    micro = jax.tree.map(partial(split_examples, parts=parts, examples=examples), rows)
    shapes = jax.eval_shape(function, *jax.tree.map(lambda x: x[0], micro))
    return jax.lax.scan(add_part, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), micro)[0]


def split_examples(x: jax.Array, parts: int, examples: int) -> jax.Array:
    """[N * k, ...] -> [A, N / A * k, ...]: micro-batch a takes examples a, a + A, ..., so none leaves its device."""
    each = x.shape[0] // examples
    x = x.reshape(examples // parts, parts, each, *x.shape[1:]).swapaxes(0, 1)
    x = x.reshape(parts, examples // parts * each, *x.shape[3:])
    axes = uncut(ROWS[0])
    return jax.lax.with_sharding_constraint(x, P(None, axes)) if axes else x
