# SPDX-License-Identifier: Apache-2.0
"""The machine that is planned for: a TPU topology that need not be there, or this one."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.mesh.chips import Chip, find_chip, Topology, topology_devices
from bert_jax.mesh.peak import device_peak


@dataclass(frozen=True)
class Machine:
    """Chips of one kind and what each of them can do."""

    name: str
    devices: Sequence[jax.Device]
    chip: Chip | None  # None: not in the table of chips (a CPU)
    usable_memory: int  # bytes that a program may take on one device
    peak: float | None  # FLOP/s of one device
    peak_source: str | None
    topology: Topology | None = None
    flags: Mapping[str, str] = field(default_factory=dict)  # that programs are compiled with

    @cached_property
    def small(self) -> "Machine":
        """The smallest slice with several chips: the same program on each chip, where all they share is gradients."""
        if self.topology is None or self.topology.slices > 1:
            return self
        shape = next(shape for shape in self.topology.chip.slices if shape != "1x1")
        small = Topology(self.topology.chip, shape)
        return self if len(self.devices) <= 4 else replace(topology_machine(small), flags=self.flags)


def topology_machine(topology: Topology) -> Machine:
    """Chips that are not there; programs are compiled for them by libtpu.

    Raises:
      UserError: libtpu is not installed.
    """
    chip = topology.chip
    devices = topology_devices(topology)
    return Machine(str(topology), devices, chip, chip.usable_memory, chip.bf16_flops, chip.source, topology)


def local_machine() -> Machine:
    """The devices of this process."""
    devices = jax.devices()
    chip = find_chip(devices[0].device_kind)
    peak, source = device_peak(devices[0])
    return Machine(f"local: {devices[0].device_kind}", devices, chip, _local_memory(devices), peak, source)


def _local_memory(devices: Sequence[jax.Device]) -> int:
    """Bytes of one device; CPU devices share the machine's memory."""
    if devices[0].platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    return int(devices[0].memory_stats()["bytes_limit"])


def wires(mesh: Mesh, axes: Sequence[str], chip: Chip) -> float:
    """Bytes a second that one chip can send to the others of its group along `axes` of the mesh.

    TPU: the links along the torus dimensions that the group spans, both ways where the ring is closed, one way where
    it is a line, such as a part of a ring. GPU: the chip's link to the switch.
    """
    if not chip.slices:
        return chip.link_bandwidth
    places = [slice(None) if name in axes else 0 for name in mesh.axis_names]
    group = mesh.devices[tuple(places)].ravel()
    spans, sides = (
        [len({device.coords[dimension] for device in some}) for dimension in range(3)]
        for some in (group, mesh.devices.ravel())
    )
    ring = 4 if chip.links == 6 else 16  # chips in a row that are joined to a ring
    closed = [span == side and span % ring == 0 for span, side in zip(spans, sides, strict=True)]
    directions = sum(1 + one for one, span in zip(closed, spans, strict=True) if span > 1)
    return chip.link_bandwidth * max(directions, 1)


def group_size(mesh: Mesh, axes: Sequence[str]) -> int:
    """Devices that exchange something along `axes`."""
    return int(np.prod([mesh.shape[axis] for axis in axes]))
