# SPDX-License-Identifier: Apache-2.0
"""Sides that work in processes of their own: started, asked and ended here. sides/child.py is their program."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, IO

from bert_jax.base.types import JsonObject

PROGRAM = Path(__file__).with_name("sides") / "child.py"
PATIENCE = 10  # seconds for a child that was told to end
# Of libraries with threads of their own, where sides are compared by CPU-seconds.
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# JAX would use an accelerator that is there, and take compiled programs from an earlier round.
ON_THE_CPU = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}


class SideError(RuntimeError):
    """A side could not do what it was asked."""


class SideProcess:
    """A running side. One request is answered before the next."""

    def __init__(self, process: subprocess.Popen[str], messages: IO[str]):
        self._process = process
        self._messages = messages

    def ask(self, do: str, **arguments: object) -> JsonObject:
        """Call a function of the side's module and wait for what it returns.

        Raises:
          SideError: it failed or the process has ended, with what it said.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            self._messages.seek(0)
            said = self._messages.read().strip().splitlines()
            raise SideError(f"ended with status {status} when it was asked to {do}{f': {said[-1]}' if said else ''}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer


@contextmanager
def side_process(
    module: str,
    python: Path = Path(sys.executable),
    *,
    environment: Mapping[str, str] = {},
    program: Path = PROGRAM,
) -> Iterator[SideProcess]:
    """Start a side in an empty folder; it is gone afterwards.

    Args:
      module: a file of sides/, without its suffix.
      python: what runs it.
      environment: variables set for it.
      program: sides/child.py, or what stands in for it.
    """
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        tempfile.TemporaryDirectory(prefix="bert_jax_bench_") as folder,
        tempfile.TemporaryFile("w+") as messages,
        subprocess.Popen(
            [str(python), str(program), module], stderr=messages, cwd=folder, env=os.environ | environment, **pipes
        ) as process,
    ):
        try:
            yield SideProcess(process, messages)
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def find_peer(python: Path | None) -> Path | None:
    """Return the Python to run PyTorch in: the one given, or this one where torch and transformers are installed."""
    if python is not None:
        return python.absolute()  # links stay: a virtual environment's Python is one
    here = all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))
    return Path(sys.executable) if here else None


def fresh_process(
    module: str,
    do: str,
    python: Path = Path(sys.executable),
    environment: Mapping[str, str] = ONE_THREAD,
    **arguments: object,
) -> JsonObject:
    """Call one function of a side in a process that does nothing else."""
    with side_process(module, python, environment=environment) as side:
        return side.ask(do, **arguments)
