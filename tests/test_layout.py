# SPDX-License-Identifier: Apache-2.0
"""Where tokens stand in rows, against a plain restatement that puts one example after the other."""

import numpy as np
import pytest

from bert_jax.feed.batch import BatchShape
from bert_jax.feed.layout import (
    example_fields,
    fit_predictions,
    lay_out,
    place_tokens,
    places_of,
    prediction_fields,
    SpecialIds,
    token_fields,
)

SPECIAL = SpecialIds(cls=2, sep=3, mask=4, pad=1)  # a [PAD] that is not 0 shows where 0 was assumed
SHAPE = BatchShape(rows=5, sequence_length=40, max_predictions=6, examples_per_row=3)
ROWS, SLOTS = np.array([0, 0, 1, 3, 3, 3]), np.array([0, 1, 0, 0, 1, 2])  # rows 2 and 4 are empty
A_LENGTHS = np.array([5, 1, 30, 7, 4, 9])
B_LENGTHS = np.array([8, 2, 7, 1, 6, 1])  # the third fills its row


@pytest.fixture(params=[True, False], ids=["pairs", "single"])
def case(request):
    """A layout, the tokens, and the rows as lists of (id, segment, example from 1, position, index of the token)."""
    pairs = request.param
    b_lengths = B_LENGTHS * pairs
    layout = lay_out(SHAPE, ROWS, SLOTS, A_LENGTHS, b_lengths, 3 if pairs else 2)
    tokens = np.arange(100, 100 + int((A_LENGTHS + b_lengths).sum())).astype(np.uint16)
    rows: list[list[tuple]] = [[] for _ in range(5)]
    token = 0
    for row, slot, a, b in zip(ROWS, SLOTS, A_LENGTHS, b_lengths, strict=True):
        own: list[list] = [[SPECIAL.cls, 0, None]]
        for segment, length in ((0, a), (1, b)):
            if segment == 0 or pairs:
                own += [[100 + token + i, segment, token + i] for i in range(length)]
                own.append([SPECIAL.sep, segment, None])
                token += length
        rows[row] += [
            (ident, segment, slot + 1, position, index) for position, (ident, segment, index) in enumerate(own)
        ]
    return layout, tokens, rows


def test_tokens_stand_one_example_after_the_other(case):
    layout, tokens, rows = case
    fields = token_fields(layout)
    ids = place_tokens(layout, fields["sequence_ids"], tokens, SPECIAL).reshape(5, 40)
    for number, row in enumerate(rows):
        filler = [0] * (40 - len(row))
        assert ids[number].tolist() == [entry[0] for entry in row] + [SPECIAL.pad] * len(filler)
        assert fields["segment_ids"][number].tolist() == [entry[1] for entry in row] + filler
        assert fields["sequence_ids"][number].tolist() == [entry[2] for entry in row] + filler
        assert fields["position_ids"][number, : len(row)].tolist() == [entry[3] for entry in row]
    assert fields["position_ids"].min() == 0
    assert fields["position_ids"].max() < 40


def test_places_of_picked_tokens(case):
    layout, tokens, rows = case
    expected = {entry[4]: 40 * number + place for number, row in enumerate(rows) for place, entry in enumerate(row)}
    for picked in (np.arange(len(tokens)), np.array([0, 4, 5, 6, len(tokens) - 1]), np.zeros(0, np.int64)):
        assert places_of(layout, picked).tolist() == [expected[index] for index in picked.tolist()]


def test_predictions_are_filled_up_with_zeros(case):
    layout, _, _ = case
    fields = prediction_fields(layout, np.array([3, 7, 41, 125, 126, 150]), np.array([11, 12, 13, 14, 15, 16]))
    assert fields["masked_lm_positions"].tolist() == [
        [3, 7, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0] * 6,
        [5, 6, 30, 0, 0, 0],
        [0] * 6,
    ]
    assert fields["masked_lm_ids"][3].tolist() == [14, 15, 16, 0, 0, 0]
    assert fields["masked_lm_weights"].sum(1).tolist() == [2, 1, 0, 3, 0]


def test_one_cls_and_label_an_example(case):
    layout, _, rows = case
    fields = example_fields(layout, np.array([1, 0, 1, 0, 1, 1]), 1.0)
    for number, row in enumerate(rows):
        starts = [place for place, entry in enumerate(row) if entry[0] == SPECIAL.cls]
        assert fields["cls_positions"][number].tolist() == starts + [0] * (3 - len(starts))
        assert fields["next_sentence_weights"][number].tolist() == [1.0] * len(starts) + [0.0] * (3 - len(starts))
    assert fields["next_sentence_labels"].tolist() == [[1, 0, 0], [1, 0, 0], [0] * 3, [0, 1, 1], [0] * 3]


def test_predictions_of_a_row_never_exceed_its_places(case):
    """The later examples of a row give way."""
    layout, _, _ = case
    assert fit_predictions(layout, np.array([2, 4, 6, 1, 2, 3])).tolist() == [2, 4, 6, 1, 2, 3]
    assert fit_predictions(layout, np.array([5, 4, 9, 2, 5, 3])).tolist() == [5, 1, 6, 2, 4, 0]
