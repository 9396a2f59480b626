# SPDX-License-Identifier: Apache-2.0
"""Several processes that work as one: how they find each other, agree, and stop. All use of jax.distributed is here.

In training every process runs the same steps on its own rows of each batch (`sharding.own_rows`) and writes its own part of
a checkpoint; the main process alone writes the other files of a run and speaks. Nothing here costs a step anything.

A trained model at work has no such steps: its batches are dealt out (`dealing.py`).

A stop. A signal to one process must end all after the same step, or the others would wait for it for ever. JAX's preemption
service does this beside the steps: it catches SIGTERM in any process (its thread looks once a second), spreads the
notice through the coordinator, and names a step that no process has begun (`stop_agreed`). A sum of flags over the
devices in every step would do the same at the price of a collective and of a transfer a step.

A process that does not come is waited for CONNECT_SECONDS. Then a thread ends this one with a line and EXIT_TRY_AGAIN: JAX
itself aborts in native code, without a word of ours.

A process that dies is missed after HEARTBEAT_SECONDS, the coordinator at once: JAX then aborts all others in native code,
which is turned into a line and EXIT_TRY_AGAIN (`_end_by_abort`). A process that gives up by itself says why, and ends the
others after SHUTDOWN_SECONDS at most. One that lives and does not come to a save, or to an exchange of results, is named
by those that wait for it (`meet`).
"""

import ctypes
import faulthandler
import itertools
import os
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import jax
import numpy as np
from jax._src.distributed import global_state  # the coordinator's barrier and its table; public JAX has neither
from jax.experimental import multihost_utils
from tqdm import tqdm

from bert_jax.base.errors import EXIT_TRY_AGAIN, TryAgain, UserError

HEARTBEAT_SECONDS = 100
SHUTDOWN_SECONDS = 60
CONNECT_SECONDS = 300
MEETING_SECONDS = 600
SILENT_SECONDS = 2  # of waiting for the others, before it is said

EXPLICIT = "--coordinator HOST:PORT --processes N --process-id I"
CLUSTERS = "Cloud TPU, GKE, Kubernetes Job or JobSet, Slurm, Open MPI"  # that JAX asks

HOSTS = "bert_jax/hosts"  # folder of the coordinator's table: the host of each process
MEETINGS = itertools.count()  # the same in every process, because all meet in the same order
ANSWERING_SECONDS = 10  # that the coordinator stays for the others' questions when a meeting has failed
MISSED = threading.Event()  # set where a process did not come: leaving in order would wait for it, and abort


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    connect_seconds: float = CONNECT_SECONDS,
) -> None:
    """Join the other processes; to be called before JAX looks for devices. Ends this one if they do not come.

    Args:
      coordinator: HOST:PORT of process 0, which opens that port; None: as the cluster says (CLUSTERS).
      processes: how many there are.
      process_id: this one's number, from 0.
      heartbeat_seconds: after so long without a sign of life a process counts as dead.
      connect_seconds: after so long without all others this process ends, with a line and EXIT_TRY_AGAIN.

    Raises:
      UserError: some of the three are given and some are not, they are not possible, or there is no cluster to ask.
      TryAgain: no connection.
    """
    check_place(coordinator, processes, process_id)
    if jax.config.jax_cpu_collectives_implementation is None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        with _ended_if_alone(Place(coordinator, processes, process_id), connect_seconds):
            jax.distributed.initialize(
                coordinator,
                processes,
                process_id,
                initialization_timeout=int(connect_seconds) + 60,  # never reached
                heartbeat_timeout_seconds=heartbeat_seconds,
                shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            )
    except ValueError as error:
        raise UserError(f"--distributed: no cluster was found ({CLUSTERS}: {error}): give {EXPLICIT}") from error
    except jax.errors.JaxRuntimeError as error:
        raise TryAgain(
            f"process {process_id} found no connection to {coordinator} ({str(error).splitlines()[0]}): check that all"
            f" {processes} processes are started and that the port is free and open"
        ) from error
    if global_state.client is not None:
        _end_by_abort()
        global_state.client.key_value_set(f"{HOSTS}/{global_state.process_id}", socket.gethostname())


