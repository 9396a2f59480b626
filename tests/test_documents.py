# SPDX-License-Identifier: Apache-2.0
"""Reading documents: the formats, what is counted, and what is refused and how."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bert_jax.base.errors import UserError
from bert_jax.text import documents
from bert_jax.text.documents import read_documents, read_raw, ReadingCounts, ReadingOptions, sentences_of

PLAIN = "\ufeff\n  First sentence. With a second one.\r\nAnother line\n\n\n \t\nSecond document.\nIts end"
WIKI = (
    '<doc id="7" url="https://example.org/7" title="Salt &amp; pepper">\nSalt & pepper\n\n'
    "They stand on the table. Dr. Grey likes both.\nSalt &amp; pepper, &lt;br&gt; and &amp;lt; &copy\n</doc>\n\n"
    '<doc id="8" url="https://example.org/8" title="Nothing">\nNothing\n\n</doc>\n'
    '<doc id="9" url="https://example.org/9" title="Untitled">\nNo title line here.\n</doc>\n'
)
RECORDS = [
    {"id": 1, "text": "One here. Two here.\n\n Three in a paragraph of its own.\n"},
    {"id": 2, "text": " \n"},
    {"id": 3, "text": "天黑了。\u2028我们回家吧！"},
]
JSON = "\n".join(["", *map(json.dumps, RECORDS[:2]), "", json.dumps(RECORDS[2], ensure_ascii=False)])
STRICT, REPLACE = ReadingOptions(), ReadingOptions(errors="replace")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path, options: ReadingOptions = STRICT) -> str:
    """The one line, naming the file, that reading it ends with."""
    with pytest.raises(UserError) as caught:
        list(read_raw(path, options, ReadingCounts()))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


# ---- formats -----------------------------------------------------------------------------------------------


def test_plain_text_is_a_sentence_a_line(tmp_path):
    """As google-research/bert: blank lines, however many, end a document; lines are split only if asked."""
    file = write(tmp_path / "a.txt", PLAIN)
    assert list(read_documents(file)) == [
        ["First sentence. With a second one.", "Another line"],
        ["Second document.", "Its end"],
    ]
    assert next(read_documents(file, ReadingOptions(lines="paragraphs"))) == [
        "First sentence.",
        "With a second one.",
        "Another line",
    ]


def test_wiki_extractor_output(tmp_path):
    """The title is left out, once; paragraphs are split; a document without text is none, and counted."""
    counts = ReadingCounts()
    assert list(read_documents(write(tmp_path / "wiki_00", WIKI), counts=counts)) == [
        ["They stand on the table.", "Dr. Grey likes both.", "Salt & pepper, <br> and &lt; &copy"],
        ["No title line here."],
    ]
    assert counts == ReadingCounts(empty_documents=1)


def test_json_lines(tmp_path):
    """A record a line, a paragraph a line of its text; a record without text is counted."""
    counts = ReadingCounts()
    assert list(read_documents(write(tmp_path / "a", JSON), counts=counts)) == [
        ["One here.", "Two here.", "Three in a paragraph of its own."],
        ["天黑了。", "我们回家吧！"],
    ]
    assert counts == ReadingCounts(empty_documents=1, empty_lines=2)
    other = write(tmp_path / "b", '{"body": "It is here.", "text": 7}\n')
    assert list(read_documents(other, ReadingOptions(json_field="body"))) == [["It is here."]]


def test_text_that_only_begins_like_another_format_is_plain(tmp_path):
    for first in ("{x} is a set.", "[1] A source.", "<document> is a tag.", "BZh is a name."):
        assert list(read_documents(write(tmp_path / "a", first + "\nAnd so on.\n"))) == [[first, "And so on."]]


@pytest.mark.parametrize("text", [PLAIN, WIKI, JSON], ids=["plain", "wiki", "json"])
@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["gz", "bz2", "xz", "zst"],
)
def test_compressed_text_is_the_same_text(tmp_path, text, compress: Callable[[bytes], bytes]):
    plain = write(tmp_path / "a", text)
    packed = write(tmp_path / "b", compress(text.encode()))
    assert list(read_documents(packed)) == list(read_documents(plain))


def test_blocks_do_not_show(tmp_path, monkeypatch):
    """Lines, documents, line numbers and offsets are the same wherever the blocks that are decoded end."""
    plain = "".join(f"{'ä中' * (number % 7)} line {number}.\n" + "\n" * (number % 3) for number in range(200))
    texts = [plain.encode(), (plain + "\n\n").encode(), WIKI.encode(), JSON.encode()]
    expected = [list(read_documents(write(tmp_path / "a", text))) for text in texts]
    bad = plain.encode() + b"x\xff"
    message = refusal(write(tmp_path / "a", bad))
    for size in (1, 2, 7, 64, 1000):
        monkeypatch.setattr(documents, "_BLOCK", size)
        assert [list(read_documents(write(tmp_path / "a", text))) for text in texts] == expected
        assert refusal(write(tmp_path / "a", bad)) == message
    assert f"byte 0xff at byte {len(bad) - 1} (line {bad.count(b'\n') + 1})" in message


def test_reading_streams(tmp_path, monkeypatch):
    """Memory is bounded by a document, not by the file."""
    monkeypatch.setattr(documents, "_BLOCK", 2**16)
    file = write(tmp_path / "big.txt", ("A sentence of some forty letters or more.\n" * 9 + "\n") * 20_000)
    tracemalloc.start()
    assert sum(1 for _ in read_raw(file, STRICT, ReadingCounts())) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < file.stat().st_size / 3


def test_stored_bytes_are_told_and_hashed(tmp_path):
    for content in (PLAIN.encode(), WIKI.encode(), gzip.compress(JSON.encode())):
        file = write(tmp_path / "a", content)
        told: list[int] = []
        digest = hashlib.sha256()
        assert list(read_raw(file, STRICT, ReadingCounts(), told.append, digest))
        assert sum(told) == len(content)
        assert digest.hexdigest() == hashlib.sha256(content).hexdigest()


# ---- lengths -----------------------------------------------------------------------------------------------


def test_a_document_of_a_million_words_is_read(tmp_path):
    words = "word " * 1_000_000
    one_line, many_lines = words + "\n", "word word word word\n" * 250_000
    for text in (one_line, many_lines, json.dumps({"text": words})):
        (document,) = read_documents(write(tmp_path / "a", text))
        assert sum(len(sentence.split()) for sentence in document) == 1_000_000


def test_a_document_of_one_sentence_is_one(tmp_path):
    assert list(read_documents(write(tmp_path / "a", "Alone.\n\nAlone too.\n"))) == [["Alone."], ["Alone too."]]


def test_a_document_that_fills_memory_is_refused_by_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONGEST_DOCUMENT", 2_000_000)
    short, long = "short\n\n", "0123456789\n" * 200_001
    message = refusal(write(tmp_path / "a", short + long + "\n" + short))
    assert "document that begins on line 3 has more than 2,000,000 characters: separate documents by blank" in message
    message = refusal(write(tmp_path / "b", WIKI + WIKI.replace("No title", long + "No title")))
    assert "the <doc> of line 26 has more than 2,000,000 characters" in message
    message = refusal(write(tmp_path / "c", '{"text": "a"}\n' + json.dumps({"text": long})))
    assert "line 2 has more than 2,000,000 characters" in message


def test_endless_line_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONGEST_LINE", 2**20)
    for block in (100, 2**20):
        monkeypatch.setattr(documents, "_BLOCK", block)
        file = write(tmp_path / "a.txt", "short\n" + "x" * (2**20 + 1))
        assert "line 2 is longer than 1 MiB" in refusal(file)
        assert len(list(read_documents(write(tmp_path / "b.txt", "short\n" + "x" * (2**20 - 10))))) == 1


# ---- bytes that are not text -------------------------------------------------------------------------------


def test_replaced_bytes_are_counted(tmp_path):
    """U+FFFD stands for each sequence that is not UTF-8, as in Python's decoder; one that the text has is not counted."""
    raw = b"caf\xe9 au lait\nnul \0 \xf0\x9f\x98 cut, \xed\xa0\x80 surrogate\n\xef\xbf\xbd its own\n"
    file = write(tmp_path / "a", raw)
    counts = ReadingCounts()
    (document,) = read_documents(file, REPLACE, counts)
    assert document == ["caf\ufffd au lait", "nul \ufffd \ufffd cut, \ufffd\ufffd\ufffd surrogate", "\ufffd its own"]
    assert counts == ReadingCounts(replaced_bytes=1 + 1 + 3 + 3)
    assert "byte 0xe9 at byte 3 (line 1)" in refusal(write(tmp_path / "b", raw.replace(b"\0", b"-")))
    assert "--errors replace" in refusal(file)


