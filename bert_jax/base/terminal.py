# SPDX-License-Identifier: Apache-2.0
"""Printed text for a terminal: control characters from names and texts are shown, not obeyed.

A file name or a text may hold escape sequences, which recolour or overwrite what stands on a terminal, or make it type.
Everything that the command line prints goes through one of these streams (`cli.main`), progress bars too, whose own
movements are let through.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# C0 without line feed and tab, DEL, C1 (U+009B begins a sequence as ESC [ does), and what turns the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MOVEMENT = re.compile("(?:\n|\x1b\\[A)+")  # what tqdm writes between bars that stand above each other


def printable(text: str) -> str:
    """Return the text with control characters, but line feed and tab, as escapes: \\x1b."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PrintableStream:
    """A stream for people that writes control characters as escapes; else it is the stream that it stands before.

    What tqdm writes is let through: a carriage return in front, and movements between bars that are written alone.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; returns how many characters of it."""
        if _MOVEMENT.fullmatch(text):
            return self._stream.write(text)
        front = "\r" if text.startswith("\r") else ""
        self._stream.write(front + printable(text.removeprefix(front)))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_output_printable() -> None:
    """Make standard error, and standard output where it is a terminal, printable streams.

    Standard output that goes to a file or another program is left as it is: it is data there.
    """
    if sys.stdout.isatty():
        sys.stdout = PrintableStream(sys.stdout)
    sys.stderr = PrintableStream(sys.stderr)


@contextmanager
def printable_output() -> Iterator[None]:
    """Within the block, `make_output_printable` holds."""
    before = sys.stdout, sys.stderr
    make_output_printable()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
