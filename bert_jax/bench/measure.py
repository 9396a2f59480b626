# SPDX-License-Identifier: Apache-2.0
"""Timing: sides that are compared run in turn, and every sample is kept.

A machine's speed drifts (clocks, heat, neighbours), so two things are compared only by samples that lie side by side.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax

from bert_jax.base.types import JsonObject, PyTree

Side = Callable[[], float]  # runs once and returns the seconds it took


def timed(call: Callable[[], PyTree], shortest: float = 0.0) -> Side:
    """Return a side that runs `call` and waits for the arrays it returns.

    Args:
      call: dispatches work. An accelerator runs several calls one after the other, in the order of dispatch.
      shortest: seconds; a sample repeats `call` until it takes about this long, and gives the seconds of one. The
        number is fixed here, after a call or two to warm up.
    """
    once = _seconds(call, 1)
    if once < 10 * shortest:  # the first call may have taken longer
        once = _seconds(call, 1)
    calls = max(1, math.ceil(shortest / max(once, 1e-9)))
    return lambda: _seconds(call, calls) / calls


def _seconds(call: Callable[[], PyTree], calls: int) -> float:
    overlapping = jax.default_backend() == "cpu"  # a CPU may run calls at the same time
    begin = time.perf_counter()
    for _ in range(calls):
        result = call()
        if overlapping:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return time.perf_counter() - begin


def alternate[S](sides: Mapping[str, Callable[[], S]], rounds: int) -> dict[str, list[S]]:
    """Run all sides in turn: name -> a sample of each round."""
    samples: dict[str, list[S]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            samples[name].append(side())
    return samples


def summary(samples: Sequence[float]) -> JsonObject:
    """Return what is recorded of samples: their median and ends, and each of them."""
    return {
        "median": statistics.median(samples),
        "lowest": min(samples),
        "highest": max(samples),
        "samples": list(samples),
    }


def summaries(samples: Mapping[str, Sequence[float]]) -> dict[str, JsonObject]:
    """Return the `summary` of each side's samples."""
    return {name: summary(values) for name, values in samples.items()}


def paired_ratio(samples: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median over rounds of samples / reference: a drift between rounds drops out."""
    return statistics.median(a / b for a, b in zip(samples, reference, strict=True))


def compared(
    name: str, unit: str, rates: Mapping[str, Sequence[float]], ours: Sequence[str], **details: object
) -> JsonObject:
    """Return the record of sides that did the same work at some rates, more being better.

    Its `ratios` say of each other side how many times as fast each of `ours` is.
    """
    ratios = {
        side: {own: paired_ratio(rates[own], values) for own in ours}
        for side, values in rates.items()
        if side not in ours
    }
    return {"name": name, "kind": "compared", "unit": unit, "rates": summaries(rates), "ratios": ratios, **details}


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device had no room for a program or its arrays."""
    text = str(error).lower()
    return "resource_exhausted" in text or "out of memory" in text
