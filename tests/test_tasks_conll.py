# SPDX-License-Identifier: Apache-2.0
"""CoNLL files: the shapes they come in, and what is written for the scorer."""

from pathlib import Path

import pytest
from conftest import real_data

from bert_jax.base.errors import UserError
from bert_jax.tasks.conll import read_conll, write_conll
from bert_jax.tasks.examples import Sentence


def weibo(part: str) -> Path:
    return real_data(f"ner/weibo/weiboNER_2nd_conll.{part}")


@pytest.fixture
def file(tmp_path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "some.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


CONLL_2003 = """-DOCSTART- -X- -X- O

Ana NNP I-NP I-PER
sleeps VBZ I-VP O
. . O O

# # O O
2 CD I-NP O

-DOCSTART- -X- -X- O

-DOCSTART- -X- -X- O

Berlin NNP I-NP I-LOC
"""


def test_four_columns_between_spaces_with_documents(file):
    first, second, third = read_conll(file(CONLL_2003))
    assert first.words == ("Ana", "sleeps", ".")
    assert first.tags == ("I-PER", "O", "O")
    assert first.columns[1] == ("sleeps", "VBZ", "I-VP")
    assert second.words == ("#", "2")  # as many columns as the others: a word
    assert [sentence.document for sentence in (first, second, third)] == [0, 0, 1]  # a document without words is none
    assert [sentence.name for sentence in (first, second, third)] == ["0", "1", "2"]
    assert third.place == "some.txt, line 14"


def test_other_columns_can_be_the_words_and_the_tags(file):
    (first, *_) = read_conll(file(CONLL_2003), word_column=1, tag_column=2)
    assert (first.words, first.tags) == (("NNP", "VBZ", "."), ("I-NP", "I-VP", "O"))
    assert read_conll(file(CONLL_2003), tag_column=None)[0].tags is None


@pytest.mark.parametrize(
    "content",
    [
        "a\tB-X\nb\tO\n\nc\tO\n",
        "a\tB-X\r\nb\tO\r\n\r\nc\tO\r\n",  # line ends of Windows
        "\ufeffa\tB-X\nb\tO\n\nc\tO\n\n",  # byte order mark
        "a B-X\nb O\n\nc O",  # no end of the last line
        "a   B-X  \n b O \n \t \n\n\nc O\n \n",  # spaces around, lines of white space, several between sentences
        "# sent_id = 1\n# text = a b\na\tB-X\nb\tO\n\n# c\nc\tO\n",  # comments
        "# id 5\tdomain=en\na B-X\nb O\n\n# id 6\tdomain=en\nc O\n",
        "a B-X\nb O\n-DOCSTART- O\nc O\n",  # a document begins without an empty line
        "#begin document (x); part 000\na B-X\nb O\n\n#end document\n#begin document (y); part 000\nc O\n",
    ],
)
def test_files_come_in_many_shapes(content, file):
    first, second = read_conll(file(content))
    assert (first.words, first.tags) == (("a", "b"), ("B-X", "O"))
    assert (second.words, second.tags) == (("c",), ("O",))
    assert second.document == ("document" in content or "DOCSTART" in content)


def test_white_space_other_than_the_separator_is_a_word(file):
    """Ideographic and no-break space, and what Python takes for line ends."""
    words = ["\u3000", "\u00a0", "\u2028", "\x85", "x\x0cy"]
    for separator in ("\t", " "):
        (sentence,) = read_conll(file("".join(f"{word}{separator}O\n" for word in words)))
        assert list(sentence.words) == words


def test_words_with_spaces_stand_between_tabs(file):
    (sentence,) = read_conll(file("New York\tB-LOC\n \tO\n"))
    assert sentence.words == ("New York", " ")


def test_one_column_has_no_tags(file):
    sentences = read_conll(file("a\n#b\n\u3000\n\nc\n"))
    assert [(sentence.words, sentence.tags) for sentence in sentences] == [
        (("a", "#b", "\u3000"), None),
        (("c",), None),
    ]


def test_digits_behind_characters_are_their_positions(file):
    content = "科0\tO\n技1\tO\n。0\tO\n\n00\tB-X\n31\tO\n"  # the second has the characters "0" and "3"
    first, second = read_conll(file(content))
    assert first.words == ("科", "技", "。")
    assert first.columns == (("科0",), ("技1",), ("。0",))
    assert second.words == ("0", "3")


def test_position_ten_has_two_digits(file):
    content = "".join(f"{letter}{place}\tO\n" for place, letter in enumerate("wikipedias3x"))
    (sentence,) = read_conll(file(content))
    assert "".join(sentence.words) == "wikipedias3x"


def test_words_that_end_with_digits_are_not_taken_for_positions(file):
    assert read_conll(file("A4\tO\nB52\tO\nT1\tO\n"))[0].words == ("A4", "B52", "T1")  # no counting
    assert read_conll(file("a0\tO\nb1\tO\nc\tO\n"))[0].words == ("a0", "b1", "c")  # not all
    assert [one.words for one in read_conll(file("10\tO\n\n2000\tO\n"))] == [("10",), ("2000",)]  # zeros alone


@pytest.mark.parametrize(
    ("part", "sentences", "characters", "entities"),
    [("train", 1350, 73778, 1885), ("dev", 270, 14509, 389), ("test", 270, 14842, 414)],
)
def test_weibo_has_the_published_counts(part, sentences, characters, entities):
    """Characters as `grep -c .` counts the lines, entities as `grep -c $'\\tB-'` does."""
    found = read_conll(weibo(part))
    assert len(found) == sentences
    assert sum(len(sentence.words) for sentence in found) == characters
    assert sum(tag.startswith("B-") for sentence in found for tag in sentence.tags) == entities
    assert all(not word[1:].isdigit() for sentence in found for word in sentence.words)


def test_weibo_is_written_back_to_the_byte(tmp_path):
    """Nothing is lost: with spaces for tabs, the file is the one that was read."""
    path, copy = weibo("dev"), tmp_path / "copy.txt"
    sentences = read_conll(path)
    write_conll(copy, sentences, [sentence.tags for sentence in sentences])
    lines = [line.rsplit(" ", 1)[0] for line in copy.read_text(encoding="utf-8").split("\n")]
    assert "\n".join(lines) == path.read_text(encoding="utf-8").replace("\t", " ")


def test_gold_and_predicted_tag_are_written_last(file, tmp_path):
    sentences = read_conll(file(CONLL_2003))
    out = tmp_path / "out.txt"
    predicted = [["I-ORG", "O", "O"], ["O", "O"], ["I-LOC"]]
    write_conll(out, sentences, predicted)
    assert out.read_text() == (
        "Ana NNP I-NP I-PER I-ORG\nsleeps VBZ I-VP O O\n. . O O O\n\n"
        "# # O O O\n2 CD I-NP O O\n\n"
        "Berlin NNP I-NP I-LOC I-LOC\n\n"
    )
    assert [sentence.tags for sentence in read_conll(out)] == [tuple(tags) for tags in predicted]


def test_every_line_has_as_many_columns(tmp_path):
    """conlleval stops at a line with another number of columns: no white space and nothing empty is written in one."""
    out = tmp_path / "out.txt"
    words = ("New York", "", "\u3000", "a\nb", "\ud800")
    sentence = Sentence("0", words, ("O",) * 5, 0, "x")
    write_conll(out, [sentence], [["B-X", "O", "O", "O", "O"]])
    assert [line.split() for line in out.read_text().splitlines()[:5]] == [
        [word, "O", tag] for word, tag in zip(["New_York", "_", "_", "a_b", "?"], ["B-X", *"OOOO"], strict=True)
    ]
    write_conll(out, [Sentence("0", ("a",), None, 0, "x")], [["O"]])
    assert out.read_text() == "a O\n\n"


def test_tags_of_another_number_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="shorter than"):
        write_conll(tmp_path / "out.txt", [Sentence("0", ("a", "b"), None, 0, "x")], [["O"]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "some.txt has no sentence"),
        ("\n\n-DOCSTART- -X- O O\n\n", {}, "some.txt has no sentence"),
        ("a B-X\nb\n", {}, "some.txt, line 2: the columns are not those of line 1, 1 between spaces where it has 2"),
        ("a\tB-X\nb O\n", {}, "some.txt, line 2: the columns are not those of line 1, 1 between tabs where it has 2"),
        ("a B-X\n#b\n", {}, "some.txt, line 2: the columns"),  # inside of a sentence nothing is a comment
        ("a B-X\n", {"tag_column": 2}, "has 2 columns: tag column 2 is not one of 0 to 1"),
        ("a\n", {"tag_column": 1}, "has 1 columns: tag column 1"),
        ("a B-X\n", {"word_column": -3}, "word column -3"),
        ("a B-X\n", {"word_column": 1}, "words and tags cannot both stand in column 1 of 2"),
        (b"a O\nM\xfcller B-PER\n", {}, r"some.txt, line 2: is not UTF-8 at its byte 1 \(0xfc\)"),
    ],
)
def test_files_that_cannot_be_read_are_named(content, options, message, file):
    with pytest.raises(UserError, match=message) as caught:
        read_conll(file(content), **options)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt is missing"):
        read_conll(tmp_path / "none.txt")


