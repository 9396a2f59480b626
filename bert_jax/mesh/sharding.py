# SPDX-License-Identifier: Apache-2.0
"""The mesh, and the one table that says how parameters and batches are cut over it.

Axes: `dcn` and `data` (copies of the parameters, each on its own rows; `dcn` over the slower network), `fsdp` (rows,
parameters and optimizer state cut; in a step each device gathers all parameters), `tensor` (heads, feed-forward features,
vocabulary cut). The model knows no more of this than `keep_rows`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.base.errors import UserError
from bert_jax.base.types import PyTree
from bert_jax.config.model import ModelConfig
from bert_jax.config.training import MeshConfig

AXES = ("dcn", "data", "fsdp", "tensor")
COPIES = ("dcn", "data")  # every place along them holds the same parameters
ROWS = P((*COPIES, "fsdp"))  # the first axis of every field of a batch

# Path of a parameter -> how its axes are cut; the first line that matches and whose sizes divide is taken.
# `layers/` parameters have the axis of layers in front, which stays whole.
RULES: tuple[tuple[str, P], ...] = (
    (r"embeddings/word$", P("tensor", "fsdp")),
    (r"embeddings/word$", P(None, ("fsdp", "tensor"))),  # a vocabulary that tensor does not divide
    (r"embeddings/(position|segment)$", P(None, "fsdp")),
    (r"embeddings_project/kernel$", P(None, "fsdp")),
    (r"layers/attention/(query|key|value)/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/attention/(query|key|value)/bias$", P(None, "tensor")),
    (r"layers/attention/output/kernel$", P(None, "tensor", "fsdp")),
    (r"layers/feed_forward/intermediate/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/feed_forward/intermediate/bias$", P(None, "tensor")),
    (r"layers/feed_forward/output/kernel$", P(None, "tensor", "fsdp")),
    (r"layers/.*/(bias|scale)$", P()),
    # Of a biLM: read at every token of a row; cut, each would be gathered as often.
    (r"layers/(forward|backward)/(input|recurrent|projection)$", P()),
    (r"pooler/kernel$", P("fsdp", None)),
    (r"mlm/transform/kernel$", P("fsdp", None)),
    (r"mlm/decoder$", P("tensor", "fsdp")),
    (r"mlm/decoder$", P(None, ("fsdp", "tensor"))),
    (r"mlm/bias$", P("tensor")),
    (r"mlm/bias$", P()),
    (r"(nsp|task|rtd/transform|rtd/output|teacher_projection)/kernel$", P("fsdp", None)),
    (r"features/(lstm/|mix/|fusion/)", P()),
    (r"(bias|scale)$", P()),
    (r"ns_coeffs$", P()),  # of Muon's state
)


def parameter_path(path: jax.tree_util.KeyPath) -> str:
    """A key path of jax.tree_util as `encoder/layers/attention/query/kernel`."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)


