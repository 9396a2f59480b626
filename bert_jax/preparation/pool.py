# SPDX-License-Identifier: Apache-2.0
"""Chunks in several processes of this machine, a bounded number of them at a time."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from multiprocessing.synchronize import Event

from bert_jax.base.errors import UserError
from bert_jax.preparation.chunks import Chunk, ChunkWork, Process

WAITING = 2  # chunks that are read beyond those at work, so that no process waits


class _Stopped(Exception):
    """The main process wants no more."""


# ---- the main process --------------------------------------------------------------------------------------


def process_in_pool(chunks: Iterable[Chunk], work: ChunkWork, workers: int, process: Process) -> Generator[int]:
    """Do `process` on chunks in `workers` processes. Gives the `stored_bytes` of each as it is finished.

    The processes are new ones, not forks: this one may have threads.

    Raises:
      UserError: what a worker raised, or that one was killed.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (work, stop, process))
    waiting: dict[Future[None], int] = {}
    try:
        for chunk in chunks:
            waiting[pool.submit(_process, chunk)] = chunk.stored_bytes
            if len(waiting) >= workers + WAITING:
                yield from _finished(waiting)
        while waiting:
            yield from _finished(waiting)
    except BrokenProcessPool:
        shards = sum(1 for _ in work.folder.glob("record-*.json"))
        raise UserError(
            f"a worker was killed (out of memory?); {shards} shards are finished and stay: run the same command again to"
            f" go on, with fewer than --workers {workers} if memory is short"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _finished(waiting: dict[Future[None], int]) -> Iterator[int]:
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        stored_bytes = waiting.pop(future)
        future.result()
        yield stored_bytes


# ---- a worker ----------------------------------------------------------------------------------------------

_worker: tuple[ChunkWork, Event, Process]


def _start_worker(work: ChunkWork, stop: Event, process: Process) -> None:
    global _worker
    _worker = work, stop, process
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the main process stops the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose main process was killed would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _process(chunk: Chunk) -> None:
    work, stop, process = _worker

    def go_on() -> None:
        if stop.is_set():
            raise _Stopped

    process(chunk, work, go_on)
