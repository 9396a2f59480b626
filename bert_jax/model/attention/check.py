# SPDX-License-Identifier: Apache-2.0
"""An implementation of attention against the reference, on the device at hand and on the shapes of a run.

Shapes: B rows, S tokens, H heads, D head size.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.model.attention import attention, AttentionCase

# Of the largest value of the reference in float32, with the same (rounded) inputs and dropout bits.
# float32: sums of at most 512 products in another order; 1e-6 is seen, and TPU products of six bfloat16 passes.
# bfloat16: probabilities, score gradients and results are rounded to 8 bits, 4e-3 each; 5e-3 is seen for all together.
TOLERANCES = {jnp.dtype(jnp.float32): 1e-5, jnp.dtype(jnp.bfloat16): 2e-2}
WHAT = ("output", "d_query", "d_key", "d_value")


class Comparison(NamedTuple):
    """How far an implementation is from the reference, for rows of one length."""

    implementation: str
    sequence_length: int
    errors: dict[str, float]  # of each in WHAT: largest |difference| / largest |reference|; NaN where it is NaN
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether every error is a number within the tolerance."""
        return all(error <= self.tolerance for error in self.errors.values())


def compare_with_reference(name: str, case: AttentionCase, *, rows: int = 2) -> list[Comparison]:
    """Run output and gradients by `name` and by the reference: one comparison for each sequence length of the case.

    The rows are packed: several examples of random lengths, then padding.

    Raises:
      UserError: `name` cannot do what the case asks.
    """
    tolerance = TOLERANCES[jnp.dtype(case.dtype)]
    comparisons = []
    for length in case.sequence_lengths:
        arrays, ids, seeds = _made_up(case, rows, length)
        run = jax.jit(partial(_output_and_gradients, case.dropout_rate, case.causal), static_argnums=0)
        found = run(name, arrays, ids, seeds)
        wanted = run("reference", [x.astype(jnp.float32) for x in arrays], ids, seeds)
        errors = {what: _error(*pair) for what, *pair in zip(WHAT, found, wanted, strict=True)}
        comparisons.append(Comparison(name, length, errors, tolerance))
    return comparisons


def check_at_start(name: str, case: AttentionCase) -> str:
    """Compare once before a run begins; returns the line to say.

    Raises:
      UserError: the implementation is further from the reference than the tolerance.
    """
    comparisons = compare_with_reference(name, case)
    for comparison in comparisons:
        if not comparison.agrees:
            what, error = max(comparison.errors.items(), key=lambda item: (np.isnan(item[1]), item[1]))
            raise UserError(
                f"attention={name} is wrong on this {case.device_kind}: {what} of rows of {comparison.sequence_length}"
                f" tokens is {error:.1e} from the reference, {comparison.tolerance:.0e} is allowed: set"
                f" attention={'reference' if name == 'xla' else 'xla'}"
            )
    worst = max(error for comparison in comparisons for error in comparison.errors.values())
    lengths = ", ".join(map(str, case.sequence_lengths))
    return (
        f"attention: {name}, checked against the reference on rows of {lengths} tokens: largest error {worst:.1e}"
        f" ({comparisons[0].tolerance:.0e} is allowed)"
    )


def _made_up(case: AttentionCase, rows: int, length: int) -> tuple[list[jax.Array], jax.Array, jax.Array | None]:
    """Query, key, value and the gradient of the output [B, S, H, D]; sequence ids [B, S]; seeds [B, H, 2] or None."""
    random = np.random.default_rng(length)
    shape = (rows, length, case.heads, case.head_size)
    arrays = [jnp.asarray(random.normal(size=shape), case.dtype) for _ in range(4)]
    ids = np.zeros((rows, length), np.int32)
    for row in ids:
        cuts = np.sort(random.choice(np.arange(1, length), 3, replace=False))
        row[: cuts[2]] = np.repeat([1, 2, 3], np.diff(cuts, prepend=0))
    seeds = random.integers(2**32, size=(rows, case.heads, 2), dtype=np.uint32)
    return arrays, jnp.asarray(ids), jnp.asarray(seeds) if case.dropout_rate else None


def _output_and_gradients(
    dropout_rate: float,
    causal: bool,
    name: str,
    arrays: list[jax.Array],
    ids: jax.Array,
    seeds: jax.Array | None,
) -> tuple[jax.Array, ...]:
    """The output and its gradients by query, key and value."""

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention(
            query,
            key,
            value,
            ids,
            dropout_rate=dropout_rate,
            dropout_seeds=seeds,
            causal=causal,
            implementation=name,
        )

    *inputs, d_output = arrays
    output, gradient = jax.vjp(attend, *inputs)
    return output, *gradient(d_output)


def _error(found: jax.Array, wanted: jax.Array) -> float:
    """Return the largest difference, by NumPy, whose maximum of anything and NaN is NaN on every platform.

    It is divided by the largest of the reference. That may be 0, as dropout can leave scores no gradient; 1, the size
    of the inputs, then stands for it.
    """
    reference = np.asarray(wanted, np.float64)
    return float(np.abs(np.asarray(found, np.float64) - reference).max() / (np.abs(reference).max() or 1.0))
