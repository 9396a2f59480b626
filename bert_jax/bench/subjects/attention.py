# SPDX-License-Identifier: Apache-2.0
"""Attention alone: every implementation that this machine takes, forward and with its gradient, with and without dropout.

Shapes: B rows, S tokens, H heads, D features of a head.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from bert_jax.base.types import PyTree
from bert_jax.bench.made_up import draw_lengths
from bert_jax.bench.measure import alternate, summaries, timed
from bert_jax.bench.suite import AttentionSize
from bert_jax.bench.workbench import Record, Workbench
from bert_jax.model.attention import attention, IMPLEMENTATIONS, refusal

RATES = (0.0, 0.1)  # of dropout


class AttentionInputs(NamedTuple):
    """One size and one rate: all implementations are compared on it."""

    size: AttentionSize
    rate: float

    @property
    def name(self) -> str:
        """Sizes and dropout in words."""
        size = self.size
        return f"{size.rows} x {size.sequence_length}, {size.heads} heads of {size.head_size}, dropout {self.rate}"


class Inputs(NamedTuple):
    """Arguments of `attention`."""

    query: jax.Array  # [B, S, H, D], as key and value
    key: jax.Array
    value: jax.Array
    sequence_ids: jax.Array  # [B, S]
    seeds: jax.Array | None  # [B, H, 2]


def measure(bench: Workbench) -> Iterator[Record]:
    """Each size at each rate."""
    questions = [AttentionInputs(size, rate) for size, rate in product(bench.suite.attention, RATES)]
    yield from bench.each(questions, lambda question: compare(bench, question))


def compare(bench: Workbench, question: AttentionInputs) -> Record:
    """The implementations in turn, forward and forward with backward."""
    size, case = question.size, bench.attention_case(question.size, question.rate)
    refused = {name: reason for name in IMPLEMENTATIONS if (reason := refusal(name, case)) is not None}
    names = [name for name in IMPLEMENTATIONS if name not in refused]
    inputs = make_inputs(size, question.rate, case.dtype)
    sides, failed = {}, {}
    for name, backward in product(names, (False, True)):
        side = f"{name} {'forward + backward' if backward else 'forward'}"
        try:
            sides[side] = timed(attention_call(name, question.rate, inputs, backward), bench.suite.shortest)
        except Exception as error:  # of a kernel, such as no room in the device's memory; the others go on
            failed[side] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"
    record = {
        "name": question.name,
        "kind": "attention",
        **size.__dict__,
        "dropout": question.rate,
        "dtype": jnp.dtype(case.dtype).name,
        "implementations": names,
        "refused": refused,
        "seconds": summaries(alternate(sides, bench.suite.sizes.rounds)),
    }
    return record | ({"error": "; ".join(f"{side}: {text}" for side, text in failed.items())} if failed else {})


def make_inputs(size: AttentionSize, rate: float, dtype: DTypeLike) -> Inputs:
    """Random queries, keys and values; rows of two packed examples and padding."""
    shape = (size.rows, size.sequence_length, size.heads, size.head_size)
    query, key, value = (jax.random.normal(jax.random.key(seed), shape, dtype) for seed in range(3))
    seeds = jax.random.bits(jax.random.key(3), (size.rows, size.heads, 2), jnp.uint32) if rate else None
    return Inputs(query, key, value, jnp.asarray(packed_rows(size)), seeds)


def packed_rows(size: AttentionSize) -> np.ndarray:
    """[B, S] int32: up to two examples of made-up lengths in a row, 0 behind them."""
    rng, length = np.random.default_rng(0), size.sequence_length
    ends = np.cumsum([draw_lengths(rng, size.rows, length) for _ in range(2)], axis=0)[:, :, None]
    places = np.arange(length)[None, :]
    return np.where(places < ends[0], 1, np.where(places < ends[1], 2, 0)).astype(np.int32)


def attention_call(name: str, rate: float, inputs: Inputs, backward: bool) -> Callable[[], PyTree]:
    """A call that dispatches one implementation, its gradient for all three inputs too if `backward`."""

    def forward(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        seeds, ids = inputs.seeds, inputs.sequence_ids
        return attention(query, key, value, ids, dropout_rate=rate, dropout_seeds=seeds, implementation=name)

    def with_gradient(
        query: jax.Array, key: jax.Array, value: jax.Array, cotangent: jax.Array
    ) -> tuple[jax.Array, ...]:
        return jax.vjp(forward, query, key, value)[1](cotangent)

    if backward:
        arguments = (*inputs[:3], jnp.ones_like(inputs.value))
        compiled = jax.jit(with_gradient).lower(*arguments).compile()
        return lambda: compiled(*arguments)
    compiled = jax.jit(forward).lower(*inputs[:3]).compile()
    return lambda: compiled(*inputs[:3])
