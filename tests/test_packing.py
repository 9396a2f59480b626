# SPDX-License-Identifier: Apache-2.0
"""Padded rows, packed rows, buckets: every example once an epoch, whoever asks for which step."""

import random
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config.objective import ObjectiveConfig
from bert_jax.feed.batch import batch_spec, BatchShape
from bert_jax.feed.examples import EMPTY, Examples
from bert_jax.feed.feed import feed
from bert_jax.feed.instances import make_table
from bert_jax.feed.layout import SpecialIds
from bert_jax.feed.masking import wanted_counts
from bert_jax.feed.packing import make_arrangement, plan_rows, sort_by_length
from bert_jax.feed.shards import Shard, Split, table_name
from bert_jax.feed.widths import bucket_widths

SIZE, MOST = 64, 16
SPECIAL = SpecialIds(2, 3, 4, 0)
VOCAB = 1_000
PACKINGS = ("padded", "packed", "buckets")


def made_up_examples(
    counts: list[int], *, size: int = SIZE, objective: ObjectiveConfig | None = None, seed: int = 0
) -> Examples:
    """One shard for each of `counts`, with so many pairs of random lengths from 5 tokens to `size`."""
    rng = np.random.default_rng(seed)
    shards = []
    for count in counts:
        lengths = rng.integers(5, size + 1, count)
        lengths[rng.random(count) < 0.3] = size
        a = rng.integers(1, lengths - 3)
        tokens = rng.integers(5, VOCAB, 5_000).astype(np.uint16)
        starts = rng.integers(0, 5_000 - size, (2, count))
        table = np.stack([starts[0], a, starts[1], lengths - 3 - a, rng.integers(0, 2, count)], axis=1)
        words = np.packbits(rng.random(5_000) < 0.8, bitorder="little")
        none = np.zeros(1, np.int64)
        tables = {table_name("nsp", size): table.astype(np.int32)}
        shards.append(Shard(Path("made-up"), tokens, words, none, none, tables))
    split = Split("train", Path("made-up"), tuple(shards), {})
    return Examples(split, BatchShape(8, size, min(MOST, size)), objective or ObjectiveConfig(), SPECIAL, VOCAB)


def epoch_of(arrangement, seed: int, epoch: int) -> list[np.ndarray]:
    """The examples of each row of an epoch."""
    first = epoch * arrangement.rows_per_epoch
    found = []
    batch_size = arrangement.shapes[0].rows
    for step in range(first // batch_size, -(-(first + arrangement.rows_per_epoch) // batch_size)):
        rows = arrangement.packing.rows(seed, step, slice(None), 0)
        found += [row for row, own in zip(rows.indices, rows.epochs, strict=True) if own == epoch]
    return found


def present(rows: list[np.ndarray]) -> list[int]:
    return [int(index) for row in rows for index in row if index != EMPTY]


# ---- an epoch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("counts", [[1], [2], [7], [3, 0, 2], [97], [13, 101, 1, 40], [1_009]], ids=str)
def test_each_example_once_in_every_epoch(packing, counts):
    """Nothing lost, nothing twice, for odd sizes, several shards and fewer examples than a batch."""
    examples = made_up_examples(counts)
    arrangement = make_arrangement(examples, packing, 8, 3, 4)
    epochs = [epoch_of(arrangement, 5, epoch) for epoch in range(3)]
    for rows in epochs:
        assert len(rows) == arrangement.rows_per_epoch
        assert sorted(present(rows)) == list(range(sum(counts)))
    if sum(counts) > 20:
        orders = [present(rows) for rows in epochs] + [present(epoch_of(arrangement, 6, 0))]
        assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("packing", PACKINGS)
def test_an_epoch_of_batches_shows_each_example_once(packing):
    """The same in the tokens that come out: every example's unmasked tokens, as often as the shards hold them."""
    examples = made_up_examples([30, 61])
    arrangement = make_arrangement(examples, packing, 7, 4, 4)
    steps = -(-arrangement.rows_per_epoch // 7)
    shown = Counter()
    for step in range(steps):
        rows = arrangement.packing.rows(0, step, slice(None), 0)
        batch = arrangement.batch(0, step)
        for number in np.flatnonzero(rows.epochs == 0):
            shown.update(unmasked_examples(batch, number))
    expected = Counter()
    for shard, table in zip(examples.split.shards, examples.tables, strict=True):
        for a_start, a_length, b_start, b_length, label in table.tolist():
            a, b = shard.tokens[a_start : a_start + a_length], shard.tokens[b_start : b_start + b_length]
            expected[(SPECIAL.cls, *a.tolist(), SPECIAL.sep, *b.tolist(), SPECIAL.sep, label)] += 1
    assert shown == expected


def unmasked_examples(batch, row: int) -> list[tuple[int, ...]]:
    """The tokens of each example of a row as they were before masking, and its label."""
    ids = batch["input_ids"][row].copy()
    real = batch["masked_lm_weights"][row] > 0
    ids[batch["masked_lm_positions"][row, real]] = batch["masked_lm_ids"][row, real]
    sequence = batch["sequence_ids"][row]
    labels = batch["next_sentence_labels"][row]
    return [(*ids[sequence == number].tolist(), int(labels[number - 1])) for number in range(1, sequence.max() + 1)]


# ---- any step, any host ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("hosts", [1, 2, 3, 5, 8])
def test_hosts_make_the_rows_of_one_global_batch(packing, hosts):
    """The batch of 120 does not depend on how many hosts make it, across the epoch's end too."""
    arrangement = make_arrangement(made_up_examples([100, 203]), packing, 120, 3, 4)
    for step in (0, 2, 7):
        whole = arrangement.batch(1, step)
        parts = [arrangement.batch(1, step, rows) for rows in np.array_split(np.arange(120), hosts)]
        for name, field in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), field)


