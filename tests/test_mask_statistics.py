# SPDX-License-Identifier: Apache-2.0
"""What masking did, measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_packing import made_up_examples

from bert_jax.config.objective import ObjectiveConfig
from bert_jax.feed.mask_statistics import chi_square_test, expected_shares, mask_report
from bert_jax.feed.packing import make_arrangement

MASK, VOCAB = 4, 1_000


def report_of(objective=None, packing="packed", steps=12, measured_against=None):
    objective = objective or ObjectiveConfig()
    examples = made_up_examples([3_000, 500], objective=objective)
    arrangement = make_arrangement(examples, packing, 64, 4, 4)
    batches = [arrangement.masked_batch(0, step) for step in range(steps)]
    return mask_report(batches, measured_against or objective, MASK, VOCAB), batches


@pytest.mark.parametrize(
    ("counts", "shares", "statistic", "p_value"),
    [  # from scipy.stats.chisquare
        ([8_123, 987, 1_010], [0.8, 0.1, 0.1], 0.7115859683794465, 0.700617644152911),
        ([520, 480], [0.5, 0.5], 1.6, 0.20590321073206466),
        ([700, 200, 100], [0.8, 0.1, 0.1], 112.5, 3.7233631217505e-25),
        ([520, 0, 480], [0.5, 0.0, 0.5], 1.6, 0.20590321073206466),
        ([10, 0, 0], [1.0, 0.0, 0.0], 0.0, 1.0),
        ([0, 0, 0], [0.8, 0.1, 0.1], 0.0, 1.0),
    ],
)
def test_chi_square_is_that_of_scipy(counts, shares, statistic, p_value):
    found = chi_square_test(counts, shares)
    assert found == pytest.approx((statistic, p_value), rel=1e-9)


def test_what_is_expected_never_but_counted_is_no_accident():
    assert chi_square_test([9, 1, 0], [1.0, 0.0, 0.0]) == (None, 0.0)


def test_random_entries_may_happen_to_be_the_token_or_the_mask():
    shares = expected_shares(ObjectiveConfig(mask_share=0.5, random_share=0.5), 10)
    assert shares == pytest.approx({"mask": 0.55, "random": 0.4, "kept": 0.05})
    assert sum(expected_shares(ObjectiveConfig(), 30_522).values()) == pytest.approx(1)


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
@pytest.mark.parametrize("packing", ["padded", "packed", "buckets"])
def test_a_batch_is_as_configured(masking, packing):
    report, batches = report_of(ObjectiveConfig(masking=masking), packing)
    assert report["p_value"] > 0.001
    assert 0.14 < report["picked_share"] < 0.17
    assert sum(report["treatment"].values()) == (report["units"] if masking == "span" else report["picked"])
    assert report["picked"] == sum(int(batch["masked_lm_weights"].sum()) for batch, _ in batches)
    assert report["valid_tokens"] == sum(int((batch["sequence_ids"] > 0).sum()) for batch, _ in batches)
    assert report["rows"] == 12 * 64
    examples = sum(int(batch["next_sentence_weights"].sum()) for batch, _ in batches)
    assert report["examples"] == report["pairs"] == examples
    assert report["examples_per_row"] == examples / report["rows"]
    cells = sum(batch["sequence_ids"].size for batch, _ in batches)
    assert report["valid_token_share"] == pytest.approx(report["valid_tokens"] / cells)
    assert 0.4 < report["is_next_share"] < 0.6
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
def test_another_split_is_noticed(masking):
    """84/8/8 where 80/10/10 was asked for."""
    done = ObjectiveConfig(masking=masking, mask_share=0.84, random_share=0.08)
    report, _ = report_of(done, steps=40, measured_against=replace(done, mask_share=0.8, random_share=0.1))
    assert report["p_value"] < 0.001


def test_lengths_of_units():
    report, batches = report_of(ObjectiveConfig(masking="whole_word"))
    lengths = np.concatenate([masks.unit_lengths for _, masks in batches])
    assert report["units"] == len(lengths)
    assert report["mean_unit_length"] == pytest.approx(lengths.mean())
    assert report["unit_length_histogram"][:3] == [int((lengths == length).sum()) for length in (1, 2, 3)]
    assert sum(report["unit_length_histogram"]) == len(lengths)
    assert report_of()[0]["mean_unit_length"] == 1


def test_masks_without_replacement_by_others():
    """mask_share 1: nothing else is expected, and nothing else is found."""
    report, _ = report_of(ObjectiveConfig(mask_share=1.0, random_share=0.0))
    assert report["treatment"] == {"mask": report["picked"], "random": 0, "kept": 0}
    assert (report["chi_square"], report["p_value"]) == (0.0, 1.0)
