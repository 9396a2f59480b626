# SPDX-License-Identifier: Apache-2.0
"""Steps that must not count: a loss or gradient that is not finite, or (`spike`) a loss far above those before it.

What is done about one says `on_bad_step`:

stop      the run ends; its newest checkpoint is of before.
skip      the step leaves parameters and optimizer as they were (decided in the train step itself) and its batch is lost.
rollback  the run goes on from its newest checkpoint with the batches behind the bad one: all that it had used since then are
          passed over (PaLM, 2204.02311, section 5.1, went on some 100 steps before a spike, without 200 to 500 batches).

Every decision follows from sums that a resumed run has again, and stands in a line of kind `bad` of metrics.jsonl and in the
checkpoints after it. So a run that was killed makes the same ones; one that was stopped has a later checkpoint to go back to.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.training import TrainingConfig
from bert_jax.train.losses import term_weight

SKIPPED = "skipped"  # among the sums of a step: 1 where it was
REMEMBERED, FEWEST = 100, 20  # losses of good steps that a spike is measured by; none is seen with fewer
SCALE = 1.4826  # of the median absolute deviation, to be a normal distribution's standard deviation


class RollBack(Exception):
    """Raised out of the loop after a bad step that a run is to be rolled back for."""

    def __init__(self, step: int, why: str):
        super().__init__(why)
        self.step, self.why = step, why


@dataclass
class BadSteps:
    """The bad steps that a run has had so far, and the losses that the next one is measured by."""

    config: TrainingConfig
    count: int = 0
    moved: int = 0  # batches that were passed over: the batch of step n is that of n + moved
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, nats) of the last good steps

    def why(self, step: int, sums: Mapping[str, float]) -> str | None:
        """Return what is bad about a step; None: it is good, and its loss is remembered."""
        loss, limit = total_loss(sums, self.config), self.limit(step)
        # Where the step has decided, that counts: its sums are in float32.
        if bool(sums[SKIPPED]) if SKIPPED in sums else (not_finite(sums) or loss > limit):
            return not_finite(sums) or f"loss={loss:.4g} is beyond {limit:.4g} (spike={self.config.spike:g})"
        if self.config.spike:
            self.losses = [*self.losses, (step, loss)][-REMEMBERED - 1 :]
        return None

    def limit(self, step: int) -> float:
        """Return the loss (nats) beyond which a step is a spike.

        The step before it is left out: its loss is not known yet when this one begins.
        """
        known = [loss for at, loss in self.losses if at < step - 1][-REMEMBERED:]
        if not self.config.spike or len(known) < FEWEST:
            return math.inf
        middle = statistics.median(known)
        return middle + self.config.spike * SCALE * statistics.median(abs(loss - middle) for loss in known)

    def bounded(self, step: int, why: str) -> None:
        """Count a bad step.

        Raises:
          UserError: it is one too many.
        """
        if self.count >= self.config.most_bad_steps:
            raise UserError(
                f"step {step:,}: {why}: the bad step after {self.count} that were passed over"
                f" (most_bad_steps={self.config.most_bad_steps}): the run stops: look at one with bert-jax replay"
            )
        self.count += 1

    def record(self) -> JsonObject:
        """Return what a checkpoint holds."""
        return {"count": self.count, "moved": self.moved, "losses": self.losses}

    def restore(self, saved: JsonObject) -> None:
        """Take over what a checkpoint holds; empty in one of an earlier version."""
        self.count, self.moved = saved.get("count", 0), saved.get("moved", 0)
        self.losses = [(int(step), float(loss)) for step, loss in saved.get("losses", [])]


def watched[N](sums: Mapping[str, N]) -> dict[str, N]:
    """Return the sums that must be finite: losses, then norms."""
    names = [name for end in ("_loss", "_norm") for name in sums if name.endswith(end)]
    return {name: sums[name] for name in names}


def not_finite(sums: Mapping[str, float]) -> str:
    """Return the names and values of losses and norms where one of them is not finite; empty where all are."""
    numbers = watched(sums)
    if all(math.isfinite(value) for value in numbers.values()):
        return ""
    values = ", ".join(f"{name}={value}" for name, value in numbers.items())
    return f"the loss or the gradient is not finite ({values})"


def total_loss(sums: Mapping[str, Any], config: TrainingConfig, larger: Callable[[Any, float], Any] = max) -> Any:
    """Return the loss of a step in nats: the weighted sum of the means of its terms, as it is differentiated.

    Args:
      config: the run's, which has the weights of some.
      larger: of two numbers; of arrays `jnp.maximum`.
    """
    terms = [name.removesuffix("_weight") for name in sums if name.endswith("_weight")]
    means = {term: sums[f"{term}_loss"] / larger(sums[f"{term}_weight"], 1.0) for term in terms}
    return sum(term_weight(term, config) * mean for term, mean in means.items())


def written(numbers: Mapping[str, float]) -> JsonObject:
    """Return numbers as JSON can hold them: one that is not finite as a word."""
    return {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
