# SPDX-License-Identifier: Apache-2.0
"""Calibration: a case by hand, a restatement of the definition, the temperature that made-up logits were spoilt by."""

import numpy as np
import pytest
from page_parts import panels, readings, section
from test_pages_finetune import RELIABILITY, SENTENCES, write_run

from bert_jax.pages.finetune import page_of
from bert_jax.runs.finetuned import load_finetuned
from bert_jax.tasks.scoring.calibration import best_temperature, calibration_error, reliability, tempered

RNG = np.random.default_rng(0)


def test_a_case_by_hand():
    """Four examples: 0.95 right, 0.92 wrong (one bin of ten), 0.71 right, 0.7 right (another: a bin holds its upper end)."""
    probabilities = np.array([[0.95, 0.05], [0.08, 0.92], [0.71, 0.29], [0.3, 0.7]])
    found = reliability(probabilities, np.array([0, 0, 0, 1]), bins=10)
    assert [one.examples for one in found] == [1, 1, 2]
    assert [one.accuracy for one in found] == [1, 1, 0.5]
    # (|1 - 0.7| + |1 - 0.71| + 2 |0.5 - 0.935|) / 4
    assert calibration_error(found) == pytest.approx((0.3 + 0.29 + 0.87) / 4)


def test_against_the_definition_example_by_example():
    probabilities = RNG.dirichlet(np.ones(3), 500)
    gold = RNG.integers(0, 3, 500)
    bins = 15
    expected = 0.0
    for number in range(bins):
        own = [n for n in range(500) if number / bins < max(probabilities[n]) <= (number + 1) / bins]
        if own:
            right = sum(int(np.argmax(probabilities[n])) == gold[n] for n in own) / len(own)
            sure = sum(max(probabilities[n]) for n in own) / len(own)
            expected += len(own) / 500 * abs(right - sure)
    assert calibration_error(reliability(probabilities, gold)) == pytest.approx(expected)


@pytest.mark.parametrize("spoilt_by", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_logits_were_multiplied_by(spoilt_by):
    """Labels are drawn from softmax(z); a model that says z x spoilt_by is calibrated by that temperature."""
    logits = RNG.normal(size=(40_000, 3)) * 1.5
    draws = RNG.random(40_000)[:, None] > np.cumsum(tempered(logits, 1.0), axis=1)
    gold = draws.sum(1)
    found = best_temperature(logits * spoilt_by, gold)
    assert found == pytest.approx(spoilt_by, rel=0.03)
    assert calibration_error(reliability(tempered(logits * spoilt_by, found), gold)) < 0.01


def test_at_the_best_temperature_the_likelihood_has_no_slope():
    """d/d(1/T) of the mean log-likelihood: the true logit less the expected one."""
    logits = RNG.normal(size=(300, 4)) * 2
    gold = np.where(RNG.random(300) < 0.7, logits.argmax(1), RNG.integers(0, 4, 300))
    temperature = best_temperature(logits, gold)
    shares = tempered(logits, temperature)
    slope = (logits[np.arange(300), gold] - (shares * logits).sum(1)).mean()
    assert abs(slope) < 1e-4
    # An example whose label is none of the classes changes nothing.
    more = np.concatenate([logits, [[9.0, 0, 0, 0]]]), np.append(gold, 4)
    assert best_temperature(*more) == temperature


def test_a_model_that_is_always_right_may_be_as_sure_as_is_looked_at():
    """Below some temperature the likelihood is 1 to the last digit."""
    assert 0.05 <= best_temperature(np.array([[3.0, -3.0]] * 9), np.zeros(9, np.int64)) < 0.2


def test_the_report_draws_it_with_and_without_the_temperature(tmp_path):
    """Five sentences: 0.99 right and 0.95 wrong in one bin, 0.8 right and 0.75 wrong in another, 0.6 right."""
    error = (2 * abs(0.5 - 0.97) + 2 * abs(0.5 - 0.775) + 0.4) / 5
    made = page_of(load_finetuned(write_run(tmp_path / "run", found={"temperature": 1e6})))
    panel = panels(section(made, "calibration"))[RELIABILITY]
    # Every probability becomes a half, and three of five are right.
    assert readings(panel) == {
        "ECE as trained": f"{100 * error:.1f} %",
        "ECE with the temperature": "10.0 %",
    }
    without = page_of(load_finetuned(write_run(tmp_path / "older", found={})))
    assert list(readings(panels(section(without, "calibration"))[RELIABILITY])) == ["ECE as trained"]
    unlabelled = write_run(tmp_path / "bare", predictions=[{**one, "label": None} for one in SENTENCES])
    assert "calibration" not in [one.name for one in page_of(load_finetuned(unlabelled)).sections]
