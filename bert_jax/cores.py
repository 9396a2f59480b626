# SPDX-License-Identifier: Apache-2.0
"""How many cores there are to work with."""

import os


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has, in a batch job or a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
