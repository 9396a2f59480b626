# SPDX-License-Identifier: Apache-2.0
"""Reading documents and splitting sentences. Bad input goes through `bert-jax vocab`."""

import itertools
import tracemalloc
from pathlib import Path

import pytest

from bert_jax.cli import main
from bert_jax.data import text
from bert_jax.data.text import input_files, read_documents, split_sentences
from bert_jax.errors import UserError

PLAIN = "\ufeff\n  First sentence. With a second one.\r\nAnother line\n\n\n \t\nSecond document.\nIts end"
WIKI = (
    '<doc id="7" url="https://example.org/7" title="Salt &amp; pepper">\nSalt & pepper\n\n'
    "They stand on the table. Dr. Grey likes both.\nSalt & pepper\n</doc>\n\n"
    '<doc id="8" url="https://example.org/8" title="Nothing">\nNothing\n\n</doc>\n'
    '<doc id="9" url="https://example.org/9" title="Untitled">\nNo title line here.\n</doc>\n'
)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_plain_text_is_a_sentence_a_line(tmp_path):
    """As google-research/bert: blank lines, however many, end a document; lines are split only if asked."""
    file = write(tmp_path / "a.txt", PLAIN)
    assert list(read_documents(file)) == [
        ["First sentence. With a second one.", "Another line"],
        ["Second document.", "Its end"],
    ]
    assert next(read_documents(file, split_lines=True)) == [
        "First sentence.",
        "With a second one.",
        "Another line",
    ]


def test_wiki_extractor_output(tmp_path):
    """The title is left out, once; paragraphs are split; a document without sentences is none."""
    file = write(tmp_path / "wiki_00", WIKI)
    assert list(read_documents(file)) == [
        ["They stand on the table.", "Dr. Grey likes both.", "Salt & pepper"],
        ["No title line here."],
    ]


def test_reading_streams(tmp_path):
    """Pain 1: memory is bounded by a document, not by the file."""
    file = write(tmp_path / "big.txt", "A sentence of some forty letters or more.\n\n" * 50_000)
    tracemalloc.start()
    assert sum(1 for _ in read_documents(file)) == 50_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < file.stat().st_size / 4


