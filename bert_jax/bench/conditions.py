# SPDX-License-Identifier: Apache-2.0
"""The conditions of a measurement: machine, devices, versions, settings of JAX, time."""

import os
import platform
from datetime import datetime, UTC

import jax

from bert_jax.base.host import __version__, processor, usable_cores
from bert_jax.base.types import JsonObject
from bert_jax.bench.sides.child import versions

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin")
SETTINGS = ("JAX_", "XLA_", "LIBTPU_", "TPU_", "OMP_", "CUDA_VISIBLE")  # beginnings of environment variables


def conditions() -> JsonObject:
    """Return what to write beside a figure."""
    devices = jax.local_devices()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "cpu": processor(),
        "cores": usable_cores(),
        "load_average": list(os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"bert_jax": __version__, **versions(*PACKAGES)},
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)},
    }
