# SPDX-License-Identifier: Apache-2.0
"""A function taken operation by operation, with a look at every result: which is the first that is not finite?

`jax.make_jaxpr` gives the operations of a train step, forward and backward, with the regions and loops they stand in. Each is
computed by itself and looked at. A loop over layers is gone through layer by layer. What is negative infinity on purpose (a
mask) is no fault: an operation is bad where it makes NaN of what holds none, or an infinity of finite numbers.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

REGIONS = ("embedding", "attention", "feed_forward", "heads", "loss", "optimizer")
LOOP, NAMED_CALLS = "scan", {"jit", "pjit", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "closed_call"}
REST = "rest"


class StepPlace(NamedTuple):
    """The place of an operation in a train step."""

    direction: str  # forward, backward
    layer: int | None  # from 1; None: outside of the layers
    region: str  # of REGIONS, or `rest`

    def words(self) -> str:
        """The place for people."""
        layer = "" if self.layer is None else f", layer {self.layer}"
        return f"{self.region.replace('_', ' ')}{layer}, {self.direction}"


class BadOperation(NamedTuple):
    """An operation that makes what is not finite of what is."""

    name: str  # of the primitive, such as exp
    place: StepPlace
    value: str  # NaN or inf
    shape: tuple[int, ...]
    rows: list[int]  # places along the first axis that are not finite


@dataclass
class OperationReport:
    """The operations that gave numbers which are not finite, and the largest finite numbers."""

    bad: list[BadOperation] = field(default_factory=list)  # in the order of the operations
    largest: dict[StepPlace, float] = field(default_factory=dict)  # magnitude of the finite values
    operations: int = 0


def examine(
    function: Callable[..., Any], *arguments: Any, layers: int, outer_loops: int = 0
) -> tuple[Any, OperationReport]:
    """Return the result of a function, and what its operations made of its arguments.

    Args:
      layers: a loop of as many rounds goes over layers.
      outer_loops: how many loops stand around that one, such as the one over micro-batches.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    walk = _Walk(layers, outer_loops)
    with tqdm(unit="operation", desc="looking at", leave=False, disable=None) as walk.bar:
        values = walk.run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), "", None, 0)
    return jax.tree.unflatten(jax.tree.structure(shape), values), walk.found


