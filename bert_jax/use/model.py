# SPDX-License-Identifier: Apache-2.0
"""A model of any format, ready to run on text: `bert_jax.load(path)`.

    bert = bert_jax.load("bert-base-uncased")  # a run, a directory of Hugging Face's, a TF1 checkpoint
    vectors = bert.encode(["A sentence.", ("A pair", "of two.")]).pooled_output

Shapes: N texts, B rows, S tokens, D features, L layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.config.description import ModelDescription
from bert_jax.conversion.checkpoints import Asked, check_numbers, Checkpoint, open_checkpoint
from bert_jax.conversion.own_format import flat, place_of
from bert_jax.errors import UserError
from bert_jax.model.encoder import Compute
from bert_jax.model.heads import BertModel, BertOutput
from bert_jax.tokenization import Tokenizer

Text = str | tuple[str, str]  # one segment, or two

TOKENS_AT_ONCE = 8192  # of a batch, padding included
WIDTH_STEP = 32  # rows are padded to a multiple of it: few shapes, few compilations
SHOWN = 40  # characters of a text in a message


class Encoded(NamedTuple):
    """What the encoder makes of texts."""

    tokens: list[list[int]]  # ids of each text, with [CLS] and [SEP]
    sequence_output: list[np.ndarray]  # N times [S, D], without padding
    pooled_output: np.ndarray | None  # [N, D]; None without a pooler


class TextBatch(NamedTuple):
    """Texts of like length as rows."""

    numbers: list[int]  # which texts, in the order of the rows
    fields: dict[str, np.ndarray]  # as in `bert_jax.feed.batch`, one example a row


class Pretrained:
    """A loaded model: `encoder` and heads as `bert_jax.model.heads.BertModel`, its parameters, its tokenizer.

    `model(batch)` takes the fields of `bert_jax.feed.batch`; `encode(texts)` takes text.
    """

    def __init__(self, description: ModelDescription, params: Any, tokenizer: Tokenizer, compute: Compute):
        self.description = description
        self.params = params
        self.tokenizer = tokenizer
        self._compute = compute

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        description, compute = self.description, self._compute
        return nnx.split(nnx.eval_shape(lambda: BertModel(description, compute, rngs=nnx.Rngs(0))))[0]

    @cached_property
    def _run(self) -> Any:
        def run(params: Any, batch: dict[str, jax.Array], all_layers: bool) -> BertOutput:
            return nnx.merge(self._graph, params)(batch, all_layers=all_layers)

        return jax.jit(run, static_argnums=2)

    @cached_property
    def model(self) -> BertModel:
        """The Flax module with its parameters."""
        return nnx.merge(self._graph, self.params)

    def __call__(self, batch: dict[str, np.ndarray], *, all_layers: bool = False) -> BertOutput:
        """Run the model, compiled once for each shape of batch; nothing is dropped.

        Raises:
          UserError: the batch has more segments than the model.
        """
        segments = int(np.max(batch["segment_ids"], initial=0)) + 1
        self.description.model.require_segments(segments, "the batch", "set its segment_ids to 0")
        return self._run(self.params, batch, all_layers)

    def ids(self, text: Text, *, single_segment: bool = False) -> tuple[list[int], list[int]]:
        """[CLS] A [SEP], or [CLS] A [SEP] B [SEP]: ids and segments; see `encode`."""
        parts = [text] if isinstance(text, str) else list(text)
        if not single_segment:
            remedy = "single_segment=True parts both by [SEP] alone"
            self.description.model.require_segments(len(parts), f"the pair of {parts[0][:SHOWN]!r}", remedy)
        ids, segments = [self.tokenizer.cls_id], [0]
        for segment, part in enumerate(parts):
            piece = [*self.tokenizer.encode(part).ids, self.tokenizer.sep_id]
            ids += piece
            segments += [0 if single_segment else segment] * len(piece)
        return ids, segments

    def encode(self, texts: Sequence[Text], *, single_segment: bool = False) -> Encoded:
        """Encode texts, in batches of like length.

        Args:
          texts: each a text or a pair.
          single_segment: both texts of a pair are segment 0, for a model that knows no other.

        Raises:
          UserError: a text is longer than the model has positions; a pair, and the model has one segment.
        """
        if isinstance(texts, str):
            raise UserError(f"{texts[:SHOWN]!r} is one text: give a list of texts")
        rows = [self.ids(text, single_segment=single_segment) for text in texts]
        self._require_short([len(ids) for ids, _ in rows], texts)
        sequences: list[Any] = [None] * len(rows)
        pooled: list[Any] = [None] * len(rows)
        for batch in self.batches(rows):
            output = jax.device_get(self(batch.fields).encoder)
            for row, number in enumerate(batch.numbers):
                sequences[number] = np.asarray(output.sequence_output[row, : len(rows[number][0])], np.float32)
                pooled[number] = (
                    None if output.pooled_output is None else np.asarray(output.pooled_output[row, 0], np.float32)
                )
        width = self.description.model.hidden_size
        together = np.array(pooled).reshape(len(rows), width) if self.description.pooler else None
        return Encoded([ids for ids, _ in rows], sequences, together)

    def batches(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[TextBatch]:
        """Rows (ids, segments) of at most the model's positions -> batches, the longest first."""
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number][0]))
        while order:
            width = -(-len(rows[order[0]][0]) // WIDTH_STEP) * WIDTH_STEP
            width = min(width, self.description.model.max_position_embeddings)
            count = max(1, TOKENS_AT_ONCE // width)
            yield TextBatch(order[:count], _fields([rows[number] for number in order[:count]], count, width))
            order = order[count:]

    def _require_short(self, lengths: Sequence[int], texts: Sequence[Text]) -> None:
        longest = self.description.model.max_position_embeddings
        for number, length in enumerate(lengths):
            if length > longest:
                text = texts[number] if isinstance(texts[number], str) else texts[number][0]
                raise UserError(
                    f"text {number} ({str(text)[:SHOWN]!r}) is {length} tokens long, and the model has {longest} positions:"
                    " shorten or split it"
                )


def _fields(rows: Sequence[tuple[Sequence[int], Sequence[int]]], count: int, width: int) -> dict[str, np.ndarray]:
    """The fields of a batch, [count, width]; rows that are not there are padding, so that shapes repeat."""
    fields = {name: np.zeros((count, width), np.int32) for name in ("input_ids", "segment_ids", "sequence_ids")}
    for row, (ids, segments) in enumerate(rows):
        fields["input_ids"][row, : len(ids)] = ids
        fields["segment_ids"][row, : len(ids)] = segments
        fields["sequence_ids"][row, : len(ids)] = 1
    fields["position_ids"] = np.tile(np.arange(width, dtype=np.int32), (count, 1))
    fields["cls_positions"] = np.zeros((count, 1), np.int32)
    fields["masked_lm_positions"] = np.zeros((count, 1), np.int32)
    return fields


def load(path: str | Path, *, dtype: Any = jnp.float32, asked: Asked | None = None) -> Pretrained:
    """A model and its tokenizer from a run, a directory of Hugging Face's, or a TF1 checkpoint.

    Args:
      path: of the checkpoint; its format is found out.
      dtype: the network is computed in; parameters are float32.
      asked: what files do not say (`--vocab` and the like of `bert-jax convert`).

    Raises:
      UserError: no checkpoint, one that is not whole, no vocabulary.
    """
    checkpoint = open_checkpoint(Path(path), asked or Asked())
    if checkpoint.tokenizer is None:
        raise UserError(f"{path} has no vocabulary: put its vocab.txt beside it, or name one")
    params = checkpoint.parameters()
    _require_finite(checkpoint, params)
    return Pretrained(checkpoint.description, params, checkpoint.tokenizer, Compute(dtype))


def _require_finite(checkpoint: Checkpoint, params: Mapping[str, Any]) -> None:
    """Refuse NaN and infinity by the checkpoint's own name of the tensor, which is read again only then."""
    broken = {path for path, leaf in flat(params).items() if not np.isfinite(np.asarray(leaf)).all()}
    for row in checkpoint.rows:
        if place_of(row.ours)[0] in broken:
            check_numbers(checkpoint.path, checkpoint.own_names[row.ours], checkpoint.weight(row))
