# SPDX-License-Identifier: Apache-2.0
"""Scores of tags: phrases of a scheme, classes, classes beside O; words that are not scored."""

import pytest

from bert_jax.tasks.scoring.tags import tag_scores


def scores(gold: str, predicted: str, classes: str | None = None, left_out: tuple[int, ...] = ()) -> dict:
    wanted, found = gold.split(), predicted.split()
    scored = [place not in left_out for place in range(len(wanted))]
    return tag_scores([wanted], [found], [scored], None if classes is None else classes.split())


def test_classes_beside_o_are_words_and_phrases():
    """Three phrases, of which "city city" is found whole, "city" not, and a person is of another type."""
    found = scores("city city O city O person", "city city O O O city", "O city person thing")
    assert found == {
        "f1": pytest.approx(100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
        "precision": 50.0,
        "recall": pytest.approx(100 / 3),
        "accuracy": pytest.approx(100 * 4 / 6),
        "macro_f1": pytest.approx(100 * (2 * 2 / (3 + 3) + 0 + 0) / 3),  # of city, person, thing
    }


def test_types_with_a_hyphen_are_whole_types():
    """location-city and location-park are two types: divided at the hyphen they would be one."""
    found = scores("location-city location-park", "location-city location-city", "O location-city location-park")
    assert (found["precision"], found["recall"]) == (0.0, 0.0)


def test_classes_without_o_have_no_phrases():
    found = scores("DT NN VB NN", "DT NN NN NN", "DT NN VB")
    assert found == {"accuracy": 75.0, "macro_f1": pytest.approx(100 * (1 + 2 * 2 / 5 + 0) / 3)}


@pytest.mark.parametrize(
    ("gold", "predicted", "left_out", "expected"),
    [
        # precision, recall, accuracy
        ("B-PER O B-GPE", "B-PER O B-LOC", (), (50.0, 50.0, 100 * 2 / 3)),
        ("B-PER O B-GPE", "B-PER O B-LOC", (2,), (100.0, 100.0, 100.0)),
        ("B-PER B-GPE I-GPE", "B-PER I-PER O", (1, 2), (0.0, 0.0, 100.0)),  # reaches in: the person is missed
        ("B-GPE B-PER", "B-LOC B-PER", (0,), (100.0, 100.0, 100.0)),
        ("B-PER B-GPE I-PER", "B-PER O I-PER", (1,), (100.0, 100.0, 100.0)),  # parts are not joined: two of two
    ],
)
def test_words_that_are_not_scored(gold, predicted, left_out, expected):
    found = scores(gold, predicted, left_out=left_out)
    assert (found["precision"], found["recall"], found["accuracy"]) == pytest.approx(expected)


def test_where_no_word_is_scored_there_are_no_scores():
    assert scores("B-GPE", "O", left_out=(0,)) == {}
