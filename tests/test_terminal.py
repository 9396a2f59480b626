# SPDX-License-Identifier: Apache-2.0
"""Names and texts never move the cursor, recolour or overwrite: control characters are shown."""

import io
import sys

import pytest
from conftest import refusal_of
from tqdm import tqdm

from bert_jax.base.terminal import printable, printable_output, PrintableStream
from bert_jax.cli import main


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\x9b31mred", "a\\x9b31mred"),  # the same in one character
        ("safe\rover", "safe\\rover"),
        ("back\b\x7f", "back\\x08\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("two\nlines\tand tabs, 日本語, עברית, e\u0301", "two\nlines\tand tabs, 日本語, עברית, e\u0301"),
    ],
)
def test_control_characters_are_shown(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["\x1b[2Jpretrain"],
        ["report", "\x1b[2Jrun"],
        ["evaluate", "run", "--data", "x", "\x1b[2J"],
        ["prepare", "--input", "\x9b2J", "--vocab", "\x1bv", "--output", "\x1bo"],
    ],
)
def test_no_name_reaches_the_terminal_raw(arguments, capsys):
    with pytest.raises((SystemExit, AssertionError)):
        assert not main(arguments)
    error = capsys.readouterr().err
    assert "\\x1b" in error or "\\x9b" in error
    assert not {"\x1b", "\x9b"} & set(error)


def test_output_for_people_is_shown_and_output_for_programs_is_data(monkeypatch):
    """JSON of a text with U+009B is not to be changed on its way into a file."""
    for stream, expected in ((Terminal(), '"\\x9b31m"\n'), (io.StringIO(), '"\x9b31m"\n')):
        monkeypatch.setattr(sys, "stdout", stream)
        with printable_output():
            print('"\x9b31m"')
        assert sys.stdout is stream
        assert stream.getvalue() == expected


def test_progress_bars_look_as_they_did():
    """Two bars above each other, a line written above one, a name with an escape sequence in it."""

    def drawn(stream: io.StringIO, file: object, name: str) -> str:
        options = {"file": file, "ncols": 60, "bar_format": "{desc}{n_fmt}", "mininterval": 0}
        with tqdm(total=2, desc="outer", **options) as outer, tqdm(total=2, desc=name, leave=False, **options) as inner:
            inner.update(1)
            outer.update(1)
        with tqdm(total=2, desc=name, **options):
            tqdm.write(f"a line of {name}", file=file)
        return stream.getvalue()

    plain, shown = Terminal(), Terminal()
    assert drawn(shown, PrintableStream(shown), "inner") == drawn(plain, plain, "inner")
    assert "\x1b[A" in plain.getvalue()
    stream = Terminal()
    assert "\x1b[2J" not in drawn(stream, PrintableStream(stream), "\x1b[2J")


@pytest.mark.parametrize("argument", ["\udcff", "caf\udce9.txt"])
def test_arguments_that_are_not_utf_8_are_refused(argument, capsys):
    """They would fail where the record of a run is written."""
    assert "argument 3 is not UTF-8 (" in refusal_of(capsys, "fill-mask", "run", argument)
