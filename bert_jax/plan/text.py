# SPDX-License-Identifier: Apache-2.0
"""A plan for people."""

from collections.abc import Iterator

from bert_jax.config.pretrain import PretrainConfig
from bert_jax.mesh.chips import GIB
from bert_jax.plan.estimate import Estimate
from bert_jax.plan.fitting import COARSE
from bert_jax.plan.planning import DAY, PhasePlan, Plan
from bert_jax.plan.program import StepProgram

STORAGE = 1e9  # bytes a second, of all hosts together: an assumption, said beside what follows from it


def as_text(plan: Plan) -> str:
    """The whole plan, one figure a line."""
    lines = [*_head(plan)]
    for phase in plan.phases:
        lines += ["", *_phase(plan, plan.config, phase)]
    lines += ["", *_verdict(plan)]
    for phase in plan.changed_phases:
        assert plan.change is not None
        lines += ["", *_phase(plan, plan.change.config, phase, "with the change: ")]
    if plan.flags:
        lines += ["", *_flags(plan)]
    if plan.days is not None:
        lines += ["", f"run         {_days(plan.days)} for {plan.config.total_steps:,} steps"]
    lines += ["", *_preemption(plan)]
    lines += ["", "assumptions"]
    lines += [f"  {line}" for line in plan.assumptions]
    return "\n".join(lines)


def _head(plan: Plan) -> Iterator[str]:
    model, machine = plan.config.model, plan.machine
    axes = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if axis != "dcn" or size > 1)
    used = 1
    for size in plan.mesh.values():
        used *= size
    of = f"{used} of {len(machine.devices)}" if used < len(machine.devices) else f"{used}"
    inner = f"LSTMs of {model.lstm_units} units" if model.is_recurrent else f"{model.num_attention_heads} heads"
    yield (
        f"model       {model.num_hidden_layers} layers, hidden {model.hidden_size}, {inner},"
        f" vocabulary {model.vocab_size:,}; {plan.config.optimizer.name}"
    )
    yield f"machine     {machine.name}: {of} devices of {_size(machine.usable_memory)} that can be used; mesh {axes}"
    yield "compute     " + ", ".join(f"{name} {value}" for name, value in plan.compute.items())


def _phase(plan: Plan, config: PretrainConfig, phase: PhasePlan, title: str = "") -> Iterator[str]:
    settings, program = config.phases[phase.number], phase.program
    parts = f" in {config.micro_batches} micro-batches" if config.micro_batches > 1 else ""
    yield (
        f"{title}phase {phase.number}: {settings.steps:,} steps of {settings.batch_size:,} rows of"
        f" {settings.sequence_length} tokens, {program.rows} rows a device at a time{parts}"
    )
    limit = plan.machine.usable_memory
    if program.memory is None:
        needed = f" {_size(program.needed)}" if program.needed else " more"
        yield f"  memory              the compiler refuses it: it takes{needed} of {_size(limit)}"
    else:
        yield from _memory(program, limit)
        yield from _flops(program)
        assert phase.estimate is not None
        yield from _exchanges(phase.estimate)
        yield from _time(phase, phase.estimate)
        for transfer in program.host_transfers:
            yield f"  WARNING             exchanges data with the host: {transfer}"
    if phase.largest is not None:
        yield from _largest(phase, limit)


def _memory(program: StepProgram, limit: int) -> Iterator[str]:
    memory = program.memory
    assert memory is not None
    verdict = "fits" if program.fits else "does not fit"
    yield f"  memory a device     {_size(memory.total):>12} of {_size(limit)}: {verdict}"
    yield f"    parameters        {_size(memory.parameters):>12}"
    yield f"    optimizer         {_size(memory.optimizer):>12}"
    yield f"    batch             {_size(memory.batch):>12}"
    yield f"    temporary         {_size(memory.temporary):>12}   activations, gradients ({_size(memory.gradients)} in float32)"
    yield f"    other             {_size(memory.other):>12}   padding, outputs, the program itself"


def _flops(program: StepProgram) -> Iterator[str]:
    ratio = program.flops / program.formula_flops
    yield (
        f"  FLOPs a device      {program.flops:>8.3g} a step in the program, {program.formula_flops:.3g} by the formula:"
        f" {ratio:.2f} x"
    )
    if program.kernels:
        yield (
            f"    in kernels        {program.kernel_flops:>8.3g} in {program.kernels} calls ({program.kernel_flops_source})"
        )


def _exchanges(estimate: Estimate) -> Iterator[str]:
    if not estimate.exchanges:
        yield "  collectives             none"
        return
    total = sum(exchange.bytes for exchange in estimate.exchanges)
    count = sum(exchange.count for exchange in estimate.exchanges)
    together = _milliseconds(estimate.network)
    yield f"  collectives         {total / 2**20:>8,.1f} MiB a device and step, {count} of them{together}"
    for exchange in estimate.exchanges:
        name = f"{exchange.kind} over {' x '.join(exchange.axes)}"
        yield f"    {name:<26}{exchange.bytes / 2**20:>8,.1f} MiB in {exchange.count}{_milliseconds(exchange.seconds)}"


