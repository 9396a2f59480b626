# SPDX-License-Identifier: Apache-2.0
"""The train step of one phase, compiled, and what the compiler says of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from bert_jax.base.errors import first_line, UserError
from bert_jax.base.types import PyTree
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.feed.batch import BatchShape
from bert_jax.mesh.sharding import check_batch, make_mesh, row_shards
from bert_jax.model.accounting import step_flops
from bert_jax.plan import hlo
from bert_jax.plan.machine import Machine
from bert_jax.train.masked_lm import batch_fields
from bert_jax.train.pretraining import LOSSES
from bert_jax.train.state import Training
from bert_jax.train.step import abstract_batch, compile_train_step

MASK_ID = 103  # the program compares with it once; no vocabulary is needed here

TOO_LARGE = re.compile(
    r"required .*?\((?P<needed>[\d.]+)(?P<unit>[KMGT])\) exceeds available|[Uu]sed (?P<used>[\d.]+)(?P<used_unit>[KMGT]) of "
)
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    parameters: int
    optimizer: int
    batch: int
    temporary: int  # activations, gradients and whatever else lives during the step only
    gradients: int  # within `temporary`: as large as the parameters
    other: int  # padding of the above, outputs, the program itself

    @property
    def total(self) -> int:
        """All that a device holds during the step."""
        return self.parameters + self.optimizer + self.batch + self.temporary + self.other


@dataclass(frozen=True)
class StepProgram:
    """A train step that was compiled, or one that the compiler refused because it takes too much memory."""

    rows: int  # of one micro-batch on one device
    needed: int  # bytes on one device
    fits: bool
    memory: Memory | None  # None: it was refused
    product_flops: int  # matrix products in the program, of one step on one device
    kernel_flops: int  # in kernels, whose products the program's text does not hold
    kernels: int  # calls of kernels in a step
    kernel_flops_source: str  # stated by the kernels, or by the formula
    formula_flops: float  # of one step on one device
    collectives: Sequence[hlo.Collective]
    traffic: int  # bytes from and to the main memory of one device
    cycles: int  # the TPU compiler's estimate, without kernels and collectives; 0: it gives none
    host_transfers: Sequence[str]

    @property
    def flops(self) -> int:
        """All that one device computes in a step."""
        return self.product_flops + self.kernel_flops


def batch_shape(config: PretrainConfig, number: int) -> BatchShape:
    """The largest batch of a phase: with packing=buckets that of the widest rows."""
    phase = config.phases[number]
    examples = config.examples_per_row if config.packing == "packed" else 1
    return BatchShape(phase.batch_size, phase.sequence_length, config.predictions(phase), examples)


def micro_batch_rows(config: PretrainConfig, number: int, mesh: jax.sharding.Mesh) -> int:
    """Rows that one device computes at a time."""
    return config.phases[number].batch_size // (row_shards(mesh) * config.micro_batches)


def compile_phase(config: PretrainConfig, number: int, machine: Machine) -> StepProgram:
    """Compile the real train step of phase `number`; nothing is allocated.

    Raises:
      UserError: a mesh, a batch or an option that does not suit the machine; a flag that its compiler does not have.
    """
    mesh = make_mesh(config.mesh, machine.devices)
    check_batch(config.phases[number].batch_size, config.micro_batches, mesh, f"phases.{number}.batch_size")
    training = Training(config, mesh)
    rows = micro_batch_rows(config, number, mesh)
    try:
        loss = LOSSES[config.objective.name](config.objective.nsp, MASK_ID)
        fields = batch_fields(batch_shape(config, number))
        compiled = compile_train_step(training, loss, fields, machine.flags).program
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            if machine.flags:
                raise UserError(f"--flags: the compiler for {machine.name} says: {first_line(error)}") from None
            raise
        return refused(rows, str(error), formula_flops(config, number, mesh))
    return read_program(compiled, training, number, machine)


def read_program(compiled: jax.stages.Compiled, training: Training, number: int, machine: Machine) -> StepProgram:
    """Read what a compiled step says of itself."""
    config, mesh = training.config, training.mesh
    text = compiled.as_text() or ""
    memory = read_memory(compiled, training, number)
    calls = hlo.kernel_calls(text)
    stated = [call.flops * call.count for call in calls if call.flops is not None]
    known = len(stated) == len(calls)
    return StepProgram(
        rows=micro_batch_rows(config, number, mesh),
        needed=memory.total,
        fits=memory.total <= machine.usable_memory,
        memory=memory,
        product_flops=hlo.summed(hlo.matrix_products(text)),
        kernel_flops=sum(stated) if known else attention_flops(config, number, mesh),
        kernels=sum(call.count for call in calls),
        kernel_flops_source="stated by the kernels" if known else "by the formula, scores computed twice",
        formula_flops=formula_flops(config, number, mesh),
        collectives=hlo.collectives(text, mesh),
        traffic=hlo.memory_traffic(text),
        cycles=hlo.estimated_cycles(text)[0],
        host_transfers=hlo.host_transfers(text),
    )


def refused(rows: int, message: str, flops: float) -> StepProgram:
    """A step that the compiler refused: it says how much memory it would take."""
    found = TOO_LARGE.search(message)
    needed = 0
    if found:
        size, unit = found["needed"] or found["used"], found["unit"] or found["used_unit"]
        needed = int(float(size) * UNITS[unit])
    return StepProgram(rows, needed, False, None, 0, 0, 0, "", flops, (), 0, 0, ())


def read_memory(compiled: jax.stages.Compiled, training: Training, number: int) -> Memory:
    """The memory of one device by class: what the state's shardings say, and the compiler's own analysis."""
    analysis = compiled.memory_analysis()
    assert analysis is not None
    state = training.abstract_state
    parameters = bytes_on_device(state.params)
    optimizer = bytes_on_device((state.opt_state, state.step))
    batch = bytes_on_device(abstract_batch(training, batch_fields(batch_shape(training.config, number))))
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Memory(
        parameters=parameters,
        optimizer=optimizer,
        batch=batch,
        temporary=analysis.temp_size_in_bytes,
        gradients=parameters,
        other=held + analysis.generated_code_size_in_bytes - parameters - optimizer - batch,
    )


def bytes_on_device(tree: PyTree) -> int:
    """Bytes of one device's parts of a pytree of abstract arrays with shardings."""
    leaves = jax.tree.leaves(tree)
    shapes = [jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in leaves]
    return sum(shape.size * shape.dtype.itemsize for shape in shapes)


def formula_flops(config: PretrainConfig, number: int, mesh: jax.sharding.Mesh) -> float:
    """FLOPs of one step on one device by the formula: every token valid, one example a row, all predictions used."""
    return step_flops(config, config.phases[number]) / mesh.size


def attention_flops(config: PretrainConfig, number: int, mesh: jax.sharding.Mesh) -> int:
    """FLOPs of attention's products in one step on one device: 2 forward, and 5 backward, where scores come again."""
    phase, model = config.phases[number], config.model
    row = 2 * 7 * model.num_hidden_layers * model.hidden_size * phase.sequence_length**2
    row = row // 2 if model.causal else row
    return row * phase.batch_size // mesh.size
