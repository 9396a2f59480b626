# SPDX-License-Identifier: Apache-2.0
"""tf.data around the vectorised batch function: parallel calls, one per batch, in order, made ahead.

Nothing else of a run imports TensorFlow.

Autotuning is off: its thread sleeps in growing periods and misses the wake-up at the end, so that the destructor of an
iterator may wait for it for more than a minute. The numbers below are therefore fixed.
"""

import os
from collections.abc import Callable, Generator, Iterator

import numpy as np

from bert_jax.feed.batch import Batch, batch_spec, BatchShape

# Before the import: no notices about the CPU's features. No operation of TensorFlow's own is run here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
import tensorflow as tf

# Batches that are made at the same time and that lie ready. More gain nothing: making one holds Python's lock throughout.
CALLS, AHEAD = 2, 2

tf.config.set_visible_devices([], "GPU")  # accelerators are for JAX; TensorFlow would take their memory


def tf_feed(make_batch: Callable[[int], Batch], begin: int, end: int) -> Generator[Batch]:
    """Batches of the steps `begin` to `end` - 1, through tf.data; see `bert_jax.feed.feed.feed`.

    Their shapes may differ from batch to batch (buckets). Closing the generator ends tf.data's threads.
    """
    spec = batch_spec(BatchShape(1, 1, 1))
    types = [tf.as_dtype(dtype) for _, dtype in spec.values()]

    def arrays(step: np.ndarray) -> list[np.ndarray]:
        batch = make_batch(int(step))
        return [batch[name] for name in spec]

    def element(step: tf.Tensor) -> dict[str, tf.Tensor]:
        fields = tf.numpy_function(arrays, [step], types, stateful=False)
        return dict(zip(spec, fields, strict=True))

    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.range(begin, end).map(element, num_parallel_calls=CALLS, deterministic=True)
    return _closable(dataset.prefetch(AHEAD).with_options(options).as_numpy_iterator())


def _closable(batches: Iterator[Batch]) -> Generator[Batch]:
    """Yield the batches; their threads end when this generator is closed, and tf.data has no other way to end them."""
    try:
        yield from batches
    finally:
        del batches  # the last reference
