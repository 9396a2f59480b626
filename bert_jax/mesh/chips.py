# SPDX-License-Identifier: Apache-2.0
"""Accelerators as their vendors describe them, and the TPU slices that exist.

Figures are of one device of JAX, dense, without sparsity: a chip, but of tpu7x the half of one. Bandwidths are bytes a
second in one direction. A TPU's memory is given in GiB by its page (written GB), a GPU's in GB, of which a run keeps
about 5 % free.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax

from bert_jax.base.errors import UserError

GIB, GB = 2**30, 10**9

FLAT_SLICES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBIC_SLICES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),  # up to a cube of 4 x 4 x 4, and cubes joined
    *("4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"),
)

# Of MaxText (benchmarks/xla_flags_library.py, configs/v5e, configs/v5p): exchanges of gradients beside the arithmetic; where a
# core has much vector memory, more of it for what a fusion works on (Levanter says the same of v6e). The compiler refuses
# fusions with all-reduce on all but v5e.
OVERLAP = (
    "xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "xla_tpu_data_parallel_opt_different_sized_ops=true",
    "xla_tpu_overlap_compute_collective_tc=true",
)
FUSED_ALL_REDUCE = (
    "xla_tpu_enable_async_collective_fusion=true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "xla_enable_async_all_reduce=true",
)
MORE_VECTOR_MEMORY = "xla_tpu_scoped_vmem_limit_kib=98304"


@dataclass(frozen=True)
class Chip:
    """One accelerator chip (of tpu7x: half of one), as its vendor states it."""

    name: str
    device_kinds: tuple[str, ...]  # what `jax.Device.device_kind` holds; the longest that fits is taken
    bf16_flops: float  # a second
    memory: int  # bytes
    memory_bandwidth: float  # bytes a second
    usable_memory: int  # bytes that a program may take: TPU, what its compiler says is available
    links: int  # to neighbours: 4 in a plane, 6 in a cube; a GPU's ports to its switch count as 1
    link_bandwidth: float  # bytes a second of one link, in one direction
    network_bandwidth: float  # bytes a second of one chip to other slices or nodes, in one direction
    source: str  # the page the figures are from
    slices: tuple[str, ...] = ()  # TPU: the topologies its page lists
    clock: float | None = None  # Hz, to turn the compiler's cycles into seconds: an assumption, no page states it
    flags: tuple[str, ...] = ()  # TPU: of its compiler, that large models are trained with: NAME=VALUE


_H100 = Chip(
    name="H100",
    device_kinds=("H100",),
    bf16_flops=989.5e12,
    memory=80 * GB,
    memory_bandwidth=3_350e9,
    usable_memory=76 * GB,
    links=1,
    link_bandwidth=450e9,  # NVLink: 900 GB/s in both directions
    network_bandwidth=50e9,  # a 400 Gbit/s card for each GPU
    source="nvidia.com/en-us/data-center/h100 (SXM)",
)
_H200 = replace(
    _H100,
    name="H200",
    device_kinds=("H200",),
    memory=141 * GB,
    memory_bandwidth=4_800e9,
    usable_memory=135 * GB,
    source="nvidia.com/en-us/data-center/h200 (SXM)",
)
_A100 = Chip(
    name="A100",
    device_kinds=("A100",),
    bf16_flops=312e12,
    memory=80 * GB,
    memory_bandwidth=2_039e9,
    usable_memory=76 * GB,
    links=1,
    link_bandwidth=300e9,  # NVLink: 600 GB/s in both directions
    network_bandwidth=25e9,  # a 200 Gbit/s card for each GPU
    source="nvidia.com/en-us/data-center/a100 (SXM, 80 GB)",
)
CHIPS: tuple[Chip, ...] = (
    Chip(
        name="v4",
        device_kinds=("TPU v4",),
        bf16_flops=275e12,
        memory=32 * GIB,
        memory_bandwidth=1_200e9,
        usable_memory=int(30.75 * GIB),
        links=6,
        link_bandwidth=50e9,
        network_bandwidth=6.25e9,  # not on the page: as v5p
        source="cloud.google.com/tpu/docs/v4",
        slices=CUBIC_SLICES,
        clock=1.05e9,
        flags=OVERLAP,
    ),
    Chip(
        name="v5e",
        device_kinds=("TPU v5 lite", "TPU v5e"),
        bf16_flops=197e12,
        memory=16 * GIB,
        memory_bandwidth=819e9,
        usable_memory=int(15.75 * GIB),
        links=4,
        link_bandwidth=50e9,  # 400 GB/s in both directions of four ports
        network_bandwidth=3.125e9,  # 6.4 Tbit/s a pod of 256
        source="cloud.google.com/tpu/docs/v5e",
        slices=FLAT_SLICES,
        clock=1.5e9,
        flags=(*OVERLAP, *FUSED_ALL_REDUCE),
    ),
    Chip(
        name="v5p",
        device_kinds=("TPU v5", "TPU v5p"),
        bf16_flops=459e12,
        memory=95 * GIB,
        memory_bandwidth=2_765e9,
        usable_memory=int(95.73 * GIB),
        links=6,
        link_bandwidth=100e9,  # 1,200 GB/s in both directions of six ports
        network_bandwidth=6.25e9,  # 50 Gbit/s
        source="cloud.google.com/tpu/docs/v5p",
        slices=(*CUBIC_SLICES, "16x16x24"),
        clock=1.75e9,
        flags=OVERLAP,
    ),
    Chip(
        name="v6e",
        device_kinds=("TPU v6 lite", "TPU v6e", "TPU v6"),
        bf16_flops=918e12,
        memory=32 * GIB,
        memory_bandwidth=1_638e9,
        usable_memory=int(31.24 * GIB),
        links=4,
        link_bandwidth=100e9,  # 800 GB/s in both directions of four ports
        network_bandwidth=12.5e9,  # not on the page: 100 Gbit/s, a 200 Gbit/s card for two chips
        source="cloud.google.com/tpu/docs/v6e",
        slices=FLAT_SLICES,
        clock=1.75e9,
        flags=(*OVERLAP, MORE_VECTOR_MEMORY),
    ),
    Chip(  # its chips are two devices each, so `2x2x1` has 8
        name="tpu7x",
        device_kinds=("TPU7x",),
        bf16_flops=1_153.5e12,
        memory=96 * GIB,
        memory_bandwidth=3_690e9,
        usable_memory=int(94.74 * GIB),
        links=6,
        link_bandwidth=50e9,  # a chip's 1,200 GB/s in both directions of six ports, shared by its two devices
        network_bandwidth=6.25e9,  # 100 Gbit/s a chip
        source="docs.cloud.google.com/tpu/docs/tpu7x",
        slices=(*CUBIC_SLICES, "16x16x24"),
        clock=2.2e9,  # of the peak: four matrix units of 256 x 256, as v6e has
        flags=(*OVERLAP, MORE_VECTOR_MEMORY),
    ),
    _H100,
    replace(
        _H100,
        name="H100 NVL",
        device_kinds=("H100 NVL",),
        bf16_flops=835.5e12,
        memory=94 * GB,
        memory_bandwidth=3_900e9,
        usable_memory=89 * GB,
        link_bandwidth=300e9,
        source="nvidia.com/en-us/data-center/h100 (NVL)",
    ),
    replace(
        _H100,
        name="H100 PCIe",
        device_kinds=("H100 PCIe",),
        bf16_flops=756e12,
        memory_bandwidth=2_000e9,
        link_bandwidth=64e9,  # PCIe 5: 128 GB/s in both directions
        source="nvidia.com/en-us/data-center/h100 (PCIe)",
    ),
    _H200,
    replace(
        _H200,
        name="H200 NVL",
        device_kinds=("H200 NVL",),
        bf16_flops=835.5e12,
        source="nvidia.com/en-us/data-center/h200 (NVL)",
    ),
    replace(
        _H100,
        name="GH200",
        device_kinds=("GH200",),
        memory=96 * GB,
        memory_bandwidth=4_000e9,
        usable_memory=91 * GB,
        source="nvidia.com/en-us/data-center/grace-hopper-superchip (96 GB)",
    ),
    replace(
        _H200,
        name="GH200 144GB",
        device_kinds=("GH200 144G",),
        memory=144 * GB,
        memory_bandwidth=4_900e9,
        usable_memory=137 * GB,
        source="nvidia.com/en-us/data-center/grace-hopper-superchip (144 GB)",
    ),
    _A100,
    replace(
        _A100,
        name="A100 40GB",
        device_kinds=("A100-SXM4-40GB", "A100-PCIE-40GB"),
        memory=40 * GB,
        memory_bandwidth=1_555e9,
        usable_memory=38 * GB,
        source="nvidia.com/en-us/data-center/a100 (40 GB)",
    ),
)


def find_chip(device_kind: str) -> Chip | None:
    """The chip behind `jax.Device.device_kind`, such as "TPU v5 lite" or "NVIDIA H200"; None: not in the table."""
    fitting = [(len(kind), chip) for chip in CHIPS for kind in chip.device_kinds if kind.lower() in device_kind.lower()]
    return max(fitting, key=lambda each: each[0])[1] if fitting else None


@dataclass(frozen=True)
class Topology:
    """Slices of TPU chips, such as two of v5e:4x4."""

    chip: Chip
    shape: str  # of one slice
    slices: int = 1

    def __str__(self) -> str:
        return f"{f'{self.slices}x' if self.slices > 1 else ''}{self.chip.name}:{self.shape}"


def parse_topology(text: str, slices: int = 1) -> Topology:
    """`v5e:16x16`, or `2xv5e:4x4` for two slices.

    Raises:
      UserError: a chip or a shape that does not exist, with those that do.
    """
    tpus = {chip.name: chip for chip in CHIPS if chip.slices}
    several, name, shape = re.fullmatch(r"(?:(\d+)x(?=v|tpu))?([^:]*):?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if several and slices > 1:
        raise UserError(f"--topology {text} and --slices {slices} both say how many slices: drop one of them")
    if name not in tpus:
        known = ", ".join(f"{name}:{tpus[name].slices[-2]}" for name in tpus)
        raise UserError(f"there is no topology '{text}': write a TPU and a shape, such as {known}, or local")
    if shape not in tpus[name].slices:
        raise UserError(f"there is no topology '{text}': the shapes of {name} are {', '.join(tpus[name].slices)}")
    count = int(several or slices)
    if count < 1:
        raise UserError(f"--topology {text}: {count} slices are not possible: use 1 or more")
    return Topology(tpus[name], shape, count)


def topology_devices(topology: Topology) -> Sequence[jax.Device]:
    """Devices that programs can be compiled for, though they are not there; slice by slice. Needs libtpu.

    Raises:
      UserError: libtpu is not installed.
    """
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            f"--topology {topology} needs the TPU compiler, and libtpu is not installed: pip install 'bert-jax[plan]'"
        ) from None
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # ask no cloud what machine this is, and do not wonder about it
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is held: other processes may compile too
    from jax.experimental import topologies

    options: dict[str, object] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores as one device, as on a machine that has them
    return topologies.get_topology_desc(
        platform="tpu", topology_name=f"{topology.chip.name}:{topology.shape}", **options
    ).devices
