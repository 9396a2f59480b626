# SPDX-License-Identifier: Apache-2.0
"""Rows -> batches: each example once an epoch, from (seed, step) alone, in few shapes, little padded."""

import itertools
from collections import Counter

import numpy as np
import pytest

from bert_jax.finetuning import batches
from bert_jax.finetuning.batches import (
    choose_widths,
    encoder_fields,
    EpochOrder,
    NOBODY,
    passes,
    RowTable,
    Units,
    units_of_examples,
    units_of_rows,
)
from bert_jax.tasks.rows import IGNORE, Row

LONGEST = 48


def table_of(counts: list[int], seed: int = 0) -> RowTable:
    """Rows of 3 to 48 tokens, `counts[n]` of example n; every token is another, so that a mix-up shows."""
    rng, rows, token = np.random.default_rng(seed), [], itertools.count(1)
    for example, count in enumerate(counts):
        for _ in range(count):
            length = int(rng.integers(3, LONGEST + 1))
            ids = [next(token) for _ in range(length)]
            rows.append(Row(ids, [0, *[1] * (length - 1)], example, [*[IGNORE] * (length - 1), example]))
    return RowTable(rows)


def units_named(name: str) -> Units:
    if name == "rows":
        return units_of_rows(table_of([1] * 53))
    if name == "choices":
        return units_of_examples(table_of([4] * 21), choices=4)
    if name == "windows, all two":
        return units_of_examples(table_of([2] * 21))
    return units_of_examples(table_of(np.random.default_rng(1).integers(1, 6, 37).tolist()))


