# SPDX-License-Identifier: Apache-2.0
"""The training loop: dispatch step n, then read the sums of step n - 1; evaluate, save, stop cleanly. Knows no task.

The position in the data is the step, so a checkpoint needs no state of any iterator.
"""

import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import jax

from bert_jax.batch import Batch
from bert_jax.distributed import stop_agreed
from bert_jax.train_state import TrainState

Sums = dict[str, float]


@dataclass(frozen=True)
class Phase:
    """A stretch of steps at one sequence length, compiled when it begins."""

    number: int
    begin: int  # first step
    end: int  # the step after the last
    compile: Callable[[], Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]]
    feed: Callable[[int], Generator[Batch]]  # from this step of the run on


@dataclass(frozen=True)
class Schedule:
    """After how many steps something is due; the last step is always due for both."""

    total_steps: int
    save_every: int
    eval_every: int  # 0: only at the end

    def save_due(self, done: int) -> bool:
        """Whether to save after `done` steps."""
        return done == self.total_steps or done % self.save_every == 0

    def eval_due(self, done: int) -> bool:
        """Whether to evaluate after `done` steps."""
        return done == self.total_steps or (self.eval_every > 0 and done % self.eval_every == 0)


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; each gets the number of steps done."""

    measured: Callable[[int, Phase, Sums, float], None]  # the sums of a step and the seconds it took; may raise
    evaluate: Callable[[int, TrainState], None]
    save: Callable[[int, TrainState], None]
    put: Callable[[Batch], Any]  # a host's rows -> global arrays on the mesh


class StopRequest:
    """Ctrl-C and SIGTERM ask the loop to save and stop; a second Ctrl-C stops at once.

    Of several processes all stop after the same step, whichever of them got the signal; see distributed.py.
    """

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared
        self.signal_number: int | None = None  # set: the loop stops
        self.asked = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        # os.write: print may be interrupted in the middle of the progress bar's own.
        os.write(2, f"\n{signal.Signals(number).name}: finishing this step, then saving\n".encode())
        if self.shared:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX spreads to the other processes
        else:
            self.signal_number = number

    def reached(self, done: int) -> bool:
        """Whether to stop after `done` steps; asked once after each step."""
        if self.shared and stop_agreed(done):
            self.signal_number = signal.SIGTERM
        return self.signal_number is not None


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """While open, SIGINT and SIGTERM only set the request. Of several processes, JAX listens for SIGTERM."""
    request = StopRequest(shared=jax.process_count() > 1)
    numbers = (signal.SIGINT,) if request.shared else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    state: TrainState, done: int, phases: list[Phase], schedule: Schedule, hooks: Hooks, stop: StopRequest
) -> int:
    """Run from step `done` to the end or until a stop is asked for. The state is donated.

    Returns:
      The number of steps done; the state after them is saved.
    """
    # Everything that crosses between host and device in this loop is asked for by name.
    with jax.transfer_guard("disallow"):
        for phase in phases:
            if done >= phase.end:
                continue
            state, done = _train_phase(state, done, phase, schedule, hooks, stop)
            if stop.signal_number is not None:
                break
    return done


def _train_phase(
    state: TrainState, done: int, phase: Phase, schedule: Schedule, hooks: Hooks, stop: StopRequest
) -> tuple[TrainState, int]:
    with jax.transfer_guard("allow"):  # constants of the program
        step = phase.compile()
    feed = phase.feed(done)  # before the clock starts: what it imports is no step's time
    clock = Stopwatch()
    unread: dict[str, jax.Array] | None = None

    def read(sums: dict[str, jax.Array] | None, steps: int) -> None:
        if sums is not None:
            values = {name: float(value) for name, value in jax.device_get(sums).items()}
            hooks.measured(steps, phase, values, clock.lap())

    with closing(feed) as batches:
        for batch in batches:
            state, sums = step(state, hooks.put(batch))
            # Read the step before only now that this one is under way, so that the device never waits for the host.
            read(unread, done)
            unread, done = sums, done + 1
            stopping = stop.reached(done)
            # The end of a phase is saved too: a stop that comes during its last step finds everything saved.
            save = stopping or schedule.save_due(done) or done == phase.end
            if save or schedule.eval_due(done):
                # A step's sums are read and found finite before its state may replace a good checkpoint.
                read(unread, done)
                unread = None
                with clock.paused():
                    if schedule.eval_due(done):
                        hooks.evaluate(done, state)
                    if save:
                        hooks.save(done, state)
            if stopping:
                break
    read(unread, done)
    return state, done


class Stopwatch:
    """Seconds between laps, without the pauses."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        seconds, self._begin = now - self._begin, now
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin
