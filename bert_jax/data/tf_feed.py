# SPDX-License-Identifier: Apache-2.0
"""tf.data around the vectorised batch function: parallel calls, one per batch, in order, made ahead.

The only importer of TensorFlow.
"""

import os
from collections.abc import Callable, Iterator

import numpy as np

from bert_jax.batch import Batch

# Before the import: no notices about the CPU's features. No operation of TensorFlow's own is run here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
import tensorflow as tf

tf.config.set_visible_devices([], "GPU")  # accelerators are for JAX; TensorFlow would take their memory


def tf_feed(make_batch: Callable[[int], Batch], begin: int, end: int) -> Iterator[Batch]:
    """Batches of the steps `begin` to `end` - 1, through tf.data; see `bert_jax.data.feed.feed`."""
    if begin >= end:
        return iter(())
    example = make_batch(begin)
    names = list(example)
    types = [tf.as_dtype(example[name].dtype) for name in names]

    def arrays(step: np.ndarray) -> list[np.ndarray]:
        batch = make_batch(int(step))
        return [batch[name] for name in names]

    def element(step: tf.Tensor) -> dict[str, tf.Tensor]:
        fields = tf.numpy_function(arrays, [step], types, stateful=False)
        for name, field in zip(names, fields, strict=True):
            field.set_shape(example[name].shape)
        return dict(zip(names, fields, strict=True))

    dataset = tf.data.Dataset.range(begin, end)
    dataset = dataset.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