# ---- columns -------------------------------------------------------------------------------------------------

CONLL_U = """# newdoc
# sent_id = 1
1\tVamos\tir\tVERB\t_\tMood=Ind|Case=Nom\t0\troot\t_\tname=O
2-3\tal\t_\t_\t_\t_\t_\t_\t_\t_
2\ta\ta\tADP\t_\t_\t4\tcase\t_\tname=O
3\tel\tel\tDET\t_\t_\t4\tdet\t_\tSpaceAfter=No
3.1\t-\t_\t_\t_\t_\t_\t_\t_\t_
4\tPrado\tPrado\tPROPN\t_\tCase=Acc\t1\tobl\t_\tSpaceAfter=No|name=B-LOC
"""


def columns(path: Path, words: object, tags: object) -> list[tuple[tuple[str, ...], tuple[str, ...] | None]]:
    return [(one.words, one.tags) for one in read_conll(path, words, tags)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("words", "tags"), [("FORM", "UPOS"), (1, 3), (-9, -7), ("FORM", -7)])
def test_columns_are_named_by_number_from_either_end_or_as_conll_u_does(words, tags, file):
    """Lines that are no words (2-3, 3.1) would be words twice, and are counted."""
    notes: list[str] = []
    [one] = read_conll(file(CONLL_U), words, tags, notes=notes)
    assert one.words == ("Vamos", "a", "el", "Prado")
    assert one.tags == ("VERB", "ADP", "DET", "PROPN")
    assert notes == ["some.txt: 2 lines that are no words (numbered 1-2 or 8.1) are left out"]


