# SPDX-License-Identifier: Apache-2.0
"""Whether every implementation computes what the reference computes: errors of the output and of each gradient."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import jax.numpy as jnp

from bert_jax.bench.suite import AttentionSize
from bert_jax.bench.workbench import Record, Workbench
from bert_jax.model.attention import IMPLEMENTATIONS, refusal
from bert_jax.model.attention.case import interpreted_kernels
from bert_jax.model.attention.check import compare_with_reference

RATES = (0.0, 0.1)  # of dropout


class Check(NamedTuple):
    """One implementation at one size and rate."""

    implementation: str
    size: AttentionSize
    rate: float

    @property
    def name(self) -> str:
        """The implementation, length and dropout in words."""
        return f"{self.implementation}, {self.size.sequence_length} tokens, dropout {self.rate}"


def measure(bench: Workbench) -> Iterator[Record]:
    """Each implementation but the reference itself, where it can run: on a CPU, kernels through Pallas' interpreter."""
    names = [name for name in IMPLEMENTATIONS if name != "reference"]
    checks = [Check(name, size, rate) for name in names for size in bench.suite.kernels for rate in RATES]
    yield from bench.each(checks, lambda check: compare(bench, check))


def compare(bench: Workbench, check: Check) -> Record:
    """Errors of one implementation, or why it does not run here."""
    case = bench.attention_case(check.size, check.rate)
    with interpreted_kernels() if bench.on_cpu else nullcontext():
        reason = refusal(check.implementation, case)
        if reason is not None:
            return {"name": check.name, "kind": "refused", "refused": {check.implementation: reason}}
        (found,) = compare_with_reference(check.implementation, case, rows=check.size.rows)
    errors = {name: float(value) for name, value in found.errors.items()}
    record = {
        "name": check.name,
        "kind": "kernel",
        "mode": "interpreted" if bench.on_cpu and check.implementation.startswith("pallas") else "compiled",
        "dtype": jnp.dtype(case.dtype).name,
        "errors": errors,
        "tolerance": found.tolerance,
        "agrees": found.agrees,
    }
    return record if record["agrees"] else {**record, "error": f"differs from the reference: {errors}"}
