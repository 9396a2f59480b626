# SPDX-License-Identifier: Apache-2.0
"""Reading optimized HLO text (`compiled.as_text()`): buffers, collectives, matrix products, host transfers.

An instruction counts as often as it runs: the trip counts of the loops around it are multiplied, through fusions and
called computations. Everything is of one device, as the program is. Branches of a conditional all count.

A kernel of our own (Pallas) is a custom call, and its products are not in the text: `kernel_calls` finds these, with the
cost that the kernel stated for itself.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jax.sharding import Mesh

Shape = tuple[str, tuple[int, ...]]  # element type, dimensions

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
HOST_OPCODES = ("infeed", "outfeed", "send", "recv")
HOST_CALLS = re.compile(r"callback|MoveToHost|MoveToDevice", re.IGNORECASE)
# Instructions that move nothing themselves; the data of a -done is counted at its -start.
MOVES_NOTHING = re.compile(
    r"(parameter|constant|tuple|get-tuple-element|bitcast|while|conditional|call|after-all|partition-id|.*-done)$"
)
MAIN_MEMORY = re.compile(r"\b(pred|bf16|[suf]\d+[a-z0-9]*|c64|c128)\[([\d,]*)\](?!\{[^{}]*S\()")
HOST_MEMORY = re.compile(r"\{[^{}]*S\(5\)[^{}]*\}")  # a layout in the host's memory space
WRITTEN_SHAPE = re.compile(r"\b(pred|token|bf16|[suf]\d+[a-z0-9]*|c64|c128)\[([\d,]*)\]")
BITS = {"pred": 8, "token": 0, "bf16": 16, "c64": 64, "c128": 128}


@dataclass(frozen=True, order=True)
class Collective:
    """Executions of one kind of collective over the same axes with the same size."""

    kind: str  # all-reduce, all-gather, reduce-scatter, all-to-all, collective-permute
    axes: tuple[str, ...]  # of the mesh, along which devices exchange something
    bytes: int  # of one execution on one device: the larger of what it gives and what it gets
    count: int  # executions


@dataclass(frozen=True, order=True)
class MatrixProduct:
    """A matrix product of the program."""

    flops: int  # of one execution on one device, a multiplication and an addition counted as two
    operands: tuple[str, str]  # element types
    result: str  # element type
    count: int  # executions
    source: str  # the operation of the model that it is from, where the compiler says so


@dataclass(frozen=True, order=True)
class KernelCall:
    """A custom call that holds a kernel: its arithmetic is not in the text."""

    target: str
    source: str
    count: int
    flops: int | None  # of one execution, as the kernel stated it (`pl.CostEstimate`); None: it did not


# ---- what the callers ask ------------------------------------------------------------------------------------------


def buffer_shapes(text: str) -> set[Shape]:
    """Every (element type, dimensions) that occurs in HLO text, such as ("f32", (8, 128))."""
    return {(kind, _dimensions(sizes)) for kind, sizes in WRITTEN_SHAPE.findall(text)}


def collectives(text: str, mesh: Mesh) -> list[Collective]:
    """All collectives of a program that was compiled for `mesh`, equal ones added up, the most bytes first."""
    program = HloProgram(text)
    found: Counter[tuple[str, tuple[str, ...], int]] = Counter()
    for instruction, count in program.collective_instructions():
        axes = collective_axes(instruction, mesh)
        if axes:  # a group of one device exchanges nothing
            found[instruction.collective_kind, axes, program.collective_bytes(instruction, mesh)] += count
    listed = [Collective(kind, axes, size, count) for (kind, axes, size), count in found.items()]
    return sorted(listed, key=lambda each: (-each.bytes * each.count, each))


def matrix_products(text: str) -> list[MatrixProduct]:
    """All matrix products, written as dot, as convolution (TPU) or as a call of cuBLAS (GPU)."""
    program = HloProgram(text)
    return [
        MatrixProduct(
            program.product_flops(instruction),
            program.product_operands(instruction),
            instruction.shapes[0][0],
            count,
            instruction.source,
        )
        for instruction, count in program.executed()
        if is_matrix_product(instruction)
    ]


def kernel_calls(text: str) -> list[KernelCall]:
    """Kernels of our own: Pallas on TPU (Mosaic) and GPU."""
    calls = []
    for instruction, count in HloProgram(text).executed():
        if instruction.call_target in ("tpu_custom_call", "mosaic_gpu", "mosaic_gpu_v2", "__gpu$xla.gpu.triton"):
            stated = re.search(r'"?cost_estimate"?:\s*\{[^}]*"?flops"?:\s*"?(\d+)', instruction.attributes)
            flops = int(stated.group(1)) if stated else None
            calls.append(KernelCall(instruction.call_target, instruction.source, count, flops))
    return calls


def estimated_cycles(text: str) -> tuple[int, int]:
    """The TPU compiler's own estimate: (cycles of one device, instructions that carry one). (0, 0): not said.

    Loops are counted by their trip counts. Kernels of our own and collectives carry no estimate.
    """
    total = instructions = 0
    for instruction, count in HloProgram(text).executed(into_fusions=False):
        stated = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
        if stated:
            total += int(stated.group(1)) * count
            instructions += 1
    return total, instructions


def memory_traffic(text: str) -> int:
    """Bytes that one device reads from and writes to its main memory, by the buffers of the instructions that run.

    What a TPU keeps in its vector memory does not count, nor what collectives move. Of a buffer that is only sliced, or
    updated in place, the slice counts.
    """
    program = HloProgram(text)
    instructions = program.executed(into_fusions=False)
    return sum(program.traffic(instruction) * count for instruction, count in instructions)


def host_transfers(text: str) -> list[str]:
    """List what a program exchanges with the host while it runs, a line each."""
    found = []
    for instruction, count in HloProgram(text).executed():
        to_host = instruction.opcode in HOST_OPCODES and "is_host_transfer=false" not in instruction.attributes
        called = instruction.opcode == "custom-call" and HOST_CALLS.search(instruction.call_target)
        if to_host or called or HOST_MEMORY.search(instruction.result):
            target = f" {instruction.call_target}" if called else ""
            found.append(f"{count} x {instruction.opcode}{target} {instruction.result} {instruction.source}".rstrip())
    return found


# ---- the text as instructions --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    """One line of HLO: `name = result opcode(operands), attributes`."""

    name: str
    result: str  # its type as written, with layout
    opcode: str
    operands: tuple[str, ...]  # names; of a constant or parameter what stands between the brackets
    attributes: str

    @cached_property
    def shapes(self) -> list[Shape]:
        """The element type and dimensions of the result; several for a tuple."""
        return [(kind, _dimensions(sizes)) for kind, sizes in WRITTEN_SHAPE.findall(self.result)]

    @property
    def main_memory_bytes(self) -> int:
        """The size of the parts of the result that stand in the device's main memory."""
        return sum(_bytes((kind, _dimensions(sizes))) for kind, sizes in MAIN_MEMORY.findall(self.result))

    @property
    def collective_kind(self) -> str:
        """The opcode without `-start`, where it is a collective; else empty."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in COLLECTIVES else ""

    @property
    def call_target(self) -> str:
        """The target of a custom call; empty for any other instruction."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    @property
    def source(self) -> str:
        """The path of the operation in the model, as JAX named it; empty where nothing is said."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    def attribute(self, name: str) -> str:
        """The text behind `name=` up to the next comma outside of brackets, or an empty text."""
        found = re.search(rf"\b{name}=", self.attributes)
        return _until_comma(self.attributes[found.end() :]) if found else ""


class HloProgram:
    """The computations of a module, and how often each of them runs."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if header:
                current = self.computations[header.group(2)] = {}
                self.entry = header.group(2) if header.group(1) else self.entry
            elif instruction := parse_instruction(line):
                current[instruction.name] = instruction

    @cached_property
    def runs(self) -> Mapping[str, int]:
        """How often each computation runs in one execution of the program."""
        counts: dict[str, int] = defaultdict(int)
        counts[self.entry] = 1
        # A computation is written before its callers: backwards, a caller's count is known when its callees come.
        for name in reversed(self.computations):
            for instruction in self.computations[name].values():
                for callee, times in self._callees(instruction):
                    counts[callee] += counts[name] * times
        return counts

    def executed(self, into_fusions: bool = True) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that runs, and how often; `into_fusions`: those inside fusions too."""
        for name, instructions in self.computations.items():
            if self.runs[name] and (into_fusions or name not in self.fused):
                for instruction in instructions.values():
                    yield instruction, self.runs[name]

    @cached_property
    def fused(self) -> dict[str, str]:
        """A fusion's computation -> the computation that the fusion stands in, itself no fusion."""
        parents = {
            callee: name
            for name, instructions in self.computations.items()
            for instruction in instructions.values()
            if instruction.opcode == "fusion"
            for callee, _ in self._callees(instruction)
        }
        for inner, outer in parents.items():
            while outer in parents:
                outer = parents[outer]
            parents[inner] = outer
        return parents

    def _callees(self, instruction: Instruction) -> Iterator[tuple[str, int]]:
        """The computations that an instruction runs, and how often. Reducers of a few scalars are left out."""
        if instruction.opcode == "while":
            trips = self.trip_count(instruction)
            yield instruction.attribute("body").lstrip("%"), trips
            yield instruction.attribute("condition").lstrip("%"), trips + 1
        elif instruction.opcode in ("fusion", "call", "async-start", "conditional", "custom-call"):
            names = [instruction.attribute(name) for name in ("calls", "to_apply", "true_computation")]
            names += [instruction.attribute("false_computation")]
            names += [instruction.attribute(name) for name in ("branch_computations", "called_computations")]
            for name in re.findall(r"[\w.\-]+", " ".join(names)):
                yield name, 1

    def trip_count(self, loop: Instruction) -> int:
        """The trips of a while loop: as the compiler noted them, else by its condition `counter < constant` (counted from 0).

        Raises:
          ValueError: it is not known before the program runs.
        """
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if noted:
            return int(noted.group(1))
        condition = self.computations[loop.attribute("condition").lstrip("%")]
        for compare in condition.values():
            if compare.opcode == "compare" and compare.attribute("direction") == "LT":
                bound = condition[compare.operands[1]]
                if bound.opcode == "constant":
                    return int(bound.operands[0])
        raise ValueError(f"the trip count of the loop {loop.name} ({loop.source}) is not known before it runs")

    # ---- collectives

    def collective_instructions(self) -> Iterator[tuple[Instruction, int]]:
        """Every collective and how often it runs.

        The TPU compiler writes one that it overlaps with other work into several fusions (begin, meanwhile, end), on
        one channel: these are one.
        """
        seen = set()
        for name, instructions in self.computations.items():
            for instruction in instructions.values():
                if not instruction.collective_kind or not self.runs[name]:
                    continue
                if name in self.fused:
                    channel = (self.fused[name], instruction.attribute("channel_id"))
                    if channel in seen:
                        continue
                    seen.add(channel)
                yield instruction, self.runs[name]

    def collective_bytes(self, instruction: Instruction, mesh: Mesh) -> int:
        """Bytes of one execution on one device: the larger of what it gives and what it gets."""
        given = sum(_bytes(shape) for operand in instruction.operands for shape in self.find(operand).shapes)
        if instruction.collective_kind == "all-gather":
            return given * len(device_groups(instruction, mesh)[0])
        return given

    # ---- main memory

    def traffic(self, instruction: Instruction) -> int:
        """Bytes that one execution reads from main memory and writes to it."""
        if MOVES_NOTHING.match(instruction.opcode) or instruction.collective_kind:
            return 0
        if instruction.call_target == "AllocateBuffer":
            return 0
        if instruction.opcode == "copy-start":  # its result names the source too
            return instruction.main_memory_bytes
        inside = {instruction.name: instruction}
        names = list(instruction.operands)
        if instruction.opcode == "fusion":
            inside = self._calls(instruction)
            names = _parameters(inside)
        read = 0
        for operand, name in zip(instruction.operands, names, strict=False):
            whole = self.find(operand).main_memory_bytes if operand in self._places else 0
            read += self._read(name, inside, whole)
        return read + max(instruction.main_memory_bytes - self._kept(inside), 0)

    def _calls(self, fusion: Instruction) -> dict[str, Instruction]:
        return self.computations[fusion.attribute("calls").lstrip("%")]

    def _read(self, name: str, inside: Mapping[str, Instruction], whole: int) -> int:
        """Bytes that the steps `inside` read of a buffer of `whole` bytes: its slices where it is only sliced."""
        read = 0
        for step in inside.values():
            if name not in step.operands:
                continue
            if step.opcode == "dynamic-slice":
                read += _bytes(step.shapes[0])
            elif step.opcode == "bitcast":
                read += self._read(step.name, inside, whole)
            elif step.opcode == "fusion":
                inner = self._calls(step)
                for operand, parameter in zip(step.operands, _parameters(inner), strict=True):
                    read += self._read(parameter, inner, whole) if operand == name else 0
            elif step.opcode != "dynamic-update-slice" or name != step.operands[0]:
                return whole
        return min(read, whole)

    def _kept(self, inside: Mapping[str, Instruction]) -> int:
        """Bytes of results that stay as they are: all but the slice that is updated in place."""
        kept = 0
        for step in inside.values():
            if step.opcode == "fusion":
                kept += self._kept(self._calls(step))
            elif step.opcode == "dynamic-update-slice":
                kept += _bytes(step.shapes[0]) - _bytes(self.find(step.operands[1]).shapes[0])
        return kept

    # ---- matrix products

    def product_operands(self, instruction: Instruction) -> tuple[str, str]:
        """The element types of both operands."""
        left, right = (self.find(name).shapes[0][0] for name in instruction.operands[:2])
        return left, right

    def product_flops(self, instruction: Instruction) -> int:
        """FLOPs of one execution: two for each multiplication of two elements."""
        left, right = (self.find(name).shapes[0][1] for name in instruction.operands[:2])
        result = instruction.shapes[0][1]
        if instruction.opcode == "convolution":
            return _convolution_flops(instruction, left, right, result)
        if instruction.opcode == "dot":
            contracted = [int(axis) for axis in re.findall(r"\d+", instruction.attribute("lhs_contracting_dims"))]
        else:
            written = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', instruction.attributes)
            contracted = [int(axis) for axis in json.loads(written.group(1))] if written else []
        return 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)

    @cached_property
    def _places(self) -> dict[str, Instruction]:
        return {name: each for instructions in self.computations.values() for name, each in instructions.items()}

    def find(self, name: str) -> Instruction:
        """An instruction by its name, which is unique in a module."""
        return self._places[name]


