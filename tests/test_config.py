# SPDX-License-Identifier: Apache-2.0
"""Configurations: defaults, sizes, phases. What is refused is in test_settings.py, in the words of the command line."""

from dataclasses import replace

import pytest

from bert_jax.config.model import MODEL_SIZES, ModelConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import OptimizerConfig

DEFAULT = PretrainConfig()


def test_defaults_are_the_paper_s_recipe():
    """BERT-base: 1,000,000 steps of 256 sequences, 90 % at length 128; 1e-4, warm-up 10,000 (paper, appendix A.2)."""
    assert DEFAULT.total_steps == 1_000_000
    assert [(phase.sequence_length, phase.steps, phase.batch_size) for phase in DEFAULT.phases] == [
        (128, 900_000, 256),
        (512, 100_000, 256),
    ]
    optimizer = DEFAULT.optimizer
    assert (optimizer.name, optimizer.schedule, optimizer.learning_rate) == ("adamw_bert", "linear", 1e-4)
    assert (optimizer.warmup_steps, optimizer.warmup_share, optimizer.weight_decay) == (10_000, None, 0.01)
    assert (optimizer.b1, optimizer.b2, optimizer.eps, optimizer.clip_norm) == (0.9, 0.999, 1e-6, 1.0)
    model = DEFAULT.model
    assert (model.hidden_dropout_prob, model.attention_probs_dropout_prob, model.layer_norm_eps) == (0.1, 0.1, 1e-12)


@pytest.mark.parametrize(("size", "shape"), [("3x768x12", (3, 768, 12)), ("6x768x3", (6, 768, 3))])
def test_sizes_of_the_paper_s_table(size, shape):
    """The head size is hidden / heads, not always 64."""
    model = ModelConfig(**MODEL_SIZES[size])
    assert (model.num_hidden_layers, model.hidden_size, model.num_attention_heads) == shape
    assert model.head_size == shape[1] // shape[2]
    assert model.intermediate_size == 4 * model.hidden_size


def test_the_phase_of_a_step():
    config = replace(
        DEFAULT, phases=(PhaseConfig(steps=3), PhaseConfig(steps=2)), optimizer=OptimizerConfig(warmup_steps=0)
    )
    assert [config.phase_at(step) for step in range(5)] == [(0, 0), (0, 0), (0, 0), (1, 3), (1, 3)]
    with pytest.raises(ValueError, match="step 5 is beyond the last step of the run, 4"):
        config.phase_at(5)
