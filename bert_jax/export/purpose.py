# SPDX-License-Identifier: Apache-2.0
"""Purposes of exported models: the heads that go with it, its inputs, and what its outputs are called.

The names are those of Hugging Face's exports, which servers and libraries of embeddings look for.

Shapes: B rows, S tokens, D features, V vocabulary, C classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription
from bert_jax.conversion.checkpoints import Checkpoint
from bert_jax.conversion.sentence_files import followed, SentenceVectors, Served
from bert_jax.use.pooling import pooled_tokens, scaled

EMBED, FILL_MASK, PREDICT = ("embed", "fill-mask", "predict")  # the stages that do the same here
VECTORS = "sentence_embedding"  # the output with the vectors of embed
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # [B, S] each

Outputs = dict[str, np.ndarray]


class Purpose(NamedTuple):
    """A purpose: which outputs of the model are exported."""

    name: str  # one of these three
    vectors: SentenceVectors = SentenceVectors()  # of embed; their pooling is mean, cls, max or pooled
    notes: tuple[str, ...] = ()  # about them

    def outputs(self, description: ModelDescription) -> dict[str, tuple[str | int, ...]]:
        """Return the names and axes of the outputs; a text is an axis of any size.

        embed      last_hidden_state [B, S, D], sentence_embedding [B, D]
        fill-mask  logits [B, S, V]; seq_relationship_logits [B, 2], where the model has the head
        predict    logits [B, C], or [B, S, C] of tagging; of a span start_logits and end_logits [B, S]
        """
        model, task = description.model, description.task
        rows, tokens = ("batch",), ("batch", "sequence")
        if self.name == EMBED:
            return {"last_hidden_state": (*tokens, model.hidden_size), VECTORS: (*rows, model.hidden_size)}
        if self.name == FILL_MASK:
            pairs = {"seq_relationship_logits": (*rows, 2)} if description.nsp else {}
            return {"logits": (*tokens, model.vocab_size), **pairs}
        assert task is not None  # `trimmed` has seen to it
        if task.kind == "span":
            return {"start_logits": tokens, "end_logits": tokens}
        return {"logits": (*(rows if task.is_pooled else tokens), task.outputs)}


def purpose_of(checkpoint: Checkpoint, name: str | None, served: Served) -> Purpose:
    """Return what a checkpoint is exported for; without a name its fine-tuned head, or else embeddings.

    Raises:
      UserError: the checkpoint has no such head or is left to right, or vectors are asked about and none are made.
    """
    description = checkpoint.description
    if description.model.causal:
        raise UserError(
            f"{checkpoint.path}: a left-to-right model is not exported: bert-jax convert --to huggingface writes it as"
            " transformers' BertLMHeadModel"
        )
    if description.model.is_recurrent:
        raise UserError(f"{checkpoint.path}: a biLM is not exported: bert-jax embed, evaluate and predict run it")
    name = name or (EMBED if description.task is None else PREDICT)
    lacking = {EMBED: False, FILL_MASK: not description.mlm, PREDICT: description.task is None}[name]
    if lacking:
        raise UserError(f"--for {name}: {checkpoint.path} holds {description.summary()}, which has no head for it")
    if name != EMBED:
        if served != Served():
            option = f"--pooling {served.pooling}" if served.pooling is not None else "--normalize"
            raise UserError(f"{option} is of embeddings: leave it out, or give --for {EMBED}")
        return Purpose(name)
    if served.pooling == "pooled" and not description.pooler:
        raise UserError("--pooling pooled: this checkpoint has no pooler: use mean, cls or max")
    vectors, said = followed(checkpoint.path, served)
    description.model.require_pooling(vectors.pooling)
    return Purpose(name, vectors, tuple(said))


def sentence_vectors(tokens: jax.Array, pooled: jax.Array | None, mask: jax.Array, purpose: Purpose) -> jax.Array:
    """Return the vectors of rows as `bert-jax embed` makes them, [B, D].

    Args:
      tokens: the last layer, [B, S, D].
      pooled: the pooler's output, [B, D], of a model that has one.
      mask: [B, S], 0 at padding.
      purpose: says how.
    """
    vectors = purpose.vectors
    return scaled(pooled_tokens(tokens, mask, vectors.pooling) if pooled is None else pooled, vectors.normalize)


def trimmed(checkpoint: Checkpoint, purpose: Purpose) -> Checkpoint:
    """Return the checkpoint with the heads alone that the purpose has a use for."""
    description = replace(checkpoint.description, rtd=False)
    kept = {
        EMBED: replace(description, mlm=False, nsp=False, task=None, pooler=purpose.vectors.pooling == "pooled"),
        FILL_MASK: replace(description, task=None, pooler=description.nsp),
        PREDICT: replace(
            description, mlm=False, nsp=False, pooler=description.task is not None and description.task.needs_pooler
        ),
    }[purpose.name]
    return replace(checkpoint, description=kept, run=None)


def require_single_rows(path: Path, description: ModelDescription, too_long: str | None) -> None:
    """Refuse a head that predicts of several rows together.

    Raises:
      UserError: naming it.
    """
    task = description.task
    if task is not None and task.is_pooled and too_long == "windows":
        raise UserError(
            f"{path}: its head for {task.kind} fuses the windows of a text (too_long=windows, fusion={task.fusion}), and an"
            " exported model takes a row: fine-tune with too_long=truncate"
        )


def as_ours(outputs: Mapping[str, np.ndarray], purpose: Purpose) -> Outputs:
    """Return exported outputs under the names of `conversion.certificate`, spans as one array [B, S, 2]."""
    if "start_logits" in outputs:
        return {"task_logits": np.stack([outputs["start_logits"], outputs["end_logits"]], axis=-1)}
    ours = {"last_hidden_state": "sequence_output", "seq_relationship_logits": "nsp_logits"}
    ours["logits"] = "mlm_logits" if purpose.name == FILL_MASK else "task_logits"
    return {ours.get(name, name): np.asarray(value) for name, value in outputs.items()}
