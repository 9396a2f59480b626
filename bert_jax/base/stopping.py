# SPDX-License-Identifier: Apache-2.0
"""How a process answers Ctrl-C and SIGTERM: with a line and the status 128 + signal, also while native code runs.

Python calls the handler of a signal when its main thread comes back from native code, and a program may be compiled
there for minutes. So a thread of this file hears of each signal at once (signal.set_wakeup_fd), and asks the handler for
its second answer, `unanswered`, where the first one does not come. Programs of the training loop, where there is a state to
be saved, are compiled in a thread (`compiled`), TensorFlow is imported in one, and the main thread waits in Python.

Of several processes, JAX listens for SIGTERM; see distributed.py.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, Protocol, runtime_checkable

from bert_jax.base.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ANSWER_SECONDS = 1.0  # after which a handler that was not called counts as unanswered
AGAIN_SECONDS = 0.05  # after which a signal is sent again whose exception was swallowed
UNWIND_SECONDS = 10.0  # after which a stage that was told to end is ended


class Signalled(KeyboardInterrupt):
    """A signal that asks to stop has come. No `Exception`, so that no library takes it for a failure of its own."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class LeftBuilding(Signalled):
    """The signal came while a program was made; nothing of it has run."""


def end_line(number: int) -> str:
    """The last line of a stage that was stopped and had nothing to save."""
    return f"interrupted by {signal.Signals(number).name}; the same command goes on or starts again"


def end_without_unwinding(name: str, number: int) -> NoReturn:
    """End the process from another thread, while the main one is in native code; locks and memory go with it."""
    os.write(2, f"\n{name}: {end_line(number)}\n".encode())
    os._exit(128 + number)


@runtime_checkable
class SignalAnswer(Protocol):
    """A handler of signals that has an answer for native code too."""

    called: float  # time.monotonic() of the last call

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Answer the signal in the main thread."""

    def unanswered(self, number: int) -> None:
        """End in another thread, where the main one did not come to the call within ANSWER_SECONDS."""


class EndAtOnce:
    """The answer of a stage that has nothing to save: every file is whole or absent, so any moment will do."""

    def __init__(self, stage: str):
        self.stage = stage
        self.called = 0.0
        self.number: int | None = None  # of the signal that has come
        self.importing = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Unwind; while modules are imported, end: extension modules print what is raised inside, with a traceback."""
        self.called, self.number = time.monotonic(), number
        if self.importing:
            self.unanswered(number)
        raise Signalled(number)

    def unanswered(self, number: int) -> None:
        """End without unwinding."""
        end_without_unwinding(f"bert-jax {self.stage}", number)


@contextmanager
def answering(stage: str) -> Iterator[None]:
    """While open, signals end the stage, unless another handler is `installed` inside."""
    # Only the main thread is told of signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A shell starts the background jobs of a script with SIGINT ignored, and they shall not hear of it.
    handler = EndAtOnce(stage)
    with installed(handler, tuple(one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN)):
        try:
            yield
        except Exception as error:
            if handler.number is None or isinstance(error, Interrupted):
                raise
            # An extension module that is being imported makes an ImportError of whatever is raised inside.
            raise Signalled(handler.number) from None


@contextmanager
def importing() -> Iterator[None]:
    """While open, nothing has been begun that a signal would have to unwind."""
    handler = signal.getsignal(signal.SIGTERM)
    if not isinstance(handler, EndAtOnce):
        yield
        return
    handler.importing = True
    try:
        yield
    finally:
        handler.importing = False


@contextmanager
def installed(handler: Callable[[int, FrameType | None], None], numbers: tuple[int, ...] = SIGNALS) -> Iterator[None]:
    """While open, `handler` answers; what it raises gets through."""
    before = {number: signal.signal(number, handler) for number in numbers}
    hook = sys.unraisablehook

    def send_again(unraisable: "sys.UnraisableHookArgs") -> None:
        # Raised where Python can only print it: a finalizer, or JAX's callback in the garbage collector.
        if not isinstance(unraisable.exc_value, Signalled):
            hook(unraisable)
            return
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), unraisable.exc_value.number))
        again.daemon = True
        again.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, old in before.items():
            signal.signal(number, old)


_heard: list[int] = []  # signals that came while `watching`


def begin_next(again: str) -> None:
    """Called between the runs of a stage: a stop that came when one was ending by itself keeps the next from beginning.

    Raises:
      Interrupted: such a stop has come; `again` is the command that goes on.
    """
    if _heard:
        raise Interrupted(f"what is finished stays; go on with: {again}", _heard[-1])


@contextmanager
def watching() -> Iterator[None]:
    """While open, a thread sees to it that no signal stays unanswered."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _heard.clear()
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(read,), name="signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        _heard.clear()
        signal.set_wakeup_fd(before)
        os.close(write)
        watch.join()
        os.close(read)


def _watch(read: int) -> None:
    while numbers := os.read(read, 64):
        now = time.monotonic()
        _heard.extend(number for number in numbers if number in SIGNALS)
        handler = signal.getsignal(numbers[-1])
        if numbers[-1] in SIGNALS and isinstance(handler, SignalAnswer):
            _see_answered(handler, numbers[-1], now, read)


def _see_answered(handler: SignalAnswer, number: int, since: float, read: int) -> None:
    """Wait for the handler's call and, where it ends the stage, for that; what does not come in time is unanswered.

    The main thread may have called it before this thread came to look: a call shortly before `since` is the answer too.
    """
    unheard = not _ends_within(ANSWER_SECONDS, read) and handler.called < since - ANSWER_SECONDS
    if unheard or (isinstance(handler, EndAtOnce) and not _ends_within(UNWIND_SECONDS, read)):
        handler.unanswered(number)


def _ends_within(seconds: float, read: int) -> bool:
    """Whether `watching` ends or another signal comes, which is then looked at anew."""
    return bool(select.select([read], [], [], seconds)[0])


# ---- programs --------------------------------------------------------------------------------------------------------

_building: list[str] = []  # a name of a thread for each program: a list, because threads change it at once


def is_building() -> bool:
    """Whether a program is being made, in any thread."""
    return bool(_building)


@contextmanager
def building() -> Iterator[None]:
    """Around the tracing and compiling of a program."""
    _building.append(threading.current_thread().name)
    try:
        yield
    finally:
        _building.pop()


def compiled(lowered: Any, options: Mapping[str, str] | None = None) -> Any:
    """`lowered.compile()`, in a thread; `options` are the compiler's. See `in_a_thread`."""
    return in_a_thread(lambda: lowered.compile(compiler_options=options))


def in_a_thread[T](work: Callable[[], T]) -> T:
    """`work()`, in a thread, so that the main one can answer a signal meanwhile.

    Where the handler raises, the thread is left to its work; the process ends without it. TensorFlow is imported so: it calls
    Python back from native code, and what a handler raised in there would abort the process.
    """
    return work() if threading.current_thread() is not threading.main_thread() else begun(work)()


def begun[T](work: Callable[[], T]) -> Callable[[], T]:
    """Begin `work()` in a thread, and return a function that waits for it and returns, or raises, what it does."""
    found: list[T] = []
    failed: list[BaseException] = []
    done = threading.Event()

    def try_it() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)
        done.set()

    def wait() -> T:
        done.wait()
        if failed:
            raise failed[0]
        return found[0]

    threading.Thread(target=try_it, name="work", daemon=True).start()
    return wait
