# SPDX-License-Identifier: Apache-2.0
"""The commands that findings about a run name."""

import math
import shlex

from bert_jax.runs.names import CONFIG_FILE
from bert_jax.runs.reading import Run


def pretrain_again(run: Run, **changes: object) -> str:
    """The command for another run, with some settings changed."""
    settings = " ".join(f"{key}={value}" for key, value in changes.items())
    config = shlex.quote(str(run.directory / CONFIG_FILE))
    return f"bert-jax pretrain {config} --data DATA --output {shlex.quote(f'{run.directory}-2')} {settings}".rstrip()


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
