# SPDX-License-Identifier: Apache-2.0
"""A pass over held-out examples with one compiled step, in the course of training."""

from collections.abc import Iterable, Iterator, Mapping

import jax
from jax.sharding import Mesh

from bert_jax.base.types import PyTree
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.feed.batch import Batch, batch_spec
from bert_jax.feed.examples import evaluation_batch, Examples
from bert_jax.feed.feed import plain_feed
from bert_jax.mesh.sharding import own_rows, put_on_mesh, row_shards
from bert_jax.train.losses import Scores
from bert_jax.train.state import Training
from bert_jax.train.step import compile_scores, Loss

MOST_ROWS = 256  # of an evaluation's batch


def evaluation_rows(phase: PhaseConfig, mesh: Mesh) -> int:
    """Rows of an evaluation's batch: no more than fit without micro-batches, and divisible by the mesh."""
    shards = row_shards(mesh)
    return -(-min(phase.batch_size, MOST_ROWS) // shards) * shards


class ScorePass:
    """A pass over held-out examples with one compiled step."""

    def __init__(self, training: Training, loss: Loss, examples: Examples):
        self.examples = examples
        self.mesh = training.mesh
        fields = {name: jax.ShapeDtypeStruct(*spec) for name, spec in batch_spec(examples.shape).items()}
        self.step = compile_scores(training, loss, fields)

    def batches(self, limit: int | None = None) -> int:
        """Batches of a pass, `limit` at most."""
        count = -(-len(self.examples) // self.examples.shape.rows)
        return count if limit is None else min(count, limit)

    def batch(self, number: int) -> Batch:
        """This process's rows of one batch of the pass."""
        size = self.examples.shape.rows
        return evaluation_batch(self.examples, size, number, own_rows(size, self.mesh))

    def total(self, params: PyTree, limit: int | None = None) -> dict[str, float]:
        """Sums over the examples, or over the first `limit` batches of them in a fixed order."""
        totals: dict[str, float] = {}
        batches = plain_feed(self.batch, 0, self.batches(limit))
        begun = ((batch, self.step(params, put_on_mesh(self.mesh, batch))) for batch in batches)
        for _, scores in read_behind(begun):
            add_sums(totals, read_sums(scores))
        return totals


def read_behind[Begun](begun: Iterable[tuple[Begun, PyTree]]) -> Iterator[tuple[Begun, PyTree]]:
    """Pairs of anything and arrays on the device -> the same with the arrays read, one pair later, when the next one is
    under way."""
    waiting: tuple[Begun, PyTree] | None = None
    for pair in begun:
        if waiting is not None:
            yield waiting[0], jax.device_get(waiting[1])
        waiting = pair
    if waiting is not None:
        yield waiting[0], jax.device_get(waiting[1])


def read_sums(scores: Mapping[str, Scores]) -> dict[str, float]:
    """Return the sums of each term on the host, as `TERM_loss`, `TERM_correct` and `TERM_weight`."""
    read = jax.device_get(dict(scores))
    return {f"{term}_{name}": float(value) for term, sums in read.items() for name, value in sums._asdict().items()}


def add_sums(totals: dict[str, float], sums: dict[str, float]) -> None:
    """Add `sums` to `totals` by name."""
    for name, value in sums.items():
        totals[name] = totals.get(name, 0.0) + value
