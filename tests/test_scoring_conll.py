# SPDX-License-Identifier: Apache-2.0
"""Scores of tagged phrases. Every expected text was printed by conlleval.pl (version 2004-01-26)."""

from pathlib import Path

import pytest

from bert_jax.base.errors import UserError
from bert_jax.tasks.scoring import conll

PRINTED = {
    "B- begins a phrase in IOB1 only after one of its type": (
        "U.N. I-ORG I-ORG|of O O|E. I-PER I-PER|heads O I-PER||Baghdad I-LOC B-LOC|East I-LOC B-LOC",
        """\
processed 6 tokens with 3 phrases; found: 4 phrases; correct: 1.
accuracy:  50.00%; precision:  25.00%; recall:  33.33%; FB1:  28.57
              LOC: precision:   0.00%; recall:   0.00%; FB1:   0.00  2
              ORG: precision: 100.00%; recall: 100.00%; FB1: 100.00  1
              PER: precision:   0.00%; recall:   0.00%; FB1:   0.00  1""",
    ),
    "neighbours of one type in IOB2": (
        "a B-PER B-PER|b I-PER I-PER|c B-PER I-PER|d I-PER I-PER|e O O|f B-LOC B-ORG",
        """\
processed 6 tokens with 3 phrases; found: 2 phrases; correct: 0.
accuracy:  66.67%; precision:   0.00%; recall:   0.00%; FB1:   0.00
              LOC: precision:   0.00%; recall:   0.00%; FB1:   0.00  0
              ORG: precision:   0.00%; recall:   0.00%; FB1:   0.00  1
              PER: precision:   0.00%; recall:   0.00%; FB1:   0.00  1""",
    ),
    "another type begins a phrase without B-": (
        "a B-PER B-PER|b I-LOC I-LOC|c I-LOC I-PER|d O O",
        """\
processed 4 tokens with 2 phrases; found: 3 phrases; correct: 1.
accuracy:  75.00%; precision:  33.33%; recall:  50.00%; FB1:  40.00
              LOC: precision:   0.00%; recall:   0.00%; FB1:   0.00  1
              PER: precision:  50.00%; recall: 100.00%; FB1:  66.67  2""",
    ),
    "a sentence's end ends a phrase": (
        "a I-PER I-PER||b I-PER I-PER",
        """\
processed 2 tokens with 2 phrases; found: 2 phrases; correct: 2.
accuracy: 100.00%; precision: 100.00%; recall: 100.00%; FB1: 100.00
              PER: precision: 100.00%; recall: 100.00%; FB1: 100.00  2""",
    ),
    "-DOCSTART- is a word, -X- is none": (
        "-DOCSTART- -X- O O||a NN B-A B-A|-X- x I-A I-A|b NN I-A O",
        """\
processed 3 tokens with 2 phrases; found: 1 phrases; correct: 1.
accuracy:  66.67%; precision: 100.00%; recall:  50.00%; FB1:  66.67
                A: precision: 100.00%; recall:  50.00%; FB1:  66.67  1""",
    ),
    "IOBES: neighbours run together": (
        "a S-A S-A|b S-A S-A|c B-A B-A|d E-A E-A|e B-A S-A|f E-A E-A",
        """\
processed 6 tokens with 1 phrases; found: 1 phrases; correct: 1.
accuracy:  83.33%; precision: 100.00%; recall: 100.00%; FB1: 100.00
                A: precision: 100.00%; recall: 100.00%; FB1: 100.00  1""",
    ),
    "brackets are phrases of one word, a dot is none": (
        "a [-A [-A|b [-A I-A|c ]-A ]-A|d I-A I-A|e .-A O",
        """\
processed 5 tokens with 3 phrases; found: 2 phrases; correct: 2.
accuracy:  60.00%; precision: 100.00%; recall:  66.67%; FB1:  80.00
                A: precision: 100.00%; recall:  66.67%; FB1:  80.00  2""",
    ),
    "E- ends phrases in IOE": (
        "a I-A I-A|b E-A E-A|c E-A I-A|d I-A E-A|e E-A O",
        """\
processed 5 tokens with 3 phrases; found: 2 phrases; correct: 1.
accuracy:  40.00%; precision:  50.00%; recall:  33.33%; FB1:  40.00
                A: precision:  50.00%; recall:  33.33%; FB1:  40.00  2""",
    ),
    "phrases without type have two lines": (
        "a B B|b I I|c B O|d O B",
        """\
processed 4 tokens with 2 phrases; found: 2 phrases; correct: 1.
accuracy:  50.00%; precision:  50.00%; recall:  50.00%; FB1:  50.00
                 : precision:  50.00%; recall:  50.00%; FB1:  50.00  2
                 : precision:  50.00%; recall:  50.00%; FB1:  50.00  2""",
    ),
    "phrases without type begin and end as those with": (
        "a B B|b O B|c E I|d O O|e I E|f O I|g E E|h E O|i I I|j E E|k O O|l E E",
        """\
processed 12 tokens with 7 phrases; found: 6 phrases; correct: 4.
accuracy:  58.33%; precision:  66.67%; recall:  57.14%; FB1:  61.54
                 : precision:  66.67%; recall:  57.14%; FB1:  61.54  6
                 : precision:  66.67%; recall:  57.14%; FB1:  61.54  6""",
    ),
    "type 0 is none, a type may have hyphens": (
        "a B-0 B-|b B-x-y B-x-y|c I-x-z I-x-y",
        """\
processed 3 tokens with 3 phrases; found: 2 phrases; correct: 1.
accuracy:  66.67%; precision:  50.00%; recall:  33.33%; FB1:  40.00
                 : precision: 100.00%; recall: 100.00%; FB1: 100.00  1
                 : precision: 100.00%; recall: 100.00%; FB1: 100.00  1
              x-y: precision:   0.00%; recall:   0.00%; FB1:   0.00  1
              x-z: precision:   0.00%; recall:   0.00%; FB1:   0.00  0""",
    ),
    "no phrase at all": (
        "a O O|b O O",
        """\
processed 2 tokens with 0 phrases; found: 0 phrases; correct: 0.
accuracy: 100.00%; precision:   0.00%; recall:   0.00%; FB1:   0.00""",
    ),
    "Chinese types are aligned by bytes": (
        "海 B-地名 B-地名|大 I-地名 I-地名|人 B-人 B-Person",
        """\
processed 3 tokens with 2 phrases; found: 2 phrases; correct: 1.
accuracy:  66.67%; precision:  50.00%; recall:  50.00%; FB1:  50.00
           Person: precision:   0.00%; recall:   0.00%; FB1:   0.00  1
              人: precision:   0.00%; recall:   0.00%; FB1:   0.00  0
           地名: precision: 100.00%; recall: 100.00%; FB1: 100.00  1""",
    ),
    "blanks at the end of a line count for nothing": (
        "a B-A B-A | |b I-A O",
        """\
processed 2 tokens with 2 phrases; found: 1 phrases; correct: 1.
accuracy:  50.00%; precision: 100.00%; recall:  50.00%; FB1:  66.67
                A: precision: 100.00%; recall:  50.00%; FB1:  66.67  1""",
    ),
}


