# SPDX-License-Identifier: Apache-2.0
"""English text that is already on the machine: the documentation inside installed Python packages.

Every module of the standard library and of the installed packages is read, never imported; its docstrings,
cleaned of code, tables and mark-up, are one document. The files hold one sentence a line and a blank line
after each document, as google-research/bert takes them. What is written depends on the packages and the
settings, not on the number of processes.
"""

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import inspect
import json
import multiprocessing
import os
import platform
import re
import signal
import sys
import sysconfig
import warnings
import zlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bert_jax.data.text import split_sentences
from bert_jax.errors import UserError

FORMAT = 1
MANIFEST = "corpus.json"
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
# From a source file to its docstrings


def docstrings(source: bytes) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, in the order of the source.

    Docstrings between single quotation marks are found only in files that have a triple-quoted string too:
    the others are not parsed, which saves time.

    Raises:
      SyntaxError, ValueError, RecursionError, MemoryError: what `ast.parse` says of files it cannot read.
    """
    if b'"""' not in source and b"'''" not in source:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's files
        tree = ast.parse(source)
    yield from _docstrings_below(tree)


def _docstrings_below(node: ast.AST) -> Iterator[str]:
    """Only statements are walked: expressions, most of the tree, hold no docstring."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield text
    for field in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, field, ()):
            if isinstance(child, ast.stmt | ast.excepthandler):
                yield from _docstrings_below(child)


# ------------------------------------------------------------------------------------------------------------
# From a docstring to paragraphs of prose. Understands reStructuredText, Markdown, and the conventions of
# NumPy, Google and Sphinx for parameters, by their layout; what it misunderstands is caught by `is_prose`.


RULE = re.compile(r"([-=~^*#+`'\"_.:])\1{2,}")  # a line that underlines a heading
FENCE = re.compile(r"```|~~~")
TABLE = re.compile(r"\||\+[-=]|[-=]{2,}\s+[-=]{2,}|.*(?<![.!?:])\s{3,}\S|.*\S[ ]{2,}\S+[ ]{2,}\S")
DOCTEST = re.compile(r">>>|In \[\d+\]:|\$ |% ")
BULLET = re.compile(r"([-*+•]|\(?\d{1,2}[.)]|\(?[a-z]\)|#\.)\s+(?=\S)")
DIRECTIVE = re.compile(r"\.\.\s*([\w:-]*?)\s*::\s*(.*)|\.\.(\s.*)?$")
PROSE_DIRECTIVES = {"note", "warning", "tip", "important", "caution", "attention", "hint", "admonition"}
VERSION_DIRECTIVES = {"versionadded", "versionchanged", "deprecated"}  # their argument is a number
FIELD = re.compile(r"[:@](\w+)(?:\s+[^:]*)?:(?:\s+(.*)|$)")  # `:param int x: words`, `@return: words`
PROSE_FIELDS = {"param", "parameter", "arg", "argument", "key", "keyword", "kwarg", "kwparam", "var", "ivar"}
PROSE_FIELDS |= {"cvar", "return", "returns", "raise", "raises", "except", "exception", "yield", "yields"}
ITEM = re.compile(  # `name: words`, `name (type): words`
    r"[`*]{0,3}[A-Za-z_][\w.\[\]/, *`-]{0,60}?\s*"
    r"(?:\([^()]*(?:\([^()]*\)[^()]*)*\)|<[^<>]*>)?[`*]{0,2}\s*:\s+(?=\S)"
)
ITEM_SECTION = re.compile(
    r"(?:\w+ )?(?:args|arguments|kwargs|parameters|params|attributes|fields|flags|options|raises|returns?"
    r"|yields?|warns)\s*:\s*(?:\(.*\))?",
    re.IGNORECASE,
)
NUMPY_ITEMS = {"parameters", "other parameters", "attributes", "returns", "yields", "receives", "raises"}
NUMPY_DROPPED = {"warns", "see also", "references", "methods", "routine listings", "keys", "routines"}
CODE = re.compile(
    r"(?:import|from\s+\S+\s+import|def|class|assert|raise|del|print|async)\b[\s(].*[\w)\]:\"']$"
    r"|(?:if|for|while|with|try|else|elif|except|finally)\b.*:$"
    r"|[\w.\[\]'\", ]+ [-+*/|&@]?= .*"  # assignment
    r"|\w[\w.]*\(.*\)\s*(?:(?:->|=>|--).*|[,;:])?$"  # a call or signature
    r"|.*(?:[{(\[;\\]|\)\s*->.*:|=\w+,)$"
    r"|[@#<{}\[\])]|\w+\s*->|//|/\*|--?\w[\w-]*[ =]"
)


def paragraphs(docstring: str) -> list[str]:
    """The paragraphs of a docstring, unwrapped, without mark-up, code, tables and headings."""
    return [text for text in map(plain, _Layout(docstring).blocks()) if text]


class _Layout:
    """Reads a docstring line by line. Blank lines, items and changes of indentation end a paragraph."""

    def __init__(self, docstring: str):
        self.lines = inspect.cleandoc(docstring).splitlines()
        self.done: list[str] = []
        self.current: list[str] = []
        self.indent = 0  # of the current paragraph's first line
        self.hanging = False  # the current paragraph is an item: its next lines may be indented deeper
        self.skip_deeper = -1  # lines indented deeper than this are left out; -1: none
        self.section_indent = -1  # lines indented deeper than this are items of a Google section; -1: none
        self.numpy_section = ""
        self.fenced = False
        self.doctest = False

    def blocks(self) -> list[str]:
        for number, line in enumerate(self.lines):
            text = line.strip()
            if FENCE.match(text):
                self.close()
                self.fenced ^= text.count(text[:3]) % 2 == 1
            elif not self.fenced:
                self.take(number, text, len(line) - len(line.lstrip()))
        self.close()
        return self.done

    def close(self) -> None:
        if self.current:
            self.done.append(" ".join(self.current))
        self.current = []

    def take(self, number: int, text: str, indent: int) -> None:
        """One line outside of fenced code."""
        if not text:
            self.close()
            self.doctest = False
            return
        if self.skip_deeper >= 0 and indent <= self.skip_deeper:
            self.skip_deeper = -1
        if self.heading(number, text, indent) or self.skip_deeper >= 0 or self.doctest:
            return
        if indent <= self.section_indent:
            self.section_indent = -1
        if self.numpy_section in NUMPY_DROPPED:
            return
        if DOCTEST.match(text):
            self.close()
            self.doctest = True
        elif not any(step(number, text, indent) for step in (self.directive, self.field, self.left_out)):
            self.prose(text, indent)

    def heading(self, number: int, text: str, indent: int) -> bool:
        """Underlined headings, NumPy and Google section names, Markdown headings."""
        if RULE.fullmatch(text):
            self.close()
            return True
        if number + 1 < len(self.lines) and RULE.fullmatch(self.lines[number + 1].strip()) and len(text) < 80:
            self.close()
            self.numpy_section = text.lower().rstrip(":")
            self.skip_deeper = self.section_indent = -1
            self.doctest = False
            return True
        if self.skip_deeper < 0 and ITEM_SECTION.fullmatch(text):
            self.close()
            self.section_indent = indent
            return True
        return False

    def directive(self, _: int, text: str, indent: int) -> bool:
        match = DIRECTIVE.match(text)
        if not match:
            return False
        self.close()
        name, argument = match[1], match[2]
        if name in PROSE_DIRECTIVES and argument:
            self.open(argument, indent, hanging=True)
        elif name not in PROSE_DIRECTIVES | VERSION_DIRECTIVES:
            self.skip_deeper = indent
        return True

    def field(self, _: int, text: str, indent: int) -> bool:
        match = FIELD.match(text)
        if not match:
            return False
        self.close()
        if match[1] not in PROSE_FIELDS:
            self.skip_deeper = indent
        elif match[2]:
            self.open(match[2], indent, hanging=True)
        return True

    def left_out(self, number: int, text: str, indent: int) -> bool:
        """Table rows, code, and the `name : type` lines of NumPy sections."""
        names_line = self.numpy_section in NUMPY_ITEMS and indent == 0 and self.indent_after(number) > 0
        if names_line or TABLE.match(text) or CODE.match(text):
            self.close()
            return True
        return False

    def indent_after(self, number: int) -> int:
        following = self.lines[number + 1] if number + 1 < len(self.lines) else ""
        return len(following) - len(following.lstrip())

    def prose(self, text: str, indent: int) -> None:
        bullet = BULLET.match(text)
        starts_item = not self.current or (self.section_indent >= 0 and indent <= self.indent)
        if bullet or (starts_item and ITEM.match(text)):
            self.close()
            rest = text[bullet.end() :] if bullet else text
            item = ITEM.match(rest)
            self.open(rest[item.end() :] if item else rest, indent, hanging=True)
        elif self.current and self.continues(indent):
            self.current.append(text)
        else:
            self.close()
            self.open(text, indent, hanging=self.section_indent >= 0)
        if text.endswith("::"):
            self.close()
            self.skip_deeper = indent

    def continues(self, indent: int) -> bool:
        if self.hanging:
            return indent > self.indent or (indent == self.indent and self.section_indent < 0)
        return indent == self.indent

    def open(self, text: str, indent: int, hanging: bool) -> None:
        self.current, self.indent, self.hanging = [text], indent, hanging


CHARACTERS = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": " - ", "…": "...", "\u00a0": " "})
MARKUP: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(r"!?\[([^\]\[]+)\]\([^()\s]*(?:\([^()\s]*\))?[^()\s]*\)"), r"\1"),  # [text](address)
    (re.compile(r":[\w:.+-]+:`~[^`<]*?([^`<.]+)`"), r"\1"),  # :class:`~package.Name`
    (re.compile(r":[\w:.+-]+:`!?([^`<]+?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :class:`Name`, :ref:`text <target>`
    (re.compile(r"``(.+?)``"), r"\1"),
    (re.compile(r"`([^`<]+?)\s+<[^`>]+>`_{0,2}"), r"\1"),  # `text <address>`_
    (re.compile(r"`[.~!]*([^`]+)`_{0,2}"), r"\1"),
    (
        re.compile(r"\b((?:in|of|by|to|from|see|also|and|or|with|per)\s+)\[[\w#*-]+\]_"),
        r"\1#",
    ),  # no sentence without
    (re.compile(r"\s*\[[\w#*-]+\]_"), ""),  # footnote
    (re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*]+?)(?<=[^\s*])\1(?![\w*])"), r"\2"),  # emphasis
    (re.compile(r"</?(?:a|b|i|p|br|em|li|tt|ul|sub|sup|pre|code|strong)(?:\s[^<>]*)?/?>"), ""),
    (re.compile(r"\s+"), " "),
]


def plain(text: str) -> str:
    """A paragraph without inline mark-up: roles, links, emphasis, literals, HTML tags."""
    text = text.translate(CHARACTERS)
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    return text.strip()


# ------------------------------------------------------------------------------------------------------------
# Which sentences are prose


FUNCTION_WORDS = """
a about after all also an and any are as at be because been before being between both but by can could do does
each either else every for from had has have how however if in instead into is it its may might must no not of
on only or other otherwise our out over same shall should since so some such than that the their them then
there therefore these they this those through thus to under until upon use used using was we were what when
where whether which while who why will with within without would you your
"""
FUNCTION_WORD_SET = frozenset(FUNCTION_WORDS.split())
ORDINARY_WORD = re.compile(
    r"[\"'(]*(?:[A-Za-z]?[a-z]+(?:[-'/][A-Za-z]?[a-z]+)*|[A-Z]{1,5}s?|\d{1,4})(?:'s?)?[\"')]*[,.;:!?]*[\"')]*"
)
# Code, addresses and notices; the last two are items and table cells that ran into a sentence.
FORBIDDEN = re.compile(
    r"[\\{}$^|~@#`]|[<>_]{2}|[()]{4}|==|::|://|www\.|\.{4}|--\w|\b(?:TODO|FIXME|Copyright)\b"
    r"|\(,|[.!?] \w+: | : "
)
SYMBOLS = re.compile(r"[=<>*/+\[\]]")
# A sentence may begin with an identifier ("axis must be an int"), not with another word in lower case.
VERB = "is|are|was|has|must|may|can|cannot|could|should|will|would|does|specifies|defaults|determines|contains"
BEGINNING = re.compile(rf"[\"'(]*(?:[A-Z]|(?!(?:{'|'.join(FUNCTION_WORDS.split())})\b)[a-z][\w.]* (?:{VERB})\b)")
END = re.compile(r"[.!?][\"')]*$")


def is_prose(sentence: str) -> bool:
    """Whether a line reads like an English sentence: a full stop, function words, few symbols."""
    if not 20 <= len(sentence) <= 400 or not sentence.isascii() or not BEGINNING.match(sentence):
        return False
    if not END.search(sentence) or FORBIDDEN.search(sentence) or len(SYMBOLS.findall(sentence)) > 2:
        return False
    words = sentence.split()
    if not 5 <= len(words) <= 70 or sentence.count("(") != sentence.count(")") or sentence.count('"') % 2:
        return False
    functional = sum(word.strip("\"'().,;:!?").lower() in FUNCTION_WORD_SET for word in words)
    ordinary = sum(ORDINARY_WORD.fullmatch(word) is not None for word in words)
    return functional >= 0.15 * len(words) and ordinary >= 0.8 * len(words)


# ------------------------------------------------------------------------------------------------------------
# One module


@dataclass(frozen=True)
class ModuleText:
    """What was found in one module."""

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
) -> dict[str, Any]:
    """Write `corpus-00000.txt`, ... and at last `corpus.json` into `output`; returns what the latter holds.

    Args:
      output: a folder; what an unfinished corpus left there is removed.
      megabytes: stop after the document that reaches so many (of 1,000,000 bytes). None: everything there is.
      seed: of the order of the modules, which mixes the packages.
      folders: where to look for modules; None: the standard library and the installed packages.
      workers: processes; the text does not depend on it.
    """
    folders = package_folders() if folders is None else folders
    modules = mixed_order(find_modules(folders), seed)
    output.mkdir(parents=True, exist_ok=True)
    for file in [*output.glob("corpus-[0-9]*.txt"), *output.glob("corpus*.tmp")]:
        file.unlink()
    limit = float("inf") if megabytes is None else megabytes * 1e6
    counts: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    duplicates = Duplicates()
    files: list[dict[str, Any]] = []
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

    def counted(*names: str) -> dict[str, int]:
        return {name: counts[name] for name in names}

    manifest = {
        "format": FORMAT,
        "settings": {"megabytes": megabytes, "seed": seed},
        **counted("documents", "sentences", "bytes"),
        "modules": {"found": len(modules), **counted("read", "without_docstring", "unreadable")},
        "left_out": {**counted("not_prose", "short_documents", "duplicate_documents"), **duplicates.counts},
        "unreadable": unreadable,
        "packages": package_versions(modules, folders),
        "files": files,
    }
    _replace(output / MANIFEST, (json.dumps(manifest) + "\n").encode())
    return manifest


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


def _write_file(output: Path, number: int, text: bytes) -> dict[str, Any]:
    path = output / f"corpus-{number:05d}.txt"
    _replace(path, text)
    return {"file": path.name, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


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


def finished_corpus(output: Path, megabytes: float | None, seed: int) -> dict[str, Any] | None:
    """What `corpus.json` in `output` holds, or None if there is none: nothing was made or finished.

    Raises UserError if it was made with other settings, or if one of its files is missing or has another
    size. The installed packages may have changed since: text is text.
    """
    path = output / MANIFEST
    if not path.exists():
        return None
    remedy = f"remove {output} or choose another --output"
    try:
        manifest = json.loads(path.read_bytes())
        made_with, files = manifest["settings"], manifest["files"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not the passport of a corpus: {remedy}") from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path} has format {manifest.get('format')}, this program reads {FORMAT}: {remedy}")
    for name, value in {"megabytes": megabytes, "seed": seed}.items():
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
    return manifest


def _option(name: str, value: Any) -> str:
    return f"no --{name}" if value is None else f"--{name} {value:g}"


def changed_packages(manifest: Mapping[str, Any], versions: Mapping[str, str]) -> list[str]:
    """The packages that differ from those the corpus was made of: `numpy 2.0 -> 2.1`, `scipy 1.0 -> none`."""
    before = manifest["packages"]
    names = sorted({*before, *versions}, key=str.lower)
    return [
        f"{name} {before.get(name, 'none')} -> {versions.get(name, 'none')}"
        for name in names
        if before.get(name) != versions.get(name)
    ]