UNITS = ("rows", "choices", "windows, all two", "windows")


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(("size", "multiple"), [(1, 1), (8, 8), (5, 1)])
def test_every_example_is_seen_once_an_epoch(name, size, multiple):
    units = units_named(name)
    schedule = EpochOrder(units, size, [16, LONGEST], seed=3, row_multiple=multiple)
    assert schedule.steps_per_epoch == -(-len(units) // size)
    orders = []
    for epoch in range(2):
        draws = [schedule.draw(epoch * schedule.steps_per_epoch + step) for step in range(schedule.steps_per_epoch)]
        examples = [int(number) for draw in draws for number in draw.examples if number != NOBODY]
        rows = [int(row) for draw in draws for row in draw.rows if row != NOBODY]
        assert sorted(examples) == list(range(len(units)))
        assert sorted(rows) == list(range(len(units.table)))
        orders.append(examples)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("name", UNITS)
def test_a_batch_is_a_function_of_seed_and_step(name):
    units = units_named(name)

    def schedule(seed: int) -> EpochOrder:
        return EpochOrder(units, 4, [16, LONGEST], seed)

    one, steps = schedule(5), range(3 * schedule(5).steps_per_epoch)
    drawn = [one.draw(step).examples.tolist() for step in steps]
    other = schedule(5)
    assert [other.draw(step).examples.tolist() for step in reversed(steps)] == drawn[::-1]
    assert [schedule(6).draw(step).examples.tolist() for step in steps] != drawn


@pytest.mark.parametrize("name", UNITS)
def test_rows_of_a_batch_are_those_of_its_examples(name):
    """Without `row_examples` place tells: row b belongs to example b // choices, as losses and predictions read it."""
    units = units_named(name)
    schedule = EpochOrder(units, 4, [16, 32, LONGEST], seed=0)
    for step in range(schedule.steps_per_epoch):
        draw = schedule.draw(step)
        fields = encoder_fields(units, draw)
        assert ("row_examples" in fields) == name.startswith("windows")
        for place, row in enumerate(draw.rows):
            owner = int(draw.row_examples[place])
            if row == NOBODY:
                assert owner == 4
                continue
            assert int(units.table.examples[row]) == int(draw.examples[owner])
            if "row_examples" not in fields:
                assert owner == place // units.choices
        np.testing.assert_array_equal(fields["example_weights"], draw.examples != NOBODY)


def test_fields_are_the_rows_and_padding():
    table = table_of([1, 1, 1])
    rows = np.array([2, NOBODY, 0])
    fields, labels = table.fields(rows, 56), table.token_labels(rows, 56)
    for place, row in enumerate(rows):
        length = 0 if row == NOBODY else int(table.lengths[row])
        begin = int(table.begins[row])
        ids = table.ids[begin : begin + length]
        np.testing.assert_array_equal(fields["input_ids"][place], [*ids, *[0] * (56 - length)])
        np.testing.assert_array_equal(
            fields["segment_ids"][place], [0, *[1] * (length - 1), *[0] * (56 - length)] if length else [0] * 56
        )
        np.testing.assert_array_equal(fields["sequence_ids"][place], [1] * length + [0] * (56 - length))
        np.testing.assert_array_equal(fields["position_ids"][place], [*range(length), *[0] * (56 - length)])
        wanted = np.full(56, IGNORE)
        if length:
            wanted[length - 1] = row
        np.testing.assert_array_equal(labels[place], wanted)
    assert {field.dtype for field in fields.values()} == {np.dtype(np.int32)}


def test_shapes_are_few():
    """N rows, one and a half times as many, twice, three times ...: a program each, however windows fall."""
    units = units_of_examples(table_of(np.random.default_rng(2).integers(1, 30, 400).tolist()))
    schedule = EpochOrder(units, 8, [LONGEST], seed=0, row_multiple=2)
    shapes = {schedule.draw(step).shape for step in range(5 * schedule.steps_per_epoch)}
    assert {shape.rows for shape in shapes} <= {8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256}
    assert len(shapes) >= 3, "the test must meet several"


@pytest.mark.parametrize(
    ("least", "rows"), [(1, 1), (1, 2), (1, 3), (1, 100), (3, 7), (8, 8), (8, 9), (8, 13), (8, 25)]
)
def test_capacity_holds_the_rows_and_is_never_twice_too_large(least, rows):
    size = batches._capacity(least, rows, 1)
    assert rows <= size <= max(least, 2 * rows - 1)
    assert batches._capacity(least, rows, 8) == -(-size // 8) * 8


def test_like_lengths_stand_together():
    """Within a pool the lengths of two batches do not overlap."""
    units = units_of_rows(table_of([1] * 200))
    schedule = EpochOrder(units, 8, [LONGEST], seed=0)
    spans = []
    for step in range(schedule.steps_per_epoch):
        examples = schedule.draw(step).examples
        lengths = units.lengths[examples[examples != NOBODY]]
        spans.append((lengths.min(), lengths.max()))
    spans.sort()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    first = [schedule.draw(step).examples for step in range(schedule.steps_per_epoch)]
    widest = [units.lengths[batch[batch != NOBODY]].max() for batch in first]
    assert widest != sorted(widest), "batches go from short to long"


# ---- widths --------------------------------------------------------------------------------------------------------


def padded(lengths: np.ndarray, widths: tuple[int, ...]) -> int:
    """Tokens of all rows, each in the narrowest width that holds it."""
    return int(sum(min(width for width in widths if width >= length) for length in lengths))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_widths_are_the_best_there_are(count, seed):
    """Against every choice of multiples of eight, and of the model's positions."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(0.06, 60) + 2, 61)
    found = choose_widths(lengths, count, longest=61)
    assert len(found) <= count
    possible = [*range(8, 61, 8), 61]
    choices = (choice for size in range(1, count + 1) for choice in itertools.combinations(possible, size))
    best = min(padded(lengths, choice) for choice in choices if choice[-1] >= lengths.max())
    assert padded(lengths, tuple(found)) == best
    assert found == sorted(found)


def test_widths_of_little():
    assert choose_widths(np.array([5]), 4, 512) == [8]
    assert choose_widths(np.array([3, 30]), 4, 30) == [8, 30]
    assert choose_widths(np.zeros(0, np.int64), 4, 512) == [8]


# ---- passes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("at_once", [16_384, 200, 8])
def test_a_pass_meets_every_example_once(name, at_once):
    """Also where one example has more rows than a batch should hold."""
    units = units_named(name)
    draws = list(passes(units, [16, LONGEST], row_multiple=2, tokens_at_once=at_once))
    met = Counter(int(number) for draw in draws for number in draw.examples if number != NOBODY)
    assert met == Counter(range(len(units)))
    rows = Counter(int(row) for draw in draws for row in draw.rows if row != NOBODY)
    assert rows == Counter(range(len(units.table)))
    for draw in draws:
        assert draw.shape.rows % 2 == len(draw.examples) % 2 == 0
        longest = units.table.lengths[draw.rows[draw.rows != NOBODY]].max()
        assert draw.shape.width == (16 if longest <= 16 else LONGEST)


def test_a_long_document_does_not_make_the_batches_of_others_small():
    units = units_of_examples(table_of([1] * 60 + [40] + [1] * 60))
    draws = list(passes(units, [LONGEST]))
    assert len(draws) <= 2
    assert sum(len(draw.rows) for draw in draws) * LONGEST <= 3 * batches.TOKENS_AT_ONCE
