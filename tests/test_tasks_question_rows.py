# SPDX-License-Identifier: Apache-2.0
"""Windows, labels and places of tokens. The golden rows were made by google-research/bert's run_squad.py."""

import json
import random
import unicodedata

import numpy as np
import pytest
from conftest import real_data
from question_samples import google, uncased
from tokenization_samples import published, VOCABULARY

from bert_jax.base.errors import UserError
from bert_jax.tasks.examples import Answer, Question
from bert_jax.tasks.question_rows import covering_tokens, question_rows, QuestionSettings
from bert_jax.tasks.questions import read_questions
from bert_jax.tasks.rows import cut_windows
from bert_jax.tokenization import WordPieceTokenizer

SHORT = QuestionSettings(max_length=12, doc_stride=3, max_query_length=4)


def question(text: str, *answers: tuple[str, int], context: str, impossible: bool | None = None) -> Question:
    return Question("q", text, context, tuple(Answer(*answer) for answer in answers), impossible, "dev.json, data[0]")


def pieces(ids) -> list[str]:
    return [VOCABULARY[index] for index in ids]


def test_rows_are_those_of_google_research_bert(tmp_path):
    """Tokens, segments, windows, labels, and which window shows a token best."""
    made_by_google = google()
    (tmp_path / "dev.json").write_text(json.dumps(made_by_google["file"]), encoding="utf-8")
    settings = QuestionSettings(
        **{name: made_by_google["settings"][name] for name in ("max_length", "doc_stride", "max_query_length")}
    )
    made = question_rows(read_questions(tmp_path / "dev.json"), uncased(), settings, labelled=True)
    assert len(made.rows) == len(made_by_google["rows"])
    for row, window, expected in zip(made.rows, made.windows, made_by_google["rows"], strict=True):
        assert " ".join(pieces(row.ids)) == expected["tokens"]
        assert list(row.segments) == expected["segments"]
        assert row.example == expected["example"]
        assert list(row.labels) == expected["labels"]
        best = [window.first + window.best_begin, window.first + window.best_end]
        assert best == expected["best"] or (best[0] == best[1] and expected["best"] is None)


# ---- windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "room", "stride"), [(0, 5, 2), (5, 5, 2), (6, 5, 2), (500, 317, 128), (23, 7, 9)])
def test_windows_cover_the_context_and_each_token_is_best_once(tokens, room, stride):
    """A stride that is longer than the window leaves nothing out."""
    windows = cut_windows(tokens, room, stride)
    assert [window.begin for window in windows] == [number * min(stride, room) for number in range(len(windows))]
    assert all(window.end - window.begin == room for window in windows[:-1])
    assert windows[-1].end == tokens
    assert [place for window in windows for place in range(window.best_begin, window.best_end)] == list(range(tokens))


def test_a_token_belongs_to_the_window_with_the_most_context():
    """Restated one token at a time, for many lengths, as the paper's authors describe it."""
    for tokens, room, stride in [(t, r, s) for t in (30, 41, 160) for r in (8, 13, 150) for s in (1, 3, 7, 128)]:
        windows = cut_windows(tokens, room, stride)
        for place in range(tokens):
            scores = [
                min(place - w.begin, w.end - 1 - place) + 0.01 * (w.end - w.begin) if w.begin <= place < w.end else -1
                for w in windows
            ]
            best = windows[scores.index(max(scores))]
            assert best.best_begin <= place < best.best_end


def test_windows_of_a_very_long_context_take_no_more_memory_than_it_has_tokens():
    assert len(cut_windows(1_000_000, 317, 128)) == 7812


@pytest.mark.parametrize(("too_long", "rows"), [("windows", 3), ("truncate", 1)])
def test_a_long_context_becomes_windows_or_is_cut_and_counted(too_long, rows):
    long = question("the", ("cat", 0), context="cat sat on mat the cat sat on mat the cat sat")
    made = question_rows([long], uncased(), QuestionSettings(12, 3, 4, too_long), labelled=True)
    assert len(made.rows) == rows
    counted = {"windows": "questions with several windows", "truncate": "contexts cut to max_length"}[too_long]
    assert made.counts == {"questions": 1, "rows": rows, "answers": 1, counted: 1}
    window = made.windows[0]
    assert (window.best_begin, window.best_end) == ((0, 8) if too_long == "truncate" else (0, 6))


