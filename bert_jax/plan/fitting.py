# SPDX-License-Identifier: Apache-2.0
"""The search for what fits into a chip's memory, with few compilations.

Memory is close to affine in the rows of a micro-batch: a line through two compiled sizes says where the limit is, and
that size is compiled to see.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bert_jax.base.errors import UserError
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import override
from bert_jax.mesh.sharding import make_mesh, row_shards
from bert_jax.plan.machine import Machine
from bert_jax.plan.program import compile_phase, StepProgram

Compile = Callable[[PretrainConfig, int, Machine], StepProgram]
TRIES = 4  # sizes that are compiled, at most
NEAR = 0.96  # of the limit: near enough
LEAP = 64  # times the rows, at most, from a size that takes almost nothing
COARSE = 16  # from so many rows on, only multiples of 8 are looked at


@dataclass(frozen=True)
class Largest:
    """The largest micro-batch of a phase that fits; compiled, not only predicted."""

    rows: int  # on one device; 0: not even one fits
    needed: int  # bytes on one device
    refused_rows: int | None  # the smallest that was compiled and does not fit; None: the next size was not tried


@dataclass(frozen=True)
class Change:
    """Settings that make a run fit, with the same global batch."""

    settings: tuple[str, ...]
    config: PretrainConfig
    programs: tuple[StepProgram, ...]  # of every phase, compiled with them


def only_copies(config: PretrainConfig, machine: Machine) -> bool:
    """Whether every device holds all parameters: then a chip's program does not depend on how many chips there are."""
    mesh = make_mesh(config.mesh, machine.devices)
    return mesh.shape["fsdp"] == mesh.shape["tensor"] == mesh.shape["dcn"] == 1


def with_rows(config: PretrainConfig, number: int, rows: int, machine: Machine) -> tuple[PretrainConfig, int, Machine]:
    """Return what to compile for `rows` a device and micro-batch of a phase, on fewer chips where that does not matter."""
    if only_copies(config, machine) and machine.small is not machine:
        machine = machine.small
        config = replace(config, mesh=replace(config.mesh, data=-1))
    mesh = make_mesh(config.mesh, machine.devices)
    batch = rows * row_shards(mesh) * config.micro_batches
    phases = tuple(
        replace(phase, batch_size=batch) if place == number else replace(phase, batch_size=config.micro_batches)
        for place, phase in enumerate(config.phases)
    )
    return replace(config, phases=phases), number, machine


def crossing(one: StepProgram, other: StepProgram, limit: int) -> int:
    """Rows at which the line through two compiled sizes reaches the limit."""
    low, high = sorted((one, other), key=lambda program: program.rows)
    slope = (high.needed - low.needed) / (high.rows - low.rows)
    if slope <= 0:
        return 2 * high.rows
    return math.floor(low.rows + (limit - low.needed) / slope)


def largest_micro_batch(
    config: PretrainConfig, number: int, machine: Machine, first: StepProgram, compile: Compile = compile_phase
) -> Largest:
    """The largest micro-batch of a phase, from the program `first` that is compiled already."""
    found = {first.rows: first}
    for _ in range(TRIES):
        rows = next_size(list(found.values()), machine.usable_memory)
        if rows is None:
            break
        found[rows] = compile(*with_rows(config, number, rows, machine))
    fitting = [rows for rows, program in found.items() if program.fits]
    refused = [rows for rows, program in found.items() if not program.fits]
    best = max(fitting, default=0)
    return Largest(best, found[best].needed if best else 0, min(refused, default=None))


