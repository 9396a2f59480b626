# SPDX-License-Identifier: Apache-2.0
"""Reading raw text: input files -> documents -> sentences.

Two formats are read and told apart by the first line that is not empty:

- plain text, as google-research/bert's create_pretraining_data.py reads it: one sentence a line, blank lines
  between documents. A line is a sentence even where it holds several; `split_lines` splits such lines.
- WikiExtractor's output: `<doc id= url= title=>`, the title, paragraphs a line, `</doc>`. Paragraphs are
  split into sentences; the title is left out.

Files are streamed: memory is bounded by the longest line and, for a caller that keeps one, the longest
document.
"""

import html
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bert_jax.errors import UserError

Document = list[str]  # sentences
Line = tuple[int, str]  # its number from 1, and its text without surrounding white space

CORPUS_RECORD = "corpus.json"
LONGEST_LINE = 16 * 2**20  # bytes; a longer one is not a sentence or a paragraph
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"(\xb5/\xfd": "zstd",
}


def input_files(paths: Sequence[Path]) -> list[Path]:
    """The files that `paths` stand for: files as given, folders by all files below them in sorted order.

    Hidden files and folders (.git, .DS_Store) inside a folder are passed over, and so is the record that
    `bert-jax corpus` leaves beside its text. Raises UserError for a path
    that is missing, an empty file, a folder without files, and a file that is reached twice.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += _files_below(path)
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{path} is missing: check --input")
    seen: dict[Path, Path] = {}
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is not a regular file: text is read more than once, write it to a file first")
        if not file.stat().st_size:
            raise UserError(f"{file} is empty: remove it or leave it out of --input")
        first = seen.setdefault(file.resolve(), file)
        if first is not file:
            raise UserError(f"{file} is given twice (as {first} too): its text would count twice; leave one out")
    return files


def _files_below(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CORPUS_RECORD)
    files = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not files:
        raise UserError(f"{folder} has no files in it: check --input")
    return files


def read_documents(path: Path, split_lines: bool = False) -> Iterator[Document]:
    """The documents of one file, each a list of at least one sentence.

    `split_lines` runs every line of a plain file through `split_sentences`: for text with a paragraph a line.
    Raises UserError for a file that is empty, not UTF-8 (with the byte offset), binary, compressed, cut short
    inside a <doc>, or holds JSON.
    """
    lines = _read_lines(path)
    first = next(((number, line) for number, line in lines if line), None)
    if first is None:
        raise UserError(f"{path} holds no text: remove it or leave it out of --input")
    if _DOC_START.fullmatch(first[1]):
        yield from _wiki_documents(path, first, lines)
    else:
        _refuse_json(path, first[1])
        yield from _plain_documents(first, lines, split_lines)


def _read_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 file."""
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
            if number == 1:
                _refuse_compressed(path, raw)
            if len(raw) > LONGEST_LINE:
                raise UserError(
                    f"{path}, line {number} is longer than {LONGEST_LINE // 2**20} MiB:"
                    " write one sentence or paragraph a line"
                )
            yield number, _decode(path, raw, number, offset)
            offset += len(raw)


def _decode(path: Path, raw: bytes, number: int, offset: int) -> str:
    nul = raw.find(b"\0")
    if nul >= 0:
        raise UserError(
            f"{path} is not text: NUL at byte {offset + nul} (line {number}); leave it out of --input, or"
            " convert it to UTF-8 if it is UTF-16"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = offset + error.start
        raise UserError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at byte {bad} (line {number});"
            f" convert it (iconv -f OLD_ENCODING -t UTF-8) or leave it out of --input"
        ) from None
    if number == 1:
        text = text.removeprefix("\ufeff")
    return text.strip()


def _refuse_compressed(path: Path, raw: bytes) -> None:
    for magic, name in COMPRESSED.items():
        if raw.startswith(magic):
            raise UserError(f"{path} is compressed ({name}): unpack it first")


def _refuse_json(path: Path, line: str) -> None:
    if not line.startswith("{"):
        return
    try:
        record = json.loads(line)
    except ValueError:
        return
    if isinstance(record, dict):
        raise UserError(
            f"{path} holds JSON records, not text: write their text one sentence a line with blank lines"
            " between documents (WikiExtractor: run it without --json)"
        )


def _plain_documents(first: Line, lines: Iterator[Line], split_lines: bool) -> Iterator[Document]:
    document: Document = []
    for _, line in itertools.chain([first], lines):
        if line:
            document += split_sentences(line) if split_lines else [line]
        elif document:
            yield document
            document = []
    if document:
        yield document


# WikiExtractor: https://github.com/attardi/wikiextractor, function Extractor.write_output
_DOC_START = re.compile(r'<doc id="[^"]*" (?:rev\w*="[^"]*" )?url="[^"]*" title="(.*)">')


