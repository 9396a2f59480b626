# SPDX-License-Identifier: Apache-2.0
"""Made-up batches through the real training loop (`train.loop.train`), without evaluation, checkpoints or files."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import jax

from bert_jax.base.types import PyTree
from bert_jax.feed.batch import Batch
from bert_jax.feed.feed import plain_feed
from bert_jax.mesh.sharding import put_on_mesh
from bert_jax.train.loop import Hooks, LoopSchedule, Phase, StopRequest, Sums, train
from bert_jax.train.state import Training, TrainState

StepFunction = Callable[..., tuple[TrainState, PyTree]]  # (state, batch on the mesh) -> state, sums


def run_loop(
    training: Training,
    step: StepFunction,
    state: TrainState,
    make_batch: Callable[[int], Batch],
    steps: int,
) -> tuple[TrainState, list[Sums]]:
    """Train for `steps` steps, from batch 0 on: feed, put, dispatch, read the sums of the step before.

    The state is donated.

    Returns:
      The state, and the sums of each step.
    """
    history: list[Sums] = []

    def measured(done: int, phase: Phase, sums: Sums, seconds: float) -> None:
        history.append(sums)

    hooks = Hooks(
        measured=measured,
        evaluate=lambda done, state: None,
        save=lambda done, state: None,
        put=partial(put_on_mesh, training.mesh),
    )
    phase = Phase(0, 0, steps, lambda: step, lambda begin: plain_feed(make_batch, begin, steps))
    state, _ = train(state, 0, [phase], LoopSchedule(steps, steps, 0), hooks, StopRequest())
    return state, history


class DeviceWatch:
    """A step that notes when it was dispatched and, in a thread of its own, when the device was done with it."""

    def __init__(self, step: StepFunction):
        self._step = step
        self._thread = ThreadPoolExecutor(1)
        self._dispatched: list[float] = []
        self._finished: list[Future[float]] = []

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, PyTree]:
        state, sums = self._step(state, batch)
        self._dispatched.append(time.perf_counter())
        self._finished.append(self._thread.submit(_finish_of, sums))
        return state, sums

    def idle_share(self) -> float:
        """Return the share of the time with no step to work on, from the first dispatch to the end of the last step."""
        self._thread.shutdown()
        return idle_share(self._dispatched, [finish.result() for finish in self._finished])


def _finish_of(sums: PyTree) -> float:
    jax.block_until_ready(sums)
    return time.perf_counter()


def idle_share(dispatched: list[float], finished: list[float]) -> float:
    """The share of the time in which the device had finished all steps that were dispatched.

    Args:
      dispatched, finished: seconds on one clock, [N] each, in the order of the steps.
    """
    gaps = (begin - end for begin, end in zip(dispatched[1:], finished, strict=False))
    return sum(max(0.0, gap) for gap in gaps) / (finished[-1] - dispatched[0])
