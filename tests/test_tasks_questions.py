# SPDX-License-Identifier: Apache-2.0
"""SQuAD-shaped files: what is read, what is refused and where it says the fault is, and answers that are not in place."""

import gzip
import json
import lzma
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import real_data
from question_samples import entry, squad

from bert_jax.base.errors import UserError
from bert_jax.tasks.examples import Answer, Question
from bert_jax.tasks.questions import answer_begin, read_questions

CONTEXT = "the cat sat on the mat."


def written(folder: Path, content: Any, name: str = "dev.json") -> Path:
    path = folder / name
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes({".xz": lzma.compress, ".gz": gzip.compress}.get(path.suffix, bytes)(data))
    return path


# ---- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dev.json", "dev.json.xz", "dev.json.gz"])
def test_version_1(name, tmp_path):
    path = written(tmp_path, squad(entry("a", ("cat", 4), ("the cat", 0)), entry("b", ("mat", 19))), name)
    first, second = read_questions(path)
    place = f"{path}, data[0].paragraphs[0].qas"
    assert first == Question("a", "the cat", CONTEXT, (Answer("cat", 4), Answer("the cat", 0)), None, f"{place}[0]")
    assert (second.name, second.answers, second.place) == ("b", (Answer("mat", 19),), f"{place}[1]")


def test_version_2_tells_which_have_no_answer(tmp_path):
    none = entry("b", is_impossible=True, plausible_answers=[{"text": "cat", "answer_start": 4}])
    path = written(tmp_path, squad(entry("a", ("cat", 4), is_impossible=False), none))
    first, second = read_questions(path)
    assert (first.impossible, second.impossible, second.answers) == (False, True, ())


def test_answers_may_be_missing_where_they_are_to_be_predicted(tmp_path):
    without = {"id": "b", "question": "the cat"}
    questions = read_questions(written(tmp_path, squad(entry("a"), without)), labelled=False)
    assert [(question.answers, question.impossible) for question in questions] == [((), None)] * 2


def test_an_id_that_is_a_number_is_its_digits(tmp_path):
    """As the official scorer's keys in JSON, which are texts."""
    assert read_questions(written(tmp_path, squad(entry(7, ("cat", 4)))))[0].name == "7"


@pytest.mark.parametrize(
    ("name", "questions", "answers", "lies"),
    [
        ("squad/dev-v1.1.json.xz", 10_570, 34_726, 0),
        ("squad/train-v1.1.json.xz", 87_599, 87_599, 0),
        ("zh/cmrc2018_dev.json", 3_219, 9_657, 200),
    ],
)
def test_published_files(name, questions, answers, lies):
    """The numbers that are published; in CMRC's own file 200 offsets lie, and 7 of these answers are in their context."""
    read = read_questions(real_data(name))
    assert len(read) == questions
    pairs = [(question.context, answer) for question in read for answer in question.answers]
    assert len(pairs) == answers
    wrong = [pair for pair in pairs if pair[0][pair[1].begin :][: len(pair[1].text)] != pair[1].text]
    assert len(wrong) == lies
    assert sum(answer_begin(*pair) is not None for pair in wrong) == (7 if lies else 0)


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b'{"data": [', "is not JSON"),
        (b"id\tquestion\n", "is not JSON"),
        ([], "dev.json is a list, not an object with 'data'"),
        ({"version": "1.1"}, "dev.json has no 'data'"),
        ('{"data": []}'.encode("utf-16"), "dev.json is UTF-16: convert it"),
        (b'{"data": "\xed\xa0\xbd"}', "dev.json, line 1: is not UTF-8 at its byte 10 (0xed)"),
        (squad(entry("a\ud83d", ("cat", 4))), "data[0].paragraphs[0].qas[0].id holds half a character, \\ud83d"),
        (squad(entry("a", ("cat\ude00", 4))), "qas[0].answers[0].text holds half a character, \\ude00"),
        ({"data": "none"}, 'dev.json, data is "none", not a list'),
        ({"data": []}, "has no questions"),
        ({"data": [{"paragraphs": []}]}, "has no questions"),
        ({"data": [{"title": "t"}]}, "dev.json, data[0] has no 'paragraphs'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "dev.json, data[0].paragraphs[0] has no 'context'"),
        ({"data": [{"paragraphs": [{"context": None}]}]}, "paragraphs[0].context is null, not a text"),
        (squad("who?"), "paragraphs[0].qas[0] is \"who?\", not an object with 'id'"),
        (squad(entry("a", ("cat", 4)), {"id": "b"}), "data[0].paragraphs[0].qas[1] has no 'question'"),
        (squad({"id": "a", "question": "?"}), "qas[0] has no 'answers'"),
        (squad(entry("a", ("cat", True))), "qas[0].answers[0].answer_start is true, not a whole number"),
        (squad(entry("a", ("cat", "4"))), 'answers[0].answer_start is "4", not a whole number'),
        (squad(entry("a", (" ", 3))), "qas[0].answers[0].text is empty"),
        (squad(entry("a", ("cat", 4), is_impossible="no")), 'qas[0].is_impossible is "no", not true or false'),
        (squad(entry("a", ("cat", 4)), entry("b")), "data[0].paragraphs[0].qas[1] ('b') has no answer"),
        (squad(entry("a", is_impossible=False)), "qas[0] ('a') has no answer"),
        (squad(entry("a", ("cat", 4), is_impossible=True)), "qas[0] ('a') is_impossible and has the answer 'cat'"),
        (
            squad(entry("a", ("cat", 4)), entry("a", ("mat", 19))),
            "dev.json, data[0].paragraphs[0].qas[0]: ids must differ",
        ),
    ],
)
def test_bad_files_are_refused_with_the_place(content, said, tmp_path):
    with pytest.raises(UserError, match=re.escape(said)) as error:
        read_questions(written(tmp_path, content))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)  # predictions may lie in a file of the same name


def test_a_missing_file_is_an_error_of_the_file_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_questions(tmp_path / "none.json")


# ---- answers that are not in place -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "claimed", "found"),
    [
        ("the", 0, 0),
        ("the", 15, 15),
        ("the", 14, 15),
        ("the", 16, 15),
        ("the", 7, 0),  # 7 away, and 8 from the other
        ("the", 8, 15),
        ("the", -1, 0),
        ("the", 999, 15),
        ("mat.", 999, 19),
        ("at", 8, 9),  # in cat, sat and mat
        ("at", 7, 5),  # as near to 9: the first
        ("The", 0, None),
        ("dog", -1, None),
    ],
)
def test_an_answer_is_where_it_stands_nearest_to_its_offset(text, claimed, found):
    assert answer_begin(CONTEXT, Answer(text, claimed)) == found


@pytest.mark.parametrize("ids", [("a", "a", "b"), (7, 7, 7)])
def test_ids_may_be_equal_where_nothing_goes_by_them(ids, tmp_path):
    """Made-up training data has no ids worth the name: every question is kept, in its order."""
    file = tmp_path / "train.json"
    file.write_text(json.dumps(squad(*(entry(name, ("cat", 4)) for name in ids))))
    assert [question.name for question in read_questions(file, unique=False)] == [str(name) for name in ids]
    with pytest.raises(UserError, match="ids must differ"):
        read_questions(file)
