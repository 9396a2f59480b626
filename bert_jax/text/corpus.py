# SPDX-License-Identifier: Apache-2.0
"""English text that is already on the machine: the documentation inside installed Python packages.

Every module of the standard library and of the installed packages is read, never imported; its docstrings,
cleaned of code, tables and mark-up, are one document. The files hold one sentence a line and a blank line
after each document, as google-research/bert takes them. What is written depends on the packages and the
settings, not on the number of processes.
"""

import contextlib
import gc
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import signal
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent, read_json, reading
from bert_jax.base.types import JsonObject
from bert_jax.text.docstrings import docstrings, is_prose, paragraphs
from bert_jax.text.sentences import split_sentences

FORMAT = 1
MANIFEST = "corpus.json"
UNFINISHED = "corpus-unfinished"  # says that what else is in the folder is of a corpus that is not complete
OWN_FILE = re.compile(r"corpus-\d{5}\.txt(\.partial)?|corpus\.json\.partial")
FILE_BYTES = 4_000_000  # a text file is closed at the first end of a document after this size
MIN_SENTENCES = 3  # a shorter document has no context to learn from and hardly a next sentence
MODULES_PER_TASK = 16  # modules that a worker process takes at a time

Paragraph = list[str]  # its sentences

# ------------------------------------------------------------------------------------------------------------
# Which modules


# Copies of other packages, which may be installed as well, and tests, whose docstrings are data.
SKIPPED_FOLDERS = {"test", "tests", "_tests", "testdata", "idle_test", "site-packages", "dist-packages"}
SKIPPED_FOLDERS |= {"vendor", "_vendor", "vendored", "_vendored", "third_party", "_external", "externals"}
SKIPPED_FILES = re.compile(r"__editable__\w+\.py|test_\w+\.py|\w+_test\.py|conftest\.py|\w+_pb2(_grpc)?\.py")
OWN_PACKAGE = "bert_jax"  # else a change of this program would change its own training text


@dataclass(frozen=True)
class Module:
    """A Python source file, and the name under which it would be imported."""

    name: str
    path: Path