@dataclass(frozen=True)
class Place:
    """The place of a process among the others; all None: as the cluster says."""

    coordinator: str | None
    processes: int | None
    process_id: int | None

    def waits_for(self) -> str:
        """Whom the connection needs."""
        if self.coordinator is None or self.processes is None:
            return "the other processes that the cluster tells of"
        if self.process_id == 0:
            others = "process 1" if self.processes == 2 else f"processes 1 to {self.processes - 1}"
            return f"{others} of {self.processes} to come to {self.coordinator}"
        return f"process 0 at {self.coordinator} and all others of {self.processes}"

    def found(self) -> str:
        """Return what can be seen of the others from here, behind a comma; empty where nothing can."""
        if self.coordinator is None or self.process_id == 0:
            return ""
        host, _, port = self.coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            return f", where nothing answers ({error.strerror or error})"
        return ", of which process 0 is there"


@contextmanager
def _ended_if_alone(place: Place, seconds: float) -> Iterator[None]:
    """Say what is waited for inside; end the process where that takes longer than `seconds`."""
    connected = threading.Event()

    def watch() -> None:
        if connected.wait(min(SILENT_SECONDS, seconds)):
            return
        _tell(f"waiting for {place.waits_for()}, at most {seconds:g} s")
        if not connected.wait(seconds - min(SILENT_SECONDS, seconds)):
            _tell(
                f"gave up after {seconds:g} s of waiting for {place.waits_for()}{place.found()}: start all processes with"
                " the same command, see that they reach that port, and try again"
            )
            os._exit(EXIT_TRY_AGAIN)

    threading.Thread(target=watch, name="waiting for other processes", daemon=True).start()
    try:
        yield
    finally:
        connected.set()


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(_: int) -> None:
    line = (
        "native code gave up (why stands above; mostly another process has gone): start all with the same command again"
    )
    os.write(2, f"bert-jax: {line}\n".encode())
    os._exit(EXIT_TRY_AGAIN)


def _end_by_abort() -> None:
    """Have an abort end this process with EXIT_TRY_AGAIN, not with 134, which no queue knows.

    A handler of Python's own would never run: it waits for the main thread, and the abort does not. JAX's callback for
    lost processes cannot be used either: it ends in std::bad_cast, because Python is not given its argument's type.
    """
    ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)


def _tell(line: str) -> None:
    print(f"bert-jax: {line}", file=sys.stderr, flush=True)


def check_place(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Refuse an incomplete or impossible place among the processes.

    Raises:
      UserError: with what is lacking or wrong.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process-id": process_id}
    lacking = [name for name, value in given.items() if value is None]
    if len(lacking) == len(given):
        return
    if lacking:
        raise UserError(f"{' and '.join(lacking)} lacking: these go together: {EXPLICIT}")
    assert coordinator is not None and processes is not None and process_id is not None
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 2**16):
        raise UserError(f"--coordinator {coordinator} is not HOST:PORT: name process 0's host and a free port there")
    if processes < 1:
        raise UserError(f"--processes {processes} is not possible: use 1 or more")
    if not 0 <= process_id < processes:
        raise UserError(f"--process-id {process_id} is not one of {processes} processes: use 0 to {processes - 1}")


def leave() -> None:
    """Tell the other processes that this one ends, if there are any; they end too, after SHUTDOWN_SECONDS at most."""
    if jax.distributed.is_initialized() and not MISSED.is_set():
        with suppress(jax.errors.JaxRuntimeError):
            jax.distributed.shutdown()


def is_main() -> bool:
    """Whether this process writes files and speaks; true where there is only one."""
    return jax.process_index() == 0