def test_features_of_conll_u_may_be_the_tags(file):
    assert columns(file(CONLL_U), "FORM", "MISC:name")[0][1] == ("O", "O", "O", "B-LOC")
    assert columns(file(CONLL_U), "LEMMA", "FEATS:Case") == [(("ir", "a", "el", "Prado"), ("Nom", "O", "O", "Acc"))]


def test_columns_of_conll_u_plus_have_the_names_of_its_first_line(file):
    path = file("# global.columns = ID FORM PARSEME:MWE\n1\tput\t1:VPC\n2\tup\t1\n")
    assert columns(path, "FORM", 2) == [(("put", "up"), ("1:VPC", "1"))]


@pytest.mark.parametrize(
    "content",
    [
        "1\tAda\tB-PER\tO\n2\tschlief\tO\tO\n\n1\tBonn\tB-LOC\tO\n",  # GermEval 2014
        "0 Ada B-PER\n1 slept O\n\n0 Bonn B-LOC\n",
        "1 Ada B-PER\n2 slept O\n\n3 Bonn B-LOC\n4 too O\n",  # counted through the file
        CONLL_U,
    ],
)
def test_a_running_number_is_not_taken_for_words(content, file):
    """It was trained on as if it were the words."""
    with pytest.raises(
        UserError, match=r"some.txt: its first column is a running number \(1, 2, 3, ...\), not the words"
    ):
        read_conll(file(content))


def test_numbers_that_are_words_are_words(file):
    """Prices, years and dates stand in texts; nothing counts."""
    content = "1999 B-YEAR\n\n12 O\n30 O\n\n1 O\n\n7 O\n7 O\n"
    assert [one.words for one in read_conll(file(content))] == [("1999",), ("12", "30"), ("1",), ("7", "7")]


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (10, -1, "has 10 columns: word column 10 is not one of 0 to 9, or -1 to -10 from the end"),
        ("TOKEN", -1, "has 10 columns: word column TOKEN is not one of ID, FORM"),
        ("MISC:name", 1, "MISC:name is a feature of a word: name the column of the words"),
        ("FORM", 1, "words and tags cannot both stand in column 1 of 10"),
    ],
)
def test_columns_that_are_not_there_are_refused(words, tags, message, file):
    with pytest.raises(UserError, match=message):
        read_conll(file(CONLL_U), words, tags)


def test_a_file_to_be_predicted_may_lack_the_tag_column(file):
    path = file("1 Ada\n2 slept\n")
    assert [one.tags for one in read_conll(path, 1, 2, may_lack_tags=True)] == [None]
    with pytest.raises(UserError, match="tag column 2 is not one of 0 to 1"):
        read_conll(path, 1, 2)
