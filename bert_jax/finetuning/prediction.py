# SPDX-License-Identifier: Apache-2.0
"""A fine-tuned model over all rows of a split: few shapes, the next batch made while the device works.

Shapes: B rows, S tokens, C classes.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from bert_jax.base.types import PyTree
from bert_jax.config.description import TaskHead
from bert_jax.config.finetune import ResolvedConfig
from bert_jax.feed.batch import Batch, field_shapes, FieldShapes
from bert_jax.feed.feed import plain_feed
from bert_jax.finetuning.batches import (
    choose_widths,
    Draw,
    encoder_fields,
    NOBODY,
    passes,
    TOKENS_AT_ONCE,
    TOKENS_AT_ONCE_ON_CPU,
    Units,
)
from bert_jax.finetuning.packed import packed_passes, shares_rows
from bert_jax.finetuning.split import Outputs
from bert_jax.mesh.dealing import dealt_out
from bert_jax.mesh.distributed import is_main
from bert_jax.mesh.sharding import own_rows, put_on_mesh, row_shards
from bert_jax.train.evaluation import read_behind
from bert_jax.train.state import Training
from bert_jax.train.step import abstract_batch, Arrays

TaskTraining = Training[ResolvedConfig]
Program = Callable[[PyTree, Arrays], jax.Array]  # (params, batch) -> task logits


def compile_prediction(training: TaskTraining, batch: Batch) -> Program:
    """Compile (params, batch) -> task logits, whole on every device, for batches with the fields of this one."""

    def predict(params: PyTree, batch: Arrays) -> jax.Array:
        model = nnx.merge(training.graph, params)
        return model.task_logits(model.encode(batch), batch, None)

    jitted = jax.jit(predict, out_shardings=NamedSharding(training.mesh, P()))
    with jax.set_mesh(training.mesh):
        return jitted.lower(training.abstract_state.params, abstract_batch(training, batch)).compile()


def own_part(batch: Batch, mesh: Mesh) -> Batch:
    """Return this process's part of each field of a global batch."""
    return {name: field[own_rows(len(field), mesh)] for name, field in batch.items()}


class Predictor:
    """A model's outputs, compiled once for each shape; parameters are given with each pass.

    Of several processes each computes its rows of every batch where the mesh goes over them, as in training; on a mesh of its
    own devices whole batches, which are dealt out.
    """

    def __init__(self, training: TaskTraining):
        self.training = training
        self._programs: dict[FieldShapes, Program] = {}

    def outputs(self, params: PyTree, units: Units, title: str = "predict") -> Outputs:
        """Task logits of all units, in their order: [C] each of examples, [S, C] of rows without their padding.

        Args:
          params: on the mesh, as the training's state has them.
          units: of a split.
          title: of the progress bar.
        """
        results = [np.empty(0)] * len(units)
        if not len(units):
            return results
        with tqdm(
            total=len(units), unit="example", desc=title, disable=None if is_main() else True, leave=False
        ) as bar:
            draws, work = self.draws(units), partial(self._read, params, units)
            shared = self.training.mesh.is_multi_process
            with nullcontext(work(iter(draws))) if shared else dealt_out(draws, work, "predictions") as read:
                for draw, logits in zip(draws, read, strict=True):
                    bar.update(_collect(draw, logits, units, results, self._head.kind in ("tagging", "span")))
        return results

    def _read(self, params: PyTree, units: Units, draws: Iterator[Draw]) -> Iterator[np.ndarray]:
        """Yield the logits of batches, the next of which a thread makes ahead of its use."""
        own = list(draws)
        made = plain_feed(lambda number: encoder_fields(units, own[number]), 0, len(own))
        for _, logits in read_behind((None, self.logits(params, fields)) for fields in made):
            yield logits

    def logits(self, params: PyTree, fields: Batch) -> jax.Array:
        """Return the task logits of a batch: [B, S, C] of tokens, else [N, 1, C]; of packed rows [B, E, C]."""
        with jax.transfer_guard("allow"):
            own = own_part(fields, self.training.mesh)
            return self._program(fields)(params, put_on_mesh(self.training.mesh, own))

    @property
    def _head(self) -> TaskHead:
        head = self.training.description.task
        assert head is not None
        return head

    def draws(self, units: Units) -> list[Draw]:
        """The batches of a pass over all units."""
        config, model, multiple = self.training.config, self.training.description.model, row_shards(self.training.mesh)
        tokens = TOKENS_AT_ONCE_ON_CPU if self.training.platform == "cpu" else TOKENS_AT_ONCE
        if shares_rows(config.packing, self._head, units):
            return list(packed_passes(units, model.hidden_size, multiple, tokens))
        longest = max(model.max_position_embeddings, int(units.lengths.max()))
        return list(passes(units, choose_widths(units.lengths, config.buckets, longest), multiple, tokens))

    def _program(self, fields: Batch) -> Program:
        shape = field_shapes(fields)
        if shape not in self._programs:
            self._programs[shape] = compile_prediction(self.training, fields)
        return self._programs[shape]


def _collect(draw: Draw, values: np.ndarray, units: Units, results: list[np.ndarray], of_tokens: bool) -> int:
    """Put the logits of a batch where they belong; how many units that were."""
    examples = draw.examples.reshape(-1)
    real = np.flatnonzero(examples != NOBODY)
    if of_tokens:  # a unit is a row of the table
        begins = units.table.begins_in_rows(draw.rows)
        for place in real:
            row, slot = divmod(int(place), begins.shape[1])
            begin = begins[row, slot]
            results[examples[place]] = values[row, begin : begin + units.lengths[examples[place]]]
        return len(real)
    by_example = values.reshape(len(examples), -1)  # [N, C]; the choices of an example are neighbours
    for place in real:
        results[examples[place]] = by_example[place]
    return len(real)
