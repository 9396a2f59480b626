# SPDX-License-Identifier: Apache-2.0
"""Adam's moments and the number of steps, from a TF1 checkpoint of a training run or from a run of ours.

google-research/bert (optimization.py) keeps `<variable>/adam_m` and `/adam_v` beside each variable, laid out as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bert_jax.checkpoint import Checkpoints
from bert_jax.conversion import names
from bert_jax.conversion.checkpoints import check_numbers, Checkpoint
from bert_jax.conversion.names import BERT_JAX, Row, TF1
from bert_jax.conversion.run_files import flat, nested, place_of, stacked_shapes
from bert_jax.errors import UserError
from bert_jax.optimizer import make_optimizer, MomentsState
from bert_jax.run_directory import open_run, RunDirectory

SLOTS = ("adam_m", "adam_v")
GLOBAL_STEP = "global_step"
NO_GRADIENT = "bert/pooler/"  # has no slots in a run that trains a head on the tokens


@dataclass(frozen=True)
class OptimizerState:
    """Moments in our layout, read when they are asked for."""

    step: int
    moments: Callable[[Row], tuple[np.ndarray, np.ndarray]]


def read_optimizer(checkpoint: Checkpoint) -> OptimizerState | None:
    """The optimizer's state, if the checkpoint has one.

    Raises:
      UserError: it has a part of one.
    """
    if checkpoint.format == TF1:
        return _of_tf1(checkpoint)
    return _of_run(checkpoint) if checkpoint.format == BERT_JAX else None


def _of_tf1(checkpoint: Checkpoint) -> OptimizerState | None:
    entries = checkpoint.tensors.entries
    wanted = [f"{checkpoint.own_names[row.ours]}/{slot}" for row in checkpoint.rows for slot in SLOTS]
    missing = [name for name in wanted if name not in entries]
    if len(missing) == len(wanted):
        return None
    missing = [name for name in missing if not name.startswith(NO_GRADIENT)]
    if missing:
        raise UserError(f"{checkpoint.tensors.path} has optimizer state, but not {missing[0]}: it was cut")
    if GLOBAL_STEP not in entries:
        raise UserError(f"{checkpoint.tensors.path} has optimizer state, but not {GLOBAL_STEP}: it was cut")

    def moment(row: Row, slot: str) -> np.ndarray:
        name = f"{checkpoint.own_names[row.ours]}/{slot}"
        if name not in entries:
            return np.zeros(names.shape_of(row, checkpoint.description), np.float32)
        array = checkpoint.tensors.read(name)
        check_numbers(checkpoint.path, name, array)
        return np.ascontiguousarray(array.T if row.is_transposed(TF1) else array, np.float32)

    step = int(checkpoint.tensors.read(GLOBAL_STEP))
    return OptimizerState(step, lambda row: (moment(row, SLOTS[0]), moment(row, SLOTS[1])))


def _of_run(checkpoint: Checkpoint) -> OptimizerState | None:
    run = RunDirectory(checkpoint.path)
    with Checkpoints(run.checkpoints) as checkpoints:
        step = checkpoints.latest
        if step is None or not checkpoints.has(step, "optimizer"):
            return None
        config = open_run(checkpoint.path).config()
        if config.optimizer.name == "lamb":
            raise UserError(f"{checkpoint.path} was trained with lamb, whose moments Google's Adam cannot go on with")
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = stacked_shapes(checkpoint.description)
        params = nested({path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()})
        state = jax.eval_shape(make_optimizer(config.optimizer, lambda step: step).init, params)
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            (state, jax.ShapeDtypeStruct((), np.int32)),
        )
        opt_state, _ = checkpoints.restore(step, {"optimizer": abstract})["optimizer"]
    moments = next(part for part in jax.tree.leaves(opt_state, is_leaf=_is_moments) if _is_moments(part))
    mu, nu = ({name: np.asarray(array) for name, array in flat(tree).items()} for tree in (moments.mu, moments.nu))

    def both(row: Row) -> tuple[np.ndarray, np.ndarray]:
        path, number = place_of(row.ours)
        return tuple(tree[path] if number is None else tree[path][number] for tree in (mu, nu))  # type: ignore[return-value]

    return OptimizerState(step, both)


def _is_moments(leaf: Any) -> bool:
    return isinstance(leaf, MomentsState)