def is_matrix_product(instruction: Instruction) -> bool:
    """A product as dot, convolution or a call of cuBLAS."""
    return instruction.opcode in ("dot", "convolution") or instruction.call_target.startswith("__cublas$")


def _parameters(inside: Mapping[str, Instruction]) -> list[str]:
    """The names of a computation's parameters, in order."""
    parameters = [step for step in inside.values() if step.opcode == "parameter"]
    return [step.name for step in sorted(parameters, key=lambda step: int(step.operands[0]))]


def parse_instruction(line: str) -> Instruction | None:
    """A line of a computation; None for any other line."""
    start = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not start:
        return None
    rest = re.sub(r"/\*.*?\*/", "", line[start.end() :])
    result = rest[: _closing_bracket(rest, 0) + 1] if rest.startswith("(") else rest.split(" ", 1)[0]
    rest = rest[len(result) :].lstrip()
    opcode = rest.split("(", 1)[0]
    end = _closing_bracket(rest, len(opcode))
    inside = rest[len(opcode) + 1 : end]
    operands = re.findall(r"%([\w.\-]+)", inside) or [inside]
    return Instruction(start.group(1), result, opcode, tuple(operands), rest[end + 1 :].lstrip(", "))


# ---- which devices exchange something ------------------------------------------------------------------------------


