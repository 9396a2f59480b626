# SPDX-License-Identifier: Apache-2.0
"""Masked-LM targets (rows S14, X11)."""

import numpy as np
import pytest

from bert_jax.config import ObjectiveConfig
from bert_jax.data.masking import mask_seeds, mask_tokens

CLS, SEP, MASK, VOCAB = 2, 3, 4, 1_000


def rows_of(count: int, length: int, valid: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [CLS] tokens [SEP] padding: (ids, candidates, lengths)."""
    ids = np.random.default_rng(seed).integers(5, VOCAB, (count, length)).astype(np.int32)
    place = np.arange(length)[None, :]
    ids[:, 0], ids[:, valid - 1] = CLS, SEP
    ids[:, valid:] = 0
    candidates = np.broadcast_to((place > 0) & (place < valid - 1), ids.shape)
    return ids, candidates, np.full(count, valid)


def mask_rows(ids, candidates, lengths, *, seed=1, epoch=0, indices=None, objective=None, max_predictions=20):
    indices = np.arange(len(ids)) if indices is None else indices
    return mask_tokens(
        ids,
        candidates,
        mask_seeds(seed, np.full(len(ids), epoch), indices),
        objective or ObjectiveConfig(),
        lengths=lengths,
        max_predictions=max_predictions,
        mask_id=MASK,
        vocab_size=VOCAB,
    )


def chi_square(counts, shares) -> float:
    expected = np.asarray(shares) * np.sum(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def test_eighty_ten_ten():
    """80 % [MASK], 10 % random, 10 % as they are, over 120,000 picked tokens: chi-square (row X11)."""
    ids, candidates, lengths = rows_of(6_000, 128, 128)
    masked = mask_rows(ids, candidates, lengths)
    shown = np.take_along_axis(masked.input_ids, masked.positions, axis=1)[masked.weights > 0]
    labels = masked.ids[masked.weights > 0]
    counts = np.array([(shown == MASK).sum(), ((shown != MASK) & (shown != labels)).sum(), (shown == labels).sum()])
    assert counts.sum() == 6_000 * 19
    # One random replacement in VOCAB draws the true id, one draws [MASK].
    one = 0.1 / VOCAB
    assert chi_square(counts, [0.8 + one, 0.1 - 2 * one, 0.1 + one]) < 13.8  # 0.1 %, two degrees of freedom


def test_every_position_is_picked_alike():
    ids, candidates, lengths = rows_of(20_000, 64, 50)
    masked = mask_rows(ids, candidates, lengths, max_predictions=10)
    counts = np.bincount(masked.positions[masked.weights > 0], minlength=64)
    assert counts[0] == counts[49:].sum() == 0  # [CLS], [SEP] and padding never
    assert chi_square(counts[1:49], np.full(48, 1 / 48)) < 82.7  # 0.1 %, 47 degrees of freedom


def test_random_replacements_are_uniform_over_the_vocabulary():
    ids, candidates, lengths = rows_of(20_000, 64, 64)
    objective = ObjectiveConfig(mlm_probability=0.5, mask_share=0.0, random_share=1.0)
    masked = mask_rows(ids, candidates, lengths, objective=objective, max_predictions=32)
    shown = np.take_along_axis(masked.input_ids, masked.positions, axis=1)[masked.weights > 0]
    counts = np.bincount(shown // 100, minlength=10)
    assert chi_square(counts, np.full(10, 0.1)) < 27.9  # 0.1 %, nine degrees of freedom
    assert shown.min() == 0
    assert shown.max() == VOCAB - 1


@pytest.mark.parametrize(("valid", "rate", "wanted"), [(128, 0.15, 19), (20, 0.15, 3), (4, 0.15, 1), (128, 0.4, 51)])
def test_number_picked(valid, rate, wanted):
    """round(tokens * rate), special tokens counted, at least one, as in the original."""
    ids, candidates, lengths = rows_of(10, 128, valid)
    masked = mask_rows(ids, candidates, lengths, objective=ObjectiveConfig(mlm_probability=rate), max_predictions=51)
    np.testing.assert_array_equal(masked.weights.sum(1), wanted)


def test_labels_are_the_true_ids_and_nothing_else_changes():
    ids, candidates, lengths = rows_of(100, 128, 100)
    before = ids.copy()
    masked = mask_rows(ids, candidates, lengths)
    np.testing.assert_array_equal(ids, before)
    real = masked.weights > 0
    np.testing.assert_array_equal(masked.ids[real], np.take_along_axis(ids, masked.positions, axis=1)[real])
    changed = masked.input_ids != ids
    picked = np.zeros_like(changed)
    picked[np.nonzero(real)[0], masked.positions[real]] = True
    assert not (changed & ~picked).any()
    assert (np.diff(masked.positions, axis=1)[real[:, 1:]] > 0).all()  # ascending, none twice
    assert (masked.ids[~real] == 0).all()
    assert (masked.positions[~real] == 0).all()


def test_masks_follow_example_and_epoch_only():
    """A row's mask depends on (seed, epoch, example), not on its place in the batch or on the batch's size."""
    ids, candidates, lengths = rows_of(50, 64, 64)
    whole = mask_rows(ids, candidates, lengths, max_predictions=10)
    some = np.array([41, 7, 19])
    part = mask_rows(ids[some], candidates[some], lengths[some], indices=some, max_predictions=10)
    np.testing.assert_array_equal(part.input_ids, whole.input_ids[some])
    for change in ({"epoch": 1}, {"seed": 2}, {"indices": np.arange(50) + 50}):
        other = mask_rows(ids, candidates, lengths, max_predictions=10, **change)
        assert (other.positions == whole.positions).mean() < 0.3


def test_a_row_without_candidates_gets_no_target():
    ids, candidates, lengths = rows_of(2, 16, 10)
    candidates = candidates & np.array([[True], [False]])
    masked = mask_rows(ids, candidates, lengths, max_predictions=3)
    np.testing.assert_array_equal(masked.weights.sum(1), [2, 0])
    np.testing.assert_array_equal(masked.input_ids[1], ids[1])


@pytest.mark.parametrize("length", [8, 65, 513, 2_000])
def test_lengths_that_are_no_powers_of_two(length):
    ids, candidates, lengths = rows_of(3, length, length)
    masked = mask_rows(ids, candidates, lengths, max_predictions=max(1, round(0.15 * length)))
    np.testing.assert_array_equal(masked.weights.sum(1), max(1, round(0.15 * length)))