def written(tmp_path: Path, lines: str) -> Path:
    """A file of such lines, here divided by |."""
    path = tmp_path / "tagged.txt"
    path.write_text(lines.replace("|", "\n") + "\n", encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("case", PRINTED)
def test_the_text_is_that_of_conlleval(case, tmp_path):
    lines, printed = PRINTED[case]
    assert conll.as_text(conll.count(conll.read_words(written(tmp_path, lines)))) == printed


def test_raw_tags_are_phrases_of_one_word(tmp_path):
    words = conll.read_words(written(tmp_path, "a PER PER|b PER LOC|c - PER|d O -"), raw=True, outside="-")
    assert conll.as_text(conll.count(words)).splitlines() == [
        "processed 4 tokens with 2 phrases; found: 3 phrases; correct: 1.",
        "accuracy:  50.00%; precision:  33.33%; recall:  50.00%; FB1:  40.00",
        "              LOC: precision:   0.00%; recall:   0.00%; FB1:   0.00  1",
        "              PER: precision:  50.00%; recall:  50.00%; FB1:  50.00  2",
    ]


def test_a_delimiter_is_a_regular_expression(tmp_path):
    words = conll.read_words(written(tmp_path, "a b\tB-X\tB-X|c\tI-X\tO"), "\\t")
    assert conll.as_text(conll.count(words)).splitlines()[:2] == [
        "processed 2 tokens with 1 phrases; found: 1 phrases; correct: 0.",
        "accuracy:  50.00%; precision:   0.00%; recall:   0.00%; FB1:   0.00",
    ]


def test_line_ends_of_windows_are_no_part_of_the_tag(tmp_path):
    path = tmp_path / "tagged.txt"
    path.write_bytes(b"a B-A B-A\r\n\r\nb O O\r\n")
    assert conll.as_dict(conll.count(conll.read_words(path)))["accuracy"] == 100


def test_bytes_that_are_not_utf_8_are_kept(tmp_path):
    path = tmp_path / "tagged.txt"
    path.write_bytes("Köln B-Städte B-Städte\n".encode("latin-1"))
    text = conll.as_text(conll.count(conll.read_words(path)))
    assert "St\udce4dte" in text


def test_tags_in_memory_score_as_the_file():
    gold, predicted = [["B-PER", "I-PER", "O"], ["B-LOC"]], [["B-PER", "I-PER", "B-PER"], ["B-LOC"]]
    scores = conll.scores(gold, predicted)
    types = scores.pop("types")
    assert scores == {
        "tokens": 4,
        "phrases": 2,
        "found": 3,
        "correct": 2,
        "accuracy": 75.0,
        "precision": 200 / 3,
        "recall": 100.0,
        "FB1": pytest.approx(80.0),
    }
    assert types["PER"] == {
        "precision": 50.0,
        "recall": 100.0,
        "FB1": pytest.approx(200 / 3),
        "phrases": 1,
        "found": 2,
        "correct": 1,
    }


def test_schemes_that_conlleval_does_not_know_are_noticed(tmp_path):
    def found(lines: str) -> list[str]:
        return conll.unknown_prefixes(conll.read_words(written(tmp_path, lines)))

    assert found("a S-A B-A|b O E-A") == ["S", "E"]
    assert found("a B-A M-A") == ["M"]
    assert found("a E-A I-A") == []  # IOE
    assert found("a B-A I-A||b O O") == []


@pytest.mark.parametrize(
    ("lines", "delimiter", "message"),
    [
        ("a O O|b O", " ", "line 2 has 2 items, the lines before have 3"),
        ("a\tO\tO", " ", "line 1 has 1 item: gold and predicted tag"),
        ("a O O", "|", "would match nothing"),
        ("a O O", "(", "is no regular expression"),
    ],
)
def test_files_of_another_shape_are_refused(tmp_path, lines, delimiter, message):
    with pytest.raises(UserError, match=message):
        list(conll.read_words(written(tmp_path, lines), delimiter))


def test_tags_that_do_not_match_the_words_are_refused():
    with pytest.raises(UserError, match="sentence 1 has 2 gold tags and 1 predicted ones"):
        conll.scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(UserError, match="1 sentences have gold tags, 2 predicted ones"):
        conll.scores([["O"]], [["O"], ["O"]])
    with pytest.raises(UserError, match="no word to score"):
        conll.scores([], [])


@pytest.mark.parametrize("codec", ["utf-16", "utf-32"])
def test_another_encoding_is_named_though_bytes_do_not_matter_to_conlleval(tmp_path, codec):
    path = tmp_path / "tagged.txt"
    path.write_bytes("a O O\n".encode(codec))
    with pytest.raises(UserError, match=f"tagged.txt is {codec.upper()}: convert it"):
        list(conll.read_words(path))
