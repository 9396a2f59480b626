# SPDX-License-Identifier: Apache-2.0
"""Facts about this process and its machine: version, cores, memory, installed packages. Imported before anything heavy.

Freed memory stays with the process where programs run on the CPU. XLA asks for a program's temporary memory anew at every
call, and by default glibc gives such large blocks back to the system when they are freed, so that each step begins with
pages that the kernel has to find and clear, 24,000 of them in a step of 2 layers of 128 with 2,048 tokens. The standard
library is all that is needed here.
"""

import ctypes
import importlib.util
import os
import platform
import re
from pathlib import Path

__version__ = "0.1.0"

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
LARGEST_INT = 2**31 - 1

ACCELERATOR_PACKAGES = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "jax_rocm60_plugin")
OWN_SETTINGS = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed for the next call of a program; the process then stays at its peak size.

    Call it before any thread starts (NumPy starts some when it is imported): glibc decides with the first one how many
    heaps there are, and only the main heap keeps blocks of any size. Nothing is done where JAX has an accelerator, whose
    programs have memory of their own, with another C library than glibc, or where the user has set malloc up by
    one of `OWN_SETTINGS` (LD_PRELOAD brings another malloc).

    Returns:
      Whether it was done.
    """
    if not runs_on_cpu() or not _has_glibc() or any(os.environ.get(name) for name in OWN_SETTINGS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, LARGEST_INT)])


def runs_on_cpu() -> bool:
    """Whether JAX will run programs on the CPU, as far as can be told before it starts."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0] == "cpu"
    return not any(importlib.util.find_spec(name) for name in ACCELERATOR_PACKAGES)


def _has_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, OSError, ValueError):  # Windows; macOS and musl do not know the name
        return False


def cache_folder() -> Path:
    """`bert_jax` where caches belong by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "bert_jax"


def processor() -> str:
    """Return the name of the processor, as Linux tells it."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text() if path.exists() else "", re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has, in a batch job or a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_tensorflow() -> bool:
    """Whether TensorFlow can be imported; it is not imported here."""
    try:
        return importlib.util.find_spec("tensorflow") is not None
    except (ImportError, ValueError):  # blocked or half removed
        return False
