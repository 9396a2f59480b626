# SPDX-License-Identifier: Apache-2.0
"""The feed: batches made ahead of their use, by tf.data or by a plain iterator.

Both call the same function once a batch and give the same batches, bit for bit.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

from bert_jax.base.host import has_tensorflow
from bert_jax.base.stopping import begun, in_a_thread
from bert_jax.feed.batch import Batch


def uses_tf_data(platform: str) -> bool:
    """Whether the batches of a run come by tf.data.

    Not on a CPU: importing TensorFlow takes seconds of the cores that compile, and its threads would take those of the steps.
    """
    return platform != "cpu" and has_tensorflow()


def feed(make_batch: Callable[[int], Batch], begin: int, end: int, *, use_tf_data: bool) -> Generator[Batch]:
    """Batches of the steps `begin` to `end` - 1, made ahead of their use; close it to end the threads that make them.

    Args:
      make_batch: step -> batch, such as the `batch` of an arrangement (packing.py) with its seed bound.
      use_tf_data: tf.data makes them; else the plain iterator.
    """
    if use_tf_data:
        return in_a_thread(_tf_feed)(make_batch, begin, end)
    return plain_feed(make_batch, begin, end)


def import_ahead() -> None:
    """Begin to import what tf.data needs, which takes seconds, beside what comes before the first batch."""
    begun(_tf_feed)


def _tf_feed() -> Callable[[Callable[[int], Batch], int, int], Generator[Batch]]:
    from bert_jax.feed.tf_feed import tf_feed

    return tf_feed


def plain_feed(make_batch: Callable[[int], Batch], begin: int, end: int, ahead: int = 2) -> Generator[Batch]:
    """The feed without TensorFlow: one thread makes up to `ahead` batches beforehand."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as pool:
        waiting: list[Future[Batch]] = []
        try:
            for step in range(begin, end):
                waiting.append(pool.submit(make_batch, step))
                if len(waiting) > ahead:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()