def device_groups(instruction: Instruction, mesh: Mesh) -> list[list[int]]:
    """The groups of a collective, as places in `mesh.devices.flat`. A permutation: each pair of source and target.

    Written out `{{0,1},{2,3}}`, as a reshaped and transposed count `[2,2]<=[2,2]T(1,0)`, or by axes
    `mesh['data'=2,'tensor'=2] {'tensor'}`; nothing written: all devices.
    """
    if instruction.collective_kind == "collective-permute":
        return _written_groups(instruction.attribute("source_target_pairs"))
    written = instruction.attribute("replica_groups")
    if written.startswith("mesh["):
        return _groups_of_axes(written)
    if counted := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", written):
        shape, sizes, order = (_dimensions(part or "") for part in counted.groups())
        places = np.arange(math.prod(sizes)).reshape(sizes)
        return (places.transpose(order) if order else places).reshape(shape).tolist()
    return _written_groups(written) or [list(range(mesh.size))]


def collective_axes(instruction: Instruction, mesh: Mesh) -> tuple[str, ...]:
    """The axes of the mesh along which the devices of a group differ."""
    places = np.indices(mesh.devices.shape).reshape(len(mesh.axis_names), -1)  # [axes, devices]
    differs = np.zeros(len(mesh.axis_names), bool)
    for group in device_groups(instruction, mesh):
        differs |= np.ptp(places[:, group], axis=1) > 0
    return tuple(name for name, differ in zip(mesh.axis_names, differs, strict=True) if differ)