def next_size(programs: Sequence[StepProgram], limit: int) -> int | None:
    """Choose the rows to compile next, to come near the limit from below; None: there is nothing more to learn."""
    fitting = sorted((program for program in programs if program.fits), key=lambda program: -program.rows)
    refused = sorted((program for program in programs if not program.fits), key=lambda program: program.rows)
    above = refused[0].rows if refused else None
    if not fitting:
        assert above is not None
        known = len(refused) > 1 and refused[0].needed and refused[1].needed
        guess = crossing(refused[0], refused[1], limit) if known else above // 2
        return whole_eights(min(max(guess, 1), above // 2)) if above > 1 else None
    largest = fitting[0]
    if largest.needed > NEAR * limit:
        return None
    if refused:
        middle = (largest.rows + refused[0].rows) // 2
        guess = crossing(largest, refused[0], limit) if refused[0].needed else middle
    elif len(fitting) == 1:
        guess = largest.rows * max(min(round(limit / largest.needed / 2), LEAP), 2)
    else:
        guess = crossing(largest, fitting[1], limit)
    step = 8 if largest.rows >= COARSE else 1
    guess = max(guess, largest.rows + step)
    if above is not None:
        guess = min(guess, above - 1)
    guess = whole_eights(guess)
    return guess if guess > largest.rows else None


def whole_eights(rows: int) -> int:
    """`rows`, from 16 on rounded down to a multiple of 8."""
    return rows - rows % 8 if rows >= COARSE else rows


# ---- the smallest change -------------------------------------------------------------------------------------------


def structures(config: PretrainConfig, machine: Machine) -> Iterator[tuple[str, ...]]:
    """Ways to hold less, the cheapest first; each is tried with the micro-batches of the run, then with more of them.

    More micro-batches cost almost nothing while a micro-batch keeps the chip busy; remat=dots computes all but the matrix
    products again; fsdp sends every layer's parameters twice a step; remat=full computes a layer again.
    """
    yield ()
    if config.remat == "none":
        yield ("remat=dots",)
    fsdp = [f"mesh.fsdp={size}" for size in fsdp_sizes(config, machine)]
    for size in fsdp:
        yield (size,)
    if config.remat != "full":
        yield ("remat=full",)
        for size in fsdp:
            yield (size, "remat=full")


def fsdp_sizes(config: PretrainConfig, machine: Machine) -> list[int]:
    """Larger sizes of fsdp that the mesh can take, by powers of two, where mesh.data takes what is left."""
    if config.mesh.data != -1:
        return []
    mesh = make_mesh(config.mesh, machine.devices)
    return [mesh.shape["fsdp"] * 2**power for power in range(1, 11) if mesh.shape["data"] % 2**power == 0]


def smallest_change(
    config: PretrainConfig, machine: Machine, programs: Sequence[StepProgram], compile: Compile = compile_phase
) -> Change | None:
    """The first change that makes every phase fit, each phase compiled; None: none does.

    `programs` are the phases as configured, of which at least one does not fit.
    """
    worst = max(range(len(programs)), key=lambda number: programs[number].needed)
    for settings in structures(config, machine):
        try:
            changed = override(config, settings)
            first = programs[worst] if not settings else compile(changed, worst, machine)
            change = more_micro_batches(changed, settings, machine, worst, first, compile)
        except UserError:  # a parameter that such a mesh does not divide: not a way for this run
            continue
        if change is not None:
            return change
    return None


def more_micro_batches(
    config: PretrainConfig,
    settings: tuple[str, ...],
    machine: Machine,
    worst: int,
    first: StepProgram,
    compile: Compile,
) -> Change | None:
    """The fewest micro-batches with which every phase fits, beginning with those of the run."""
    shards = row_shards(make_mesh(config.mesh, machine.devices))
    parts, points = config.micro_batches, [first]
    while True:
        trial = replace(config, micro_batches=parts)
        program = first if parts == config.micro_batches else None
        rows = config.phases[worst].batch_size // (shards * parts)
        if program is None and not hopeless(points, rows, machine.usable_memory):
            program = compile(trial, worst, machine)
            points.append(program)
        if program is not None and program.fits:
            others = [n for n in range(len(config.phases)) if n != worst]
            compiled = {worst: program} | {number: compile(trial, number, machine) for number in others}
            if all(each.fits for each in compiled.values()):
                more = () if parts == config.micro_batches else (f"micro_batches={parts}",)
                programs = tuple(compiled[number] for number in range(len(config.phases)))
                return Change((*more, *settings), trial, programs)
        parts *= 2
        if any(phase.batch_size % (shards * parts) for phase in config.phases):
            return None


def hopeless(points: Sequence[StepProgram], rows: int, limit: int) -> bool:
    """Whether the line through the two smallest sizes says that `rows` takes clearly too much."""
    sizes = {program.rows: program for program in points if program.needed}
    if len(sizes) < 2 or rows <= 1:
        return False
    low, high = (sizes[size] for size in sorted(sizes)[:2])
    slope = (high.needed - low.needed) / (high.rows - low.rows)
    return low.needed - slope * (low.rows - rows) > 1.1 * limit