def _time(phase: PhasePlan, estimate: Estimate) -> Iterator[str]:
    if estimate.products is not None:
        yield f"  products at peak    {estimate.products * 1e3:>8,.1f} ms: no step is faster"
    if estimate.traffic is not None:
        gigabytes = phase.program.traffic / 1e9
        yield f"  memory traffic      {estimate.traffic * 1e3:>8,.1f} ms for {gigabytes:,.1f} GB at full bandwidth"
    if estimate.compiler is not None:
        yield f"  compiler's estimate {estimate.compiler * 1e3:>8,.1f} ms without collectives"
    if estimate.seconds is None:
        yield f"  step                not estimated: {estimate.basis}"
        return
    yield f"  step                {estimate.seconds * 1e3:>8,.1f} ms: {estimate.basis}"
    share = "" if phase.share_of_peak is None else f", {phase.share_of_peak:.1%} of the peak"
    tokens = f"{phase.tokens_per_second:,.0f} tokens/s"
    yield f"  throughput          {phase.sequences_per_second:>8,.0f} sequences/s, {tokens}{share}"
    if estimate.overlapped is not None and estimate.exchanges and phase.share_of_peak is not None:
        best = phase.share_of_peak * estimate.seconds / estimate.overlapped
        yield f"  overlapped          {estimate.overlapped * 1e3:>8,.1f} ms, {best:.1%} of the peak, if all collectives hide"
    yield f"  phase               {_days(phase.days or 0.0)}"


def _largest(phase: PhasePlan, limit: int) -> Iterator[str]:
    largest = phase.largest
    assert largest is not None
    if not largest.rows:
        yield "  largest micro-batch     none: not even one row a device fits"
        return
    beyond = "" if largest.refused_rows is None else f"; {largest.refused_rows} do not fit"
    step = "; from 16 rows on in multiples of 8" if largest.rows >= COARSE else ""
    memory = f"{_size(largest.needed)} of {_size(limit)}"
    yield f"  largest micro-batch {largest.rows:>8} rows a device: {memory}, compiled{beyond}{step}"


def _verdict(plan: Plan) -> Iterator[str]:
    if plan.fits:
        yield "fits        as configured"
        return
    misfits = [str(phase.number) for phase in plan.phases if not phase.program.fits]
    yield f"fits        no: phase {', '.join(misfits)} takes more memory than a device has"
    if plan.change is not None:
        yield f"change      {' '.join(plan.change.settings)}    the same global batch; every phase compiled with it, and fits"
    elif all(phase.largest is None for phase in plan.phases):
        yield "change      not looked for (--quick)"
    else:
        yield "change      none of micro_batches, remat and mesh.fsdp is enough: use more or larger devices"


def _flags(plan: Plan) -> Iterator[str]:
    """Tell the difference that the compiler's flags make, and how a run has them."""
    for phase, flagged in zip(plan.phases, plan.flagged_phases, strict=True):
        before, after = phase.program, flagged.program
        memory = f"{_size(before.needed)} -> {_size(after.needed)}{'' if after.fits else ', does not fit'}"
        step = ""
        if phase.estimate and flagged.estimate and phase.estimate.seconds and flagged.estimate.seconds:
            seconds, new = phase.estimate.seconds, flagged.estimate.seconds
            step = f"step {seconds * 1e3:,.1f} -> {new * 1e3:,.1f} ms ({new / seconds - 1:+.1%}), "
        yield f"flags       phase {phase.number}: {step}memory a device {memory}"
    yield f"            to run with them: LIBTPU_INIT_ARGS='{' '.join(f'--{n}={v}' for n, v in plan.flags.items())}'"


def _preemption(plan: Plan) -> Iterator[str]:
    """Tell how long a save takes, and what a host costs that goes without a word."""
    size = plan.checkpoint
    yield f"save        {size / 1e9:,.2f} GB: {size / STORAGE:,.1f} s at 1 GB/s, behind the steps"
    seconds = plan.seconds_at_risk
    lost = "" if seconds is None else f", {_days(seconds / DAY)}"
    yield (
        f"preemption  announced, nothing is lost; without a word at most {plan.steps_at_risk:,} steps{lost}: those since the"
        " last save (save_every)"
    )


def _size(size: int) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f", {seconds * 1e3:,.1f} ms"


def _days(days: float) -> str:
    return (
        f"{days:,.1f} days"
        if days >= 1
        else f"{days * 24:,.1f} hours"
        if days * 24 >= 1
        else f"{days * 1440:,.1f} minutes"
        if days * 1440 >= 1
        else f"{days * DAY:,.1f} s"
    )
