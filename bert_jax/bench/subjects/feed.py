# SPDX-License-Identifier: Apache-2.0
"""The feed: batches of made-up examples from the plain iterator (no TensorFlow), masks and packing as in training."""

import time
from collections.abc import Iterator

from bert_jax.bench.made_up import made_up_arrangement, work_of
from bert_jax.bench.measure import summary
from bert_jax.bench.suite import Case
from bert_jax.bench.workbench import Record, Workbench
from bert_jax.feed.feed import plain_feed
from bert_jax.feed.packing import Arrangement


def measure(bench: Workbench) -> Iterator[Record]:
    """Each arrangement of rows."""
    yield from bench.each(bench.suite.feed, lambda case: measure_feed(bench, case))


def measure_feed(bench: Workbench, case: Case) -> Record:
    """Valid tokens a second, as fast as the feed can."""
    batches = bench.suite.feed_batches
    stream = made_up_arrangement(case.config, min(batches, 20), case.config.seed)
    work = [work_of(stream.batch(0, step)) for step in range(batches)]  # also warms up
    samples = [drain(stream, batches) for _ in range(bench.suite.rounds)]
    valid, slots = sum(one.valid_tokens for one in work), sum(one.slots for one in work)
    return {
        "name": case.name,
        "kind": "feed",
        "packing": case.config.packing,
        "rows": case.shape.rows,
        "sequence_length": case.shape.sequence_length,
        "batches": batches,
        "valid_share": valid / slots,
        "seconds": summary(samples),
        "valid_tokens_per_second": summary([valid / seconds for seconds in samples]),
    }


def drain(stream: Arrangement, batches: int) -> float:
    """Seconds to make so many batches."""
    begin = time.perf_counter()
    for _ in plain_feed(lambda step: stream.batch(0, step), 0, batches):
        pass
    return time.perf_counter() - begin
