# SPDX-License-Identifier: Apache-2.0
"""The mesh, and the one table that says how parameters and batches are cut over it.

Axes: `dcn` and `data` (copies of the parameters, each on its own rows; `dcn` over the slower network), `fsdp` (rows,
parameters and optimizer state cut), `tensor` (heads, feed-forward features, vocabulary cut). The model knows nothing of
this.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.config import MeshConfig
from bert_jax.errors import UserError

AXES = ("dcn", "data", "fsdp", "tensor")
ROWS = P(("dcn", "data", "fsdp"))  # the first axis of every field of a batch

# Path of a parameter -> how its axes are cut; the first line that matches and whose sizes divide is taken.
# `layers/` parameters have the axis of layers in front, which stays whole.
RULES: tuple[tuple[str, P], ...] = (
    (r"embeddings/word$", P("tensor", "fsdp")),
    (r"embeddings/word$", P(None, ("fsdp", "tensor"))),  # a vocabulary that tensor does not divide
    (r"embeddings/(position|segment)$", P(None, "fsdp")),
    (r"layers/attention/(query|key|value)/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/attention/(query|key|value)/bias$", P(None, "tensor")),
    (r"layers/attention/output/kernel$", P(None, "tensor", "fsdp")),
    (r"layers/feed_forward/intermediate/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/feed_forward/intermediate/bias$", P(None, "tensor")),
    (r"layers/feed_forward/output/kernel$", P(None, "tensor", "fsdp")),
    (r"layers/.*/(bias|scale)$", P()),
    (r"pooler/kernel$", P("fsdp", None)),
    (r"mlm/transform/kernel$", P("fsdp", None)),
    (r"mlm/decoder$", P("tensor", "fsdp")),
    (r"mlm/decoder$", P(None, ("fsdp", "tensor"))),
    (r"mlm/bias$", P("tensor")),
    (r"mlm/bias$", P()),
    (r"nsp/kernel$", P("fsdp", None)),
    (r"(bias|scale)$", P()),
)


def parameter_path(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as `encoder/layers/attention/query/kernel`."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (default: all); sizes that are all given may use the first of them only.

    Raises:
      UserError: the sizes do not suit the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.dcn, config.data, config.fsdp, config.tensor]
    asked = f"mesh {config}"
    if -1 in sizes:
        others = -math.prod(sizes)
        if len(devices) % others:
            raise UserError(
                f"{asked} does not fit {len(devices)} devices: {len(devices)} is not divisible by {others}: change a size"
            )
        sizes[sizes.index(-1)] = len(devices) // others
    needed = math.prod(sizes)
    if needed > len(devices):
        raise UserError(
            f"{asked} needs {needed} devices and there are {len(devices)}: set mesh.data=-1 to use all that are left"
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:needed])


def partition_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """How the parameter at `path` is cut, by the table.

    Raises:
      UserError: its sizes are not divisible by the mesh.
      ValueError: the table has no line for it, or cuts it twice over one axis.
    """
    matching = [spec for pattern, spec in RULES if re.search(pattern, path)]
    if not matching:
        raise ValueError(f"no sharding rule matches the parameter {path}")
    for spec in matching:
        names = [name for entry in spec for name in _names(entry)]
        if len(names) != len(set(names)) or len(spec) > len(shape):
            raise ValueError(f"sharding rule {spec} does not suit {path} of shape {shape}")
        if all(size % _ways(entry, mesh) == 0 for size, entry in zip(shape, spec, strict=False)):
            return spec
    raise UserError(
        f"the parameter {path} of shape {shape} cannot be cut over the mesh {MeshConfig(**mesh.shape)}: choose mesh"
        " sizes that divide it"
    )


def parameter_shardings(parameters: Any, mesh: Mesh) -> Any:
    """A sharding for each array of a parameter tree or of an optimizer state that holds such trees.

    A leaf is recognised by the end of its path; scalars (counters) are whole everywhere.
    """

    def choose(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        spec = P() if leaf.ndim == 0 else partition_spec(parameter_path(path), leaf.shape, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(choose, parameters)


def row_shards(mesh: Mesh) -> int:
    """Parts that the rows of a batch are cut into."""
    return math.prod(mesh.shape[axis] for axis in ROWS[0])


def check_batch(batch_size: int, micro_batches: int, mesh: Mesh, where: str) -> None:
    """Refuse a batch that does not divide over micro-batches and devices.

    Raises:
      UserError: with the nearest batch sizes that do.
    """
    unit = micro_batches * row_shards(mesh)
    if batch_size % unit:
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        choices = f"{below} or {above}" if below else str(above)
        shards = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in ROWS[0] if axis != "dcn" or mesh.shape[axis] > 1)
        raise UserError(
            f"{where}={batch_size} is not divisible by micro_batches={micro_batches} x {shards} = {unit}: use {choices}"
        )


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _ways(entry: Any, mesh: Mesh) -> int:
    return math.prod(mesh.shape[name] for name in _names(entry))
