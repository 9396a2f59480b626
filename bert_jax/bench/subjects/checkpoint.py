# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: how long a save holds up the training loop, beside one that is waited for."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import jax

from bert_jax.bench.measure import alternate, paired_ratio, summaries
from bert_jax.bench.suite import Case
from bert_jax.bench.workbench import Record, Runner, Workbench
from bert_jax.model.accounting import count_bytes
from bert_jax.runs.checkpoint import Checkpoints


def measure(bench: Workbench) -> Iterator[Record]:
    """The suite's case."""
    yield from bench.each([bench.suite.checkpoint], lambda case: measure_saves(bench, case))


def measure_saves(bench: Workbench, case: Case) -> Record:
    """Seconds that the loop stands still: asynchronous saves, with steps going on behind, and synchronous ones."""
    prepared = bench.prepare_fitting(case)
    runner = Runner(prepared)
    with tempfile.TemporaryDirectory(prefix="bert_jax_bench_") as folder, closing(Checkpoints(Path(folder), 1)) as kept:
        saves = Saves(runner, kept)
        saves.asynchronous()  # Orbax warms up
        samples = alternate(
            {"asynchronous": saves.asynchronous, "synchronous": saves.synchronous}, bench.suite.sizes.rounds
        )
    return {
        **prepared.description(),
        "kind": "checkpoint",
        "bytes": count_bytes(runner.state),
        "seconds": summaries(samples),
        "blocked_share": paired_ratio(samples["asynchronous"], samples["synchronous"]),
    }


class Saves:
    """Saves of a state that goes on being trained, each under a new step."""

    def __init__(self, runner: Runner, checkpoints: Checkpoints):
        self.runner = runner
        self.checkpoints = checkpoints
        self.number = 0

    def synchronous(self) -> float:
        """Seconds until a save is complete."""
        return self._stop(self._save_and_wait)

    def asynchronous(self) -> float:
        """Seconds until the loop may go on; then a step is trained while the rest is written."""
        seconds = self._stop(self._save)
        jax.block_until_ready(self.runner.step())
        self.checkpoints.wait()
        return seconds

    def _stop(self, save: Callable[[], None]) -> float:
        jax.block_until_ready(self.runner.step())  # what is saved is there
        begin = time.perf_counter()
        save()
        return time.perf_counter() - begin

    def _save(self) -> None:
        self.number += 1
        state = self.runner.state
        self.checkpoints.save(self.number, {"params": state.params, "optimizer": (state.opt_state, state.step)}, {})

    def _save_and_wait(self) -> None:
        self._save()
        self.checkpoints.wait()
