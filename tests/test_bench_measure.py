# SPDX-License-Identifier: Apache-2.0
"""Samples are taken in turn, kept, and compared within their round."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from bert_jax.bench import loop, measure
from bert_jax.bench.loop import DeviceWatch, idle_share
from bert_jax.bench.measure import alternate, compared, is_out_of_memory, paired_ratio, summary, timed


def test_sides_run_in_turn():
    order = []

    def side(name: str, seconds: float):
        def run() -> float:
            order.append(name)
            return seconds

        return run

    samples = alternate({"a": side("a", 1.0), "b": side("b", 2.0)}, 3)
    assert order == ["a", "b"] * 3
    assert samples == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_drift_of_the_machine_drops_out_of_a_ratio():
    """Each round is twice as slow as the one before; the ratio of the medians of unequal rounds would not be 3."""
    slow = [3.0, 6.0, 12.0, 24.0]
    assert paired_ratio(slow, [1.0, 2.0, 4.0, 8.0]) == 3.0


def test_compared_sides_keep_every_sample_and_ratios_are_above_one_where_ours_are_better():
    """A mean, or a ratio upside down; each of ours is held against each peer within its round."""
    record = compared(
        "work", "MB/s", {"cold": [8.0, 2.0, 30.0], "warm": [9.0, 9.0, 9.0], "peer": [4.0, 2.0, 10.0]}, ["cold", "warm"]
    )
    assert record["ratios"] == {"peer": {"cold": 2.0, "warm": 2.25}}
    assert record["rates"]["cold"]["samples"] == [8.0, 2.0, 30.0]


def test_a_summary_keeps_every_sample():
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "lowest": 1.0, "highest": 3.0, "samples": [3.0, 1.0, 2.0]}


def test_short_calls_are_repeated_in_a_sample_and_counted_once(monkeypatch):
    """The clock below goes on a second a call: a sample of at least 2.5 seconds holds three."""
    clock, calls = [0.0], []

    def call():
        clock[0] += 1.0
        calls.append(1)
        return jnp.zeros(())

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    side = timed(call, shortest=2.5)
    warm_up = len(calls)
    assert side() == 1.0
    assert len(calls) - warm_up == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 5 bytes", True),
        ("CUDA out of memory", True),
        ("INVALID_ARGUMENT: shapes", False),
    ],
)
def test_no_room_is_told_from_other_errors(text, expected):
    assert is_out_of_memory(RuntimeError(text)) is expected


@pytest.mark.parametrize(
    ("dispatched", "finished", "share"),
    [
        ([0.0, 1.0, 11.0], [10.0, 20.0, 30.0], 0.0),  # each step was there when the one before it ended
        ([0.0, 13.0, 14.0], [10.0, 23.0, 33.0], 3 / 33),
        ([0.0, 12.0, 26.0], [10.0, 22.0, 40.0], 6 / 40),
    ],
)
def test_the_device_is_idle_from_the_end_of_a_step_until_the_next_is_dispatched(dispatched, finished, share):
    assert idle_share(dispatched, finished) == pytest.approx(share)


def test_a_step_that_comes_late_leaves_the_device_idle(monkeypatch):
    """On a clock that is set by hand: the first step ends at 0, the second comes and ends at 1."""
    clock = SimpleNamespace(seconds=0.0, perf_counter=lambda: clock.seconds)
    monkeypatch.setattr(loop, "time", clock)
    watch = DeviceWatch(lambda state, batch: (state, {"loss": jnp.zeros(())}))
    watch(None, None)
    assert watch._finished[0].result() == 0.0
    clock.seconds = 1.0
    watch(None, None)
    assert watch.idle_share() == 1.0
