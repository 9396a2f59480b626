# SPDX-License-Identifier: Apache-2.0
"""The feed: batches made ahead of their use, by tf.data where TensorFlow is installed, else by a plain iterator.

Both call the same function once a batch and give the same batches, bit for bit.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

from bert_jax.base.host import has_tensorflow
from bert_jax.base.stopping import begun, in_a_thread
from bert_jax.feed.batch import Batch


def feed(
    make_batch: Callable[[int], Batch], begin: int, end: int, *, use_tf_data: bool | None = None
) -> Generator[Batch]:
    """Batches of the steps `begin` to `end` - 1, made ahead of their use; close it to end the threads that make them.

    Args:
      make_batch: step -> batch, such as the `batch` of an arrangement (packing.py) with its seed bound.
      use_tf_data: None: tf.data where TensorFlow is installed, else the plain iterator.
    """
    if has_tensorflow() if use_tf_data is None else use_tf_data:
        return in_a_thread(_tf_feed)(make_batch, begin, end)
    return plain_feed(make_batch, begin, end)


def import_ahead() -> None:
    """Begin to import what `feed` needs, which takes seconds, beside what comes before the first batch."""
    if has_tensorflow():
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
