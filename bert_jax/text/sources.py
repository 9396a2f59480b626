# SPDX-License-Identifier: Apache-2.0
"""Items of `--input` -> sources of text -> parts that can be read apart from each other.

An item of `--input` is a file, a folder, a glob, `tfds:NAME[/CONFIG][:VERSION]/SPLIT:FIELD`, `hf:FOLDER` (a split that Hugging
Face's `datasets` has saved) or `hf://datasets/OWNER/NAME/FILES` (on its hub), each with `@WEIGHT` after it if its text is to
count more or less than once: with weight 2 every document is taken twice, with 0.25 a quarter of the documents, chosen by a
hash of their text. A path that exists as it stands is that path.
"""

import glob
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_jax.base.bucket_cache import local_copy
from bert_jax.base.errors import UserError
from bert_jax.base.files import file_sha256
from bert_jax.base.paths import any_path, any_text, on_bucket
from bert_jax.base.types import JsonObject
from bert_jax.text.documents import RawDocument, read_raw, ReadingCounts, ReadingOptions
from bert_jax.text.hub import HUB, hub_files
from bert_jax.text.tables import HUGGING_FACE, read_table, saved_files, table_format
from bert_jax.text.tfds_source import find_split, read_split, TfdsSplit

_CORPUS_FILES = ("corpus-00000.txt", "corpus.json")  # of `bert-jax corpus`: the second one is no text
_WEIGHT = re.compile(r"(.+)@([^@/]*)", re.DOTALL)
_MOST_REPETITIONS = 1000
_TFDS = "tfds:"


@dataclass(frozen=True)
class Source:
    """One item of `--input`.

    name: the item without its weight and without the folders above it, the same wherever the text lies.
    files: in the order in which they are read; those of a TFDS split are its record files.
    folder: the folder that the names of the files begin below.
    tfds: the split, None for files of text.
    """

    name: str
    weight: float
    files: tuple[Path, ...]
    folder: Path
    tfds: TfdsSplit | None = None

    def name_of(self, file: Path) -> str:
        """The name of one of the files, below `folder`."""
        return file.relative_to(self.folder).as_posix()


@dataclass(frozen=True)
class Part:
    """Consecutive files of one source, on one of the passes over it. Reading it needs no other part.

    share: of its documents; less than 1 on the last pass of a source whose weight is not a whole number.
    bytes: of its files, as stored.
    """

    number: int
    source: int
    repetition: int
    share: float
    files: tuple[Path, ...]
    tfds: TfdsSplit | None
    bytes: int


# ---- sources -----------------------------------------------------------------------------------------------


def parse_sources(inputs: Sequence[str | Path], option: str = "--input") -> list[Source]:
    """The sources that the items of `--input`, or of another option that is named, stand for.

    A folder stands for all files below it in sorted order, without hidden ones (.git, .DS_Store) and without the record
    that `bert-jax corpus` leaves; a glob for what it matches, in sorted order.

    Raises:
      UserError: an item that is missing, an empty file, a folder without files, a glob that matches nothing, a file
        that is reached twice or is not a regular file, a weight that is not one, a data set that TFDS does not have.
    """
    sources = [_parse(any_text(str(item)), option) for item in inputs]
    _require_once(sources)
    return sources


def total_bytes(sources: Sequence[Source]) -> int:
    """Bytes of all files as stored, each once whatever its weight."""
    return sum(file.stat().st_size for source in sources for file in source.files)


def _parse(item: str, option: str) -> Source:
    text, weight = item, 1.0
    if not _exists(item) and (match := _WEIGHT.fullmatch(item)):
        text, weight = match[1], _weight(item, match[2], option)
    if text.startswith(_TFDS) and not os.path.exists(text):
        split = find_split(text, option)
        return Source(text, weight, split.files, split.folder, split)
    if text.startswith(HUB):
        name, folder, files = hub_files(text, option)
        for file in files:
            _require_text(file, option)
        return Source(name, weight, tuple(files), folder)
    if text.startswith(HUGGING_FACE) and not os.path.exists(text):
        folder, files = saved_files(text, option)
        return Source(f"{HUGGING_FACE}{folder.resolve().name}", weight, tuple(files), folder)
    path = _readable(text, option)
    if path.is_dir():
        files, folder = _files_below(path, option), path
    elif path.exists():
        files, folder = [path], path.parent
    elif glob.has_magic(text):
        files, folder = _files_matching(text, option)
    else:
        raise UserError(f"{text} is missing: check {option}")
    for file in files:
        _require_text(file, option)
    name = path.relative_to(folder).as_posix() if path != folder else path.resolve().name
    return Source(name, weight, tuple(files), folder)


def _exists(item: str) -> bool:
    return any_path(item).exists() if item.startswith("gs://") else os.path.exists(item)


def _readable(text: str, option: str) -> Path:
    """Return the path of a file or folder; of one on a bucket that of its copy."""
    path = any_path(text)
    if not on_bucket(path):
        return path
    if not path.exists():
        also = ", and globs are not looked up there" if glob.has_magic(text) else ""
        raise UserError(f"{text} is missing{also}: check {option}")
    return local_copy(path)


def _weight(item: str, text: str, option: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight <= _MOST_REPETITIONS:
        raise UserError(
            f"{option} {item} is missing, and {text!r} after its @ is not a weight: check the path, or give a number"
            f" above 0, at most {_MOST_REPETITIONS} (2: every document twice, 0.25: a quarter of them)"
        )
    return weight


def _files_below(folder: Path, option: str) -> list[Path]:
    files: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_up(Path(place, name))]
        record = _CORPUS_FILES[1] if set(_CORPUS_FILES) <= set(names) else ""
        paths = (Path(place, name) for name in names if not name.startswith(".") and name != record)
        files += [path for path in paths if path.is_file()]
    files.sort()
    if not files:
        raise UserError(f"{folder} has no files in it: check {option}")
    return files


