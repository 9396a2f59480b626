# SPDX-License-Identifier: Apache-2.0
"""The cost of int8: the score of the task, or the cosine of embeddings, before and after.

Shapes: N texts, B rows, S tokens, D features, C classes.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.conversion.checkpoints import Asked
from bert_jax.export.purpose import EMBED, Purpose, VECTORS
from bert_jax.export.runtime import OnnxModel
from bert_jax.feed.batch import Batch
from bert_jax.finetuning.prediction import Predictor, TaskTraining
from bert_jax.finetuning.run import main_metric
from bert_jax.finetuning.saved import SavedModel
from bert_jax.runs.finetuned import PER_CENT_KINDS
from bert_jax.text.streams import read_lines
from bert_jax.use.embedding import embed, EmbedSettings, rows_of
from bert_jax.use.model import load, Pretrained

MOST_LOSS = 0.01  # of a score between 0 and 1, or of the mean cosine
MOST_TEXTS = 1_000  # the first lines of a file, on which embeddings are compared


@dataclass(frozen=True)
class Judged:
    """The examples that int8 is judged on, and the loss that it may have there."""

    data: str  # the task's folder or file, or a file with a text a line
    split: str = "dev"
    most_loss: float = MOST_LOSS


@dataclass(frozen=True)
class Quality:
    """A measure before and after."""

    measure: str  # name of the metric and split, or "mean cosine"
    examples: int
    before: float  # between 0 and 1
    after: float

    @property
    def loss(self) -> float:
        """The loss; negative where int8 is better."""
        return self.before - self.after

    def to_dict(self) -> JsonObject:
        """Return what export.json holds."""
        return asdict(self) | {"loss": self.loss}

    def line(self) -> str:
        """Return a line for people."""
        return f"int8: {self.measure} {self.before:.4f} before, {self.after:.4f} after, on {self.examples:,} examples"


def quality_of(
    model: Path, narrow: OnnxModel, purpose: Purpose, judged: Judged, task: str | None, asked: Asked
) -> Quality:
    """Measure what an int8 model has lost against the checkpoint that it was made from.

    Args:
      model: the checkpoint.
      narrow: the int8 model.
      task: whose files `judged.data` has, of a fine-tuned checkpoint that was made elsewhere.

    Raises:
      UserError: data that cannot be read or has no labels; the loss is more than allowed.
    """
    of_vectors = purpose.name == EMBED
    found = (
        _of_vectors(load(model, asked=asked), narrow, purpose, judged)
        if of_vectors
        else _of_task(SavedModel(model, None, task, asked), narrow, judged)
    )
    if not found.loss <= judged.most_loss:
        raise UserError(
            f"{found.line()}: a loss of {found.loss:.4f}, and at most {judged.most_loss:g} is allowed: nothing was written;"
            " leave out --int8, or allow more with --loss"
        )
    return found


def _of_vectors(model: Pretrained, narrow: OnnxModel, purpose: Purpose, judged: Judged) -> Quality:
    lines = (line for _, line in read_lines(readable(judged.data)) if line.strip())
    texts = [line for line, _ in zip(lines, range(MOST_TEXTS), strict=False)]
    if not texts:
        raise UserError(f"{judged.data} has no text: give a file with one text a line")
    vectors = purpose.vectors
    settings = EmbedSettings(vectors.pooling, vectors.normalize, vectors.longest, too_long="truncate")
    wide, cut = embed(texts, model, settings)
    found = np.empty_like(wide)
    for batch in model.batches(rows_of(texts, model, settings)[0]):
        found[batch.numbers] = narrow(inputs_of(batch.fields))[VECTORS][: len(batch.numbers)]
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (wide * found).sum(1) / np.maximum(norms, np.finfo(np.float32).tiny)
    measure = f"mean cosine to the float32 vectors{f', {cut} of the texts cut' if cut else ''}"
    return Quality(measure, len(texts), 1.0, float(cosines.mean()))


def _of_task(model: SavedModel, narrow: OnnxModel, judged: Judged) -> Quality:
    split = model.split(judged.data, judged.split)
    before = model.outcome(split)
    if not before.scores:
        raise UserError(f"{judged.data}: {judged.split} has no labels to score with: name a --split that has them")
    outputs = _OnnxPredictor(model.training, narrow).outputs({}, split.units, "int8")
    after = split.outcome(outputs)
    metric = main_metric(model.task, before.scores)
    unit = 100 if model.task.kind in PER_CENT_KINDS else 1
    values = [(side.scores[metric] or 0.0) / unit for side in (before, after)]
    return Quality(f"{metric.replace('_', ' ')} of {judged.split}", len(before.records), *values)


class _OnnxPredictor(Predictor):
    """The passes of a `Predictor` through a model of ONNX."""

    def __init__(self, training: TaskTraining, model: OnnxModel):
        one_a_row = replace(training.config, packing="buckets")  # the exported model knows no packed rows
        super().__init__(replace(training, config=one_a_row))
        self._model = model

    def logits(self, params: PyTree, fields: Batch) -> jax.Array:
        outputs = self._model(inputs_of(fields))
        if "start_logits" in outputs:
            return jnp.stack([outputs["start_logits"], outputs["end_logits"]], axis=-1)
        logits = outputs["logits"]
        return jnp.asarray(logits if logits.ndim == 3 else logits[:, None])


def inputs_of(fields: Batch) -> dict[str, np.ndarray]:
    """Return the inputs of an exported model for a batch with a text a row."""
    return {
        "input_ids": fields["input_ids"],
        "attention_mask": fields["sequence_ids"] > 0,
        "token_type_ids": fields["segment_ids"],
    }
