# SPDX-License-Identifier: Apache-2.0
"""The conditions of a measurement: machine, devices, versions, settings of JAX, time."""

import os
import platform
from datetime import datetime, UTC
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

from bert_jax.host import __version__, usable_cores
from bert_jax.types import JsonObject

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
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "load_average": list(os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {"bert_jax": __version__, **_versions()},
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)},
    }


def cpu_model() -> str:
    """Return the name of the processor, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
