# SPDX-License-Identifier: Apache-2.0
"""The cost clock of a run as metrics.jsonl holds it: what `train/clock.py` writes, read for reports and checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from bert_jax.base.types import JsonObject

CLOCK, BAD = "clock", "bad"  # kinds of lines of metrics.jsonl: this clock, and steps that did not count
# compile: programs; data_wait: the device has no batch; steps: the training itself; restart: start-up, and work that was lost.
PARTS = ("compile", "data_wait", "steps", "evaluation", "save", "restart")


@dataclass(frozen=True)
class Cost:
    """The cost of a run: where its seconds went."""

    seconds: Mapping[str, float]  # by PARTS
    restarts: int = 0

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> Self | None:
        """Return what the newest clock among the lines of a metrics.jsonl says; None where there is none."""
        newest = next((line for line in reversed(lines) if line.get("kind") == CLOCK), None)
        if newest is None:
            return None
        seconds = {part: newest.get(part) for part in PARTS}
        known = {part: float(value) for part, value in seconds.items() if isinstance(value, int | float)}
        restarts = newest.get("restarts")
        return cls({part: known.get(part, 0.0) for part in PARTS}, restarts if isinstance(restarts, int) else 0)

    @property
    def total(self) -> float:
        """All seconds."""
        return sum(self.seconds.values())

    def share(self, part: str) -> float:
        """The share of one part in all."""
        return self.seconds[part] / max(self.total, 1e-9)

    @property
    def goodput(self) -> float:
        """The share of the time in which steps were taken that count."""
        return self.share("steps")


def without_clock(lines: Sequence[Mapping[str, Any]]) -> list[JsonObject]:
    """Return lines of metrics.jsonl as far as they do not depend on how fast the machine was: two runs of one
    configuration have the same."""
    return [
        {name: value for name, value in line.items() if "second" not in name}
        for line in lines
        if line.get("kind") != CLOCK
    ]
