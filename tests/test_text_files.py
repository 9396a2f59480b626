# SPDX-License-Identifier: Apache-2.0
"""Text as it comes in: the encodings that are named, lines with their places, JSON that is strict."""

import io

import pytest

from bert_jax.base import lines as text_files
from bert_jax.base.errors import UserError
from bert_jax.base.lines import decode_text, EmptyLines, foreign_encoding, grouped, json_record, text_lines


def lines(raw: bytes) -> list[tuple[int, str]]:
    return list(text_lines(io.BytesIO(raw), "a.txt"))


@pytest.mark.parametrize(
    ("codec", "mark", "name"),
    [
        ("utf-16", b"", "UTF-16"),
        ("utf-16-be", b"\xfe\xff", "UTF-16"),
        ("utf-32", b"", "UTF-32"),
        ("utf-32-be", b"\0\0\xfe\xff", "UTF-32"),
        ("gb18030", b"\x84\x31\x95\x33", "GB18030"),
        ("utf-7", b"+/v8-", "UTF-7"),
        ("utf-16-le", b"", "UTF-16LE"),
        ("utf-16-be", b"", "UTF-16BE"),
        ("utf-32-le", b"", "UTF-32LE"),
        ("utf-32-be", b"", "UTF-32BE"),
    ],
)
def test_encodings_are_named_and_iconv_knows_the_names(codec, mark, name):
    """UTF-32's mark begins with that of UTF-16: taken in the wrong order it is called UTF-16."""
    raw = mark + "text\tlabel\ngood café\t1\n".encode(codec)
    assert foreign_encoding(raw) == name
    for read in (lines, lambda raw: decode_text(raw, "a.txt")):
        with pytest.raises(UserError, match=rf"^a.txt is {name}: convert it \(iconv -f {name} -t UTF-8\)$"):
            read(raw)


@pytest.mark.parametrize("text", ["", "a", "ab\ncd", "\ufeffmarked", "日本語\n", "+/v1 is a path", "a b c d " * 99])
def test_utf_8_is_taken_for_no_other_encoding(text):
    assert foreign_encoding(text.encode()) is None
    assert decode_text(text.encode(), "a") == text.removeprefix("\ufeff")


def test_lines_have_their_numbers_and_end_at_line_feeds_only():
    raw = "\ufeffone\r\n\n two\u2028still two\x0b\x85\nlast".encode()
    assert lines(raw) == [(1, "one\r"), (2, ""), (3, " two\u2028still two\x0b\x85"), (4, "last")]


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"a\nb\xe9\n", r"line 2: is not UTF-8 at its byte 1 \(0xe9\)"),
        (b"a\n\nb\0", "line 3: is no text .NUL at byte 1 "),
    ],
)
def test_what_is_no_text_is_named_by_its_line(raw, place):
    for read in (lines, lambda raw: decode_text(raw, "a.txt")):
        with pytest.raises(UserError, match=f"^a.txt, {place}"):
            read(raw)


def test_a_line_has_a_limit(monkeypatch):
    """No more of it is read than the limit, however long it is."""
    monkeypatch.setattr(text_files, "LONGEST_LINE", 2**20)
    assert lines(b"x" * 2**20 + b"\ny") == [(1, "x" * 2**20), (2, "y")]
    stream = io.BytesIO(b"a\n" + b"x" * 2**22)
    with pytest.raises(UserError, match=r"a\.txt, line 2 is longer than 1 MiB"):
        list(text_lines(stream, "a.txt"))
    assert stream.tell() < 2**20 + 16


def test_empty_lines_are_counted():
    empty = EmptyLines("a.txt")
    assert list(empty.without([(1, ""), (2, "a"), (3, " \r"), (4, "\t")])) == [(2, "a"), (4, "\t")]
    assert empty.note() == ["a.txt: 2 empty lines are skipped: 1, 3"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": "\\ud83d"}', "a holds half a character, \\ud83d"),
        ('{"a": ["\\ude00"]}', "a[0] holds half a character, \\ude00"),
        ('{"\\uDBFF": 1}', "it holds half a character, \\udbff"),
        ('{"a": {"b": "\\u0000"}}', "a.b holds NUL, \\u0000"),
        ('{"a": 1, "a": 2}', "'a' is in one object twice"),
        ('{"a": ' + "[" * 100_000, "it is nested deeper than 64"),
        ('{"a": 1', "Expecting ',' delimiter: line 1 column 8"),
        ('"a"', "it is a text, not an object ('a')"),
    ],
)
def test_json_is_strict(line, words):
    with pytest.raises(UserError) as refusal:
        json_record(line, "p")
    assert str(refusal.value).startswith(f"p is not JSON of use here: {words}")


def test_a_name_twice_among_very_many_is_found_at_once():
    """Comparing every name with every other takes minutes for so many."""
    names = [f'"k{number}": 1' for number in range(150_000)]
    with pytest.raises(UserError, match="'k149999' is in one object twice"):
        json_record(f"{{{', '.join([*names, names[-1]])}}}", "p")


def test_whole_characters_in_two_escapes_are_text():
    assert json_record('{"a": "\\ud83d\\ude00 \\\\ud83d"}', "p") == {"a": "😀 \\ud83d"}


@pytest.mark.parametrize("bounds", [(10, None), (10, 4), (100, 3)])
def test_texts_that_are_held_at_once_are_bounded(bounds):
    """By their characters too: 4,096 lines of 32 MiB each would be held."""
    assert list(grouped(["abcd"] * 7, *bounds)) == [["abcd"] * 3, ["abcd"] * 3, ["abcd"]]