class _Walk:
    """The interpreter."""

    def __init__(self, layers: int, outer_loops: int):
        self.layers, self.outer_loops = layers, outer_loops
        self.found = OperationReport()
        self.bar: tqdm = tqdm(disable=True)

    def run(
        self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], stack: str, layer: int | None, depth: int
    ) -> list[Any]:
        """Compute a jaxpr; `stack` and `layer` say where it stands, `depth` in how many loops."""
        values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else values[atom]

        last = {
            atom: number for number, each in enumerate(jaxpr.eqns) for atom in each.invars if not hasattr(atom, "val")
        }
        wanted = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}
        for number, equation in enumerate(jaxpr.eqns):
            inputs = [read(atom) for atom in equation.invars]
            inner = f"{stack}/{equation.source_info.name_stack}"
            outputs = self._compute(equation, inputs, inner, layer, depth)
            values.update(zip(equation.outvars, outputs, strict=True))
            for atom in {atom for atom in equation.invars if not hasattr(atom, "val")} - wanted:
                if last[atom] == number:
                    del values[atom]
        return [read(atom) for atom in jaxpr.outvars]

    def _compute(self, equation: Any, inputs: list[Any], stack: str, layer: int | None, depth: int) -> list[Any]:
        name = equation.primitive.name
        if name == LOOP:
            return self._loop(equation, inputs, stack, layer, depth)
        body = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if name in NAMED_CALLS and body is not None:
            return self.run(_inside(body), getattr(body, "consts", ()), inputs, stack, layer, depth)
        found = equation.primitive.get_bind_params(equation.params)
        subfunctions, parameters = found if isinstance(found, tuple) else ((), found)  # until JAX 0.11, and since
        outputs = equation.primitive.bind(*subfunctions, *inputs, **parameters)
        outputs = outputs if equation.primitive.multiple_results else [outputs]
        self._look(name, place_of(stack, layer), inputs, outputs)
        return list(outputs)

    def _loop(self, equation: Any, inputs: list[Any], stack: str, layer: int | None, depth: int) -> list[Any]:
        """Go through a `scan` round by round, from behind where it says so."""
        params = equation.params
        fixed, carried = _loop_parts(equation)
        consts, carry, rows = inputs[:fixed], inputs[fixed : fixed + carried], inputs[fixed + carried :]
        of_layers = bool(rows) and params["length"] == self.layers and depth == self.outer_loops
        rounds = range(params["length"])
        outputs: dict[int, list[Any]] = {}
        for number in reversed(rounds) if params["reverse"] else rounds:
            own = [row[number] for row in rows]
            here = number + 1 if of_layers else layer
            body = params["jaxpr"]
            given = [*consts, *carry, *own]
            results = self.run(_inside(body), getattr(body, "consts", ()), given, stack, here, depth + 1)
            carry, outputs[number] = results[:carried], results[carried:]
        stacked = [jnp.stack(parts) for parts in zip(*(outputs[number] for number in rounds), strict=True)]
        return [*carry, *stacked]

    def _look(self, name: str, place: StepPlace, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        self.found.operations += 1
        self.bar.update()
        for output in outputs:
            if not _is_real(output) or not output.size:
                continue
            values = np.asarray(output, np.float32 if output.dtype != np.float64 else np.float64)
            finite = np.isfinite(values)
            if finite.any():
                largest = float(np.abs(values, where=finite, out=np.zeros_like(values)).max())
                self.found.largest[place] = max(self.found.largest.get(place, 0.0), largest)
            if not finite.all() and (value := _fault(values, inputs)):
                rows = np.flatnonzero(~finite.reshape(len(values), -1).all(1)).tolist() if values.ndim else []
                self.found.bad.append(BadOperation(name, place, value, values.shape, rows))


def _inside(body: Any) -> Any:
    """Return the jaxpr without its constants; since JAX 0.12 they are one."""
    return getattr(body, "jaxpr", body)


def _loop_parts(equation: Any) -> tuple[int, int]:
    """Return how many inputs of a `scan` are the same in every round, and how many are carried from one to the next.

    Told by their ranks: what a round takes a slice of, or makes one of, has one axis more outside. The names of the
    parameters that say it differ between versions of JAX.
    """
    body = _inside(equation.params["jaxpr"])
    sliced = [len(a.aval.shape) > len(b.aval.shape) for a, b in zip(equation.invars, body.invars, strict=True)]
    carried = sum(len(a.aval.shape) == len(b.aval.shape) for a, b in zip(equation.outvars, body.outvars, strict=True))
    return len(sliced) - sum(sliced) - carried, carried


def _is_real(value: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(value).dtype if not hasattr(value, "dtype") else value.dtype, jnp.floating)


def _fault(values: np.ndarray, inputs: Sequence[Any]) -> str:
    """Return what an operation made that its inputs do not hold; empty where they hold it."""
    real = [np.asarray(value, np.float32) for value in inputs if _is_real(value)]
    if np.isnan(values).any() and not any(np.isnan(value).any() for value in real):
        return "NaN"
    return "inf" if np.isinf(values).any() and all(np.isfinite(value).all() for value in real) else ""


def place_of(stack: str, layer: int | None) -> StepPlace:
    """Return the place of an operation by its name stack, such as `jit/transpose(jvp(attention))`."""
    found = [name for name in re.findall(r"\w+", stack) if name in REGIONS]
    return StepPlace("backward" if "transpose(" in stack else "forward", layer, found[-1] if found else REST)