def test_text_in_another_encoding_is_not_replaced_away(tmp_path):
    """A tenth of the bytes at most: more is another encoding, or no text."""
    for raw in ("Привет, мир. " * 20).encode("koi8-r"), bytes(range(256)) * 9:
        assert f"of the {len(raw)} bytes that begin at byte 0" in refusal(write(tmp_path / "a", raw), REPLACE)


def test_escaped_half_characters_in_json(tmp_path):
    """JSON can say what UTF-8 cannot: half of a pair of \\u escapes, which no later step could write."""
    file = write(tmp_path / "a", '{"text": "good \\ud83d\\ude00"}\n{"text": "bad \\ud83d, nul \\u0000"}\n')
    assert "line 2, text holds half a character, \\ud83d: mend" in refusal(file)
    counts = ReadingCounts()
    assert list(read_documents(file, REPLACE, counts)) == [["good 😀"], ["bad \ufffd, nul \ufffd"]]
    assert counts == ReadingCounts(replaced_bytes=12)


def test_lines_of_control_characters_are_left_out_and_counted(tmp_path):
    text = "Good line.\n\x01\x02\x03\n\x07 bell\n\x1b\x7f\n\n\x08\n"
    counts = ReadingCounts()
    assert list(read_documents(write(tmp_path / "a", text), counts=counts)) == [["Good line.", "\x07 bell"]]
    assert counts == ReadingCounts(control_lines=3, empty_documents=1)
    counts = ReadingCounts()
    assert list(read_documents(write(tmp_path / "b", json.dumps({"text": text})), counts=counts))
    assert counts == ReadingCounts(control_lines=3)


