# SPDX-License-Identifier: Apache-2.0
"""The settings of a study's runs: a row of the table under a budget."""

import math
from dataclasses import replace

from bert_jax.config.description import ModelDescription
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.settings import load_config, override
from bert_jax.model.accounting import run_flops
from bert_jax.study.table import Budget, Settings, Study, StudyRow


def pretrain_config(
    study: Study, row: StudyRow, budget: Budget, vocab_size: int, shortest: int, teacher: ModelDescription | None = None
) -> PretrainConfig:
    """Return the configuration of a row's pre-training.

    Args:
      vocab_size: of the data.
      shortest: rows that the data was prepared for, in tokens.
      teacher: of the rows that have one.
    """
    config = load_config(budget.config)
    model = replace(config.model, vocab_size=vocab_size)
    if budget.phases:
        lengths = [phase.length or shortest for phase in budget.phases]
        config = replace(
            config,
            model=replace(model, max_position_embeddings=max(lengths)),
            phases=tuple(
                PhaseConfig(length, phase.steps, phase.batch_size, length)
                for length, phase in zip(lengths, budget.phases, strict=True)
            ),
            optimizer=replace(config.optimizer, warmup_steps=None, warmup_share=0.1),
        )
    else:
        config = replace(config, model=model)
    first = next(iter(study.rows.values()))
    own = _with(config, study, row, budget)
    if not study.equal_compute:
        return own
    factor = run_flops(_with(config, study, first, budget)) / run_flops(own, teacher if row.is_taught else None)
    return replace(own, phases=tuple(replace(phase, steps=max(1, round(factor * phase.steps))) for phase in own.phases))


def _with(config: PretrainConfig, study: Study, row: StudyRow, budget: Budget) -> PretrainConfig:
    """Return the configuration with a row's settings, and as much room for predictions as it picks."""
    settings = [*budget.pretrain, *settings_of(study, budget, study.pretrain + row.pretrain)]
    config = override(_with_room(config, 1.0), settings)
    return _with_room(config, config.objective.highest_probability)


def _with_room(config: PretrainConfig, share: float) -> PretrainConfig:
    rooms = [math.ceil(round(share * phase.sequence_length, 6)) for phase in config.phases]
    phases = zip(config.phases, rooms, strict=True)
    return replace(config, phases=tuple(replace(phase, max_predictions_per_seq=room) for phase, room in phases))


def settings_of(study: Study, budget: Budget, settings: Settings) -> list[str]:
    """Return settings as they are in a budget, where smaller ones may stand for the paper's."""
    if not budget.scaled:
        return list(settings)
    return [own for setting in settings for own in study.scaled.get(setting, (setting,))]