def _leads_up(folder: Path) -> bool:
    """Whether a folder is a link to one that it is in, by whatever links."""
    return folder.is_symlink() and folder.resolve() in {above.resolve() for above in folder.absolute().parents}


def _files_matching(pattern: str, option: str) -> tuple[list[Path], Path]:
    """The files that a glob matches, those below matching folders too, and the folder above its first wildcard."""
    files: list[Path] = []
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        files += _files_below(path, option) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{pattern} matches no file: check {option}")
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return list(dict.fromkeys(files)), Path(*parts[:first])


def _require_text(file: Path, option: str) -> None:
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the name of the file {str(file)!a} is not UTF-8, and could not be recorded: rename it"
        ) from None
    if not file.is_file():
        raise UserError(f"{file} is not a regular file: write its text to a file first")
    if not file.stat().st_size:
        raise UserError(f"{file} is empty: remove it or leave it out of {option}")


def _require_once(sources: Sequence[Source]) -> None:
    """Refuse a file or a TFDS split that is named twice. Slices of one split may be sources of their own."""
    seen: dict[Path | str, str] = {}
    for source in sources:
        named: dict[Path | str, str] = {source.name: source.name}
        if source.tfds is None:
            named = {file.resolve(): str(file) for file in source.files}
        for what, name in named.items():
            if what in seen:
                raise UserError(
                    f"{name} is given twice (as {seen[what]} too): leave one out; to count its text twice give {name}@2"
                )
        seen |= named


# ---- parts -------------------------------------------------------------------------------------------------


def plan_parts(sources: Sequence[Source], part_bytes: int) -> list[Part]:
    """The parts of all passes over all sources, in the order of the sources.

    Files are put together until they have `part_bytes`, as stored. A file that has as much stands by itself, and so
    does a TFDS split. A function of the sizes of the files alone.
    """
    parts: list[Part] = []
    for index, source in enumerate(sources):
        sizes = [file.stat().st_size for file in source.files]
        groups = [range(len(sizes))] if source.tfds else _groups(sizes, part_bytes)
        for repetition, share in enumerate(_passes(source.weight)):
            for group in groups:
                files, size = tuple(source.files[place] for place in group), sum(sizes[place] for place in group)
                parts.append(Part(len(parts), index, repetition, share, files, source.tfds, size))
    return parts


def _groups(sizes: Sequence[int], part_bytes: int) -> list[range]:
    """Ranges of consecutive files. A rest of less than a quarter of a part joins the range before it."""
    groups: list[range] = []
    begin = total = 0
    for place, size in enumerate(sizes):
        if size >= part_bytes and place > begin:
            groups.append(range(begin, place))
            begin, total = place, 0
        total += size
        if total >= part_bytes:
            groups.append(range(begin, place + 1))
            begin, total = place + 1, 0
    if begin < len(sizes):
        if groups and total < part_bytes / 4:
            begin = groups.pop().start
        groups.append(range(begin, len(sizes)))
    return groups


def _passes(weight: float) -> list[float]:
    """The share of the documents that each pass takes."""
    whole = math.floor(weight)
    rest = weight - whole
    return [1.0] * whole + ([rest] if rest else [])


def read_part(
    part: Part,
    sources: Sequence[Source],
    options: ReadingOptions,
    counts: ReadingCounts,
    on_bytes: Callable[[int], object] | None = None,
    on_file: Callable[[Path, str], None] | None = None,
) -> Iterator[RawDocument]:
    """The documents of one part; of a part with a share less than 1 only those that are chosen.

    Args:
      counts: what is left out or replaced on the way is added to these.
      on_bytes: told how many more bytes of the files, as stored, have been read.
      on_file: told of each file that has been read to its end, with its sha256 in hex.

    Raises:
      UserError: as `documents.read_raw`, or as `tfds_source.read_split`.
    """
    for document in _all_documents(part, options, counts, on_bytes, on_file):
        if part.share >= 1 or _hash(document) < part.share:
            yield document


def _all_documents(
    part: Part,
    options: ReadingOptions,
    counts: ReadingCounts,
    on_bytes: Callable[[int], object] | None,
    on_file: Callable[[Path, str], None] | None,
) -> Iterator[RawDocument]:
    if part.tfds is not None:
        yield from _placed(0, read_split(part.tfds, options, counts, on_bytes))
        if on_file is not None:
            for file in part.files:
                on_file(file, file_sha256(file))
        return
    for place, file in enumerate(part.files):
        digest = hashlib.sha256()
        kind = table_format(file) if options.text_format == "auto" else None
        if kind is None:
            yield from _placed(place, read_raw(file, options, counts, on_bytes, digest))
        else:
            yield from _placed(place, read_table(file, kind, options, counts, on_bytes))
        if on_file is not None:  # a table is not read from front to back
            on_file(file, digest.hexdigest() if kind is None else file_sha256(file))


def _placed(file: int, documents: Iterator[RawDocument]) -> Iterator[RawDocument]:
    for number, document in enumerate(documents):
        yield document._replace(place=(file, number))


def _hash(document: RawDocument) -> float:
    """A hash of the text in [0, 1); the choice of held-out documents is made by another one."""
    digest = hashlib.blake2b("\n".join(document.lines).encode(), digest_size=8, person=b"share")
    return (int.from_bytes(digest.digest()) >> 11) / 2**53


def describe_file(source: Source, file: Path) -> JsonObject:
    """Name, size and time of a file, without reading it."""
    status = file.stat()
    return {"file": source.name_of(file), "bytes": status.st_size, "modified": status.st_mtime_ns}
