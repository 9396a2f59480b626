# SPDX-License-Identifier: Apache-2.0
"""The errors a user can cause, and how they are said."""

import errno
from collections.abc import Iterable

EXIT_USER_ERROR, EXIT_TRY_AGAIN = 2, 75
# Of a file system: a disk, or the way to it, failed. What the user can mend (full, not allowed, not there) is not among them.
FAILED_STORAGE = {
    errno.EIO,
    errno.ENXIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    getattr(errno, "EREMOTEIO", errno.EIO),
}


class UserError(Exception):
    """Something the user can mend.

    The message is one line that says what is wrong, where (file, record, field, the values that disagree) and the
    command or change that mends it. The command line prints it without a traceback and exits with status 2.
    """


class TryAgain(UserError):
    """Nothing is wrong with what was asked for: the machines around it failed (a process is missing or has gone).

    The same command may do another time, so the command line exits with status 75, EX_TEMPFAIL of sysexits.h.
    """


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C or SIGTERM) and has saved; `signal_number` says by which signal."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, for one-line messages; of a long one its beginning and its end."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= 200 else f"{lines[0][:100]} ... {lines[0][-100:]}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return the first of many names and how many more there are, for a message of one line."""
    every = [name or "''" for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def shortened(value: object, most: int = 60) -> str:
    """Return a value as Python writes it, cut to `most` characters, for a message."""
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
