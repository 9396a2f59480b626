# SPDX-License-Identifier: Apache-2.0
"""Freed memory is used again, where programs run on the CPU and nobody has set malloc up otherwise."""

import os
import subprocess
import sys

import pytest

from bert_jax.base.host import ACCELERATOR_PACKAGES, OWN_SETTINGS, runs_on_cpu

# As XLA asks for temporary memory: a large block at every call, from a thread of its own. Prints how often the kernel had
# to find a page.
PROGRAM = """
import resource, sys, threading
from bert_jax.base.host import keep_freed_memory
done = {wanted} and keep_freed_memory()
def call():
    for _ in range(20):
        bytearray(b"x" * 2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=call)
thread.start()
thread.join()
print(int(done), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

ON_THE_CPU = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS} | {"JAX_PLATFORMS": "cpu"}


def run(wanted: bool, **environment: str) -> tuple[bool, int]:
    """Whether it was done, and page faults."""
    command = [sys.executable, "-c", PROGRAM.format(wanted=wanted)]
    done = subprocess.run(command, env=ON_THE_CPU | environment, capture_output=True, text=True, check=True)
    happened, faults = done.stdout.split()
    return happened == "1", int(faults)


@pytest.mark.skipif(not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="needs glibc")
def test_memory_is_used_again():
    """Twenty calls fault in the pages of about one."""
    done, kept = run(True)
    assert done
    assert kept * 5 < run(False)[1]


@pytest.mark.parametrize("own", OWN_SETTINGS[:-1])
def test_own_settings_of_malloc_hold(own: str):
    value = "glibc.malloc.arena_max=4" if own == "GLIBC_TUNABLES" else "4"
    assert not run(True, **{own: value})[0]


def test_accelerators_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    assert not run(True, JAX_PLATFORMS="tpu,cpu")[0]
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert not runs_on_cpu()
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == ACCELERATOR_PACKAGES[0] or None)
    assert not runs_on_cpu()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert runs_on_cpu()
