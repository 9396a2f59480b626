# SPDX-License-Identifier: Apache-2.0
"""The peak of a device: what its vendor states, or what is measured on a CPU."""

import functools
import time

import jax
import jax.numpy as jnp

from bert_jax.mesh.chips import find_chip


def device_peak(device: jax.Device) -> tuple[float | None, str | None]:
    """FLOP/s of one device and where the figure is from; (None, None) where none is known.

    On a CPU it is measured: a float32 matrix product, shared by all (virtual) devices of the process.
    """
    if device.platform == "cpu":
        return measure_matrix_product() / jax.local_device_count(), "measured: fp32 matrix product"
    chip = find_chip(device.device_kind)
    return (None, None) if chip is None else (chip.bf16_flops, f"vendor, dense bf16: {chip.source}")


@functools.cache
def measure_matrix_product(size: int = 1024, repeats: int = 7) -> float:
    """FLOP/s of a float32 matrix product of this size, the median of some; measured once in a process."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: jnp.dot(x, x, precision=jax.lax.Precision.HIGHEST))
    product(x).block_until_ready()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / sorted(seconds)[repeats // 2]
