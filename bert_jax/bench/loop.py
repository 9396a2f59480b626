# SPDX-License-Identifier: Apache-2.0
"""Made-up batches through the real training loop (`train_loop.train`), without evaluation, checkpoints or files."""

from collections.abc import Callable
from functools import partial
from typing import Any

from bert_jax.batch import Batch
from bert_jax.data.feed import plain_feed
from bert_jax.sharding import put_on_mesh
from bert_jax.train_loop import Hooks, Phase, Schedule, StopRequest, Sums, train
from bert_jax.train_state import Training, TrainState


def run_loop(
    training: Training,
    step: Callable[..., Any],
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
    last: list[TrainState] = []  # the loop hands out the state where it would be saved: after the last step

    def measured(done: int, phase: Phase, sums: Sums, seconds: float) -> None:
        history.append(sums)

    hooks = Hooks(
        measured=measured,
        evaluate=lambda done, state: None,
        save=lambda done, state: last.append(state),
        put=partial(put_on_mesh, training.mesh),
    )
    phase = Phase(0, 0, steps, lambda: step, lambda begin: plain_feed(make_batch, begin, steps))
    train(state, 0, [phase], Schedule(steps, steps, 0), hooks, StopRequest())
    return last[0], history