def test_counts_add_up():
    counts = ReadingCounts(1, 2, 3)
    counts.add(ReadingCounts(10, 20, 30))
    assert counts == ReadingCounts(replaced_bytes=11, control_lines=22, empty_documents=33)


# ---- refused -----------------------------------------------------------------------------------------------


def tar(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        information = tarfile.TarInfo("a.txt")
        information.size = len(content)
        archive.addfile(information, io.BytesIO(content))
    return file.getvalue()


BAD_FILES = {
    "empty": (b"", "holds no text"),
    "empty, compressed": (gzip.compress(b""), "holds no text"),
    "blank": (b"\n \n\t\n", "holds no text"),
    "nul": (b"good line\nbad \0 line\n", "is not text: NUL at byte 14 (line 2)"),
    "latin-1": ("good\ncaf\u00e9\n".encode("latin-1"), "is not UTF-8: byte 0xe9 at byte 8 (line 2); convert it"),
    "latin-1, compressed": (
        gzip.compress("good\ncaf\u00e9\n".encode("latin-1")),
        "byte 0xe9 at byte 8 of the unpacked text (line 2)",
    ),
    "utf-16": ("some text".encode("utf-16"), "is UTF-16: convert it"),
    "utf-32": ("some text".encode("utf-32"), "is UTF-32: convert it (iconv -f UTF-32 -t UTF-8)"),
    "gb18030": ("\ufeff文".encode("gb18030"), "is GB18030: convert it"),
    "a name twice": ('{"text": "a", "text": "b"}\n', "line 1 is not JSON of use here: 'text' is in one object twice"),
    "utf-16 without a mark": (
        "some text".encode("utf-16-le"),
        "is UTF-16LE: convert it (iconv -f UTF-16LE -t UTF-8)",
    ),
    "zip": (b"PK\x03\x04rest", "is a zip archive: unpack it first"),
    "tar": (tar(b"text\n"), "is a tar archive: unpack it first"),
    "tar, compressed": (gzip.compress(tar(b"text\n")), "is a tar archive: unpack it first"),
    "parquet": (b"PAR1\x15\x04", "is a Parquet file, which is a table: leave out --text-format"),
    "gzip, cut short": (gzip.compress(PLAIN.encode() * 99)[:-9], "is cut short: its gzip stream"),
    "xz, broken": (lzma.compress(PLAIN.encode())[:40] + b"?" * 60, "is broken: its xz stream"),
    "cut": (WIKI[:120], "ends inside the <doc> of line 1: it is cut short"),
    "nested": (WIKI.replace("</doc>\n\n<doc", "<doc"), "<doc> of line 1 is not closed before the <doc> of line 6"),
    "stray": (WIKI + "stray line\n", "line 15 stands outside <doc>"),
    "no field": (
        '{"text": "a"}\n\n{"id": 1, "body": "b"}\n',
        "line 3: the record has no field 'text' (its fields: id, body)",
    ),
    "no text": ('{"text": null}\n', "line 1: the field 'text' holds null, not text; name the text's with --json-field"),
    "a list": ('{"text": ["a"]}\n', "line 1: the field 'text' holds a list, not text"),
    "no record": ('{"text": "a"}\n["b"]\n', "line 2 is not JSON of use here: it is a list, not an object (['b'])"),
    "cut record": (
        '{"text": "a"}\n{"text": "b',
        "line 2 is not JSON of use here: Unterminated string starting at: line 1 column 10",
    ),
    "indented record": ('{\n  "text": "a"\n}\n', "line 1 is not JSON of use here: Expecting property name"),
    "deep record": ('{"text": ' + "[" * 100_000, "line 1 is not JSON of use here: it is nested deeper than 64"),
    "array": ('[\n{"text": "a"}]\n', "holds one JSON array, not JSON lines"),
    "array on a line": ('[{"text": "a"}]\n', "holds one JSON array, not JSON lines"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_refused_in_one_line(tmp_path, name):
    content, words = BAD_FILES[name]
    assert words in refusal(write(tmp_path / "file", content))


def test_unknown_options_are_refused():
    for options, words in (({"lines": "words"}, "--lines words"), ({"errors": "ignore"}, "--errors ignore")):
        with pytest.raises(UserError, match=f"{words} is not known: use "):
            ReadingOptions(**options)


def test_sentences_of_a_document_are_at_least_one():
    assert sentences_of(documents.RawDocument(["A. B.", "C d. E f."], False)) == ["A. B.", "C d. E f."]
    assert sentences_of(documents.RawDocument(["It is. It was.", "…"], True)) == ["It is.", "It was.", "…"]
    assert not re.search(r"\s$", sentences_of(documents.RawDocument(["a. "], True))[0])


@pytest.mark.parametrize("first", ['{"it": begins as JSON does', "[{", '{ "a quotation", it said', "[", "{"])
def test_text_that_looks_like_json_can_be_declared_plain(tmp_path, first):
    file = write(tmp_path / "a", f"{first}\nBut it is not.\n")
    assert "JSON" in refusal(file)
    assert list(read_documents(file, ReadingOptions(text_format="plain"))) == [[first, "But it is not."]]


def test_a_declared_format_is_not_guessed_again(tmp_path):
    """Plain text that is said to be JSON lines is refused, not read as plain."""
    file = write(tmp_path / "a", "One line.\n")
    assert "line 1 is not JSON" in refusal(file, ReadingOptions(text_format="json"))
    assert "stands outside <doc>" in refusal(file, ReadingOptions(text_format="wiki"))
    wiki = write(tmp_path / "b", WIKI)
    assert next(read_documents(wiki, ReadingOptions(text_format="plain")))[0].startswith("<doc id=")


@pytest.mark.parametrize("form", ["plain", "wiki", "json"])
def test_a_document_of_too_many_lines_is_refused(tmp_path, monkeypatch, form):
    """Short lines take far more memory than their characters."""
    monkeypatch.setattr(documents, "MOST_LINES", 1000)
    text = "a\n" * 1000
    make = {
        "plain": lambda text: text,
        "wiki": lambda text: f'<doc id="1" url="u" title="t">\n{text}</doc>\n',
        "json": lambda text: json.dumps({"text": text.rstrip("\n")}),
    }[form]
    assert [len(document) for document in read_documents(write(tmp_path / "a", make(text)))] == [1000]
    assert "has more than 1,000 lines" in refusal(write(tmp_path / "b", make(text + "a\n")))