def test_a_long_context_is_an_error_where_that_is_wanted():
    long = question("the", ("cat", 0), context="cat " * 9)
    with pytest.raises(UserError, match=r"data\[0\] \('q'\): 13 tokens with \[CLS\] and \[SEP\], and max_length=12:"):
        question_rows([long], uncased(), QuestionSettings(12, 3, 4, "error"), labelled=True)
    fits = question("the", ("cat", 0), context="cat " * 8)
    assert len(question_rows([fits], uncased(), QuestionSettings(12, 3, 4, "error"), labelled=True).rows) == 1


def test_a_long_question_is_cut_and_counted():
    made = question_rows([question("the cat sat on the mat", context="cat")], uncased(), SHORT, labelled=False)
    assert " ".join(pieces(made.rows[0].ids)) == "[CLS] the cat sat on [SEP] cat [SEP]"
    assert made.counts == {"questions": 1, "rows": 1, "questions cut to max_query_length": 1}


def test_a_context_without_tokens_has_a_row():
    made = question_rows([question("the", context=" \u200b")], uncased(), SHORT, labelled=False)
    assert " ".join(pieces(made.rows[0].ids)) == "[CLS] the [SEP] [SEP]"
    assert made.windows[0].spans.shape == (0, 2)


def test_no_questions_are_no_rows():
    assert question_rows([], uncased(), SHORT, labelled=True).counts == {"questions": 0, "rows": 0}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_length": 67}, "max_length=67 leaves no room for text beside a question of max_query_length=64: set 68"),
        ({"doc_stride": 0}, "stride=0"),
        ({"max_query_length": 0}, "max_query_length=0"),
        ({"too_long": "cut"}, "too_long=cut"),
    ],
)
def test_settings_that_leave_no_room_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        QuestionSettings(**settings)


# ---- labels ------------------------------------------------------------------------------------------------


def labels(asked: Question) -> tuple[list[tuple[int, ...]], dict[str, int]]:
    made = question_rows([asked], uncased(), SHORT, labelled=True)
    return [tuple(row.labels) for row in made.rows], made.counts


def test_an_answer_is_labelled_in_each_window_that_holds_the_whole_of_it():
    context = "cat sat on mat the a b c cat sat on mat"  # windows [0, 8), [3, 11), [6, 12)
    found, _ = labels(question("the", ("c cat", 23), context=context))
    assert found == [(0, 0), (3 + 7 - 3, 3 + 8 - 3), (3 + 7 - 6, 3 + 8 - 6)]


def test_no_answer_is_labelled_as_cls():
    found, counts = labels(question("the", context="cat sat", impossible=True))
    assert found == [(0, 0)]
    assert counts == {"questions": 1, "rows": 1}


@pytest.mark.parametrize(
    ("context", "answer", "tokens", "counted"),
    [
        ("cat sat", ("cat", 1), (0, 0), "answers moved to the nearest place where they are"),
        ("unaffable cats", ("fab", 4), (1, 2), "answers that begin or end inside a token"),
        ("cats", ("cats", 0), (0, 1), None),
        ("cat,sat.", ("sat", 4), (2, 2), None),  # the better match of google's _improve_answer_span
        ("the 'cat' sat", ("'cat'", 4), (1, 3), None),
        ("cafe\u0301s sat", ("cafe\u0301", 0), (0, 0), None),  # the mark is part of no token
        ("😀 cat \U0001f3fd 中文", ("文", 9), (4, 4), None),
    ],
)
def test_the_tokens_of_an_answer(context, answer, tokens, counted):
    found, counts = labels(question("the", answer, context=context))
    assert found == [(3 + tokens[0], 3 + tokens[1])]
    assert counts == {"questions": 1, "rows": 1, "answers": 1} | ({counted: 1} if counted else {})


