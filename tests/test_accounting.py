# SPDX-License-Identifier: Apache-2.0
"""Parameters and FLOPs against published figures."""

import json

import pytest

from bert_jax.cli import main
from bert_jax.config.model import MODEL_SIZES, ModelConfig
from bert_jax.config.settings import load_config
from bert_jax.model.accounting import formula_parameters, run_flops, training_flops

BASE, LARGE = ModelConfig(**MODEL_SIZES["base"]), ModelConfig(**MODEL_SIZES["large"])


def test_formula_of_the_rule_of_thumb():
    """108,375,552 (the printed 108,808,704 is wrong)."""
    assert formula_parameters(BASE) == 108_375_552


@pytest.mark.parametrize(
    ("model", "length", "predictions", "flops"),
    [(BASE, 128, 20, 6.99e10), (LARGE, 128, 20, 2.406e11), (LARGE, 512, 76, 1.020e12), (BASE, 512, 76, 3.009e11)],
)
def test_flops_of_a_sequence(model, length, predictions, flops):
    """Figures that agree with DeepSpeed's own statement for BERT-large (64 and 53 TFLOP/s at 272 and 52 samples/s)."""
    assert training_flops(model, length, length**2, predictions) == pytest.approx(flops, rel=6e-4)


def test_of_a_teacher_the_forward_pass_counts_which_is_a_third():
    """The bug: a distilled row of a study at equal FLOPs has its teacher for nothing, or at the price of its training."""
    config = load_config("tiny")
    assert run_flops(config, config.description) == pytest.approx(run_flops(config) * 4 / 3)
    assert run_flops(config, load_config("base").description) > 2 * run_flops(config)


def test_packing_costs_less_attention():
    whole, packed = (training_flops(BASE, 512, squares, 76) for squares in (512**2, 2 * 256**2))
    assert whole - packed == 12 * 12 * 768 * (512**2 - 2 * 256**2)


@pytest.mark.parametrize(("size", "encoder"), [("base", 109_482_240), ("large", 335_141_888)])
def test_describe_counts_parameters(size, encoder, capsys):
    """Through the command; Adam's two moments take twice the parameters."""
    assert main(["describe", size, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["encoder_parameters"] == encoder
    assert facts["parameter_bytes"] == 4 * (encoder + facts["head_parameters"])
    assert facts["optimizer_bytes"] == 2 * facts["parameter_bytes"] + 8  # and two counters
    assert main(["describe", size]) == 0
    assert f"{encoder:,}" in capsys.readouterr().out


def test_describe_counts_predictions_of_a_rising_mask_rate(capsys):
    """15 % to 45 % of 128 tokens: 30 % on average."""
    settings = ["objective.mlm_probability_end=0.45", "phases.0.max_predictions_per_seq=58"]
    assert main(["describe", "tiny", *settings, "--json"]) == 0
    phase = json.loads(capsys.readouterr().out)["phases"][0]
    assert phase["predictions"] == 38
    tiny = ModelConfig(**MODEL_SIZES["tiny"])
    assert phase["flops_per_sequence"] == training_flops(tiny, 128, 128**2, 38)


def test_describe_takes_settings(capsys):
    assert (
        main(["describe", "tiny", "model.vocab_size=1000", "phases.0.steps=3", "optimizer.warmup_steps=0", "--json"])
        == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["formula_parameters"] == 1_000 * 128 + 2 * 12 * 128**2
    assert facts["phases"][0]["flops"] == facts["phases"][0]["flops_per_sequence"] * 3 * 64
