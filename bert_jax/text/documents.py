# SPDX-License-Identifier: Apache-2.0
"""Files of text -> documents.

Three formats are read. `ReadingOptions.text_format` names one, or they are told apart by the first line that is not
empty, whatever the file is called:

- plain text, as google-research/bert's create_pretraining_data.py reads it: one sentence a line, blank lines between
  documents; or a paragraph a line (`ReadingOptions.lines`).
- WikiExtractor's output: `<doc id= url= title=>`, the title, paragraphs a line, `</doc>`. The title is left out.
- JSON lines: a document a line, its text in one field of the record, a paragraph a line of that text.

Tables are read in tables.py. A file may be compressed (see streams.py). It is read as a stream: memory is bounded by the
longest document, which has at most `LONGEST_DOCUMENT` characters in `MOST_LINES` lines. What is left out or replaced on
the way is counted in `ReadingCounts`; anything else that is not right is refused by name.
"""

import dataclasses
import hashlib
import html
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bert_jax.base.errors import UserError
from bert_jax.base.lines import (
    foreign_encoding,
    json_record,
    LONGEST_LINE,
    mend_encoding,
    refuse_no_character,
    REPLACED,
    without_no_characters,
)
from bert_jax.base.types import JsonObject
from bert_jax.text.sentences import split_sentences, Splitter
from bert_jax.text.streams import ByteStream, open_stream

LONGEST_DOCUMENT = 64_000_000  # characters
MOST_LINES = 1_000_000  # of a document; each takes about 60 bytes more than its characters
TEXT_FORMATS = ("auto", "plain", "wiki", "json")
LINES = ("sentences", "paragraphs")
ERRORS = ("strict", "replace")

_BLOCK = 2**20  # bytes decoded at once
_CONTROLS = frozenset(map(chr, [*range(32), *range(127, 160)]))
_MOST_REPLACED = 0.1  # of a block of text; with more the file is not UTF-8 at all ...
_FEW_REPLACED = 64  # ... unless it is this little


class RawDocument(NamedTuple):
    """A document as it was read."""

    lines: list[str]  # not empty, without surrounding white space
    paragraphs: bool  # True: each line is to be split into sentences; False: each line is a sentence
    place: tuple[int, int] = (0, 0)  # which file of its part, and which document with text of the file; both from 0


@dataclass(frozen=True)
class ReadingOptions:
    """How text is to be read.

    json_field: the field of a JSON record, or the column of a table, that holds the text; inside others by its path, a.b.
    lines: what a line of plain text is, "sentences" or "paragraphs".
    errors: what is done with bytes that are not UTF-8: "strict" refuses the file, "replace" puts U+FFFD and counts.
    text_format: "plain", "wiki" (WikiExtractor's output), "json" (JSON lines), or "auto": as the first line looks.
    option: the option that named the text, for messages.
    """

    json_field: str = "text"
    lines: str = "sentences"
    errors: str = "strict"
    text_format: str = "auto"
    option: str = "--input"

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("--lines", self.lines, LINES),
            ("--errors", self.errors, ERRORS),
            ("--text-format", self.text_format, TEXT_FORMATS),
        ):
            if value not in allowed:
                raise UserError(f"{option} {value} is not known: use {' or '.join(allowed)}")
        if self.json_field != ReadingOptions.json_field and self.text_format in ("plain", "wiki"):
            raise UserError(f"--json-field is of JSON lines, and --text-format says {self.text_format}: leave one out")
        if self.lines != ReadingOptions.lines and self.text_format in ("wiki", "json"):
            raise UserError(f"--lines is of plain text, and --text-format says {self.text_format}: leave one out")


