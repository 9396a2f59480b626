# SPDX-License-Identifier: Apache-2.0
"""CoNLL files: a word and its tags a line, an empty line between sentences.

Known shapes: CoNLL-2003 (Tjong Kim Sang and De Meulder, 2003: columns between spaces, word first, tag last, -DOCSTART-
before each document); columns between tabs; CoNLL-U, whose columns have names; and Weibo NER (Peng and Dredze, 2015),
where each line is a character with the digits of its position in the word behind it.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent
from bert_jax.tasks.examples import Sentence
from bert_jax.tasks.table import Column, CONLLU
from bert_jax.text.streams import read_text

DOCUMENT = "-DOCSTART-"
_DOCUMENT_COMMENTS = ("#begin document", "#end document", "# newdoc")  # CoNLL-2012, CoNLL-U
_CHARACTER_AND_POSITION = re.compile(r"(.[^0-9]*)([0-9]+)", re.DOTALL)
_COUNTED = 0.9  # share of the words whose positions count on, from which on they are taken for positions
_WHITE = re.compile(r"\s")
_GLOBAL_COLUMNS = "# global.columns ="  # of CoNLL-U Plus, in the first line
_RUNNING = re.compile(r"[0-9]+([-.][0-9]+)?")  # 1; 1-2: several words in one token; 8.1: a word that is not there


@dataclass(frozen=True)
class ConllSentence(Sentence):
    """A sentence and all that its lines say."""

    columns: tuple[tuple[str, ...], ...]  # those of each word as they stand in the file, without the tag


class _Line(NamedTuple):
    number: int  # from 1
    columns: list[str]


class _Block(NamedTuple):
    """The lines of one sentence."""

    document: int
    lines: list[_Line]


def read_conll(
    path: Path,
    word_column: Column | None = None,
    tag_column: Column | None = -1,
    *,
    may_lack_tags: bool = False,
    notes: list[str] | None = None,
) -> list[ConllSentence]:
    """Return the sentences of a file, in order.

    Columns stand between tabs where the first line of a word has one, else between spaces. A line that begins with "#"
    is a comment where a sentence may begin and it has another number of columns than the words; else it is a word.
    Documents begin at -DOCSTART-, "#begin document" and "# newdoc".

    A column is a number, from 0 or, if negative, from the end; or a name of `CONLLU` (of a file of so many columns) or of
    the line "# global.columns =". FEATS:Case and MISC:name are the values of such features, O where there is none.

    Where all words are a character and digits that count on, these are its position in the word and no part of the text
    (they stay in `columns`).

    Args:
      word_column: the column of the words; None: the first, and it is refused where it is a running number.
      tag_column: the column of the tags; None: there is none. A file of one column has no tags.
      may_lack_tags: whether a file without the tag column has no tags, and is no error.
      notes: what is left out of a file is added to these.

    Raises:
      UserError: no file, not UTF-8, no sentence in it, no such column, a line with another number of columns, or a
        running number where words must be.
    """
    lines = _read_lines(path)
    tabs, width, first = _shape(lines, path)
    blocks = _blocks(lines, tabs, width, first, path.name)
    if not blocks:
        raise UserError(f"{path} has no sentence: a CoNLL file has a word and its tag a line")
    if _is_numbered(blocks, width):
        if word_column is None:
            raise _numbered_error(path, width)
        blocks = _without_other_tokens(blocks, path.name, [] if notes is None else notes)
    names = _column_names(lines, width)
    word_at, feature = _column(word_column or 0, width, names, "word column", path)
    if feature is not None:
        raise UserError(f"{path}: {word_column} is a feature of a word: name the column of the words, such as FORM")
    tag_at, feature = _tag_column(tag_column, width, names, may_lack_tags, path)
    if word_at == tag_at:
        raise UserError(f"{path}: words and tags cannot both stand in column {word_at} of {width}")
    words = [tuple(line.columns[word_at] for line in block.lines) for block in blocks]
    if _has_positions(words):
        words = [tuple(_CHARACTER_AND_POSITION.sub(r"\1", word) for word in sentence) for sentence in words]
    return [
        _sentence(number, own, block, tag_at, feature, path)
        for number, (own, block) in enumerate(zip(words, blocks, strict=True))
    ]


def _sentence(
    number: int, words: tuple[str, ...], block: _Block, tag_at: int | None, feature: str | None, path: Path
) -> ConllSentence:
    """Return a sentence; the column of its tags is left out of `columns` where it holds nothing else."""
    return ConllSentence(
        name=str(number),
        words=words,
        tags=None if tag_at is None else tuple(_tag(line.columns[tag_at], feature) for line in block.lines),
        document=block.document,
        place=f"{path.name}, line {block.lines[0].number}",
        columns=tuple(
            tuple(column for place, column in enumerate(line.columns) if feature or place != tag_at)
            for line in block.lines
        ),
    )


def write_conll(path: Path, sentences: Sequence[Sentence], predicted: Sequence[Sequence[str]]) -> None:
    """Write what conlleval reads: a word a line, its tag and the predicted one last, spaces between the columns.

    The columns that a sentence was read with are written as they were; white space inside a column is written as "_".
    conlleval knows IOB1 and IOB2 only: it joins neighbours in IOBES, so bring `tags` and `predicted` into IOB2 for it.

    Args:
      predicted: a tag for each word of each sentence.
    """
    with complete_or_absent(path) as file:
        for sentence, tags in zip(sentences, predicted, strict=True):
            columns: Sequence[tuple[str, ...]] = [(word,) for word in sentence.words]
            if isinstance(sentence, ConllSentence):
                columns = sentence.columns
            labels = [tags] if sentence.tags is None else [sentence.tags, tags]
            lines = [(*own, *last) for own, *last in zip(columns, *labels, strict=True)]
            text = "".join(f"{' '.join(map(_one_column, line))}\n" for line in lines)
            file.write(f"{text}\n".encode("utf-8", "replace"))


def _one_column(text: str) -> str:
    return _WHITE.sub("_", text) or "_"


# ---- lines and blocks --------------------------------------------------------------------------------------


def _read_lines(path: Path) -> list[str]:
    """Return the lines without their ends. Only \\n ends a line: other characters that Python takes for one are words."""
    if not path.is_file():
        raise UserError(f"{path} is missing: name a CoNLL file, with a word and its tag a line")
    return [line.rstrip(" \t\r") for line in read_text(path).split("\n")]


def _shape(lines: Sequence[str], path: Path) -> tuple[bool, int, int]:
    """Return whether tabs stand between the columns, how many a word has, and the number of the line that says so."""
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith(DOCUMENT)]
    plain = (entry for entry in numbered if not entry[1].startswith("#"))
    number, line = next(itertools.chain(plain, numbered), (0, ""))
    if not number:
        raise UserError(f"{path} has no sentence: a CoNLL file has a word and its tag a line")
    tabs = "\t" in line
    return tabs, len(_columns(line, tabs)), number


def _columns(line: str, tabs: bool) -> list[str]:
    """Return the columns of a line. Other white space, such as the ideographic space, may be a word."""
    return line.split("\t") if tabs else re.split(" +", line.lstrip(" "))


def _blocks(lines: Sequence[str], tabs: bool, width: int, first: int, name: str) -> list[_Block]:
    blocks: list[_Block] = []
    block: list[_Line] = []
    document = 0
    for number, line in enumerate([*lines, ""], 1):  # a file may lack the last empty line
        columns = _columns(line, tabs) if line else []
        between_documents = line.startswith(DOCUMENT if block else (DOCUMENT, *_DOCUMENT_COMMENTS))
        comment = not block and line.startswith("#") and len(columns) != width
        if block and (not line or between_documents):
            blocks.append(_Block(document, block))
            block = []
        if between_documents and blocks and blocks[-1].document == document:
            document += 1
        if not line or between_documents or comment:
            continue
        if len(columns) != width:
            kind = "tabs" if tabs else "spaces"
            raise UserError(
                f"{name}, line {number}: the columns are not those of line {first}, {len(columns)} between {kind} where"
                f" it has {width}: give each word all columns, and put an empty line between sentences"
            )
        block.append(_Line(number, columns))
    return blocks


# ---- columns -------------------------------------------------------------------------------------------------


def _column_names(lines: Sequence[str], width: int) -> Sequence[str]:
    """Return the names of the columns, none where they have none."""
    if lines[0].startswith(_GLOBAL_COLUMNS):
        return lines[0].removeprefix(_GLOBAL_COLUMNS).split()
    return CONLLU if width == len(CONLLU) else ()


def _column(column: Column, width: int, names: Sequence[str], what: str, path: Path) -> tuple[int, str | None]:
    """Return the number of a column from 0, and the feature that is meant in it, if any."""
    numbers = f"0 to {width - 1}, or -1 to -{width} from the end"
    if isinstance(column, int):
        if not -width <= column < width:
            raise UserError(f"{path} has {width} columns: {what} {column} is not one of {numbers}")
        return column % width, None
    name, _, feature = column.partition(":")
    if name not in names[:width]:
        known = f"one of {', '.join(names)}" if names else f"named there: give its number, {numbers}"
        raise UserError(f"{path} has {width} columns: {what} {column} is not {known}")
    return names.index(name), feature or None


def _tag_column(
    column: Column | None, width: int, names: Sequence[str], may_lack: bool, path: Path
) -> tuple[int | None, str | None]:
    if column is None or (width == 1 and column == -1):
        return None, None
    try:
        return _column(column, width, names, "tag column", path)
    except UserError:
        if may_lack:
            return None, None
        raise


def _tag(cell: str, feature: str | None) -> str:
    """Return a tag, or the value of a feature in a cell such as `SpaceAfter=No|name=B-PER`; O where it is not there."""
    if feature is None:
        return cell
    pairs = (part.partition("=") for part in cell.split("|"))
    return next((value for name, _, value in pairs if name == feature), "O")


def _is_numbered(blocks: Sequence[_Block], width: int) -> bool:
    """Return whether the first column counts the words: in each sentence from 0 or 1, or on from the sentence before."""
    counted = words = 0
    last = -1
    for block in blocks:
        for place, line in enumerate(block.lines):
            if _RUNNING.fullmatch(line.columns[0]) is None:
                return False
            if not line.columns[0].isdecimal():
                continue
            number = int(line.columns[0])
            counted += number == last + 1 or (place <= 1 and number in (0, 1))
            words += 1
            last = number
    return width > 1 and words > 1 and counted >= _COUNTED * words


def _numbered_error(path: Path, width: int) -> UserError:
    example = "--text-column 1 --label-column -1"
    if width == len(CONLLU):
        example = "--text-column FORM --label-column UPOS (it looks like CoNLL-U; MISC:name is a value in MISC)"
    return UserError(
        f"{path}: its first column is a running number (1, 2, 3, ...), not the words: name the columns of words and tags,"
        f" {example}"
    )


def _without_other_tokens(blocks: Sequence[_Block], name: str, notes: list[str]) -> list[_Block]:
    """Return the blocks without lines that are no words: several words in one token (1-2), words that are not there (8.1)."""
    kept = [_Block(block.document, [line for line in block.lines if line.columns[0].isdecimal()]) for block in blocks]
    count = sum(len(block.lines) for block in blocks) - sum(len(block.lines) for block in kept)
    if count:
        notes.append(f"{name}: {count:,} lines that are no words (numbered 1-2 or 8.1) are left out")
    return [block for block in kept if block.lines]


# ---- characters with their position in the word -------------------------------------------------------------


def _has_positions(sentences: Sequence[Sequence[str]]) -> bool:
    """Return whether all words are a character and digits, and nearly all of the numbers are 0 or one more than the last.

    Zeros alone count nothing: they are the ends of numbers such as 10 and 2000.
    """
    counted = words = furthest = 0
    for sentence in sentences:
        last = -1
        for word in sentence:
            match = _CHARACTER_AND_POSITION.fullmatch(word)
            if match is None:
                return False
            position = int(match[2])
            counted += position in (0, last + 1)
            words += 1
            last = position
            furthest = max(furthest, position)
    return furthest > 0 and counted >= _COUNTED * words