@pytest.mark.parametrize("packing", PACKINGS)
def test_any_step_can_be_asked_for_at_once(packing):
    """A resumed run and a new object make the same batches as a run that went through."""
    through = make_arrangement(made_up_examples([90]), packing, 8, 3, 4)
    batches = [through.batch(1, step) for step in range(40)]
    resumed = make_arrangement(made_up_examples([90]), packing, 8, 3, 4)
    for step in (39, 0, 17, 31):
        for name, field in resumed.batch(1, step).items():
            np.testing.assert_array_equal(field, batches[step][name])
    far = resumed.batch(1, 10**12)
    assert far["masked_lm_weights"].any()


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_later_phase_of_the_same_length_goes_on_in_the_stream(packing):
    arrangement = make_arrangement(made_up_examples([90]), packing, 8, 3, 4)
    for step in (0, 11):
        for name, field in arrangement.batch(0, step + 3).items():
            np.testing.assert_array_equal(arrangement.batch(0, step, seen=3 * 8)[name], field)


@pytest.mark.parametrize("packing", PACKINGS)
def test_tf_data_and_plain_iterator_agree_bit_for_bit(packing):
    arrangement = make_arrangement(made_up_examples([90, 30]), packing, 8, 3, 4)
    make = partial(arrangement.batch, 0)
    plain, tf_data = (list(feed(make, 3, 30, use_tf_data=choice)) for choice in (False, True))
    assert len(plain) == len(tf_data) == 27
    for one, other in zip(plain, tf_data, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


# ---- packed rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
def test_an_example_is_the_same_in_every_packing(masking):
    """Its tokens as shown, its targets and its label, alone in a row, in a bucket or packed with others."""
    examples = made_up_examples([150], objective=ObjectiveConfig(masking=masking))
    seen: dict[str, dict[int, tuple]] = {}
    for packing in PACKINGS:
        arrangement = make_arrangement(examples, packing, 10, 4, 4)
        seen[packing] = {}
        for step in range(-(-arrangement.rows_per_epoch // 10)):
            rows = arrangement.packing.rows(0, step, slice(None), 0)
            batch = arrangement.batch(0, step, probability=0.2)
            for row, slot in zip(*np.nonzero((rows.indices != EMPTY) & (rows.epochs == 0)[:, None]), strict=True):
                seen[packing][int(rows.indices[row, slot])] = as_if_alone(batch, row, slot)
    assert len(seen["padded"]) == 150
    assert seen["padded"] == seen["packed"] == seen["buckets"]


def as_if_alone(batch, row: int, slot: int) -> tuple:
    own = batch["sequence_ids"][row] == slot + 1
    start = int(np.flatnonzero(own)[0])
    assert batch["cls_positions"][row, slot] == start
    assert batch["next_sentence_weights"][row, slot] == 1
    positions = batch["masked_lm_positions"][row][batch["masked_lm_weights"][row] > 0]
    labels = batch["masked_lm_ids"][row][batch["masked_lm_weights"][row] > 0]
    inside = own[positions]
    fields = [batch[name][row, own].tolist() for name in ("input_ids", "segment_ids", "position_ids")]
    targets = (positions[inside] - start).tolist(), labels[inside].tolist()
    return (*fields, *targets, int(batch["next_sentence_labels"][row, slot]))


def test_packed_rows_follow_the_contract():
    """[CLS] A [SEP] B [SEP] one after the other: sequence ids from 1, positions from 0, segments 0 and 1 in each,
    against a plain restatement."""
    examples = made_up_examples([80])
    arrangement = make_arrangement(examples, "packed", 40, 3)
    spec = batch_spec(BatchShape(40, SIZE, MOST, 3))
    batch, rows = arrangement.batch(0, 0), arrangement.packing.rows(0, 0, slice(None), 0)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == spec
    table = examples.tables[0]
    for row, indices in enumerate(rows.indices):
        segments: list[int] = []
        sequences: list[int] = []
        positions: list[int] = []
        cls_positions: list[int] = []
        for number, index in enumerate(indices[indices != EMPTY], start=1):
            a_length, b_length = int(table[index, 1]), int(table[index, 3])
            cls_positions.append(len(segments))
            segments += [0] * (a_length + 2) + [1] * (b_length + 1)
            sequences += [number] * (a_length + b_length + 3)
            positions += range(a_length + b_length + 3)
        filler = [0] * (SIZE - len(segments))
        assert batch["segment_ids"][row].tolist() == segments + filler
        assert batch["sequence_ids"][row].tolist() == sequences + filler
        assert batch["position_ids"][row, : len(positions)].tolist() == positions
        assert batch["position_ids"][row].max() < SIZE
        assert not batch["input_ids"][row, len(segments) :].any()
        absent = [0] * (3 - len(cls_positions))
        assert batch["cls_positions"][row].tolist() == cls_positions + absent
        assert batch["next_sentence_weights"][row].tolist() == [1.0] * len(cls_positions) + [0.0] * len(absent)
        assert batch["next_sentence_labels"][row].tolist()[len(cls_positions) :] == absent
    assert len(np.unique((rows.indices != EMPTY).sum(1))) > 1


def test_targets_of_a_row_fit_where_the_configuration_was_checked():
    """max_predictions_per_seq = ceil(p * S) + examples_per_row, which PretrainConfig asks for, holds every row."""
    rng = np.random.default_rng(0)
    for _ in range(2_000):
        size, examples_per_row, share = int(rng.integers(8, 600)), int(rng.integers(1, 9)), float(rng.uniform(0.01, 1))
        cuts = np.sort(rng.integers(0, size, examples_per_row))
        lengths = np.diff(cuts, append=size)
        lengths = lengths[lengths >= 5]
        assert wanted_counts(lengths, lengths, share).sum() <= np.ceil(share * size) + examples_per_row


def test_targets_beyond_max_predictions_are_left_out():
    """Never more than M in a row, even where the setting is too small; the first examples of a row keep theirs."""
    arrangement = make_arrangement(made_up_examples([80]), "packed", 16, 4)
    batch = arrangement.batch(0, 0, probability=0.9)
    assert batch["masked_lm_weights"].shape == (16, MOST)
    np.testing.assert_array_equal(batch["masked_lm_weights"].sum(1), MOST)


# ---- the plan --------------------------------------------------------------------------------------------------------


def random_histogram(size: int, examples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, size + 1, examples)
    return np.bincount(np.where(rng.random(examples) < 0.3, size, lengths), minlength=size + 1)


@pytest.mark.parametrize("size", [8, 64, 129, 512, 4_096])
@pytest.mark.parametrize("examples_per_row", [1, 2, 3, 8])
def test_a_plan_holds_every_length_as_often_as_it_occurs(size, examples_per_row):
    histogram = random_histogram(size, 3_001, size)
    plan = plan_rows(histogram, size, examples_per_row)
    assert plan.compositions.shape == (len(plan.counts), examples_per_row)
    assert (plan.counts > 0).all()
    assert (plan.compositions.sum(1) <= size).all()
    held = np.bincount(plan.compositions.ravel(), np.repeat(plan.counts, examples_per_row), size + 1)
    np.testing.assert_array_equal(held[1:], histogram[1:])
    assert (np.diff(plan.compositions, axis=1) <= 0).all()  # so that what is empty comes last


@pytest.mark.parametrize("examples_per_row", [2, 3, 5])
def test_a_plan_is_as_good_as_placing_one_example_after_the_other(examples_per_row):
    """Best fit decreasing restated: each example, the longest first, into the row with the least space that holds
    it. Ties between rows may fall otherwise, so the counts may differ a little."""
    histogram = random_histogram(100, 2_000, 7)
    rows: list[list[int]] = []  # [space, examples]
    for length in np.repeat(np.arange(101), histogram)[::-1]:
        fitting = [row for row in rows if row[0] >= length and row[1] < examples_per_row]
        row = min(fitting, key=lambda row: row[0], default=None)
        if row is None:
            row = [100, 0]
            rows.append(row)
        row[0] -= length
        row[1] += 1
    assert plan_rows(histogram, 100, examples_per_row).counts.sum() <= 1.005 * len(rows)


def test_pairs_in_rows_of_512_are_packed_to_96_percent():
    """Pairs with short_seq_prob 0.1 from documents like Wikipedia's (26 tokens a sentence, 2,000 a document): padded
    0.73, packed by at most 4 at least 0.96 (`examples_per_row` and its default)."""
    rng = np.random.default_rng(0)
    sentences = np.maximum(1, rng.gamma(2.5, 10.5, 40_000)).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(sentences)])
    documents = np.unique(np.concatenate([[0], np.cumsum(rng.geometric(1 / 77, 600)), [40_000]]))
    documents = documents[documents <= 40_000]
    table = make_table("nsp", starts, documents, 512, random.Random(0)).examples
    histogram = np.bincount(table[:, 1] + table[:, 3] + 3, minlength=513)
    tokens = histogram @ np.arange(513)
    assert 0.68 < tokens / (len(table) * 512) < 0.78
    assert tokens / (plan_rows(histogram, 512, 4).counts.sum() * 512) > 0.96
    assert tokens / (plan_rows(histogram, 512, 3).counts.sum() * 512) > 0.94


def test_examples_are_sorted_by_length_across_shards():
    examples = made_up_examples([50, 1, 0, 99])
    lengths = np.concatenate([examples.lengths(number) for number in range(4)])
    found = sort_by_length(examples)
    np.testing.assert_array_equal(found.indices, np.argsort(lengths, kind="stable"))
    for length in (5, 40, SIZE):
        own = found.indices[found.begins[length] : found.begins[length + 1]]
        np.testing.assert_array_equal(own, np.flatnonzero(lengths == length))


def test_examples_that_share_a_row_change_from_epoch_to_epoch():
    arrangement = make_arrangement(made_up_examples([1_000]), "packed", 8, 3)
    companions = [{tuple(sorted(row.tolist())) for row in epoch_of(arrangement, 0, epoch)} for epoch in (0, 1)]
    shared = {row for row in companions[0] & companions[1] if sum(index != EMPTY for index in row) > 1}
    assert len(shared) < 0.1 * len(companions[0])


# ---- buckets ---------------------------------------------------------------------------------------------------------


def test_widths_of_buckets():
    """Evenly up to the sequence length, rounded up to multiples of 8; the widest is the sequence length."""
    assert bucket_widths(512, 4) == [128, 256, 384, 512]
    assert bucket_widths(128, 3) == [48, 88, 128]
    assert bucket_widths(20, 4) == [8, 16, 20]
    assert bucket_widths(512, 1) == [512]


def test_batches_of_buckets():
    """Each of one width, whole but for the last of the widest, in another order each epoch."""
    examples = made_up_examples([300])
    arrangement = make_arrangement(examples, "buckets", 16, buckets=4)
    widths = [shape.sequence_length for shape in arrangement.shapes]
    assert widths == [16, 32, 48, 64]
    assert [shape.max_predictions for shape in arrangement.shapes] == [4, 8, 12, 16]
    steps = arrangement.rows_per_epoch // 16
    orders = []
    for epoch in range(2):
        orders.append([])
        empty_rows = 0
        for step in range(epoch * steps, (epoch + 1) * steps):
            batch = arrangement.batch(0, step)
            width = batch["input_ids"].shape[1]
            orders[-1].append(width)
            spec = batch_spec(arrangement.shapes[widths.index(width)])
            assert {name: (field.shape, field.dtype) for name, field in batch.items()} == spec
            empty = batch["next_sentence_weights"][:, 0] == 0
            empty_rows += empty.sum()
            assert not empty.any() or width == SIZE
            for name in ("input_ids", "sequence_ids", "masked_lm_weights"):
                assert not batch[name][empty].any()
        assert empty_rows == arrangement.rows_per_epoch - 300 < 16
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_a_rest_of_a_bucket_moves_to_the_next_width():
    """12 examples that fit 16 tokens and batches of 8: the four longest of them go into wider rows."""
    examples = made_up_examples([200])
    table = examples.tables[0]
    table[:, 1], table[:, 3] = 1, np.where(np.arange(200) < 12, np.arange(12).max() - 4 + np.arange(200) % 2, 50)
    arrangement = make_arrangement(examples, "buckets", 8, buckets=4)
    narrow = arrangement.shapes[0]
    assert narrow.sequence_length == 16
    rows = [arrangement.packing.rows(0, step, slice(None), 0) for step in range(arrangement.rows_per_epoch // 8)]
    inside = [row for found in rows if found.shape == narrow for row in found.indices]
    lengths = examples.lengths(0)[present(inside)]
    assert len(inside) == 8
    assert lengths.max() <= np.sort(examples.lengths(0)[:12])[7]


def test_predictions_of_a_bucket_hold_its_targets():
    """In proportion to the width, rounded up, is enough wherever the full width has enough."""
    for size in (64, 128, 512):
        for share in (0.05, 0.15, 0.3, 0.4):
            most = max(1, round(share * size))
            for width in bucket_widths(size, 8):
                assert -(-most * width // size) >= max(1, round(share * width))