def _wiki_documents(path: Path, first: Line, lines: Iterator[Line]) -> Iterator[Document]:
    start: Line | None = first
    while start is not None:
        document = _wiki_document(path, start, lines)
        if document:
            yield document
        start = next((line for line in lines if line[1]), None)


def _wiki_document(path: Path, start: Line, lines: Iterator[Line]) -> Document:
    """The sentences up to </doc>, without the title."""
    match = _DOC_START.fullmatch(start[1])
    if match is None:
        raise UserError(f"{path}, line {start[0]} stands outside <doc> ... </doc>: extract the file again")
    title = html.unescape(match[1])
    document: Document = []
    at_title = True
    for number, line in lines:
        if line == "</doc>":
            return document
        if _DOC_START.fullmatch(line):
            raise UserError(
                f"{path}: the <doc> of line {start[0]} is not closed before the <doc> of line {number}:"
                " extract the file again"
            )
        if line:
            if not (at_title and html.unescape(line) == title):
                document += split_sentences(line)
            at_title = False
    raise UserError(f"{path} ends inside the <doc> of line {start[0]}: it is cut short, extract it again")


# Sentence splitting.


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A full stop after these does not end a sentence.
_ALWAYS_INSIDE = _words(
    "e.g i.e cf v vs viz c.f a.k.a ca approx resp incl esp"
    " mr mrs ms messrs mme mlle dr prof rev fr hon st mt gov sen rep gen col maj capt cmdr lt sgt adm"
)
# A full stop after these does not end a sentence where a number follows.
_INSIDE_BEFORE_NUMBER = _words(
    "no nos nr vol vols p pp fig figs eq eqs sec ch chap art ver op ref tab c b d r"
    " jan feb mar apr jun jul aug sep sept oct nov dec"
)
# A full stop after these, after a single capital (J.) and after a word with inner full stops (U.S., Ph.D.)
# ends a sentence only where one of _STARTERS follows.
_SOMETIMES_INSIDE = _words("al etc inc ltd co corp bros jr sr dept univ")
_STARTERS = _words(
    "The This That These Those There It Its He She His Her They Their We I You A An One Another Other Some"
    " Many Most In On At As By For From With Under After Before During When While Since If And But However"
    " Although"
)
_BOUNDARY = re.compile(
    r"""[.!?…؟।]+["'”’»)\]]*(?=\s)"""  # scripts with spaces
    r"""|[。！？｡]+[”’」』）〉》】"')]*"""  # Chinese and Japanese: no space follows
)
_OPENERS = "\"'“‘«([¿¡"
_CJK_CONTINUES = "，。！？；、：,"
_NEXT_WORD = re.compile(r"[^\W\d_]+")


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, in order, without surrounding white space.

    Rules: . ! ? … and their closing quotes or brackets end a sentence where white space and something
    other than a lower-case letter follow; 。！？ end one at once. A full stop does not where it belongs to a
    known abbreviation, an initial, or the number of a list item. Known limits: an abbreviation that ends a
    sentence before a name ("in the U.S. Congress met") does not split; English abbreviations only; 。！？
    inside a quotation split it; ASCII ! and ? without a space after them do not split.
    """
    sentences = []
    start = 0
    for match in _BOUNDARY.finditer(paragraph):
        if _ends_sentence(paragraph, start, match.start(), match.end()):
            sentences.append(paragraph[start : match.end()].strip())
            start = match.end()
    rest = paragraph[start:].strip()
    if rest:
        sentences.append(rest)
    return sentences


def _ends_sentence(text: str, start: int, stop: int, end: int) -> bool:
    """Whether the marks text[stop:end] end the sentence that begins at `start`."""
    if text[stop] in "。！？｡":
        return not text.startswith(tuple(_CJK_CONTINUES), end)
    following = end
    size = len(text)
    while following < size and (text[following].isspace() or text[following] in _OPENERS):
        following += 1
    if following == size:
        return True
    if text[following].islower():
        return False
    if end - stop > 1 or text[stop] != ".":
        return True
    return not _is_inside(text, start, stop, following)


def _is_inside(text: str, start: int, stop: int, following: int) -> bool:
    """Whether the full stop at `stop` belongs to an abbreviation, an initial or a list number."""
    begin = max(text.rfind(" ", start, stop) + 1, start)
    word = text[begin:stop].lstrip(_OPENERS)
    lower = word.lower()
    if (lower if len(word) > 1 else word) in _ALWAYS_INSIDE:  # v. but not V.
        return True
    if text[following].isdigit():
        return lower in _INSIDE_BEFORE_NUMBER
    if word.isdigit() and not text[start:begin].strip():
        return True  # "1. Introduction"
    if lower in _SOMETIMES_INSIDE or "." in word or (len(word) == 1 and word.isupper()):
        next_word = _NEXT_WORD.match(text, following)
        return (next_word[0] if next_word else "") not in _STARTERS
    return False