def _written_groups(written: str) -> list[list[int]]:
    return [[int(place) for place in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", written)]


def _groups_of_axes(written: str) -> list[list[int]]:
    """`mesh['data'=2,'tensor'=4] {'tensor'}` -> the groups along tensor, in row-major order of the mesh."""
    sizes, chosen = written.split("]", 1)
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    along = re.findall(r"'([^']+)'", chosen)
    names = list(axes)
    order = [names.index(name) for name in names if name not in along] + [names.index(name) for name in along]
    places = np.arange(math.prod(axes.values())).reshape(*axes.values()).transpose(order)
    return places.reshape(-1, math.prod(axes[name] for name in along)).tolist()


# ---- numbers -------------------------------------------------------------------------------------------------------


def _convolution_flops(
    instruction: Instruction, left: Sequence[int], right: Sequence[int], result: Sequence[int]
) -> int:
    """A TPU's matrix product: axes of a batch may be written as a window that touches one element at each place.

    Only the places of the window that fall on an element of the input count, not on padding or between the elements of
    an input that is spread out (`lhs_dilate`).
    """
    left_labels, right_labels, result_labels = re.split(r"_|->", instruction.attribute("dim_labels"))
    window = dict(re.findall(r"(\w+)=([^\s}]+)", instruction.attribute("window")))
    contracted = right[right_labels.index("i")]
    products = contracted * result[result_labels.index("b")] * result[result_labels.index("f")]
    for axis in range(len(left_labels) - 2):
        size, stride, spread, dilation = (
            int(window.get(name, "x".join(["1"] * (axis + 1))).split("x")[axis])
            for name in ("size", "stride", "lhs_dilate", "rhs_dilate")
        )
        before = int(window["pad"].split("x")[axis].split("_")[0]) if "pad" in window else 0
        outputs, inputs = result[result_labels.index(str(axis))], left[left_labels.index(str(axis))]
        touched = np.arange(outputs)[:, None] * stride - before + np.arange(size)[None, :] * dilation
        products *= int(((touched >= 0) & (touched % spread == 0) & (touched // spread < inputs)).sum())
    return 2 * products


def _dimensions(written: str) -> tuple[int, ...]:
    return tuple(int(size) for size in written.split(",") if size)


def _bytes(shape: Shape) -> int:
    kind, sizes = shape
    bits = BITS.get(kind) if kind in BITS else int(re.findall(r"\d+", kind)[0])
    return math.prod(sizes) * (bits or 0) // 8


def _closing_bracket(text: str, start: int) -> int:
    """The place of the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"unbalanced brackets in HLO text: {text[:80]}")


def _until_comma(text: str) -> str:
    """Up to the first comma that stands in no bracket."""
    depth = 0
    for place, letter in enumerate(text):
        depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(letter, 0)
        if depth < 0 or (depth == 0 and letter == ","):
            return text[:place]
    return text


def summed(products: Sequence[MatrixProduct]) -> int:
    """FLOPs of all executions of some products."""
    return sum(product.flops * product.count for product in products)
