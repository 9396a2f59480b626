# SPDX-License-Identifier: Apache-2.0
"""tf.data around the vectorised batch function: parallel calls, one per batch, in order, made ahead.

The only importer of TensorFlow.
"""

import os
from collections.abc import Callable, Iterator

import numpy as np

from bert_jax.batch import Batch, batch_spec, BatchShape

# Before the import: no notices about the CPU's features. No operation of TensorFlow's own is run here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
import tensorflow as tf

tf.config.set_visible_devices([], "GPU")  # accelerators are for JAX; TensorFlow would take their memory


def tf_feed(make_batch: Callable[[int], Batch], begin: int, end: int) -> Iterator[Batch]:
    """Batches of the steps `begin` to `end` - 1, through tf.data; see `bert_jax.data.feed.feed`.

    Their shapes may differ from batch to batch (buckets).
    """
    spec = batch_spec(BatchShape(1, 1, 1))
    types = [tf.as_dtype(dtype) for _, dtype in spec.values()]

    def arrays(step: np.ndarray) -> list[np.ndarray]:
        batch = make_batch(int(step))
        return [batch[name] for name in spec]

    def element(step: tf.Tensor) -> dict[str, tf.Tensor]:
        fields = tf.numpy_function(arrays, [step], types, stateful=False)
        return dict(zip(spec, fields, strict=True))

    dataset = tf.data.Dataset.range(begin, end)
    dataset = dataset.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
