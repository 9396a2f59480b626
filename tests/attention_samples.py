# SPDX-License-Identifier: Apache-2.0
"""Made-up inputs of attention, and attention with its gradients written out in NumPy, in float64.

Shapes: B rows, S tokens (Q, K), H heads, D head size.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.model.attention import attention

# How the tokens of a row are laid out, by the row's length: lengths of examples, the rest is padding.
LAYOUTS = {
    "whole": lambda S: [S],
    "tokens": lambda S: [1, 1, S // 2 + 1, 1],  # examples of one token; a border past the middle
    "crossing": lambda S: [S // 3, S // 3 + 1],  # borders inside the blocks of kernels
    "empty": lambda S: [],  # padding alone
}


class Sample(NamedTuple):
    """Inputs of attention and the gradient of its output."""

    query: np.ndarray  # [B, S, H, D], as are key, value and d_output
    key: np.ndarray
    value: np.ndarray
    d_output: np.ndarray
    sequence_ids: np.ndarray  # [B, S] int32
    seeds: np.ndarray  # [B, H, 2] uint32


def make_sample(length: int, heads: int = 2, head_size: int = 64, layouts: tuple[str, ...] = tuple(LAYOUTS)) -> Sample:
    """One row of each layout."""
    random = np.random.default_rng(length)
    rows = len(layouts)
    arrays = [random.normal(size=(rows, length, heads, head_size)).astype(np.float32) for _ in range(4)]
    ids = np.zeros((rows, length), np.int32)
    for row, layout in zip(ids, layouts, strict=True):
        lengths = LAYOUTS[layout](length)
        row[: sum(lengths)] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return Sample(*arrays, ids, random.integers(2**32, size=(rows, heads, 2), dtype=np.uint32))


def numpy_keep(seeds: np.ndarray, length: int, rate: float) -> np.ndarray:
    """The definition in `bert_jax.model.dropout`, restated: [B, H, 2] -> [B, H, Q, K] bool."""

    def constant(number: int) -> np.ndarray:
        return np.array([number], np.uint32)  # arrays wrap around silently

    def mix(x: np.ndarray, shifts: tuple[int, int, int], factors: tuple[int, int]) -> np.ndarray:
        x = (x ^ (x >> constant(shifts[0]))) * constant(factors[0])
        x = (x ^ (x >> constant(shifts[1]))) * constant(factors[1])
        return x ^ (x >> constant(shifts[2]))

    murmur = partial(mix, shifts=(16, 13, 16), factors=(0x85EBCA6B, 0xC2B2AE35))
    place = np.arange(length, dtype=np.uint32)
    q = murmur(seeds[..., :1] + place * constant(0x9E3779B9))
    k = murmur(seeds[..., 1:] ^ (place * constant(0x85EBCA77) + constant(0x27D4EB2F)))
    bits = mix(q[..., :, None] ^ k[..., None, :], (16, 15, 16), (0x7FEB352D, 0x846CA68B))
    return bits >= np.uint32(round(rate * 2**32))


def numpy_attention(sample: Sample, rate: float, causal: bool = False) -> tuple[np.ndarray, ...]:
    """The output and its gradients by query, key and value, [B, S, H, D] float64 each; 2-D matrices, head by head."""
    results = np.zeros((4, *sample.query.shape))
    kept = numpy_keep(sample.seeds, sample.query.shape[1], rate) / (1 - rate)
    for b, h in np.ndindex(sample.seeds.shape[:2]):
        query, key, value, d_output = (x[b, :, h].astype(np.float64) for x in sample[:4])
        results[:, b, :, h] = _numpy_head(query, key, value, d_output, sample.sequence_ids[b], kept[b, h], causal)
    return tuple(results)


def _numpy_head(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    d_output: np.ndarray,
    ids: np.ndarray,
    kept: np.ndarray,
    causal: bool,
) -> tuple[np.ndarray, ...]:
    """One head of one row: [S, D] each, ids [S], kept [Q, K] with the scale of dropout."""
    scale = 1 / np.sqrt(query.shape[1])
    scores = np.where(ids[:, None] == ids[None, :], query @ key.T * scale, -np.inf)
    if causal:
        scores[np.triu_indices(len(ids), 1)] = -np.inf
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    d_p = d_output @ value.T * kept
    d_scores = p * (d_p - (p * d_p).sum(1, keepdims=True))
    return (p * kept) @ value, d_scores @ key * scale, d_scores.T @ query * scale, (p * kept).T @ d_output


def run(
    name: str, sample: Sample, rate: float, dtype: object = jnp.float32, causal: bool = False
) -> tuple[jax.Array, ...]:
    """The output and its gradients by query, key and value, of an implementation; compiled where it is called."""

    def compute(query: jax.Array, key: jax.Array, value: jax.Array, d_output: jax.Array) -> tuple[jax.Array, ...]:
        def attend(*inputs: jax.Array) -> jax.Array:
            seeds = sample.seeds if rate else None
            options = {"dropout_rate": rate, "dropout_seeds": seeds, "causal": causal, "implementation": name}
            return attention(*inputs, sample.sequence_ids, **options)

        output, gradient = jax.vjp(attend, query, key, value)
        return output, *gradient(d_output)

    return jax.jit(compute)(*(jnp.asarray(x, dtype) for x in sample[:4]))


def assert_near(found: tuple[jax.Array, ...], wanted: tuple[np.ndarray, ...], tolerance: float) -> None:
    """Each array within the tolerance, as a share of its largest value."""
    for what, x, y in zip(("output", "d_query", "d_key", "d_value"), found, wanted, strict=True):
        error = np.abs(np.asarray(x, np.float64) - y).max() / np.abs(y).max()
        assert error <= tolerance, f"{what}: {error:.1e} > {tolerance:.0e}"


def assert_only_own_gradients(name: str, rate: float = 0.1) -> None:
    """The output of one packed example has gradients that are exactly zero everywhere else."""
    sample = make_sample(48, heads=2, head_size=16, layouts=("crossing", "whole"))
    own = np.zeros((2, 48), bool)
    own[0] = sample.sequence_ids[0] == 2
    _, *gradients = run(name, sample._replace(d_output=sample.d_output * own[..., None, None]), rate)
    for gradient in map(np.asarray, gradients):
        assert (gradient[own] != 0).all()
        assert (gradient[~own] == 0).all()
