# SPDX-License-Identifier: Apache-2.0
"""The commands that findings about a run name."""

import math
import shlex

from bert_jax.config.training import SchedulePart
from bert_jax.runs.names import CONFIG_FILE
from bert_jax.runs.reading import Run


def pretrain_command(run: Run) -> str:
    """The command that starts the run or takes it up again."""
    return _pretrain(run, str(run.directory))


def pretrain_again(run: Run, **changes: object) -> str:
    """The command for another run, with some settings changed."""
    return " ".join([_pretrain(run, f"{run.directory}-2"), *(f"{key}={value}" for key, value in changes.items())])


def _pretrain(run: Run, output: str) -> str:
    config, models = str(run.directory / CONFIG_FILE), [*_beginning(run), *_teacher(run)]
    return f"bert-jax pretrain {shlex.join([config, '--data', 'DATA', '--output', output, *models])}"


def _beginning(run: Run) -> list[str]:
    """The options that a run was given with the model that it began with."""
    if run.source is None:
        return []
    given = {"from": run.source["path"], "keep": run.source.get("keep"), **(run.source.get("asked") or {})}
    given["vocab"] = given.pop("vocabulary", None)
    options = ["--map-vocab"] if run.source.get("entries") is not None else []
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            options += [f"--{name.replace('_', '-')}", str(one)] if one is not None else []
    return options


def _teacher(run: Run) -> list[str]:
    return [] if run.teacher is None else ["--teacher", str(run.teacher["path"])]


# ---- settings --------------------------------------------------------------------------------------------------------


def part_at(run: Run, step: float) -> SchedulePart:
    """The stretch of the schedule that a step belongs to; steps count from 1."""
    parts = run.config.schedule_parts()
    return [part for part in parts if part.begin < step or part is parts[0]][-1]


def schedule_setting(run: Run, part: SchedulePart, name: str) -> str:
    """The key of a stretch's `learning_rate` or `warmup_steps`: its phase's own where it has them."""
    place, _ = run.config.phase_at(part.begin)
    return f"optimizer.{name}" if run.config.phases[place].learning_rate is None else f"phases.{place}.{name}"


def lower_rate(run: Run, step: float, divided_by: float) -> dict[str, object]:
    """The setting of the peak rate that a step was made under, with a lower value."""
    part = part_at(run, step)
    return {schedule_setting(run, part, "learning_rate"): f"{part.learning_rate / divided_by:.1g}"}


def shorter(run: Run, factor: float) -> dict[str, object]:
    """The settings that make all phases shorter, and warm-ups that are given in steps."""
    changes: dict[str, object] = {}
    for place, phase in enumerate(run.config.phases):
        changes[f"phases.{place}.steps"] = max(int(factor * phase.steps), 1)
        if phase.learning_rate is not None and phase.warmup_steps:
            changes[f"phases.{place}.warmup_steps"] = max(int(factor * phase.warmup_steps), 1)
    if run.config.phases[0].learning_rate is None and run.config.optimizer.warmup_steps:
        changes["optimizer.warmup_steps"] = max(int(factor * run.config.optimizer.warmup_steps), 1)
    return changes


def packed(run: Run) -> dict[str, object]:
    """The settings that pack examples into rows, with room for what these predict: each rounds its count up."""
    changes: dict[str, object] = {"packing": "packed"}
    if not run.config.objective.masks:  # there is always room for every token
        return changes
    for place, phase in enumerate(run.config.phases):
        picked = run.config.objective.highest_probability * phase.sequence_length
        needed = min(math.ceil(picked) + run.config.examples_per_row, phase.sequence_length)
        if needed > phase.max_predictions_per_seq:
            changes[f"phases.{place}.max_predictions_per_seq"] = needed
    return changes
