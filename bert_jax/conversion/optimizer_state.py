# SPDX-License-Identifier: Apache-2.0
"""Adam's moments and the number of steps, from a TF1 checkpoint of a training run or from a run of ours.

google-research/bert (optimization.py) keeps `<variable>/adam_m` and `/adam_v` beside each variable, laid out as it is; what
other optimizers call them is in slots.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.config.training import OPTIMIZERS
from bert_jax.conversion import names
from bert_jax.conversion.checkpoints import check_numbers, Checkpoint
from bert_jax.conversion.names import BERT_JAX, GLOBAL_STEP, HUGGING_FACE, NameRow, SLOTS, TF1
from bert_jax.conversion.own_format import flat, nested, place_of, stacked_shapes
from bert_jax.conversion.slots import moments_of
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import open_run, RunDirectory
from bert_jax.train.optimizer import make_optimizer, MomentsState

NO_GRADIENT = "bert/pooler/"  # has no slots in a run that trains a head on the tokens


@dataclass(frozen=True)
class OptimizerState:
    """Moments in our layout, read when they are asked for."""

    step: int
    moments: Callable[[NameRow], tuple[np.ndarray, np.ndarray]]


def optimizer_for(checkpoint: Checkpoint, to: str) -> tuple[OptimizerState | None, list[str]]:
    """The optimizer's state that a result of format `to` can take over, and what is to be said about it.

    Raises:
      UserError: there is a part of one.
    """
    if not has_optimizer(checkpoint):
        return None, []
    left_out = "the optimizer's state is left out: "
    if to == HUGGING_FACE:
        return None, [f"{left_out}Hugging Face's directories have no place for it"]
    if checkpoint.grown:
        return None, [f"{left_out}it does not fit the new rows"]
    if checkpoint.format == BERT_JAX and RunDirectory(checkpoint.path).averaging():
        return None, [f"{left_out}it is that of the weights that are trained, and these are their average"]
    name = open_run(checkpoint.path).config().optimizer.name if checkpoint.format == BERT_JAX else "adamw_bert"
    kind = OPTIMIZERS[name]
    if not kind.keeps_moments:
        return None, [f"{left_out}that of {name} is not the two moments of Adam"]
    if kind.family != "adam" and to == TF1:
        return None, [f"{left_out}the run was trained with {name}, and Adam cannot go on with its moments"]
    state = _of_tf1(checkpoint) if checkpoint.format == TF1 else _of_run(checkpoint)
    notes = [f"with the optimizer's moments after {state.step:,} steps"]
    slots = moments_of(checkpoint.tensors.entries) if checkpoint.format == TF1 else None
    if slots is not None and slots != SLOTS:
        notes.append(
            f"{slots.first} and {slots.second} are taken for the first and second moments of Adam; go on with"
            " optimizer.name=adamw, if that Adam corrected bias"
        )
    if kind.corrects_bias and to == TF1:
        notes.append(f"the run was trained with {name}, which corrects bias; adamw_bert, as Google's Adam, does not")
    return state, notes


def has_optimizer(checkpoint: Checkpoint) -> bool:
    """Whether there is an optimizer's state."""
    if checkpoint.format == TF1:
        return names.OPTIMIZER_STATE in checkpoint.skipped.values()
    if checkpoint.format != BERT_JAX:
        return False
    with Checkpoints(RunDirectory(checkpoint.path).checkpoints) as checkpoints:
        return checkpoint.step is not None and checkpoints.has(checkpoint.step, "optimizer")


def unequal_moments(source: OptimizerState, result: OptimizerState, rows: list[NameRow]) -> list[str]:
    """Return what is not bit for bit the same in the states of two optimizers, moment by moment."""
    found = [f"steps: {source.step} and {result.step}"] if source.step != result.step else []
    for row in rows:
        for slot, ours, theirs in zip(SLOTS, source.moments(row), result.moments(row), strict=True):
            if not np.array_equal(ours, theirs):
                found.append(f"{row.ours}: {slot} differs")
    return found


def _of_tf1(checkpoint: Checkpoint) -> OptimizerState:
    entries = checkpoint.tensors.entries
    slots = moments_of(entries)
    assert slots is not None  # `has_optimizer` has seen to it
    wanted = [f"{checkpoint.own_names[row.ours]}/{slot}" for row in checkpoint.rows for slot in slots]
    missing = [name for name in wanted if name not in entries]
    missing = [name for name in missing if not name.startswith(NO_GRADIENT)]
    if missing:
        raise UserError(f"{checkpoint.tensors.path} has optimizer state, but not {missing[0]}: it was cut")
    if GLOBAL_STEP not in entries:
        raise UserError(f"{checkpoint.tensors.path} has optimizer state, but not {GLOBAL_STEP}: it was cut")

    def moment(row: NameRow, slot: str) -> np.ndarray:
        name = f"{checkpoint.own_names[row.ours]}/{slot}"
        if name not in entries:
            return np.zeros(names.shape_of(row, checkpoint.description), np.float32)
        array = checkpoint.tensors.read(name)
        check_numbers(checkpoint.path, name, array)
        if slot == slots.second and (array < 0).any():
            raise UserError(
                f"{checkpoint.path}: {name} holds negative numbers, and is taken for a second moment of Adam: leave the"
                f" optimizer's state out by --skip '*/{slots.first}' --skip '*/{slots.second}'"
            )
        shape = names.shape_of(row, checkpoint.description)
        array = (array.T if row.is_transposed(TF1) else array)[: shape[0]]  # without padding rows of the vocabulary
        if array.shape != shape:
            raise UserError(
                f"{checkpoint.path}: {name} is {list(array.shape)}, and its variable {list(shape)}: it is another model's"
            )
        return np.ascontiguousarray(array, np.float32)

    step = int(checkpoint.tensors.read(GLOBAL_STEP))
    return OptimizerState(step, lambda row: (moment(row, slots.first), moment(row, slots.second)))


def _of_run(checkpoint: Checkpoint) -> OptimizerState:
    run = RunDirectory(checkpoint.path)
    config = run.config()
    with Checkpoints(run.checkpoints) as checkpoints:
        step = checkpoint.step
        assert step is not None  # `has_optimizer` has seen to it
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = stacked_shapes(run.stored())  # with all rows of the vocabulary
        params = nested({path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()})
        state = jax.eval_shape(make_optimizer(config.optimizer, lambda step: step).init, params)
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            (state, jax.ShapeDtypeStruct((), np.int32)),
        )
        opt_state, _ = checkpoints.restore(step, {"optimizer": abstract})["optimizer"]
    moments = next(part for part in jax.tree.leaves(opt_state, is_leaf=_is_moments) if _is_moments(part))
    mu, nu = ({name: np.asarray(array) for name, array in flat(tree).items()} for tree in (moments.mu, moments.nu))

    def both(row: NameRow) -> tuple[np.ndarray, np.ndarray]:
        path, number = place_of(row.ours)
        size = names.shape_of(row, checkpoint.description)[0]
        first, second = (tree[path][... if number is None else number][:size] for tree in (mu, nu))
        for slot, array in zip(SLOTS, (first, second), strict=True):
            check_numbers(checkpoint.path, f"{row.ours}/{slot}", array)
        return first, second

    return OptimizerState(step, both)


def _is_moments(leaf: object) -> bool:
    return isinstance(leaf, MomentsState)
