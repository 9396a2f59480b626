# SPDX-License-Identifier: Apache-2.0
"""How long a step takes, estimated from its program. Every assumption is a constant here and is printed."""

from collections.abc import Sequence
from dataclasses import dataclass

from jax.sharding import Mesh

from bert_jax.config.pretrain import PretrainConfig
from bert_jax.mesh.chips import Chip
from bert_jax.model.accounting import saved_flops, step_flops
from bert_jax.plan.hlo import Collective
from bert_jax.plan.machine import group_size, Machine, wires
from bert_jax.plan.program import StepProgram

ATTAINABLE = 0.6  # share of the peak that matrix products reach, where the compiler gives no estimate
KERNEL_SHARE = 0.3  # share of the peak that attention kernels reach: they wait for softmax and dropout
BEGIN = 5e-6  # seconds before a collective moves anything; ten times that between slices

# Bytes that cross a device's links for each byte of a collective over n devices, in a ring.
SENT = {"all-reduce": 2.0, "collective-permute": 1.0}


@dataclass(frozen=True)
class Exchange:
    """All collectives of one kind over the same axes."""

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: int  # of all of them, on one device
    seconds: float | None  # None: the machine's links are not known


@dataclass(frozen=True)
class Estimate:
    """Seconds of one step, and where they go."""

    products: float | None  # matrix products and kernels at the peak; None: the peak is not known
    traffic: float | None  # main memory at its bandwidth
    exchanges: Sequence[Exchange]
    compiler: float | None  # the TPU compiler's cycles, and the kernels at KERNEL_SHARE of the peak
    seconds: float | None  # the step, with its collectives one after the other and nothing beside them
    overlapped: float | None  # the step, with as much of them beside the arithmetic as there is arithmetic
    basis: str  # what `seconds` rests on

    @property
    def network(self) -> float:
        """All collectives, one after the other."""
        return sum(exchange.seconds or 0.0 for exchange in self.exchanges)


def estimate_step(program: StepProgram, machine: Machine, mesh: Mesh) -> Estimate:
    """The seconds of a step: its arithmetic, then its collectives; the compiler may overlap these."""
    chip, peak = machine.chip, machine.peak
    exchanges = exchanged(program.collectives, mesh, chip)
    products = None if peak is None else program.flops / peak
    traffic = None if chip is None else program.traffic / chip.memory_bandwidth
    compiler = None
    if program.cycles and chip is not None and chip.clock is not None:
        compiler = program.cycles / chip.clock + program.kernel_flops / (chip.bf16_flops * KERNEL_SHARE)
    network = sum(exchange.seconds or 0.0 for exchange in exchanges)
    arithmetic, basis = compiler, "the compiler's cycles, kernels, and all collectives after them"
    if compiler is None and products is not None:
        arithmetic = max(products / ATTAINABLE, traffic or 0.0)
        basis = (
            f"products at {ATTAINABLE:.0%} of the peak or memory traffic, whichever takes longer, and all collectives"
        )
    if arithmetic is None:
        return Estimate(products, traffic, exchanges, None, None, None, "the peak of this device is not known")
    return Estimate(products, traffic, exchanges, compiler, arithmetic + network, max(arithmetic, network), basis)


def exchanged(collectives: Sequence[Collective], mesh: Mesh, chip: Chip | None) -> list[Exchange]:
    """Collectives by kind and axes, the most bytes first."""
    groups: dict[tuple[str, tuple[str, ...]], list[Collective]] = {}
    for collective in collectives:
        groups.setdefault((collective.kind, collective.axes), []).append(collective)
    found = []
    for (kind, axes), members in groups.items():
        seconds = None if chip is None else sum(each.count * collective_seconds(each, mesh, chip) for each in members)
        count, size = sum(each.count for each in members), sum(each.count * each.bytes for each in members)
        found.append(Exchange(kind, axes, count, size, seconds))
    return sorted(found, key=lambda exchange: -exchange.bytes)


def collective_seconds(collective: Collective, mesh: Mesh, chip: Chip) -> float:
    """Seconds of one execution; over `dcn` and other axes: inside slices first, then each device's share between them."""
    inner = [axis for axis in collective.axes if axis != "dcn"]
    seconds = 0.0
    if inner:
        seconds += BEGIN + ring_bytes(collective, group_size(mesh, inner)) / wires(mesh, inner, chip)
    if "dcn" in collective.axes:
        share = ring_bytes(collective, mesh.shape["dcn"]) / group_size(mesh, inner)
        seconds += 10 * BEGIN + share / chip.network_bandwidth
    return seconds


def ring_bytes(collective: Collective, devices: int) -> float:
    """Bytes that each device sends in a ring of so many."""
    if collective.kind == "collective-permute":
        return collective.bytes
    return SENT.get(collective.kind, 1.0) * collective.bytes * (devices - 1) / devices


def assumptions(machine: Machine, config: PretrainConfig) -> list[str]:
    """The assumptions that the figures rest on, a line each."""
    predictions = "max_predictions_per_seq predictions a row"
    if config.model.causal:
        saved, all_of = ([of(config, phase) for phase in config.phases] for of in (saved_flops, step_flops))
        shares = " and ".join(
            f"{less:.3g} of {less + own:.3g} FLOPs of a step ({less / (less + own):.1%})"
            for less, own in zip(saved, all_of, strict=True)
        )
        predictions = (
            "each token but the last predicts the next; attention to the past is half of a square, which saves"
        )
        predictions += f" {shares}"
    if config.model.is_recurrent:
        predictions = (
            "each token but the last predicts the next, each but the first the one before; the tokens of a row are"
        )
        predictions += " read one after the other, and what a device waits for between them is not counted"
    lines = [f"formula: every token of a row is valid, one example a row, {predictions}"]
    chip = machine.chip
    if chip is not None:
        lines.append(
            f"{chip.name} ({chip.source}): {chip.bf16_flops / 1e12:,.0f} TFLOP/s bf16, memory at"
            f" {chip.memory_bandwidth / 1e9:,.0f} GB/s, {chip.links} links of {chip.link_bandwidth / 1e9:,.0f} GB/s in"
            f" each direction, between slices or nodes {chip.network_bandwidth / 1e9:,.1f} GB/s a chip"
        )
        lines.append(
            f"collectives run as rings, {BEGIN * 1e6:.0f} us each to begin; `overlapped` has them beside the arithmetic"
        )
    elif machine.peak is not None:
        lines.append(f"{machine.peak / 1e9:,.0f} GFLOP/s a device ({machine.peak_source}); memory and links not known")
    if chip is not None and chip.clock is not None:
        lines.append(
            f"cycles are the TPU compiler's own estimate, at {chip.clock / 1e9:.2f} GHz; attention kernels, of which it"
            f" knows nothing, run at {KERNEL_SHARE:.0%} of the peak; host and input never keep the chips waiting"
        )
    return lines
