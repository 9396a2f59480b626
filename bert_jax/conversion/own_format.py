# SPDX-License-Identifier: Apache-2.0
"""Our own side: a run directory as named tensors, layer by layer, and named tensors as a run directory.

A converted directory has what a run has: config.json, model.json (which heads there are), the vocabulary, checkpoints/.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.base.errors import UserError
from bert_jax.base.files import read_json, write_json
from bert_jax.base.types import PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.settings import to_dict
from bert_jax.conversion import names
from bert_jax.conversion.names import NameRow
from bert_jax.conversion.tensors import StoredTensors, TensorEntry
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.names import CHECKPOINTS, FINETUNE_FILE, MODEL_FILE
from bert_jax.train.optimizer import make_optimizer, MomentsState

_LAYER = re.compile(r"((?:generator/)?encoder/layers/)(\d+)/")
Moments = Callable[[NameRow], tuple[np.ndarray, np.ndarray]]  # a tensor's first and second moment, in our layout


def is_run(path: Path) -> bool:
    """Whether a directory is a run of ours: Hugging Face's has a config.json too, which names a model_type."""
    config = RunDirectory(path).config_file
    if not config.is_file():
        return False
    try:
        return "model_type" not in read_json(config, "")
    except UserError:
        return True  # which is told when it is opened


def step_of(path: Path) -> tuple[Path, int] | None:
    """Return run and step of a path such as RUN/checkpoints/400; None where it is no such folder."""
    name, folder = path.absolute().name, path.absolute().parent
    named = folder.name == CHECKPOINTS and name.isdecimal() and path.is_dir()
    return (folder.parent, int(name)) if named and is_run(folder.parent) else None


def no_checkpoint(path: Path) -> UserError:
    """Return the refusal of a run that has saved nothing yet."""
    stage = "finetune" if (path / FINETUNE_FILE).is_file() else "pretrain"
    return UserError(f"{path}: has no complete checkpoint: go on with bert-jax {stage}")


# ---- reading -------------------------------------------------------------------------------------------------------


class RunParameters:
    """The parameters of a run's checkpoint. Orbax restores a tree as a whole: it is in memory once it is asked for.

    Raises UserError where the run has no complete checkpoint.
    """

    def __init__(self, path: Path, step: int | None = None):
        """Find the checkpoint of a step; None: the newest."""
        self._path = path
        self._stored = RunDirectory(path).stored()
        with Checkpoints(RunDirectory(path).checkpoints) as checkpoints:
            if checkpoints.latest is None:
                raise no_checkpoint(path)
            self.step: int = checkpoints.latest if step is None else step

    def tree(self, description: ModelDescription) -> PyTree:
        """Return the parameters that a description names: nested, on this process's first device, layers stacked."""
        return nested({name: self._stacked[name] for name in stacked_shapes(description)})

    @functools.cached_property
    def _stacked(self) -> dict[str, jax.Array]:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = {
            name: jax.ShapeDtypeStruct(shape, np.float32, sharding=device)
            for name, shape in stacked_shapes(self._stored).items()
        }
        with Checkpoints(RunDirectory(self._path).checkpoints) as checkpoints:
            return flat(checkpoints.restore(self.step, {"params": nested(abstract)})["params"])

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(array) for name, array in self._stacked.items()}

    def read(self, name: str) -> np.ndarray:
        """Return a tensor by its name in the table, that of one layer."""
        stacked, number = place_of(name)
        return self._arrays[stacked] if number is None else self._arrays[stacked][number]

    def tensors(self) -> StoredTensors:
        """Return the tensors by their names in the table, each layer's by themselves."""
        shapes = {row.ours: names.shape_of(row, self._stored) for row in names.rows_of(self._stored)}
        entries = {name: TensorEntry(shape, "float32") for name, shape in shapes.items()}
        return StoredTensors(self._path, entries, self.read)


