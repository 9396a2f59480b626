# SPDX-License-Identifier: Apache-2.0
"""A run's newest checkpoint, ready to predict: the words behind [MASK] and the label of a pair.

Shapes: B rows, S tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.config.training import MeshConfig
from bert_jax.errors import UserError
from bert_jax.feed.kinds import PAIRS
from bert_jax.mesh.sharding import make_mesh
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import RunDirectory
from bert_jax.train.state import Training

MASK = "[MASK]"
SEPARATOR = "[SEP]"
TEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class TokenProbability:
    """A vocabulary entry and its probability."""

    token: str
    probability: float


@dataclass(frozen=True)
class Slot:
    """One [MASK] and the likeliest entries for it, best first."""

    position: int  # in tokens, [CLS] = 0
    entries: list[TokenProbability]


@dataclass(frozen=True)
class TextPrediction:
    """What the model says of one text."""

    masks: list[Slot]
    is_next: float  # probability of label 0: B follows A, or (sentence order) A and B stand in order


class Inference:
    """Parameters, model and tokenizer of a run, on one device."""

    def __init__(self, run: RunDirectory):
        self.run = run
        self.config = replace(run.config(), mesh=MeshConfig(1, 1, 1), micro_batches=1, attention="auto")
        self.tokenizer = run.tokenizer()
        self.training = Training(self.config, make_mesh(self.config.mesh, jax.devices()[:1]))
        description = run.description()
        if not description.is_pretraining:
            raise UserError(f"{run.path}: holds {description.summary()}: filling masks needs pooler, MLM and NSP heads")
        with Checkpoints(run.checkpoints) as checkpoints:
            if checkpoints.latest is None:
                raise UserError(f"{run.path}: has no complete checkpoint: go on with bert-jax pretrain")
            self.step = checkpoints.latest
            self.params = checkpoints.restore(self.step, {"params": self.training.abstract_state.params})["params"]

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """[CLS] text [SEP] with each [MASK] as one token; a [SEP] inside begins segment B: ids and segments [S].

        Raises:
          UserError: more segments than the run was trained on, or longer than its longest sequence.
        """
        parts = text.split(SEPARATOR)
        if len(parts) > 2:
            raise UserError(f"{shorten(text)!r}: has {len(parts)} segments: the model takes at most two")
        objective = self.config.objective
        if len(parts) == 2 and objective.examples not in PAIRS:
            raise UserError(
                f"{shorten(text)!r}: has two segments, and objective.name={objective.name} trains on one: remove the"
                f" {SEPARATOR}"
            )
        remedy = f"remove the {SEPARATOR}"
        self.config.model.require_segments(len(parts), f"{shorten(text)!r}", remedy)
        ids, segments = [self.tokenizer.cls_id], [0]
        for segment, part in enumerate(parts):
            piece = [*self._encode_with_masks(part), self.tokenizer.sep_id]
            ids += piece
            segments += [segment] * len(piece)
        longest = max(phase.sequence_length for phase in self.config.phases)
        if len(ids) > longest:
            raise UserError(
                f"{shorten(text)!r}: is {len(ids)} tokens long and this run was trained on {longest} at most: shorten it"
            )
        return np.array(ids, np.int32), np.array(segments, np.int32)

    def _encode_with_masks(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split(MASK)):
            ids += [self.tokenizer.mask_id] if number else []
            ids += self.tokenizer.encode(part).ids
        return ids

    def predict(self, ids: Sequence[np.ndarray], segments: Sequence[np.ndarray], top_k: int) -> list[TextPrediction]:
        """Predict texts given as ids and segments, [S_i] each."""
        predictions = []
        for begin in range(0, len(ids), TEXTS_AT_ONCE):
            part = slice(begin, begin + TEXTS_AT_ONCE)
            predictions += self._predict_batch(ids[part], segments[part], top_k)
        return predictions

    def _predict_batch(
        self, ids: Sequence[np.ndarray], segments: Sequence[np.ndarray], top_k: int
    ) -> list[TextPrediction]:
        longest = max(map(len, ids))
        size = min(-(-longest // 64) * 64, self.config.model.max_position_embeddings)  # few shapes, few compilations
        batch = {name: np.zeros((len(ids), size), np.int32) for name in ("input_ids", "segment_ids", "sequence_ids")}
        for row, (own_ids, own_segments) in enumerate(zip(ids, segments, strict=True)):
            batch["input_ids"][row, : len(own_ids)] = own_ids
            batch["segment_ids"][row, : len(own_ids)] = own_segments
            batch["sequence_ids"][row, : len(own_ids)] = 1
        places = [np.flatnonzero(row == self.tokenizer.mask_id) for row in batch["input_ids"]]
        slots = -(-max(1, *map(len, places)) // 8) * 8
        batch["masked_lm_positions"] = np.stack([np.pad(own, (0, slots - len(own))) for own in places]).astype(np.int32)
        values, tokens, is_next = jax.device_get(self._top(self.params, batch, top_k))
        return [
            TextPrediction([self._slot(*best) for best in zip(own.tolist(), *pair, strict=False)], float(probability))
            for own, *pair, probability in zip(places, tokens.tolist(), values.tolist(), is_next, strict=True)
        ]

    def _slot(self, place: int, tokens: list[int], values: list[float]) -> Slot:
        entries = [
            TokenProbability(self.tokenizer.vocabulary[token], value)
            for token, value in zip(tokens, values, strict=True)
        ]
        return Slot(place, entries)

    @cached_property
    def _top(self):  # type: ignore[no-untyped-def]
        """Jitted: the best entries at the masked positions and the probability of label 0."""
        entries = self.tokenizer.vocab_size

        def top(params, batch, top_k):  # type: ignore[no-untyped-def]
            rows, size = batch["input_ids"].shape
            positions = jnp.broadcast_to(jnp.arange(size)[None, :], (rows, size))
            fields = {
                **batch,
                "position_ids": positions,
                "cls_positions": jnp.zeros((rows, 1), jnp.int32),
            }
            output = nnx.merge(self.training.graph, params)(fields)
            # Rows of the table beyond the vocabulary have no name and take no part.
            probabilities = jax.nn.softmax(output.mlm_logits[:, :, :entries], axis=-1)
            values, tokens = jax.lax.top_k(probabilities, min(top_k, entries))
            return values, tokens, jax.nn.softmax(output.nsp_logits, axis=-1)[:, 0, 0]

        return jax.jit(top, static_argnums=2)


def shorten(text: str, length: int = 40) -> str:
    """The beginning of a text, for messages."""
    return text if len(text) <= length else f"{text[:length]}..."