# ---- the mesh --------------------------------------------------------------------------------------------------------


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (default: all), `dcn` over slices or nodes and the other axes inside them.

    Sizes that are all given may use a part of the devices, in a single process.

    Raises:
      UserError: the sizes do not suit the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(config, devices)
    used = math.prod(sizes)
    if used < len(devices) and len({device.process_index for device in devices}) > 1:
        raise UserError(
            f"mesh {config} uses {used} of {len(devices)} devices, and in a run of several processes all must be used:"
            " set mesh.data=-1"
        )
    inner = sizes[1:]
    groups = [_arranged(group, inner) for group in device_groups(config, devices, sizes[0])]
    return Mesh(np.stack(groups), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(config: MeshConfig, devices: Sequence[jax.Device]) -> list[int]:
    """The sizes of `AXES`, with -1 replaced.

    Raises:
      UserError: they do not suit the number of devices.
    """
    sizes = [getattr(config, axis) for axis in AXES]
    count = len(devices)
    if -1 in sizes:
        free, others = AXES[sizes.index(-1)], -math.prod(sizes)
        if count % others:
            raise UserError(
                f"mesh {config} does not fit {count} devices: the sizes without {free} multiply to {others} and {count} is"
                f" not divisible by that: make it {nearest(others, divisors(count))}"
            )
        sizes[sizes.index(-1)] = count // others
    if math.prod(sizes) > count:
        others = math.prod(sizes) // config.data
        change = f"mesh.data={count // others}" if count % others == 0 else "smaller sizes, one of them -1"
        raise UserError(f"mesh {config} needs {math.prod(sizes)} devices and there are {count}: set {change}")
    return sizes


def device_groups(config: MeshConfig, devices: Sequence[jax.Device], dcn: int) -> list[list[jax.Device]]:
    """The devices at each place of the axis `dcn`.

    A group is a slice of TPUs, which have a fast network of their own. Elsewhere it is one or more whole nodes (processes),
    and in a single process any equal part.

    Raises:
      UserError: `dcn` is not the number of slices, or does not divide the nodes.
    """
    slices = _grouped(devices, "slice_index")
    if len(slices) > 1 and devices[0].platform == "tpu":
        if dcn != len(slices):
            raise UserError(
                f"mesh {config} does not suit {len(slices)} slices of {len(slices[0])} devices, which only dcn joins: set"
                f" mesh.dcn={len(slices)} and mesh.data=-1"
            )
        return slices
    nodes = slices if len(slices) > 1 else _grouped(devices, "process_index")
    if len(nodes) > 1 and len(nodes) % dcn:
        raise UserError(
            f"mesh {config}: dcn={dcn} does not divide the {len(nodes)} nodes that it joins: set"
            f" mesh.dcn={nearest(dcn, divisors(len(nodes)))}"
        )
    ordered = [device for node in nodes for device in node]
    share = len(ordered) // dcn
    return [ordered[begin : begin + share] for begin in range(0, share * dcn, share)]


def _grouped(devices: Sequence[jax.Device], attribute: str) -> list[list[jax.Device]]:
    """The devices by the value of an attribute, both in order; those without it are one group."""
    groups: dict[int, list[jax.Device]] = {}
    for device in devices:
        groups.setdefault(getattr(device, attribute, 0), []).append(device)
    return [groups[value] for value in sorted(groups)]


def _arranged(devices: Sequence[jax.Device], sizes: Sequence[int]) -> np.ndarray:
    """Return as many of the devices as the sizes need: TPUs so that neighbours in the mesh are wired, others in their order."""
    devices = devices[: math.prod(sizes)]
    if devices[0].platform == "tpu":
        return jax.make_mesh(sizes, AXES[1:], axis_types=(AxisType.Auto,) * len(sizes), devices=devices).devices
    return np.array(devices).reshape(sizes)


def check_heads(model: ModelConfig, mesh: Mesh) -> None:
    """Refuse attention heads that the axis `tensor` would cut apart; a biLM has none.

    Raises:
      UserError: with the nearest sizes that divide them.
    """
    ways, heads = mesh.shape["tensor"], model.num_attention_heads
    if heads % ways and not model.is_recurrent:
        raise UserError(
            f"mesh.tensor={ways} does not divide model.num_attention_heads={heads}, and a head is never cut: set"
            f" mesh.tensor={nearest(ways, divisors(heads))}"
        )


def divisors(number: int) -> list[int]:
    """All of them, ascending."""
    return [size for size in range(1, number + 1) if number % size == 0]


def nearest(wanted: int, choices: Sequence[int]) -> str:
    """The choice below and the one above what was wanted, in words; `choices` ascend."""
    below = [choice for choice in choices if choice <= wanted][-1:]
    above = [choice for choice in choices if choice > wanted][:1]
    return " or ".join(map(str, below + above))


# ---- parameters ------------------------------------------------------------------------------------------------------


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
    size, entry = next(cut for cut in zip(shape, matching[-1], strict=False) if cut[0] % _ways(cut[1], mesh))
    ways, axes = _ways(entry, mesh), " x ".join(_names(entry))
    raise UserError(
        f"the parameter {path} of shape {shape} cannot be cut over the mesh {MeshConfig(**mesh.shape)}: {axes}={ways} does"
        f" not divide {size}: make it {nearest(ways, divisors(size))}"
    )


def parameter_shardings(parameters: PyTree, mesh: Mesh) -> PyTree:
    """A sharding for each array of a parameter tree or of an optimizer state that holds such trees.

    A leaf is recognised by the end of its path; scalars (counters) are whole everywhere.
    """

    def choose(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        spec = P() if leaf.ndim == 0 else partition_spec(parameter_path(path), leaf.shape, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(choose, parameters)


# ---- gradients -------------------------------------------------------------------------------------------------------

LAYER_KERNEL = re.compile(r"(^|/)layers/.*/kernel$")  # multiplied in the type that is computed in


def on_own_rows(
    function: Callable[..., tuple[PyTree, PyTree]], mesh: Mesh, dtype: jnp.dtype
) -> Callable[..., tuple[PyTree, PyTree]]:
    """`function((params, fixed), *rows)` -> (gradients, sums), by each device on its own rows, both summed at the end.

    What `fsdp` cuts of the parameters is gathered once before, kernels of layers in `dtype`; of their gradients each device
    gets the part that it keeps, and updates that (Xu et al. 2020, 2004.13336). The partitioner alone would exchange in every
    micro-batch, and the gradients of tied embeddings twice: of the words that are predicted, and of those that are read. It is
    left to do so where both `fsdp` and `tensor` cut parameters: XLA of jaxlib 0.12.0 aborts on such a mesh below a `shard_map`.
    """
    axes = tuple(axis for axis in ROWS[0] if mesh.shape[axis] > 1)
    if not axes or (mesh.shape["fsdp"] > 1 and mesh.shape["tensor"] > 1):
        return function

    def mapped(kept: tuple[PyTree, PyTree], *rows: PyTree) -> tuple[PyTree, PyTree]:
        cuts = jax.tree.map(_cut_by_fsdp, parameter_shardings(kept, mesh))

        def own(kept: tuple[PyTree, PyTree], *rows: PyTree) -> tuple[PyTree, PyTree]:
            whole = jax.tree_util.tree_map_with_path(partial(_gathered, dtype), kept, cuts)
            gradients, sums = function(whole, *rows)
            return jax.tree.map(partial(_own_part, axes), gradients, cuts[0]), jax.lax.psum(sums, axes)

        # Unchecked: otherwise differentiation sums what copies share, the parameters, in every micro-batch again.
        specs = (cuts, *(P(axes) for _ in rows))
        cut = jax.shard_map(own, in_specs=specs, out_specs=(cuts[0], P()), axis_names={*axes}, check_vma=False)
        return cut(kept, *rows)

    return mapped


def _cut_by_fsdp(sharding: NamedSharding) -> P:
    """How an array is cut over `fsdp` alone; over an axis of one device, not at all."""
    is_cut = sharding.mesh.shape["fsdp"] > 1
    return P(*("fsdp" if is_cut and "fsdp" in _names(entry) else None for entry in sharding.spec))


def _gathered(dtype: jnp.dtype, path: jax.tree_util.KeyPath, part: jax.Array, cut: P) -> jax.Array:
    """Return the whole of a parameter, in its own type, of which each device has a part."""
    if "fsdp" not in cut:
        return part
    sent = part.astype(dtype) if LAYER_KERNEL.search(parameter_path(path)) else part
    return jax.lax.all_gather(sent, "fsdp", axis=cut.index("fsdp"), tiled=True).astype(part.dtype)


def _own_part(axes: Sequence[str], whole: jax.Array, cut: P) -> jax.Array:
    """Return of a gradient, summed over the devices along `axes`, the part that this device keeps."""
    if "fsdp" in cut:
        whole = jax.lax.psum_scatter(whole, "fsdp", scatter_dimension=cut.index("fsdp"), tiled=True)
        axes = [axis for axis in axes if axis != "fsdp"]
    return jax.lax.psum(whole, axes) if axes else whole


# ---- batches ---------------------------------------------------------------------------------------------------------


def keep_rows(x: jax.Array) -> jax.Array:
    """An activation [B, ...] cut by rows and whole otherwise, over the mesh that is in force; without one, `x`.

    Left to itself, the partitioner follows the parameters: with `fsdp` it would cut features instead of rows and exchange
    activations in every layer.
    """
    axes = uncut(ROWS[0])
    return jax.lax.with_sharding_constraint(x, P(axes, *(None,) * (x.ndim - 1))) if axes else x


def uncut(axes: Sequence[str]) -> tuple[str, ...]:
    """Return those of `axes` over which the mesh in force (`jax.set_mesh`) leaves the cutting to the partitioner: none without
    a mesh, and none that a `jax.shard_map` has cut already."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return tuple(axis for axis in axes if kinds.get(axis) == AxisType.Auto)


def row_shards(mesh: Mesh) -> int:
    """Parts that the rows of a batch are cut into."""
    return math.prod(mesh.shape[axis] for axis in ROWS[0])


def own_row_shards(mesh: Mesh, process: int | None = None) -> list[int]:
    """The parts of a batch's rows that a process (default: this one) feeds: those that its devices hold.

    Where `tensor` goes over processes, these feed the same rows.
    """
    process = jax.process_index() if process is None else process
    holders = mesh.devices.reshape(row_shards(mesh), -1)  # `ROWS` are the axes in front
    return [number for number, devices in enumerate(holders) if any(d.process_index == process for d in devices)]


def own_rows(batch_size: int, mesh: Mesh, process: int | None = None) -> np.ndarray:
    """The rows of the global batch that a process feeds, ascending: [rows] int64."""
    size = batch_size // row_shards(mesh)
    parts = [np.arange(number * size, (number + 1) * size) for number in own_row_shards(mesh, process)]
    return np.concatenate(parts)


def put_on_mesh(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows (`own_rows`) -> arrays of the global batch."""
    rows = NamedSharding(mesh, ROWS)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), rows)
    own, devices = own_row_shards(mesh), list(mesh.local_devices)
    holders = mesh.devices.reshape(row_shards(mesh), -1)
    # For each of this process's devices, which of the parts it feeds goes there.
    places = [next(n for n, part in enumerate(own) if device in holders[part]) for device in devices]

    def put(field: np.ndarray) -> jax.Array:
        size = len(field) // len(own)
        parts = [field[place * size : (place + 1) * size] for place in places]
        shape = (size * row_shards(mesh), *field.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, rows, jax.device_put(parts, devices))

    return {name: put(field) for name, field in batch.items()}


def put_whole(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Return an array that every process has whole, each device with its part of it."""
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


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


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _ways(entry: str | tuple[str, ...] | None, mesh: Mesh) -> int:
    return math.prod(mesh.shape[name] for name in _names(entry))