def require_connection() -> None:
    """Refuse a part of a TPU pod that was started without its others.

    Raises:
      UserError: JAX sees several processes, and they were not joined.
    """
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise UserError(
            f"this is one of {jax.process_count()} processes that share the devices: start each with --distributed (or"
            f" {EXPLICIT})"
        )


# ---- meeting ---------------------------------------------------------------------------------------------------------


def meet(occasion: str, seconds: float = MEETING_SECONDS) -> None:
    """Wait until all processes have come here, in whatever they do the same; nothing where there is only one.

    Args:
      occasion: what they meet for, in words.
      seconds: the others are waited for at most.

    Raises:
      TryAgain: a process did not come; names it and its host, after the stacks of all threads here.
    """
    client = global_state.client
    if client is None or global_state.num_processes == 1:
        return
    meeting = f"bert_jax/meeting {next(MEETINGS)}"
    try:
        client.key_value_set(f"{meeting}/{global_state.process_id}", "here")
        client.wait_at_barrier(meeting, int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        MISSED.set()
        faulthandler.dump_traceback(all_threads=True)
        missing = _missing(meeting)
        if global_state.process_id == 0:
            time.sleep(ANSWERING_SECONDS)
        raise TryAgain(
            f"{missing} did not come within {seconds:g} s to the {occasion}: see what it says, and start all processes"
            " with the same command again"
        ) from error


def _missing(meeting: str) -> str:
    """Return the processes that have not come to a meeting, with their hosts."""
    client = global_state.client
    assert client is not None
    here, hosts = (
        {int(key.rpartition("/")[2]): value for key, value in client.key_value_dir_get(f"{folder}/")}
        for folder in (meeting, HOSTS)
    )
    absent = [process for process in range(global_state.num_processes) if process not in here]
    named = ", ".join(f"{process} on {hosts.get(process, 'an unknown host')}" for process in absent)
    return f"process{'es' if len(absent) > 1 else ''} {named}"


# ---- agreement -------------------------------------------------------------------------------------------------------


@contextmanager
def all_or_none() -> Iterator[None]:
    """Raise in all processes where the body fails in one: none is left waiting for one that has given up.

    Raises:
      UserError: another process was refused; or whatever this one raised.
    """
    try:
        yield
    except Exception:
        if not MISSED.is_set():
            _failed_processes(failed=True)
        raise
    others = _failed_processes(failed=False)
    if others:
        raise gave_up(others[0])


def gave_up(process: int) -> UserError:
    """Return what the others of a process that cannot go on raise."""
    return UserError(f"process {process} gave up: it says why; mend that and start all processes again")


def _failed_processes(failed: bool) -> list[int]:
    if jax.process_count() == 1:
        return []
    return np.flatnonzero(multihost_utils.process_allgather(np.int32(failed))).tolist()


def require_same(contents: Mapping[str, str]) -> None:
    """Refuse processes that were started differently.

    Args:
      contents: name -> what must be the same text in every process.

    Raises:
      UserError: in every process, naming the first that differs from the main one.
    """
    if jax.process_count() == 1:
        return
    own = np.array([zlib.crc32(text.encode()) for text in contents.values()], np.uint32)
    everyone = multihost_utils.process_allgather(own)  # [processes, contents]
    for process, content in np.argwhere(everyone != everyone[0]).tolist():
        raise UserError(
            f"process {process} was started with another {list(contents)[content]} than process 0: start all processes"
            " with the same command"
        )


def of_main(number: int) -> int:
    """The main process's number, in every process."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def stop_agreed(step: int) -> bool:
    """Whether all processes stop after this step because one got SIGTERM; to be asked after every step, in each."""
    return multihost_utils.reached_preemption_sync_point(step)


def say(line: str) -> None:
    """A line for the person who watches, above any progress bar; of several processes, the main one speaks."""
    if is_main():
        tqdm.write(line, file=sys.stderr)
