# SPDX-License-Identifier: Apache-2.0
"""Progress of a run as the host knows it; a checkpoint keeps it beside the arrays, so that a resumed run goes on the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bert_jax.base.types import JsonObject
from bert_jax.config.training import TrainingConfig
from bert_jax.mesh.distributed import is_main, of_main
from bert_jax.runs.cost import BAD, Cost
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.reading import read_metrics
from bert_jax.train.bad_steps import BadSteps
from bert_jax.train.clock import CostClock
from bert_jax.train.metrics import MetricsInterval


@dataclass
class Progress:
    """The host's side of a run's state."""

    bad_steps: BadSteps
    interval: MetricsInterval = field(default_factory=MetricsInterval)  # since the last line of metrics
    seconds: float = 0.0  # of steps since the run began, without compiling and scoring
    last_line: JsonObject = field(default_factory=dict)  # of metrics
    clock: CostClock = field(default_factory=CostClock)

    def record(self) -> JsonObject:
        """Return what a checkpoint holds of it."""
        return {
            "window": self.interval.as_record(),
            "seconds": self.seconds,
            "last_line": self.last_line,
            "clock": self.clock.record(),
            "bad_steps": self.bad_steps.record(),
        }


def restored(config: TrainingConfig, record: Mapping[str, Any], run: RunDirectory, done: int) -> Progress:
    """Return the progress of a checkpoint's record, as far as it goes, with what the lines of metrics know beyond it.

    Those are of a rollback to this checkpoint, and of the time that was spent after it.
    """
    progress = Progress(BadSteps(config))
    if "window" in record:
        progress.interval = MetricsInterval(**record["window"])
    elif record:
        progress.interval = former_interval(record, done)
    progress.seconds = record.get("seconds", 0.0)
    progress.last_line = record.get("last_line", {"loss": record.get("last_loss")} if record else {})
    lines = read_metrics(run.metrics_file)[0] if is_main() else []
    cost = Cost.of(lines)
    progress.clock.resume(record.get("clock", {}), {**cost.seconds, "restarts": cost.restarts} if cost else {})
    bad = progress.bad_steps
    bad.restore(record.get("bad_steps", {}))
    bad.count = of_main(max(bad.count, _largest(lines, "count")))
    bad.moved = of_main(max(bad.moved, _largest(lines, "moved")))
    return progress


def _largest(lines: Sequence[Mapping[str, Any]], name: str) -> int:
    return max((int(line[name]) for line in lines if line["kind"] == BAD), default=0)


def former_interval(record: Mapping[str, Any], done: int) -> MetricsInterval:
    """Return the metrics interval of a checkpoint that an earlier version of fine-tuning saved."""
    interval = record["interval"]
    names = {"tokens": "valid_tokens", "places": "row_tokens"}
    sums = {names.get(name, f"task_{name}"): value for name, value in interval["sums"].items()}
    last = {name: interval["last"][name] for name in ("learning_rate", "grad_norm") if name in interval["last"]}
    return MetricsInterval(done - record["interval_begin"], interval["seconds"], sums | last)
