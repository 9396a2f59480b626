# SPDX-License-Identifier: Apache-2.0
"""Text as it comes in from outside: lines of UTF-8 and JSON, read strictly by every stage in the same way.

What is no text is refused where it is read, with file and line: other encodings (named by their byte order marks),
bytes that are not UTF-8, NUL, and half a character, which JSON can spell (\\ud83d) and no encoding knows.
"""

from collections.abc import Iterable, Iterator
from typing import IO

from bert_jax.base.errors import listed, UserError
from bert_jax.base.files import character_fault, NO_CHARACTER, parse_json
from bert_jax.base.types import JsonObject

LONGEST_LINE = 32 * 2**20  # bytes; a longer one is not a sentence, a paragraph or a record

# Encodings by the bytes that a file begins with, the longer ones first; the names are those of iconv.
_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x84\x31\x95\x33", "GB18030"),
    *((b"+/v" + end, "UTF-7") for end in (b"8", b"9", b"+", b"/")),
)
REPLACED = "\ufffd"  # stands for what is no character
_MARK = "\ufeff"  # of UTF-8, which is read over
_LOOKED_AT = 256  # bytes, for an encoding without a mark


def foreign_encoding(start: bytes) -> str | None:
    """Return the name of the encoding that a file begins in where that is not UTF-8; None: it may well be UTF-8.

    Told by the byte order mark; of UTF-16 and UTF-32 without one, by the zero bytes of ASCII characters.
    """
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    head = start[: min(_LOOKED_AT, len(start) // 4 * 4)]
    zeros = tuple(head[place::4].count(0) * 8 > len(head) for place in range(4))  # in more than half of the places
    patterns: dict[tuple[bool, ...], str] = {
        (False, True, True, True): "UTF-32LE",
        (True, True, True, False): "UTF-32BE",
    }
    patterns |= {(False, True, False, True): "UTF-16LE", (True, False, True, False): "UTF-16BE"}
    return patterns.get(zeros)


def mend_encoding(name: str) -> str:
    """Return what a message says of a file in another encoding: its name and the command that converts it."""
    return f"{name}: convert it (iconv -f {name} -t UTF-8)"


# ---- lines -------------------------------------------------------------------------------------------------


def decode_text(raw: bytes, name: str) -> str:
    """Return a whole text that is in memory, without its byte order mark.

    Raises:
      UserError: as `text_lines`.
    """
    _refuse_encoding(raw, name)
    return _decoded(raw, name, 1).removeprefix(_MARK)


def text_lines(stream: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) of each line and its text without the line feed; only a line feed ends a line.

    Args:
      name: of the file, for messages.

    Raises:
      UserError: another encoding, bytes that are not UTF-8, NUL, or a line of more than `LONGEST_LINE` bytes.
    """
    number = 0
    while raw := stream.readline(LONGEST_LINE + 2):
        number += 1
        if number == 1:
            _refuse_encoding(raw, name)
        if len(raw.removesuffix(b"\n")) > LONGEST_LINE:
            raise UserError(
                f"{name}, line {number} is longer than {LONGEST_LINE // 2**20} MiB: write one text or record a line"
            )
        line = _decoded(raw, name, number)
        yield number, (line.removeprefix(_MARK) if number == 1 else line).removesuffix("\n")


def _refuse_encoding(start: bytes, name: str) -> None:
    if (encoding := foreign_encoding(start)) is not None:
        raise UserError(f"{name} is {mend_encoding(encoding)}")


def _decoded(raw: bytes, name: str, first: int) -> str:
    """Return text whose first line has the number `first`."""
    nul = raw.find(b"\0")
    if nul >= 0:
        line = first + raw.count(b"\n", 0, nul)
        raise UserError(f"{name}, line {line}: is no text (NUL at byte {_in_line(raw, nul)} of the line): leave it out")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = first + raw.count(b"\n", 0, error.start)
        raise UserError(
            f"{name}, line {line}: is not UTF-8 at its byte {_in_line(raw, error.start)} ({raw[error.start]:#04x}):"
            " convert the file (iconv -f LATIN1 -t UTF-8, or whatever it is in)"
        ) from None


def _in_line(raw: bytes, position: int) -> int:
    return position - (raw.rfind(b"\n", 0, position) + 1)


class EmptyLines:
    """The empty lines of a file that are skipped while it is read, counted."""

    def __init__(self, name: str):
        self._name = name
        self._numbers: list[str] = []

    def without(self, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """Yield the lines that hold more than blanks (a tab is no blank: it stands between columns)."""
        for number, line in lines:
            if line.strip(" \r\f\v"):
                yield number, line
            else:
                self.count(number)

    def count(self, number: int) -> None:
        """Count the line of that number."""
        self._numbers.append(str(number))

    def note(self) -> list[str]:
        """Return a line for people, or nothing where no line was empty."""
        if not self._numbers:
            return []
        count = len(self._numbers)
        what = "1 empty line is" if count == 1 else f"{count:,} empty lines are"
        return [f"{self._name}: {what} skipped: {listed(self._numbers)}"]


# ---- JSON --------------------------------------------------------------------------------------------------


def json_record(line: str, place: str, characters: bool = True) -> JsonObject:
    """Return the object of a line of JSON lines.

    Args:
      place: file and line, for messages.
      characters: whether NUL and half a character are refused wherever they are; else the caller looks for them in what
        it takes (`refuse_no_character`).

    Raises:
      UserError: as `files.parse_json`.
    """
    try:
        return parse_json(line, characters=characters)
    except ValueError as error:
        raise UserError(
            f"{place} is not JSON of use here: {error}: mend it, JSON lines have one object a line"
        ) from None


def refuse_no_character(text: str, place: str, mend: str = "mend what wrote the file") -> None:
    """Refuse a text that holds NUL or half a character.

    Raises:
      UserError: it does; the message ends with `mend`.
    """
    if found := NO_CHARACTER.search(text):
        raise UserError(f"{place} holds {character_fault(found)}: {mend}")


def without_no_characters(text: str) -> tuple[str, int]:
    """Return a text with U+FFFD in the place of each NUL and half of a character, and how many there were."""
    return NO_CHARACTER.subn(REPLACED, text)


def grouped(texts: Iterable[str], characters: int, most: int | None = None) -> Iterator[list[str]]:
    """Yield lists of consecutive texts of together about so many characters, or of `most` texts."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= characters or len(group) == most:
            yield group
            group, size = [], 0
    if group:
        yield group