def test_input_files_are_sorted_and_complete(tmp_path):
    for name in ("b/wiki_01", "b/wiki_00", "a.txt", "b/.hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "text")
    expected = [tmp_path / name for name in ("a.txt", "b/wiki_00", "b/wiki_01")]
    assert input_files([tmp_path]) == expected
    assert input_files([tmp_path / "b", tmp_path / "a.txt"]) == [*expected[1:], expected[0]]


BAD_FILES = [
    ("empty.txt", b"", "empty.txt is empty"),
    ("blank.txt", b"\n \n\t\n", "blank.txt holds no text"),
    ("nul.txt", b"good line\nbad \0 line\n", "NUL at byte 14 (line 2)"),
    ("latin.txt", "good\ncaf\u00e9\n".encode("latin-1"), "byte 0xe9 at byte 8 (line 2)"),
    ("text.gz", b"\x1f\x8b\x08\x00rest", "compressed (gzip): unpack it first"),
    ("text.json", b'{"id": "1", "text": "Some text."}\n', "holds JSON records, not text"),
    ("cut", WIKI[:120].encode(), "ends inside the <doc> of line 1"),
    (
        "nested",
        WIKI.replace("</doc>\n\n<doc", "<doc").encode(),
        "line 1 is not closed before the <doc> of line 6",
    ),
    ("stray", (WIKI + "stray line\n").encode(), "line 15 stands outside <doc>"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES, ids=[row[0] for row in BAD_FILES])
def test_bad_file_is_refused_in_one_line(tmp_path, capsys, name, content, words):
    file = write(tmp_path / name, content)
    assert main(["vocab", "--input", str(file), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert str(file) in lines[0]
    assert words in lines[0]
    assert not (tmp_path / "out").exists()


def test_bad_paths_are_refused(tmp_path):
    file = write(tmp_path / "a.txt", "text")
    (tmp_path / "none").mkdir()
    for paths, words in (
        ([tmp_path / "absent"], "absent is missing"),
        ([tmp_path / "none"], "has no files in it"),
        ([tmp_path, file], "is given twice"),
    ):
        with pytest.raises(UserError, match=words):
            input_files(paths)


def test_endless_line_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "LONGEST_LINE", 2**20)
    file = write(tmp_path / "a.txt", "short\n" + "x" * (2**20 + 1))
    with pytest.raises(UserError, match="line 2 is longer than 1 MiB"):
        list(read_documents(file))


# The sentences of a row, joined, must come apart again.
ENGLISH = [
    ["It rained.", "We stayed in!", "Did you?", "Yes…", "Well... no.", "What?!", "3 came."],
    ["Mr. Grey met Dr. and Mrs. Lund, e.g. at St. Olaf, i.e. often.", "Prof. Ek vs. A. B. Holm et al. Lund."],
    [
        "It grew by 3.5 percent, see p. 12 and Fig. 3 of vol. 2.",
        "Version 2.0.1 came out on Jan. 5 this year.",
    ],
    ['"Stop!" he said.', '"I will not."', "(Nobody heard.)", "“Good.”", "‘Odd’ it was."],
    ["He said: no.", "¿Qué?", "Écoute.", "Ändern wir das.", "Это всё.", "Да?"],
    ["Use 1. and 2. in lists, etc., and go on.", "See example.com or a.b.c for more."],
]


@pytest.mark.parametrize("sentences", ENGLISH, ids=[ascii(row[0][:20]) for row in ENGLISH])
def test_sentences_with_spaces(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


def test_abbreviations_at_the_end_of_a_sentence():
    """After U.S., Ph.D. or an initial a sentence ends where a word follows that often begins one."""
    assert split_sentences("They left the U.S. The ship did too.") == [
        "They left the U.S.",
        "The ship did too.",
    ]
    assert split_sentences("The U.S. Navy came.") == ["The U.S. Navy came."]
    assert split_sentences("Grey et al. The rest follows.") == ["Grey et al.", "The rest follows."]
    assert split_sentences("It was J. Smith of Smith Bros. Bakers.") == ["It was J. Smith of Smith Bros. Bakers."]
    assert split_sentences("It was J. Smith.") == ["It was J. Smith."]
    assert split_sentences("He read Henry V. It pleased him.") == ["He read Henry V.", "It pleased him."]


def test_list_numbers_stay_with_their_item():
    assert split_sentences("1. Introduction comes first. 2. Methods follow.") == [
        "1. Introduction comes first.",
        "2. Methods follow.",
    ]
    assert split_sentences("It was 1999. Then it ended.") == ["It was 1999.", "Then it ended."]


CHINESE = [
    ["天黑了。", "我们回家吧！", "你来吗？", "好"],
    ["他说：“走吧。”", "然后他走了。"],
    ["她问：“为什么？”，没有人回答。", "（完。）", "结束了！！"],
    ["圆周率是3.14。", "U.S.是缩写。"],
]


@pytest.mark.parametrize("sentences", CHINESE, ids=[ascii(row[0]) for row in CHINESE])
def test_chinese_sentences(sentences):
    """S48: 。！？ end a sentence without a space, with the quotes and brackets that close after them."""
    assert split_sentences("".join(sentences)) == sentences
    assert split_sentences(" ".join(sentences)) == sentences


def test_splitting_loses_nothing():
    """All characters but white space come back, in order, for every short mixture of the marks."""
    for parts in itertools.product(["A", "b", ". ", "。", '"', "? ", "5", "e.g. ", "\n", "…"], repeat=4):
        paragraph = "".join(parts)
        sentences = split_sentences(paragraph)
        assert "".join("".join(sentences).split()) == "".join(paragraph.split())
        assert all(sentence == sentence.strip() != "" for sentence in sentences)
    assert split_sentences("  ") == []
