# SPDX-License-Identifier: Apache-2.0
"""The training loop: dispatch step n, then read the sums of step n - 1; evaluate, save, stop cleanly. Knows no task.

The position in the data is the step, so a checkpoint needs no state of any iterator.
"""

import os
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import jax

from bert_jax.base import stopping
from bert_jax.feed.batch import Batch
from bert_jax.mesh.distributed import stop_agreed
from bert_jax.train.state import TrainState

Arrays = dict[str, jax.Array]
Sums = dict[str, float]
Step = Callable[[TrainState, Arrays], tuple[TrainState, Arrays]]


@dataclass(frozen=True)
class Phase:
    """A stretch of steps at one sequence length, compiled when it begins."""

    number: int
    begin: int  # first step
    end: int  # the step after the last
    compile: Callable[[], Step]
    feed: Callable[[int], Generator[Batch]]  # from this step of the run on


@dataclass(frozen=True)
class LoopSchedule:
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
    """The functions that the loop calls; each gets the number of steps done."""

    measured: Callable[[int, Phase, Sums, float], None]  # the sums of a step and the seconds it took; may raise
    evaluate: Callable[[int, TrainState], None]
    save: Callable[[int, TrainState], None]
    put: Callable[[Batch], Arrays]  # a host's rows -> global arrays on the mesh
    waited: Callable[[float], None] = lambda seconds: None  # seconds in which the device had no batch to work on


class StopRequest:
    """Ctrl-C and SIGTERM ask the loop to save and stop; a second Ctrl-C stops at once.

    While nothing is under way that would be lost, as when a phase is compiled, the first one stops at once, too. Of
    several processes all stop after the same step, whichever of them got the signal; see distributed.py.
    """

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared
        self.signal_number: int | None = None  # set: the loop stops
        self.until: int | None = None  # steps after which it stops without a signal
        self.idle = False  # nothing would be lost
        self.may_leave = False  # a program that is made just now: the state before it can be saved
        self.called = 0.0
        self._asked = self._said = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.called = time.monotonic()
        if self._asked or self._at_once():
            raise stopping.Signalled(number)
        self._asked = True
        self._say(number)
        if self.shared:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX spreads to the other processes
            return
        self.signal_number = number
        if self.may_leave and stopping.is_building():
            raise stopping.LeftBuilding(number)

    def unanswered(self, number: int) -> None:
        """See `stopping.Answer`: a step is waited for, whatever is before the first one is not."""
        if self._asked or self._at_once():
            stopping.end_without_unwinding("bert-jax", number)
        self._say(number)

    def _at_once(self) -> bool:
        return self.idle and not self.shared

    def _say(self, number: int) -> None:
        if not self._said:
            self._said = True
            # os.write: print may be interrupted in the middle of the progress bar's own.
            os.write(2, f"\n{signal.Signals(number).name}: finishing this step, then saving\n".encode())

    def reached(self, done: int) -> bool:
        """Whether to stop after `done` steps; asked once after each step."""
        if self.shared and stop_agreed(done):
            self.signal_number = signal.SIGTERM
        return self.signal_number is not None or done == self.until


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """While open, SIGINT and SIGTERM only set the request. Of several processes, JAX listens for SIGTERM."""
    request = StopRequest(shared=jax.process_count() > 1)
    with stopping.installed(request, (signal.SIGINT,) if request.shared else stopping.SIGNALS):
        yield request


def train(
    state: TrainState, done: int, phases: list[Phase], schedule: LoopSchedule, hooks: Hooks, stop: StopRequest
) -> tuple[TrainState, int]:
    """Run from step `done` to the end or until a stop is asked for. The state is donated.

    Returns:
      The state, which is saved, and the number of steps done.
    """
    # Everything that crosses between host and device in this loop is asked for by name.
    with jax.transfer_guard("disallow"):
        for phase in phases:
            if done >= phase.end:
                continue
            state, done = _train_phase(state, done, phase, schedule, hooks, stop)
            if stop.signal_number is not None or done == stop.until:
                break
    return state, done


