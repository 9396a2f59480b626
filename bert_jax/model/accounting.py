# SPDX-License-Identifier: Apache-2.0
"""Parameters, FLOPs and memory of a model, counted and by formula."""

import time
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.config.model import ModelConfig
from bert_jax.mesh.chips import find_chip


def training_flops(config: ModelConfig, valid_tokens: float, squared_lengths: float, predictions: float) -> float:
    """Model FLOPs of forward and backward pass: matrix products only, nothing recomputed, no optimizer, no lookup.

    Args:
      config: of the model.
      valid_tokens: n, summed over rows; padding does not count.
      squared_lengths: the sum of n_i^2 over all packed examples.
      predictions: masked positions that are predicted.
    """
    layers, width, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    products = 6 * layers * (4 * width**2 + 2 * width * inner) * valid_tokens
    scores = 12 * layers * width * squared_lengths
    head = 6 * predictions * (width**2 + width * config.vocab_size)
    return products + scores + head


def formula_parameters(config: ModelConfig) -> int:
    """V*H + L*12*H*H: the rule of thumb (feed-forward 8 H*H, attention 4 H*H; no biases, LayerNorm, other tables)."""
    width = config.hidden_size
    return config.vocab_size * width + config.num_hidden_layers * 12 * width * width


def count_parameters(parameters: Any) -> int:
    """Elements of a pytree of arrays or abstract arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def count_bytes(tree: Any) -> int:
    """Bytes of a pytree of arrays or abstract arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_peak(device: jax.Device) -> tuple[float | None, str | None]:
    """FLOP/s of one device and where the figure is from; (None, None) where none is known.

    On a CPU it is measured: a float32 matrix product, shared by all (virtual) devices of the process.
    """
    if device.platform == "cpu":
        return measure_matrix_product() / jax.local_device_count(), "measured: fp32 matrix product"
    chip = find_chip(device.device_kind)
    return (None, None) if chip is None else (chip.bf16_flops, f"vendor, dense bf16: {chip.source}")


def measure_matrix_product(size: int = 1024, repeats: int = 7) -> float:
    """FLOP/s of a float32 matrix product of this size, the median of some."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: jnp.dot(x, x, precision=jax.lax.Precision.HIGHEST))
    product(x).block_until_ready()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / sorted(seconds)[repeats // 2]
