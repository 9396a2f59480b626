# SPDX-License-Identifier: Apache-2.0
"""Metrics of training."""

import pytest

from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.model.accounting import training_flops
from bert_jax.train.metrics import mean_scores, metrics_line, MetricsInterval, wilson_interval

STEP = {
    "mlm_loss": 60.0,
    "mlm_correct": 5.0,
    "mlm_weight": 20.0,
    "nsp_loss": 5.6,
    "nsp_correct": 6.0,
    "nsp_weight": 8.0,
    "rows": 4.0,
    "row_tokens": 256.0,
    "examples": 8.0,
    "valid_tokens": 160.0,
    "squared_lengths": 3_200.0,
    "masked": 16.0,
    "kept": 3.0,
    "not_next": 2.0,
    "grad_norm": 1.5,
    "parameter_norm": 9.0,
    "learning_rate": 0.1,
}


def test_a_line_divides_sums_once():
    """Two steps with 20 and 60 predictions: the mean over predictions, not the mean of means."""
    interval = MetricsInterval()
    interval.add(STEP, seconds=1.0)
    other = STEP | {"mlm_loss": 60.0, "mlm_weight": 60.0, "mlm_correct": 35.0, "grad_norm": 2.5, "masked": 48.0}
    interval.add(other, seconds=3.0)
    line = metrics_line(2, 0, interval, PretrainConfig())
    assert line["mlm_loss"] == pytest.approx(120 / 80)
    assert line["mlm_accuracy"] == pytest.approx(40 / 80)
    assert line["nsp_accuracy"] == pytest.approx(12 / 16)
    assert line["loss"] == pytest.approx(120 / 80 + 11.2 / 16)
    assert line["grad_norm"] == 2.5
    assert line["is_next_share"] == pytest.approx(1 - 4 / 16)
    assert (line["mask_share"], line["kept_share"]) == (64 / 80, 6 / 80)
    assert line["random_share"] == pytest.approx(10 / 80)
    assert line["picked_share"] == 80 / 320
    assert line["valid_token_share"] == 320 / 512
    assert line["examples_per_row"] == 16 / 8
    assert line["tokens_per_second"] == 320 / 4, "tokens that are not padding"
    assert line["sequences_per_second"] == 16 / 4
    assert line["model_flops_per_second"] == training_flops(ModelConfig(), 320, 6_400, 80) / 4


def test_a_window_survives_a_checkpoint():
    interval = MetricsInterval()
    interval.add(STEP, seconds=0.1)
    assert MetricsInterval(**interval.as_record()) == interval


def test_without_nsp_its_scores_are_absent():
    assert set(mean_scores(STEP, ["mlm"])) == {"mlm_loss", "mlm_accuracy"}
    interval = MetricsInterval()
    interval.add(STEP, seconds=1.0)
    without = PretrainConfig(objective=ObjectiveConfig("mlm_pairs"))
    assert not {"nsp_loss", "nsp_accuracy", "is_next_share"} & metrics_line(1, 0, interval, without).keys()


def test_wilson_interval():
    """Published example: 81 of 263 gives 0.2553 to 0.3662 (Newcombe 1998, method 3, without continuity correction)."""
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 29)[0] == 0.0
