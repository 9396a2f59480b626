# SPDX-License-Identifier: Apache-2.0
"""The cost clock: where the seconds of a run went since it began, over all its restarts.

It stands in lines of kind `clock` of metrics.jsonl, beside every line of training, and in each checkpoint's record. A
resumed run counts what the newest line knew of and the checkpoint does not as lost work. So what a SIGKILL makes unknown is
what came after the last line.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from bert_jax.base.types import JsonObject
from bert_jax.runs.cost import PARTS

DONE_AGAIN = ("steps", "data_wait", "evaluation")  # by a run that is resumed, from its checkpoint on


@dataclass
class CostClock:
    """Seconds by `PARTS`, and how often the run was started again."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    restarts: int = 0
    begin: float = field(default_factory=time.perf_counter)  # of this start, until its first program is compiled

    def add(self, part: str, seconds: float) -> None:
        """Count seconds that are measured elsewhere."""
        self.seconds[part] += seconds

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Count the time inside."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - begin)

    def started(self) -> None:
        """End the start-up: reading, restoring, checking, all that comes before the first program."""
        if self.begin:
            self.add("restart", time.perf_counter() - self.begin)
            self.begin = 0.0

    def resume(self, saved: Mapping[str, float], newest: Mapping[str, float]) -> None:
        """Go on with the clock of a checkpoint, both empty without one; what was known beyond it is lost work.

        Args:
          saved: of the checkpoint's record.
          newest: of the last line of metrics.
        """
        for part in PARTS:
            before, known = saved.get(part, 0.0), newest.get(part, 0.0)
            again = part in DONE_AGAIN
            self.seconds[part] += before if again else max(before, known)
            self.seconds["restart"] += max(known - before, 0.0) if again else 0.0
        self.restarts = int(newest.get("restarts", 0))

    def record(self) -> JsonObject:
        """Return what a line and a checkpoint hold."""
        return {**{part: round(seconds, 3) for part, seconds in self.seconds.items()}, "restarts": self.restarts}