@dataclass
class ReadingCounts:
    """Counts of what reading left out of the documents or changed in them."""

    replaced_bytes: int = 0  # that are not UTF-8; U+FFFD stands for them (errors="replace")
    control_lines: int = 0  # left out: nothing but control characters
    empty_documents: int = 0  # left out: a <doc>, record or example without text
    empty_lines: int = 0  # skipped: in JSON lines, where they separate nothing

    def add(self, other: "ReadingCounts") -> None:
        """Add the counts of another part of the text."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def sentences_of(document: RawDocument, split: Splitter = split_sentences) -> list[str]:
    """The sentences of a document; at least one."""
    if not document.paragraphs:
        return document.lines
    return [sentence for line in document.lines for sentence in split(line)]


def read_documents(
    path: Path,
    options: ReadingOptions = ReadingOptions(),
    counts: ReadingCounts | None = None,
    on_bytes: Callable[[int], object] | None = None,
) -> Iterator[list[str]]:
    """The documents of one file, each a list of at least one sentence. Arguments and errors as of `read_raw`."""
    for document in read_raw(path, options, ReadingCounts() if counts is None else counts, on_bytes):
        yield sentences_of(document)


def read_raw(
    path: Path,
    options: ReadingOptions,
    counts: ReadingCounts,
    on_bytes: Callable[[int], object] | None = None,
    digest: "hashlib._Hash | None" = None,
) -> Iterator[RawDocument]:
    """The documents of one file.

    Args:
      counts: what is left out or replaced is added to these.
      on_bytes: told how many more bytes of the file, as stored, have been read.
      digest: updated with the file as stored; complete when the last document has been given.

    Raises:
      UserError: a file that holds no text, is not UTF-8 (with the byte's offset), is binary or an archive, breaks off
        or is broken where compressed, has a document of more than `LONGEST_DOCUMENT` characters or `MOST_LINES` lines, or
        is not well formed: a <doc> that is not closed, a record without the field.
    """
    with open_stream(path, on_bytes, digest) as stream:
        lines = _Lines(path, stream, options, counts)
        first = next(filter(None, lines), None)
        if first is None:
            raise UserError(f"{path} holds no text: remove it or leave it out of {options.option}")
        form = options.text_format if options.text_format != "auto" else _format_of(first)
        if form == "wiki":
            yield from _wiki_documents(lines, first, options, counts)
        elif form == "json":
            if _JSON_ARRAY.match(first):
                raise UserError(
                    f"{path} holds one JSON array, not JSON lines: write one record a line (jq -c '.[]'), or say that it is"
                    " plain text (--text-format plain)"
                )
            yield from _json_documents(lines, first, options, counts)
        else:
            yield from _plain_documents(lines, first, options, counts)


def _format_of(first: str) -> str:
    """Return the format that the first line looks like."""
    if _DOC_START.fullmatch(first):
        return "wiki"
    return "json" if _JSON_ARRAY.match(first) or _JSON_START.match(first) else "plain"


# ---- lines -------------------------------------------------------------------------------------------------


class _Lines:
    """The lines of a UTF-8 file, without surrounding white space. `number` is that of the one given last, from 1."""

    def __init__(self, path: Path, stream: ByteStream, options: ReadingOptions, counts: ReadingCounts):
        self.path = path
        self.number = 0
        self._stream = stream
        self._options = options
        self._counts = counts
        self._iterator = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._iterator

    def _read(self) -> Iterator[str]:
        offset = 0
        while block := self._next_block():
            if not offset:
                _refuse_binary(self.path, block)
            text = self._decode(block, offset)
            lines = (text if offset else text.removeprefix("\ufeff")).split("\n")
            if not lines[-1]:
                lines.pop()
            for line in lines:
                self.number += 1
                yield line.strip()
            offset += len(block)

    def _next_block(self) -> bytes:
        """About `_BLOCK` bytes of whole lines; none at the end."""
        block = self._stream.read(_BLOCK)
        rest = self._stream.readline(LONGEST_LINE + 1)
        if len(block) - block.rfind(b"\n") - 1 + len(rest) > LONGEST_LINE:
            number = self.number + block.count(b"\n") + 1
            raise UserError(
                f"{self.path}, line {number} is longer than {LONGEST_LINE // 2**20} MiB:"
                " write one sentence, paragraph or record a line"
            )
        return block + rest

    def _decode(self, block: bytes, offset: int) -> str:
        try:
            return decode(block, self._options, self._counts)
        except Undecodable as error:
            place = f"at byte {offset + error.position}{' of the unpacked text' if self._stream.packed else ''}"
            line = self.number + block.count(b"\n", 0, error.position) + 1
            raise UserError(
                f"{self.path} is not {error.expected}: {error.found} {place} (line {line}); {error.mend}"
            ) from None


class Undecodable(ValueError):
    """Bytes that are not text: what was `expected`, what was `found` at which `position`, and how to `mend` it."""

    def __init__(self, expected: str, found: str, position: int, mend: str):
        super().__init__(f"not {expected}: {found} at byte {position}")
        self.expected, self.found, self.position, self.mend = expected, found, position, mend


_CONVERT = "convert it (iconv -f OLD_ENCODING -t UTF-8)"


def decode(raw: bytes, options: ReadingOptions, counts: ReadingCounts) -> str:
    """UTF-8 to text without NUL. Bytes that are not text are replaced and counted, or raise `Undecodable`."""
    nul = raw.find(b"\0")
    if nul >= 0 and options.errors == "strict":
        mend = (
            f"leave it out of {options.option}, convert it if it is UTF-16, or replace such bytes with --errors replace"
        )
        raise Undecodable("text", "NUL", nul, mend)
    try:
        if nul < 0:
            return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if options.errors == "strict":
            mend = f"{_CONVERT}, leave it out of {options.option}, or replace such bytes with --errors replace"
            raise Undecodable("UTF-8", f"byte 0x{raw[error.start]:02x}", error.start, mend) from None
    return _decode_replacing(raw, options.option, counts)


def _decode_replacing(raw: bytes, option: str, counts: ReadingCounts) -> str:
    text = raw.replace(b"\0", b"\xff").decode("utf-8", errors="replace")  # 0xff never stands in UTF-8
    marks = text.count(REPLACED) - raw.count(REPLACED.encode())  # the text may have its own
    replaced = len(raw) - (len(text.encode()) - marks * len(REPLACED.encode()))
    if replaced > max(_MOST_REPLACED * len(raw), _FEW_REPLACED):
        mend = f"{_CONVERT} or leave it out of {option}; this is too much to replace"
        raise Undecodable("UTF-8", f"{replaced} of the {len(raw)} bytes that begin", 0, mend)
    counts.replaced_bytes += replaced
    return text


_FOREIGN = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"PAR1": "a Parquet file, which is a table: leave out --text-format",
    b"ARROW1": "an Arrow file, which is a table: leave out --text-format",
    b"%PDF-": "a PDF: extract its text first",
}
_TAR = b"ustar"  # at byte 257


def _refuse_binary(path: Path, start: bytes) -> None:
    """Name the formats that are no text but likely to be given."""
    found = next((name for magic, name in _FOREIGN.items() if start.startswith(magic)), None)
    if found is None and start.startswith(_TAR, 257):
        found = "a tar archive: unpack it first"
    if found is None and (encoding := foreign_encoding(start)) is not None:
        found = mend_encoding(encoding)
    if found is not None:
        raise UserError(f"{path} is {found}")


# ---- formats -----------------------------------------------------------------------------------------------


def _plain_documents(
    lines: _Lines, first: str, options: ReadingOptions, counts: ReadingCounts
) -> Iterator[RawDocument]:
    paragraphs = options.lines == "paragraphs"
    start, size = lines.number, 0
    document: list[str] = []
    for line in itertools.chain([first], lines):
        if line:
            document.append(line)
            size += len(line)
            if size > LONGEST_DOCUMENT or len(document) > MOST_LINES:
                where = f"{lines.path}: the document that begins on line {start}"
                raise _too_long(where, size, "separate documents by blank lines")
        elif document:
            yield from _document(document, paragraphs, counts)
            document = []
            start, size = lines.number + 1, 0
    if document:
        yield from _document(document, paragraphs, counts)


# WikiExtractor: https://github.com/attardi/wikiextractor, function Extractor.write_output
_DOC_START = re.compile(r'<doc id="[^"]*" (?:rev\w*="[^"]*" )?url="[^"]*" title="(.*)">')


def _wiki_documents(lines: _Lines, first: str, options: ReadingOptions, counts: ReadingCounts) -> Iterator[RawDocument]:
    start: str | None = first
    while start is not None:
        yield from _document(_wiki_lines(lines, start, options.option), True, counts)
        start = next(filter(None, lines), None)


def _wiki_lines(lines: _Lines, start: str, option: str) -> list[str]:
    """The lines up to </doc>, without the title."""
    path, number = lines.path, lines.number
    match = _DOC_START.fullmatch(start)
    if match is None:
        raise UserError(f"{path}, line {number} stands outside <doc> ... </doc>: extract the file again")
    title = html.unescape(match[1])
    document: list[str] = []
    at_title, size = True, 0
    for line in lines:
        if not line:
            continue
        if line[0] == "<":
            if line == "</doc>":
                return document
            if _DOC_START.fullmatch(line):
                raise UserError(
                    f"{path}: the <doc> of line {number} is not closed before the <doc> of line {lines.number}:"
                    " extract the file again"
                )
        if not (at_title and html.unescape(line) == title):
            document.append(_plain(line))
            size += len(line)
            if size > LONGEST_DOCUMENT or len(document) > MOST_LINES:
                raise _too_long(f"{path}: the <doc> of line {number}", size, f"leave it out of {option}")
        at_title = False
    raise UserError(f"{path} ends inside the <doc> of line {number}: it is cut short, extract it again")


def _plain(line: str) -> str:
    """A line of text without the entities that WikiExtractor writes for &, < and > (its --html-safe, which is usual)."""
    return line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") if "&" in line else line


_JSON_START = re.compile(r'\{\s*("|\}|$)')
_JSON_ARRAY = re.compile(r'\[\s*(\{\s*("|$)|$)')


def _json_documents(lines: _Lines, first: str, options: ReadingOptions, counts: ReadingCounts) -> Iterator[RawDocument]:
    counts.empty_lines += lines.number - 1
    for line in itertools.chain([first], lines):
        if not line:
            counts.empty_lines += 1
            continue
        where = f"{lines.path}, line {lines.number}"
        text = _json_text(where, json_record(line, where, characters=False), options.json_field)
        if "\\u" in line:
            text = _without_surrogates(where, text, options, counts)
        yield from text_document(where, text, counts)


def _json_text(where: str, record: JsonObject, field: str) -> str:
    outer, dot, inner = field.partition(".")
    if field not in record and dot and isinstance(record.get(outer), dict):
        return _json_text(where, record[outer], inner)
    if field not in record:
        names = ", ".join(record) or "none"
        raise UserError(
            f"{where}: the record has no field {field!r} (its fields: {names}); name the text's with --json-field"
        )
    text = record[field]
    if not isinstance(text, str):
        raise UserError(
            f"{where}: the field {field!r} holds {_json_type(text)}, not text; name the text's with --json-field"
        )
    return text


def _json_type(value: object) -> str:
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")


def _without_surrogates(where: str, text: str, options: ReadingOptions, counts: ReadingCounts) -> str:
    if options.errors == "strict":
        mend = "mend what wrote the file, or replace such with --errors replace"
        refuse_no_character(text, f"{where}, {options.json_field}", mend)
    text, replaced = without_no_characters(text)
    counts.replaced_bytes += 6 * replaced  # \uXXXX
    return text


def text_document(where: str, text: str, counts: ReadingCounts) -> Iterator[RawDocument]:
    """The document that a text with a paragraph a line makes; none, and counted, where there is nothing in it.

    Raises UserError, which begins with `where`, for one of more than `LONGEST_DOCUMENT` characters or `MOST_LINES` lines.
    """
    if len(text) > LONGEST_DOCUMENT or text.count("\n") >= MOST_LINES:
        raise _too_long(where, len(text), "leave it out or divide it")
    return _document([line for part in text.split("\n") if (line := part.strip())], True, counts)


def _document(lines: list[str], paragraphs: bool, counts: ReadingCounts) -> Iterator[RawDocument]:
    kept = [line for line in lines if line[0] not in _CONTROLS or not _CONTROLS.issuperset(line)]
    counts.control_lines += len(lines) - len(kept)
    if kept:
        yield RawDocument(kept, paragraphs)
    else:
        counts.empty_documents += 1


def _too_long(where: str, size: int, mend: str) -> UserError:
    what = f"{LONGEST_DOCUMENT:,} characters" if size > LONGEST_DOCUMENT else f"{MOST_LINES:,} lines"
    return UserError(f"{where} has more than {what}: {mend}")