def test_an_answer_that_is_not_found_is_named_counted_and_its_question_left_out():
    lost = question("the", ("dog", 0), context="cat sat")
    mark = question("the", ("\u200b", 3), context="cat\u200b sat")
    good = question("the", ("dog", 0), ("sat", 4), context="cat sat")  # the second of its answers is there
    made = question_rows([lost, mark, good], uncased(), SHORT, labelled=True)
    assert [row.example for row in made.rows] == [2]
    assert made.rows[0].labels == (4, 4)
    assert made.left_out == [
        "dev.json, data[0] ('q'): its answer is nowhere in its context: 'dog'",
        "dev.json, data[0] ('q'): no token stands for its answer: '\u200b'",
    ]
    assert made.counts == {
        "questions": 3,
        "rows": 1,
        "answers": 4,
        "answers that are nowhere in their context": 2,
        "answers that no token stands for": 1,
        "questions left out": 2,
    }
    unlabelled = question_rows([lost, mark, good], uncased(), SHORT, labelled=False)
    assert [(row.example, row.labels) for row in unlabelled.rows] == [(0, ()), (1, ()), (2, ())]


def test_an_answer_that_no_window_holds_is_counted():
    found, counts = labels(question("the", ("cat " * 8 + "cat", 0), context="cat " * 8 + "cat"))
    assert set(found) == {(0, 0)}
    assert counts["answers that no window holds"] == 1


def test_a_question_without_an_answer_cannot_be_learned_from():
    with pytest.raises(UserError, match=r"data\[0\] \('q'\) has no answer to learn from"):
        labels(question("the", context="cat sat"))


# ---- places in the context ---------------------------------------------------------------------------------


def test_tokens_that_share_a_character_with_an_answer():
    spans = np.array([[0, 2], [2, 4], [5, 7], [7, 8], [7, 8]])  # the last two are one character
    assert covering_tokens(spans, 0, 2) == (0, 0)
    assert covering_tokens(spans, 1, 3) == (0, 1)
    assert covering_tokens(spans, 4, 6) == (2, 2)  # begins with white space
    assert covering_tokens(spans, 7, 8) == (3, 4)
    assert covering_tokens(spans, 4, 5) is None
    assert covering_tokens(spans, 8, 9) is None


def test_places_are_exact_on_any_unicode():
    """For random text, the slice from one token to another is encoded to just these tokens again."""
    rng = random.Random(0)
    everything = [
        chr(code) for code in range(0x21, 0x2FFFF) if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Co")
    ]
    words = ["cat", "unaffable", "CAFÉ", "cafe\u0301", "中文", "ΟΣ", "\u0130i", "e\u00ad\u200be", "ﬁ"]
    tokenizer = uncased()
    settings = QuestionSettings(64, 16, 8)
    for _ in range(30):
        parts = [rng.choice(words if rng.random() < 0.5 else everything) for _ in range(60)]
        context = " ".join(parts)
        made = question_rows([question("the", context=context)], tokenizer, settings, labelled=False)
        for row, window in zip(made.rows, made.windows, strict=True):
            ids = row.ids[window.first : -1]
            assert len(ids) == len(window.spans)
            starts = [place for place in range(len(ids)) if not pieces(ids)[place].startswith("##")]
            begin, after = sorted(rng.choices(starts, k=2))
            if begin < after:
                text = context[window.spans[begin, 0] : window.spans[after - 1, 1]]
                assert tokenizer.encode(text).ids == list(ids[begin:after]), ascii(text)


def test_answers_of_a_published_file_are_restored():
    """CMRC 2018, the first 300 questions: the slice of the labelled tokens is the answer."""
    chosen = read_questions(real_data("zh/cmrc2018_dev.json"))[:300]
    vocabulary = published("chinese").read_text(encoding="utf-8").splitlines()
    made = question_rows(chosen, WordPieceTokenizer(vocabulary, lowercase=True), QuestionSettings(), labelled=True)
    exact = 0
    held = set()
    for row, window in zip(made.rows, made.windows, strict=True):
        if any(row.labels):
            first, last = (window.spans[label - window.first] for label in row.labels)
            held.add(row.example)
            text = chosen[row.example].context[first[0] : last[1]]
            answer = chosen[row.example].answers[0].text
            assert answer in text
            exact += text == answer
    assert len(held) == 300
    assert exact >= 0.99 * sum(any(row.labels) for row in made.rows)
