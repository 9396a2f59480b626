# SPDX-License-Identifier: Apache-2.0
"""Python source to prose: docstrings -> paragraphs without code, tables and mark-up -> sentences that are prose."""

import ast
import inspect
import re
import warnings
from collections.abc import Iterator, Sequence

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
# Code, control characters, addresses and notices; the last two are items and table cells that ran into a sentence.
FORBIDDEN = re.compile(
    r"[\\{}$^|~@#`\x00-\x08\x0e-\x1f\x7f]|[<>_]{2}|[()]{4}|==|::|://|www\.|\.{4}|--\w|\b(?:TODO|FIXME|Copyright)\b"
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