def _train_phase(
    state: TrainState, done: int, phase: Phase, schedule: LoopSchedule, hooks: Hooks, stop: StopRequest
) -> tuple[TrainState, int]:
    stop.idle = True  # the phase before this one is saved
    with jax.transfer_guard("allow"):  # constants of the program
        step = phase.compile()
    feed = phase.feed(done)  # before the clock starts: what it imports is no step's time
    stop.idle, saved = False, done
    sums = _StepSums(phase, hooks.measured)
    with closing(feed) as batches, DataWait(hooks.waited) as wait:
        for batch in wait.over(batches):
            begun = _begin_step(step, state, hooks.put(batch), stop)
            if begun is None:  # a stop came while its program was compiled
                sums.read()
                if done > saved:
                    hooks.save(done, state)
                break
            state, done = begun[0], done + 1
            wait.follow(begun[1])
            sums.follow(done, begun[1])
            stopping = stop.reached(done)
            # The end of a phase is saved too: a stop that comes during its last step finds everything saved.
            save = stopping or schedule.save_due(done) or done == phase.end
            if save or schedule.eval_due(done):
                sums.read()  # and found finite, before the step's state may replace a good checkpoint
                with sums.clock.paused():
                    if schedule.eval_due(done):
                        hooks.evaluate(done, state)
                    if save:
                        hooks.save(done, state)
                        saved = done
            if stopping:
                break
    sums.read()
    return state, done


def _begin_step(step: Step, state: TrainState, batch: Arrays, stop: StopRequest) -> tuple[TrainState, Arrays] | None:
    """Return the state and sums of a step; None where a stop came while its program was compiled: `state` stays as it was."""
    stop.may_leave = True
    try:
        return step(state, batch)
    except stopping.LeftBuilding:
        return None
    finally:
        stop.may_leave = False


class _StepSums:
    """The sums of the newest step, read when the next one is under way, so that the device never waits for the host."""

    def __init__(self, phase: Phase, measured: Callable[[int, Phase, Sums, float], None]) -> None:
        self.clock = Stopwatch()
        self._phase, self._measured = phase, measured
        self._unread: tuple[int, Arrays] | None = None

    def follow(self, done: int, sums: Arrays) -> None:
        """Read the sums of the step before; keep those of the one that is under way, after which `done` are done."""
        self.read()
        self._unread = done, sums

    def read(self) -> None:
        """Read what is not read yet."""
        if self._unread is not None:
            (done, sums), self._unread = self._unread, None
            values = {name: float(value) for name, value in jax.device_get(sums).items()}
            self._measured(done, self._phase, values, self.clock.lap())


class DataWait:
    """The time in which the device has finished its step and the next batch is not there yet.

    That a feed is waited for while the device computes costs nothing, so the end of each step is noted in a thread.
    """

    def __init__(self, told: Callable[[float], None]) -> None:
        self._told = told
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="end of step")
        self._end: Future[float] | None = None  # of the step that was begun last

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and tell of each how long the device had to wait for it."""
        begin = time.perf_counter()
        for batch in batches:
            if self._end is None:
                self._told(time.perf_counter() - begin)
            elif self._end.done():
                self._told(max(time.perf_counter() - max(begin, self._end.result()), 0.0))
            yield batch
            begin = time.perf_counter()

    def follow(self, sums: Arrays) -> None:
        """Note the end of a step, the sums of which are given."""
        self._end = self._thread.submit(_end_of, sums)

    def __enter__(self) -> "DataWait":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _end_of(sums: Arrays) -> float:
    with suppress(jax.errors.JaxRuntimeError):  # whoever reads the sums hears of it
        jax.block_until_ready(sums)
    return time.perf_counter()


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
        """Leave out of the lap whatever happens inside."""
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin
