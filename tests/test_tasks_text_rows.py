# SPDX-License-Identifier: Apache-2.0
"""Texts, pairs and choices as rows, checked against the loops of google-research/bert, written down again here."""

import random

import pytest
from tokenization_samples import VOCABULARY

from bert_jax.base.errors import UserError
from bert_jax.tasks.examples import ChoiceExample, TextExample
from bert_jax.tasks.rows import Row
from bert_jax.tasks.text_rows import text_rows, unknown_note
from bert_jax.tokenization import WordPieceTokenizer

CLS, SEP = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
WORDS = ["the", "cat", "sat", "on", "mat", "unaffable", "cats", "running", "!", "中文", "zebra"]


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, lowercase=True)


def example(*texts: str, place: str = "train.tsv, line 2") -> TextExample:
    return TextExample("0", texts, 0, place)


def made_up_examples(count: int, longest: int) -> list[TextExample]:
    """Texts and pairs of 0 to `longest` words."""
    random_ = random.Random(0)
    lengths = [[random_.randrange(longest) for _ in range(random_.choice([1, 2]))] for _ in range(count)]
    return [example(*(" ".join(random_.choices(WORDS, k=length)) for length in part)) for part in lengths]


def pieces(row: Row) -> list[str]:
    return [VOCABULARY[index] for index in row.ids]


def official_row(tokens_a: list[int], tokens_b: list[int], max_length: int) -> tuple[list[int], list[int]]:
    """convert_single_example with _truncate_seq_pair: one token at a time."""
    tokens_a, tokens_b = list(tokens_a), list(tokens_b)
    if tokens_b:
        while len(tokens_a) + len(tokens_b) > max_length - 3:
            (tokens_a if len(tokens_a) > len(tokens_b) else tokens_b).pop()
    else:
        tokens_a = tokens_a[: max_length - 2]
    ids, segments = [CLS, *tokens_a, SEP], [0] * (len(tokens_a) + 2)
    if tokens_b:
        ids, segments = [*ids, *tokens_b, SEP], segments + [1] * (len(tokens_b) + 1)
    return ids, segments


@pytest.mark.parametrize("max_length", [4, 5, 16, 17, 200])
def test_rows_are_those_of_google_research_bert(tokenizer, max_length):
    examples = made_up_examples(300, 20)
    rows, counts = text_rows(examples, tokenizer, max_length)
    whole = 0
    for number, (row, part) in enumerate(zip(rows, examples, strict=True)):
        tokens = [tokenizer.encode(text).ids for text in part.texts] + [[]]
        assert (list(row.ids), list(row.segments)) == official_row(tokens[0], tokens[1], max_length)
        assert row.example == number
        assert row.labels == ()
        whole += [*row.ids] == official_row(tokens[0], tokens[1], 10_000)[0]
    assert counts["examples"] == counts["rows"] == 300
    assert counts["cut"] == 300 - whole
    assert counts["in windows"] == 0


def official_windows(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(begin, length) of the doc_spans of run_squad.py."""
    spans, begin = [], 0
    while begin < length:
        size = min(length - begin, room)
        spans.append((begin, size))
        if begin + size == length:
            break
        begin += min(size, stride)
    return spans


@pytest.mark.parametrize(("max_length", "stride"), [(12, 3), (12, 1), (20, 5), (20, 500)])
def test_windows_are_those_of_google_research_bert_and_cover_the_text(tokenizer, max_length, stride):
    """The last text is cut, the first of a pair is repeated."""
    examples = [
        example(*[*["the cat sat"] * (len(part.texts) - 1), part.texts[-1]]) for part in made_up_examples(200, 40)
    ]
    rows, counts = text_rows(examples, tokenizer, max_length, "windows", stride)
    expected = []
    for number, part in enumerate(examples):
        *first, text = [tokenizer.encode(text).ids for text in part.texts]
        room = max_length - (3 + len(first[0]) if first else 2)
        for begin, size in official_windows(len(text), room, stride) or [(0, 0)]:
            window = text[begin : begin + size]
            expected.append((*official_row(*((first[0], window) if first else (window, [])), 10_000), number))
    assert [(list(row.ids), list(row.segments), row.example) for row in rows] == expected
    assert counts["rows"] == len(expected) > 200
    assert counts["in windows"] == sum(sum(row.example == number for row in rows) > 1 for number in range(200))
    assert counts["cut"] == 0
    assert max(len(row.ids) for row in rows) == max_length


def test_a_text_that_fits_is_one_window(tokenizer):
    text = "the cat sat on the mat"
    assert len(text_rows([example(text)], tokenizer, 8, "windows", 2)[0]) == 1
    rows, counts = text_rows([example(text)], tokenizer, 7, "windows", 2)
    assert [pieces(row) for row in rows] == [
        ["[CLS]", "the", "cat", "sat", "on", "the", "[SEP]"],
        ["[CLS]", "sat", "on", "the", "mat", "[SEP]"],
    ]
    assert (counts["in windows"], counts["rows"]) == (1, 2)


def test_each_choice_is_a_row_of_its_example(tokenizer):
    choices = ChoiceExample("7", (("the cat", "sat"), ("the cat", "on the mat on the mat")), 1, "val.csv, line 2")
    rows, counts = text_rows([choices, choices], tokenizer, 8)
    assert [pieces(row) for row in rows[:2]] == [
        ["[CLS]", "the", "cat", "[SEP]", "sat", "[SEP]"],
        ["[CLS]", "the", "cat", "[SEP]", "on", "the", "mat", "[SEP]"],
    ]
    assert [row.example for row in rows] == [0, 0, 1, 1]
    assert (counts["examples"], counts["rows"], counts["cut"]) == (2, 4, 2)
    assert len(text_rows([choices], tokenizer, 16, "error")[0]) == 2
    with pytest.raises(UserError, match="too_long=windows cannot be had with choices"):
        text_rows([choices], tokenizer, 8, "windows")


def test_too_long_is_refused_with_place_and_numbers(tokenizer):
    examples = [example("the cat"), *[example("the cat sat on the mat", place=f"train.tsv, line {n}") for n in (3, 4)]]
    with pytest.raises(UserError) as caught:
        text_rows(examples, tokenizer, 7, "error")
    assert str(caught.value) == (
        "train.tsv, line 3: 8 tokens with [CLS] and [SEP], and max_length=7 (2 are too long, the longest has 8): set"
        " too_long to truncate or windows, or a larger max_length"
    )
    assert text_rows(examples, tokenizer, 8, "error")[1]["rows"] == 3


def test_a_first_text_that_leaves_no_room_for_windows_is_refused(tokenizer):
    long = example("the cat sat on the mat", "the cat sat on the mat", place="dev.tsv, line 9")
    with pytest.raises(UserError, match=r"dev.tsv, line 9: its first text has 6 tokens and leaves windows of 1 for"):
        text_rows([long], tokenizer, 10, "windows", 4)
    assert len(text_rows([long], tokenizer, 12, "windows", 4)[0]) == 2
    # No windows are needed where the second text is short.
    assert len(text_rows([example("the cat sat on the mat", "cat")], tokenizer, 10, "windows", 4)[0]) == 1


def test_text_of_another_script_is_noticed(tokenizer):
    russian = [example("кошка сидит на ковре", "the cat")]
    _, counts = text_rows(russian, tokenizer, 4)
    assert (counts["tokens"], counts["unknown tokens"]) == (6, 4)  # of the text, not of what is left of it
    assert unknown_note(counts, "train") == (
        "train: 67% of the tokens are [UNK]: the text is of another script or language than the vocabulary; use a model"
        " that was trained on it"
    )
    assert unknown_note({"tokens": 10, "unknown tokens": 2}, "train") is None
    assert unknown_note({"tokens": 0, "unknown tokens": 0}, "train") is None


def test_no_text_and_no_examples(tokenizer):
    rows, counts = text_rows([example(""), example(" ", ""), example("", "cat")], tokenizer, 8)
    assert [pieces(row) for row in rows] == [["[CLS]", "[SEP]"]] * 2 + [["[CLS]", "[SEP]", "cat", "[SEP]"]]
    assert counts["without text"] == 2
    assert text_rows([], tokenizer, 8) == (
        [],
        {"examples": 0, "rows": 0, "cut": 0, "in windows": 0, "without text": 0, "tokens": 0, "unknown tokens": 0},
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_length": 3}, "max_length=3 leaves no room"),
        ({"max_length": 8, "too_long": "cut"}, "too_long=cut is not known: choose one of error, truncate, windows"),
        ({"max_length": 8, "too_long": "windows", "stride": 0}, "stride=0: windows must begin 1 token apart"),
    ],
)
def test_settings_that_cannot_be_are_refused(tokenizer, settings, words):
    with pytest.raises(UserError, match=words):
        text_rows([example("the cat")], tokenizer, **settings)
