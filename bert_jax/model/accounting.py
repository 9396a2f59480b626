# SPDX-License-Identifier: Apache-2.0
"""Parameters, FLOPs and memory of a model, counted and by formula."""

from dataclasses import replace

import jax

from bert_jax.base.types import PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.config.model import ModelConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig


def training_flops(config: ModelConfig, valid_tokens: float, squared_lengths: float, predictions: float) -> float:
    """Model FLOPs of forward and backward pass: matrix products only, nothing recomputed, no optimizer, no lookup.

    Args:
      config: of the model.
      valid_tokens: n, summed over rows; padding does not count.
      squared_lengths: the sum of n_i^2 over all packed examples; of a causal model, where a token sees those before it, half
        of it counts.
      predictions: positions that are predicted.
    """
    if config.is_recurrent:
        return _bilm_flops(config, valid_tokens, predictions)
    layers, width, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    products = 6 * layers * (4 * width**2 + 2 * width * inner) * valid_tokens
    scores = 12 * layers * width * squared_lengths * (0.5 if config.causal else 1)
    table = config.table_size
    head = 6 * predictions * (width * table + table * config.vocab_size)
    projection = 6 * valid_tokens * table * width if config.is_projected else 0
    return products + scores + head + projection


def _bilm_flops(config: ModelConfig, valid_tokens: float, predictions: float) -> float:
    """Both directions: P to 4 U gates of the input and of the state, U to P; the output matrix."""
    width, units = config.table_size, config.lstm_units or 0
    products = 6 * valid_tokens * 2 * config.num_hidden_layers * 9 * units * width
    return products + 6 * 2 * predictions * width * config.vocab_size


def pretraining_flops(
    description: ModelDescription, valid_tokens: float, squared_lengths: float, predictions: float
) -> float:
    """`training_flops` of all that pre-training computes: a generator and a head for replaced tokens too."""
    if description.generator is None:
        return training_flops(description.model, valid_tokens, squared_lengths, predictions)
    width = description.model.hidden_size
    judged = training_flops(description.model, valid_tokens, squared_lengths, 0) + 6 * valid_tokens * width * (
        width + 1
    )
    return judged + training_flops(description.generator, valid_tokens, squared_lengths, predictions)


def run_flops(config: PretrainConfig, teacher: ModelDescription | None = None) -> float:
    """`pretraining_flops` of all steps of a run: every token valid, one example a row, all predictions used.

    Of a teacher the forward pass counts, which is a third.
    """
    own = sum(phase.steps * step_flops(config, phase) for phase in config.phases)
    if teacher is None:
        return own
    return own + sum(phase.steps * step_flops(config, phase, teacher) / 3 for phase in config.phases)


def step_flops(config: PretrainConfig, phase: PhaseConfig, description: ModelDescription | None = None) -> float:
    """`pretraining_flops` of a step of a phase on all devices, counted as `run_flops` does; None: of the run's own model."""
    length, predictions = phase.sequence_length, phase.max_predictions_per_seq
    if not config.objective.masks:
        predictions = length - 1  # the last token has no next one
    return pretraining_flops(description or config.description, length, length**2, predictions) * phase.batch_size


def saved_flops(config: PretrainConfig, phase: PhaseConfig) -> float:
    """FLOPs of a step of a phase that a model saves by seeing the past only; 0 of one that sees both sides."""
    description = config.description
    both_sides = replace(description, model=replace(description.model, causal=False))
    return step_flops(config, phase, both_sides) - step_flops(config, phase)


def formula_parameters(config: ModelConfig) -> int:
    """V*H + L*12*H*H: the rule of thumb (feed-forward 8 H*H, attention 4 H*H; no biases, LayerNorm, other tables); of a biLM
    V*P + L*18*U*P, both directions."""
    width = config.hidden_size
    if config.is_recurrent:
        own = config.num_hidden_layers * 18 * (config.lstm_units or 0) * config.table_size
        return config.vocab_size * config.table_size + own
    return config.vocab_size * config.table_size + config.num_hidden_layers * 12 * width * width


def count_parameters(parameters: PyTree) -> int:
    """Elements of a pytree of arrays or abstract arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def count_bytes(tree: PyTree) -> int:
    """Bytes of a pytree of arrays or abstract arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
