# SPDX-License-Identifier: Apache-2.0
"""The errors a user can cause, and how they are said."""

from collections.abc import Iterable

EXIT_USER_ERROR, EXIT_TRY_AGAIN = 2, 75


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


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return the first of many names and how many more there are, for a message of one line."""
    every = [name or "''" for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def shortened(value: object, most: int = 60) -> str:
    """Return a value as Python writes it, cut to `most` characters, for a message."""
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