def stacked_shapes(description: ModelDescription) -> dict[str, tuple[int, ...]]:
    """Path -> shape of each parameter, layers stacked."""
    shapes = {}
    for row in names.rows_of(description):
        path, number = place_of(row.ours)
        shape = names.shape_of(row, description)
        shapes[path] = shape if number is None else (description.model.num_hidden_layers, *shape)
    return shapes


def place_of(name: str) -> tuple[str, int | None]:
    """encoder/layers/3/... -> its path with layers stacked, and 3."""
    match = _LAYER.match(name)
    return (name, None) if match is None else (match[1] + name[match.end() :], int(match[2]))


def nested(values: Mapping[str, PyTree]) -> PyTree:
    """a/b -> value as {a: {b: value}}."""
    tree: dict[str, PyTree] = {}
    for path, value in values.items():
        *folders, last = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[last] = value
    return tree


def flat(tree: PyTree, prefix: str = "") -> dict[str, PyTree]:
    """The inverse of `nested`."""
    result: dict[str, PyTree] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


# ---- writing -------------------------------------------------------------------------------------------------------


def write_run(
    folder: Path,
    description: ModelDescription,
    weight: Callable[[NameRow], np.ndarray],
    config: PretrainConfig,
    step: int = 0,
    moments: Moments | None = None,
) -> None:
    """config.json, model.json and a checkpoint of `step`; each tensor is asked for once.

    Args:
      folder: an existing directory.
      description: what the checkpoint holds.
      weight: a row of the table -> the tensor, float32.
      config: the run's, whose optimizer has these moments.
      step: optimizer steps done.
      moments: as `weight`, of Adam's moments; None: no optimizer state.
    """
    params = nested(filled(description, weight))
    items: dict[str, PyTree] = {"params": params}
    if moments is not None:
        items["optimizer"] = (_optimizer_state(config, params, description, moments, step), np.asarray(step, np.int32))
    with Checkpoints(RunDirectory(folder).checkpoints, keep=1) as checkpoints:
        checkpoints.save(step, items, {"window": {}})
    write_json(folder / MODEL_FILE, description.to_dict())
    write_json(RunDirectory(folder).config_file, to_dict(config))


def config_for(description: ModelDescription) -> PretrainConfig:
    """A configuration for a model that was not trained here: the recipe's, with rows as long as its positions."""
    length = min(512, description.model.max_position_embeddings)
    phase = PhaseConfig(length, steps=1_000_000, max_predictions_per_seq=math.ceil(0.15 * length))
    model = description.model
    name = "ltr" if model.causal else "bilm" if model.is_recurrent else None
    objective = ObjectiveConfig() if name is None else ObjectiveConfig(name)
    return PretrainConfig(model=model, objective=objective, phases=(phase,))


def filled(description: ModelDescription, weight: Callable[[NameRow], np.ndarray]) -> dict[str, jax.Array]:
    """Path -> parameter, layers stacked; each tensor is asked for once. (Orbax would copy NumPy's arrays before it saves.)"""
    arrays = {path: np.empty(shape, np.float32) for path, shape in stacked_shapes(description).items()}
    for row in names.rows_of(description):
        path, number = place_of(row.ours)
        arrays[path][... if number is None else number] = weight(row)
    return {path: jnp.asarray(array) for path, array in arrays.items()}


def _optimizer_state(
    config: PretrainConfig, params: PyTree, description: ModelDescription, moments: Moments, step: int
) -> PyTree:
    mu = nested(filled(description, lambda row: moments(row)[0]))
    nu = nested(filled(description, lambda row: moments(row)[1]))

    def with_moments(state: PyTree) -> PyTree:
        if isinstance(state, MomentsState):
            return MomentsState(jnp.asarray(step, jnp.int32), mu, nu)
        return (
            state._replace(count=np.asarray(step, np.int32)) if isinstance(state, optax.ScaleByScheduleState) else state
        )

    shapes = jax.eval_shape(make_optimizer(config.optimizer, lambda step: step).init, params)
    is_state = lambda leaf: isinstance(leaf, (MomentsState, optax.ScaleByScheduleState))  # noqa: E731
    return jax.tree.map(with_moments, shapes, is_leaf=is_state)