def package_folders() -> list[Path]:
    """The folders of the standard library and of the installed packages of the running interpreter."""
    installed = [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    folders = [Path(sysconfig.get_path("stdlib")), *installed, Path(sysconfig.get_path("purelib"))]
    return list(dict.fromkeys(folder.resolve() for folder in folders if folder.is_dir()))


def find_modules(folders: Sequence[Path]) -> list[Module]:
    """Every module below `folders` that could be imported, sorted by name; the first of two with one name."""
    found: dict[str, Module] = {}
    for root in folders:
        for folder, subfolders, files in os.walk(root):
            skipped = SKIPPED_FOLDERS | ({OWN_PACKAGE} if Path(folder) == root else set())
            subfolders[:] = [name for name in subfolders if name.isidentifier() and name not in skipped]
            for file in files:
                stem, extension = os.path.splitext(file)
                if extension == ".py" and stem.isidentifier() and not SKIPPED_FILES.fullmatch(file):
                    module = Module(_module_name(root, Path(folder), stem), Path(folder, file))
                    found.setdefault(module.name, module)
    return [found[name] for name in sorted(found)]


def _module_name(root: Path, folder: Path, stem: str) -> str:
    parts = folder.relative_to(root).parts
    return ".".join(parts if stem == "__init__" and parts else (*parts, stem))


def mixed_order(modules: Sequence[Module], seed: int) -> list[Module]:
    """The modules in an order that mixes the packages and depends on names and seed alone."""
    return sorted(modules, key=lambda module: hashlib.sha256(f"{seed}:{module.name}".encode()).digest())


# ------------------------------------------------------------------------------------------------------------
# One module


@dataclass(frozen=True)
class ModuleText:
    """The text of one module, and how it was found."""

    name: str
    paragraphs: list[Paragraph]
    docstrings: int
    not_prose: int  # sentences that were left out
    error: str | None = None  # why the file could not be read


def read_module(module: Module) -> ModuleText:
    """Read a file and keep the sentences that are prose. A file that is not Python 3 is not fatal."""
    try:
        texts = list(docstrings(module.path.read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return ModuleText(module.name, [], 0, 0, f"{type(error).__name__}: {error}")
    kept: list[Paragraph] = []
    not_prose = 0
    for paragraph in (paragraph for text in texts for paragraph in paragraphs(text)):
        sentences = split_sentences(paragraph)
        good = [sentence for sentence in sentences if is_prose(sentence)]
        not_prose += len(sentences) - len(good)
        if good:
            kept.append(good)
    return ModuleText(module.name, kept, len(texts), not_prose)


def _read_all(modules: Sequence[Module], workers: int) -> Generator[ModuleText]:
    """`read_module` of each module, in order."""
    if workers == 1:
        yield from map(read_module, modules)
        return
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield from executor.map(read_module, modules, chunksize=MODULES_PER_TASK)
    except BrokenProcessPool:
        raise UserError(
            f"one of {workers} worker processes was killed, perhaps for want of memory: try --workers 1"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    gc.disable()  # a syntax tree has no cycles: to look for them in a growing one is time lost


# ------------------------------------------------------------------------------------------------------------
# Duplicates


WORD = re.compile(r"[a-z]+")
RUN_WORDS = 8  # a run of so many equal words is hardly chance
RUN_SLOTS = 2**26  # of the table of runs seen, one byte each; two million runs make one false match in thirty


class Duplicates:
    """Leaves out what was said before, so that held-out documents are not found in the training text.

    Sentences are compared by their letters alone, without case and digits (Conv1D and Conv2D are documented
    in the same words). Near duplicates are paragraphs of whose runs of 8 words more than half have been seen.
    """

    def __init__(self) -> None:
        self.sentences: set[str] = set()
        self.runs = bytearray(RUN_SLOTS)
        self.counts = {"duplicate_paragraphs": 0, "near_duplicate_paragraphs": 0, "duplicate_sentences": 0}

    def fresh(self, text: Sequence[Paragraph]) -> list[Paragraph]:
        """The paragraphs, and of these the sentences, that are new."""
        kept = []
        for paragraph in text:
            keys = [" ".join(WORD.findall(sentence.lower())) for sentence in paragraph]
            new = [sentence for sentence, key in zip(paragraph, keys, strict=True) if self._is_new(key)]
            if not new:
                self.counts["duplicate_paragraphs"] += 1
            elif self._mostly_seen(" ".join(keys).split()):
                self.counts["near_duplicate_paragraphs"] += 1
            else:
                self.counts["duplicate_sentences"] += len(paragraph) - len(new)
                kept.append(new)
        return kept

    def _is_new(self, key: str) -> bool:
        known = key in self.sentences
        self.sentences.add(key)
        return not known

    def _mostly_seen(self, words: list[str]) -> bool:
        runs = [" ".join(words[start : start + RUN_WORDS]) for start in range(len(words) - RUN_WORDS + 1)]
        slots = [zlib.crc32(run.encode()) % RUN_SLOTS for run in runs]
        seen = sum(self.runs[slot] for slot in slots)
        for slot in slots:
            self.runs[slot] = 1
        return 2 * seen > len(slots)


# ------------------------------------------------------------------------------------------------------------
# The corpus


def write_corpus(
    output: Path,
    megabytes: float | None = None,
    seed: int = 0,
    folders: Sequence[Path] | None = None,
    workers: int = 1,
) -> JsonObject:
    """Write `corpus-00000.txt`, ... and at last `corpus.json` into `output`; returns what the latter holds.

    Args:
      output: a folder, new or empty, or with an unfinished corpus, whose files are removed.
      megabytes: stop after the document that reaches so many (of 1,000,000 bytes). None: everything there is.
      seed: of the order of the modules, which mixes the packages.
      folders: where to look for modules; None: the standard library and the installed packages.
      workers: processes; the text does not depend on it.

    Raises:
      UserError: `output` holds something else, or there is no text.
    """
    folders = package_folders() if folders is None else folders
    modules = mixed_order(find_modules(folders), seed)
    mark = _begin(output)
    limit = float("inf") if megabytes is None else megabytes * 1e6
    counts: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    duplicates = Duplicates()
    files: list[JsonObject] = []
    pending = b""
    with _progress(len(modules), megabytes) as bar, contextlib.closing(_read_all(modules, workers)) as texts:
        for text in texts:
            document = _document(text, counts, unreadable, duplicates)
            pending += document
            bar.update(1 if megabytes is None else len(document))
            if len(pending) >= FILE_BYTES:
                files.append(_write_file(output, len(files), pending))
                pending = b""
            if counts["bytes"] >= limit:
                break
    if pending:
        files.append(_write_file(output, len(files), pending))
    if not counts["documents"]:
        raise UserError(
            f"no English documentation in the {len(modules)} modules below {', '.join(map(str, folders))}:"
            " give text of your own to the --input of bert-jax vocab and bert-jax prepare"
        )
    manifest = {
        "format": FORMAT,
        "settings": {"megabytes": megabytes, "seed": seed},
        **_counted(counts, "documents", "sentences", "bytes"),
        "modules": {"found": len(modules), **_counted(counts, "read", "without_docstring", "unreadable")},
        "left_out": {**_counted(counts, "not_prose", "short_documents", "duplicate_documents"), **duplicates.counts},
        "unreadable": unreadable,
        "packages": package_versions(modules, folders),
        "files": files,
    }
    with complete_or_absent(output / MANIFEST) as opened:
        opened.write((json.dumps(manifest) + "\n").encode())
    mark.unlink()
    return manifest


def _begin(output: Path) -> Path:
    """Make a folder that holds nothing but the mark of an unfinished corpus; returns the mark.

    Raises:
      UserError: it has files, and no mark says that they are of a corpus.
    """
    mark = output / UNFINISHED
    output.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        if foreign := sorted(path.name for path in output.iterdir()):
            raise UserError(
                f"--output {output} holds {foreign[0]}, not a corpus: choose another --output, new or empty"
            )
        mark.touch()
    for file in output.iterdir():
        if OWN_FILE.fullmatch(file.name):
            file.unlink()
    return mark


def _counted(counts: Counter[str], *names: str) -> dict[str, int]:
    return {name: counts[name] for name in names}


def _document(text: ModuleText, counts: Counter[str], unreadable: dict[str, str], duplicates: Duplicates) -> bytes:
    """The lines of one module's document, or nothing where there is too little; counts either."""
    counts["read"] += 1
    counts["not_prose"] += text.not_prose
    if text.error is not None:
        counts["unreadable"] += 1
        unreadable[text.name] = text.error
    elif not text.docstrings:
        counts["without_docstring"] += 1
    elif sum(map(len, text.paragraphs)) < MIN_SENTENCES:
        counts["short_documents"] += 1
    else:
        sentences = [sentence for paragraph in duplicates.fresh(text.paragraphs) for sentence in paragraph]
        if len(sentences) >= MIN_SENTENCES:
            lines = ("\n".join(sentences) + "\n\n").encode()
            counts.update(documents=1, sentences=len(sentences), bytes=len(lines))
            return lines
        counts["duplicate_documents"] += 1
    return b""


def _progress(modules: int, megabytes: float | None) -> tqdm:
    if megabytes is None:
        return tqdm(total=modules, desc="reading", unit=" modules")
    return tqdm(total=round(megabytes * 1e6), desc="writing", unit="B", unit_scale=True)


def _write_file(output: Path, number: int, text: bytes) -> JsonObject:
    path = output / f"corpus-{number:05d}.txt"
    with complete_or_absent(path) as file:
        file.write(text)
    return {"file": path.name, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def package_versions(modules: Sequence[Module], folders: Sequence[Path]) -> dict[str, str]:
    """Name -> version of Python and of the installed distributions that any of the modules belongs to."""
    top_level = {module.name.partition(".")[0] for module in modules}
    versions = {"Python": platform.python_version()}
    for distribution in importlib.metadata.distributions(path=[str(folder) for folder in folders]):
        names = {file.parts[0].removesuffix(".py") for file in distribution.files or ()}
        if distribution.name and names & top_level:
            versions[distribution.name] = distribution.version
    return dict(sorted(versions.items(), key=lambda entry: entry[0].lower()))


# ------------------------------------------------------------------------------------------------------------
# A corpus that is there already


def finished_corpus(output: Path, megabytes: float | None, seed: int) -> JsonObject | None:
    """Return the content of `corpus.json` in `output`, or None if there is none: nothing was made or finished.

    Raises UserError if it was made with other settings, or if one of its files is missing or has another
    size. The installed packages may have changed since: text is text.
    """
    path = output / MANIFEST
    if not path.exists():
        return None
    remedy = f"remove {output} or choose another --output"
    manifest = read_json(path, remedy)
    with reading(path, remedy):
        _check_corpus(output, path, manifest, {"megabytes": megabytes, "seed": seed}, remedy)
    (output / UNFINISHED).unlink(missing_ok=True)  # of a process that was killed when all was done but this
    return manifest


def _check_corpus(output: Path, path: Path, manifest: JsonObject, asked: JsonObject, remedy: str) -> None:
    made_with, files = manifest["settings"], manifest["files"]
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path} has format {manifest.get('format')}, this program reads {FORMAT}: {remedy}")
    for name, value in asked.items():
        if made_with.get(name) != value:
            raise UserError(
                f"{output} holds a corpus made with {_option(name, made_with.get(name))}, asked for is"
                f" {_option(name, value)}: {remedy}"
            )
    for file in files:
        size = os.path.getsize(output / file["file"]) if (output / file["file"]).exists() else None
        if size != file["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise UserError(f"{output / file['file']} {found}, {path} says {file['bytes']}: {remedy}")


def _option(name: str, value: object) -> str:
    return f"no --{name}" if value is None else f"--{name} {value:g}"


def changed_packages(manifest: JsonObject, versions: Mapping[str, str]) -> list[str]:
    """The packages that differ from those the corpus was made of: `numpy 2.0 -> 2.1`, `scipy 1.0 -> none`."""
    before = manifest["packages"]
    names = sorted({*before, *versions}, key=str.lower)
    return [
        f"{name} {before.get(name, 'none')} -> {versions.get(name, 'none')}"
        for name in names
        if before.get(name) != versions.get(name)
    ]
