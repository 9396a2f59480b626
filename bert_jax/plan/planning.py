# SPDX-License-Identifier: Apache-2.0
"""The plan of a run: every phase compiled for a machine, whether it fits, how long it takes."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tqdm import tqdm

from bert_jax.base.types import JsonObject
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import to_dict
from bert_jax.mesh.sharding import make_mesh
from bert_jax.model.accounting import count_bytes
from bert_jax.model.attention import resolve_implementation
from bert_jax.plan.estimate import assumptions, Estimate, estimate_step
from bert_jax.plan.fitting import Change, Compile, Largest, largest_micro_batch, only_copies, smallest_change
from bert_jax.plan.machine import Machine
from bert_jax.plan.program import compile_phase, StepProgram
from bert_jax.train.pretraining import attention_case, check_mesh
from bert_jax.train.state import Training

DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class PhasePlan:
    """One phase on a machine."""

    number: int
    program: StepProgram
    estimate: Estimate | None  # None: it was refused for its memory
    largest: Largest | None  # None: not looked for
    sequences_per_second: float | None
    tokens_per_second: float | None
    share_of_peak: float | None  # FLOPs by the formula
    days: float | None


@dataclass(frozen=True)
class Plan:
    """A run on a machine, and the change that makes it fit where it does not."""

    config: PretrainConfig
    machine: Machine
    mesh: dict[str, int]
    compute: dict[str, str]  # dtype, attention, remat
    assumptions: Sequence[str]
    checkpoint: int  # bytes of parameters and optimizer, of all devices together
    phases: Sequence[PhasePlan]
    change: Change | None
    changed_phases: Sequence[PhasePlan]  # with the change; empty where none is needed
    flags: Mapping[str, str]  # that the phases were compiled with once more
    flagged_phases: Sequence[PhasePlan]  # as `phases`, with the flags; empty without

    @property
    def fits(self) -> bool:
        """Whether every phase fits as configured."""
        return all(phase.program.fits for phase in self.phases)

    @property
    def days(self) -> float | None:
        """Days that the configured steps take, with the change where one is needed; None: not known."""
        days = [phase.days for phase in (self.changed_phases or self.phases)]
        return None if any(each is None for each in days) else sum(each for each in days if each is not None)

    @property
    def steps_at_risk(self) -> int:
        """Steps from one checkpoint to the next: what a host that goes without a word costs at most."""
        return self.config.save_every or self.config.eval_every or self.config.total_steps

    @property
    def seconds_at_risk(self) -> float | None:
        """Seconds that these steps take in the slowest phase; None: not known."""
        estimates = [phase.estimate for phase in (self.changed_phases or self.phases)]
        seconds = [None if estimate is None else estimate.seconds for estimate in estimates]
        return None if None in seconds else self.steps_at_risk * max(each for each in seconds if each is not None)

    def as_record(self) -> JsonObject:
        """The whole plan for JSON."""
        return {
            "config": to_dict(self.config),
            "machine": {
                "name": self.machine.name,
                "devices": len(self.machine.devices),
                "used_devices": make_mesh(self.config.mesh, self.machine.devices).size,
                "usable_memory": self.machine.usable_memory,
                "peak_flops": self.machine.peak,
                "peak_source": self.machine.peak_source,
            },
            "mesh": self.mesh,
            "compute": self.compute,
            "assumptions": list(self.assumptions),
            "checkpoint": {
                "bytes": self.checkpoint,
                "steps_at_risk": self.steps_at_risk,
                "seconds_at_risk": self.seconds_at_risk,
            },
            "fits": self.fits,
            "phases": [as_record(phase) for phase in self.phases],
            "change": None if self.change is None else list(self.change.settings),
            "changed_phases": [as_record(phase) for phase in self.changed_phases],
            "flags": dict(self.flags),
            "flagged_phases": [as_record(phase) for phase in self.flagged_phases],
            "days": self.days,
        }


def as_record(phase: PhasePlan) -> JsonObject:
    """A phase for JSON."""
    record = dataclasses.asdict(phase)
    record["program"]["flops"] = phase.program.flops
    if phase.program.memory is not None:
        record["program"]["memory"]["total"] = phase.program.memory.total
    return record


def make_plan(
    config: PretrainConfig, machine: Machine, *, search: bool = True, flags: Mapping[str, str] | None = None
) -> Plan:
    """Compile every phase of a run for a machine and read what the compiler says.

    Args:
      config: the run.
      machine: made by `topology_machine` or `local_machine`.
      search: look for the largest micro-batch, and for the smallest change where the run does not fit: more
        compilations.
      flags: of the compiler, with which every phase is compiled once more.

    Raises:
      UserError: a mesh, a batch or an option that does not suit the machine; a flag that the compiler does not have.
    """
    flagged = replace(machine, flags=flags or {})
    mesh = make_mesh(config.mesh, machine.devices)
    training = Training(config, mesh)
    check(training)
    change: Change | None = None
    numbers = range(len(config.phases))
    with compilations(len(numbers) * ((4 if search else 1) + bool(flags))) as compile:
        with_flags = [compile(config, number, flagged) for number in numbers if flags]  # first: one may be refused
        programs = [compile(config, number, machine) for number in numbers]
        largest: list[Largest | None] = [None] * len(programs)
        if search:
            largest = [
                largest_micro_batch(config, number, machine, program, compile)
                for number, program in enumerate(programs)
            ]
            if not all(program.fits for program in programs):
                change = smallest_change(config, machine, programs, compile)
    return Plan(
        config=config,
        machine=machine,
        mesh=dict(mesh.shape),
        compute=compute_words(training),
        assumptions=[
            *assumptions(machine, config),
            *(_of_smaller_slice(config, machine) if search else ()),
        ],
        checkpoint=count_bytes(training.abstract_state),
        phases=[plan_phase(config, n, machine, program, largest[n]) for n, program in enumerate(programs)],
        change=change,
        changed_phases=[]
        if change is None
        else [plan_phase(change.config, n, machine, program, None) for n, program in enumerate(change.programs)],
        flags=flagged.flags,
        flagged_phases=[plan_phase(config, n, flagged, program, None) for n, program in enumerate(with_flags)],
    )


def _of_smaller_slice(config: PretrainConfig, machine: Machine) -> Iterator[str]:
    """Say so where other micro-batches are compiled for fewer chips."""
    if only_copies(config, machine) and machine.small is not machine:
        small = machine.small.name
        yield f"other micro-batches are compiled for {small}: with mesh.data alone a chip's program is the same"


def check(training: Training) -> None:
    """Refuse what can be refused before the first compilation."""
    check_mesh(training.config, training.mesh)
    _ = training.abstract_state  # refuses a mesh that cuts no parameter evenly
    resolve_implementation(training.config.attention, attention_case(training))  # refuses a kernel that cannot


def compute_words(training: Training) -> dict[str, str]:
    """How the run computes, as settings."""
    compute = training.compute
    return {
        "compute_dtype": compute.dtype.__name__,
        "attention": resolve_implementation(training.config.attention, attention_case(training)),
        "remat": compute.remat,
        "layers": "scanned" if compute.scan_layers and not training.config.model.is_recurrent else "unrolled",
    }


def plan_phase(
    config: PretrainConfig, number: int, machine: Machine, program: StepProgram, largest: Largest | None
) -> PhasePlan:
    """The figures of a phase from its program."""
    if program.memory is None:
        return PhasePlan(number, program, None, largest, None, None, None, None)
    phase, mesh = config.phases[number], make_mesh(config.mesh, machine.devices)
    found = estimate_step(program, machine, mesh)
    if found.seconds is None:
        return PhasePlan(number, program, found, largest, None, None, None, None)
    sequences = phase.batch_size / found.seconds
    return PhasePlan(
        number=number,
        program=program,
        estimate=found,
        largest=largest,
        sequences_per_second=sequences,
        tokens_per_second=sequences * phase.sequence_length,
        share_of_peak=program.formula_flops / found.seconds / machine.peak if machine.peak else None,
        days=found.seconds * phase.steps / DAY,
    )


@contextmanager
def compilations(expected: int) -> Iterator[Compile]:
    """A `compile_phase` that shows a progress bar; `expected` is a guess of how many there will be."""
    with tqdm(total=expected, unit="compilation", dynamic_ncols=True, file=sys.stderr, leave=False) as bar:

        def compile(config: PretrainConfig, number: int, machine: Machine) -> StepProgram:
            mesh = make_mesh(config.mesh, machine.devices)
            bar.set_description(f"compiling phase {number} for {mesh.size} devices of {machine.name}")
            bar.total = max(bar.total or 0, bar.n + 1)
            begin = time.monotonic()
            program = compile_phase(config, number, machine)
            bar.update()
            words = f"{program.needed / 2**30:.1f} GiB" if program.needed else "more memory than there is"
            bar.set_postfix_str(f"{program.rows} rows a device: {words}, {time.monotonic() - begin:.0f} s")
            return program

        yield compile
