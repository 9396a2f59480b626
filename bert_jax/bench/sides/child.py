# SPDX-License-Identifier: Apache-2.0
"""The program of a side that works in a process of its own: `python child.py MODULE`, MODULE a file beside this one.

A request is a line of JSON on standard input, {"do": FUNCTION, ARGUMENT: value, ...}; the answer is a line of JSON on standard
output, what MODULE's function returns, or {"error": "..."}. The end of the input ends the process. A peer's Python runs
it too, so nothing of ours is imported here.
"""

import contextlib
import importlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

Figures = dict[str, Any]  # what JSON can hold


@contextlib.contextmanager
def metered() -> Iterator[Figures]:
    """Yield a dictionary that holds the `cpu_seconds` and `wall_seconds` of the block once it has ended."""
    figures: Figures = {}
    cpu, wall = cpu_seconds(), time.monotonic()
    yield figures
    figures["cpu_seconds"], figures["wall_seconds"] = cpu_seconds() - cpu, time.monotonic() - wall


def cpu_seconds() -> float:
    """Return the user and system time of this process so far, with that of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def stay_on_one_core() -> None:
    """Bind this process and the threads it starts to one core, on Linux."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed here."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def main(module_name: str) -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")  # libraries print; answers have a channel of their own
    os.dup2(2, 1)
    module = importlib.import_module(module_name)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(module, request.pop("do"))(**request)
        except (Exception, SystemExit) as error:
            answer = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
