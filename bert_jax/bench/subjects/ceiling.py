# SPDX-License-Identifier: Apache-2.0
"""The ceiling of the device: the rate of large matrix products, and of copying memory. Measured, not looked up."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from bert_jax.bench.measure import alternate, summary, timed
from bert_jax.bench.workbench import Record, Workbench
from bert_jax.mesh.peak import device_peak


def measure(bench: Workbench) -> Iterator[Record]:
    """Matrix products of each size, and a copy."""
    suite = bench.suite
    yield from bench.each(suite.product_sizes, lambda size: measure_product(bench, size, suite.product_dtype))
    if suite.product_dtype != "float32":
        yield from bench.each(suite.product_sizes[:1], lambda size: measure_product(bench, size, "float32"))
    yield from bench.each([suite.copy_bytes], lambda size: measure_copy(bench, size))


def measure_product(bench: Workbench, size: int, dtype: str) -> Record:
    """FLOP/s of an N x N x N product on one device."""
    side = timed(matrix_product(size, dtype), bench.suite.shortest)
    rates = [product_flops(size) / seconds for seconds in alternate({"": side}, bench.suite.sizes.rounds)[""]]
    peak, source = (None, None) if bench.on_cpu or dtype == "float32" else device_peak(bench.device)
    found = summary(rates)
    return {
        "name": f"{dtype} {size} x {size} x {size}",
        "kind": "product",
        "dtype": dtype,
        "size": size,
        "flops_per_second": found,
        "vendor_share": found["median"] / peak if peak else None,
        "vendor_peak": peak,
        "vendor_peak_source": source,
    }


def matrix_product(size: int, dtype: str) -> Callable[[], jax.Array]:
    """A call that dispatches an N x N x N product of random numbers, in the precision that steps of this type use."""
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    a, b = (jax.random.normal(jax.random.key(seed), (size, size), jnp.dtype(dtype)) for seed in (0, 1))
    product = jax.jit(lambda a, b: jnp.dot(a, b, precision=precision)).lower(a, b).compile()
    return lambda: product(a, b)


def product_flops(size: int) -> float:
    """Return the FLOPs of an N x N x N product."""
    return 2.0 * size**3


def measure_copy(bench: Workbench, size: int) -> Record:
    """Bytes read and written a second by an elementwise pass over `size` bytes."""
    x = jnp.zeros(size // 4, jnp.float32)
    negate = jax.jit(jnp.negative).lower(x).compile()
    samples = alternate({"": timed(lambda: negate(x), bench.suite.shortest)}, bench.suite.sizes.rounds)[""]
    return {
        "name": f"copy of {size // 2**20} MiB",
        "kind": "copy",
        "bytes_per_second": summary([2 * size / seconds for seconds in samples]),
    }
