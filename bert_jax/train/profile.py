# SPDX-License-Identifier: Apache-2.0
"""A trace of some steps (`profile=FIRST:LAST`), written by JAX's profiler into the run directory; docs/runs.md reads one.

Every operation carries the region it belongs to: embedding, attention, feed_forward, heads, loss, optimizer.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from bert_jax.base.bucket_output import put_folder
from bert_jax.base.files import own_folder
from bert_jax.base.paths import on_bucket
from bert_jax.mesh.distributed import say
from bert_jax.runs.directory import RunDirectory


class StepProfiler:
    """The profiler, on from the beginning of a first step to the end of a last one; steps count from 1."""

    def __init__(self, steps: tuple[int, int] | None, run: RunDirectory):
        self.first, self.last = steps or (1, 0)
        self.run = run
        self._begun = 0  # the first step in the trace; 0: the profiler is off
        self._folder = Path()  # where it is written first

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the dispatch of a step."""
        if not self.first <= number <= self.last:
            yield
            return
        if not self._begun:
            self._folder = Path(tempfile.mkdtemp()) if on_bucket(self.run.profile) else own_folder(self.run.profile)
            # Of one process a file for Perfetto is written too; those of several would have one name.
            jax.profiler.start_trace(self._folder, create_perfetto_trace=jax.process_count() == 1)
            self._begun = number
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            yield

    def ended(self, number: int) -> None:
        """Write the trace where the step that has ended is the last one in it."""
        if number >= self.last:
            self.close(number)

    def close(self, number: int) -> None:
        """Write what was traced up to a step; nothing where the profiler is off."""
        if self._begun:
            jax.profiler.stop_trace()
            if on_bucket(self.run.profile):
                put_folder(self._folder, self.run.profile)
            say(f"the trace of steps {self._begun:,} to {number:,} is in {self.run.profile} (docs/runs.md)")
            self._begun = 0
