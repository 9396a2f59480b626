# SPDX-License-Identifier: Apache-2.0
"""A model of any format, ready to run on text: `bert_jax.load(path)`.

    bert = bert_jax.load("bert-base-uncased")  # a run, a directory of Hugging Face's, a TF1 checkpoint
    vectors = bert.encode(["A sentence.", ("A pair", "of two.")]).pooled_output

Shapes: N texts, B rows, S tokens, D features, L layers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path
from bert_jax.base.types import PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.conversion.checkpoints import Asked, Checkpoint, open_checkpoint
from bert_jax.conversion.names import BERT_JAX
from bert_jax.conversion.own_format import config_for
from bert_jax.feed.batch import Batch, batch_of_rows, power_of_two
from bert_jax.feed.kinds import SHORTEST_SEQUENCE
from bert_jax.model.encoder import Compute
from bert_jax.model.forward import compiled_forward, model_graph, require_finite
from bert_jax.model.heads import BertModel, BertOutput
from bert_jax.runs.directory import RunDirectory
from bert_jax.tokenization import Tokenizer
from bert_jax.train.state import COMPUTE_DTYPES, resolve_compute_dtype

Text = str | tuple[str, str]  # one segment, or two
Row = tuple[Sequence[int], Sequence[int]]  # ids and segments of a text

TOKENS_AT_ONCE = 8192  # of a batch, padding included
WIDTH_STEP = 32  # rows are padded to a multiple of it: few shapes, few compilations
SHOWN = 40  # characters of a text in a message


class Encoded(NamedTuple):
    """Texts as token ids and as the vectors that the encoder gives them."""

    tokens: list[list[int]]  # ids of each text, with [CLS] and [SEP]
    sequence_output: list[np.ndarray]  # N times [S, D], without padding
    pooled_output: np.ndarray | None  # [N, D]; None without a pooler


class TextBatch(NamedTuple):
    """Texts of like length as rows."""

    numbers: list[int]  # which texts, in the order of the rows
    fields: dict[str, np.ndarray]  # as in `bert_jax.feed.batch`, one example a row


class Origin(NamedTuple):
    """The origin of a loaded model, and what its training says of it."""

    path: Path
    format: str  # one of `bert_jax.conversion.names.FORMATS`
    run: RunDirectory | None  # where it is one of ours
    step: int | None  # of the run's checkpoint
    config: PretrainConfig  # of the run; else the recipe's, with rows as long as the model's positions
    weights: str | None = None  # what is said of them: that they are averages over the steps, that heads are untrained


class Pretrained:
    """A loaded model: `encoder` and heads as `bert_jax.model.heads.BertModel`, its parameters, its tokenizer.

    `model(batch)` takes the fields of `bert_jax.feed.batch`; `encode(texts)` takes text.
    """

    def __init__(
        self, description: ModelDescription, params: PyTree, tokenizer: Tokenizer, compute: Compute, origin: Origin
    ):
        self.description = description
        self.params = params
        self.tokenizer = tokenizer
        self.origin = origin
        self.compute = compute
        self._forward = compiled_forward(description, compute)

    @cached_property
    def model(self) -> BertModel:
        """The Flax module with its parameters."""
        return nnx.merge(model_graph(self.description, self.compute), self.params)

    def __call__(self, batch: Batch, *, all_layers: bool = False) -> BertOutput:
        """Run the model, compiled once for each shape of batch; nothing is dropped.

        Raises:
          UserError: the batch has more segments than the model.
        """
        segments = int(np.max(batch["segment_ids"], initial=0)) + 1
        self.description.model.require_segments(segments, "the batch", "set its segment_ids to 0")
        return self._forward(self.params, dict(batch), all_layers)

    def require_masked_lm(self, purpose: str) -> None:
        """Refuse a model that cannot predict masked tokens; `purpose` is what needs it: "filling masks".

        Raises:
          UserError: naming what the checkpoint holds.
        """
        self.require_token_head(purpose)
        self._refuse_bilm(f"{purpose} needs both at once")
        if self.description.model.causal:
            raise UserError(
                f"{self.origin.path}: is a left-to-right model, which sees nothing behind a [MASK], and {purpose} needs both"
                f" sides: it goes on with a text by bert-jax generate {self.origin.path} 'a text'"
            )

    def require_left_to_right(self, purpose: str) -> None:
        """Refuse a model that cannot predict the next token; `purpose` is what needs it: "going on with a text".

        Raises:
          UserError: naming what the checkpoint holds.
        """
        self.require_token_head(purpose)
        self._refuse_bilm(f"{purpose} needs a left-to-right model (objective=ltr)")
        if not self.description.model.causal:
            raise UserError(
                f"{self.origin.path}: is a bidirectional model, trained to see both sides of a word, and {purpose} needs a"
                f" left-to-right one (objective=ltr): it fills masks by bert-jax fill-mask {self.origin.path} 'a [MASK]'"
            )

    def _refuse_bilm(self, why: str) -> None:
        if self.description.model.is_recurrent:
            path = self.origin.path
            raise UserError(
                f"{path}: is a biLM, two models that read forward and backward apart, and {why}: it gives the perplexity of a"
                f" text by bert-jax evaluate {path} --text FILE, and vectors by bert-jax embed"
            )

    def require_token_head(self, purpose: str) -> None:
        """Refuse a model that predicts no tokens.

        Raises:
          UserError: naming what the checkpoint holds.
        """
        if not self.description.mlm:
            raise UserError(
                f"{self.origin.path}: holds {self.description.summary()}, and {purpose} needs an MLM head: give a checkpoint"
                " that has one, such as the one that this was fine-tuned from"
            )

    def phase(self, sequence_length: int | None) -> PhaseConfig:
        """Return the lengths of rows that the model is scored on: of a run its last phase, or the one of that length; of
        another checkpoint any that its positions reach.

        Raises:
          UserError: the run was not trained at that length, or the model has fewer positions.
        """
        phases = {phase.sequence_length: phase for phase in self.origin.config.phases}
        if sequence_length is None:
            return self.origin.config.phases[-1]
        if sequence_length in phases:
            return phases[sequence_length]
        if self.origin.run is not None:
            raise UserError(
                f"--sequence-length {sequence_length} is not one the run was trained at:"
                f" choose one of {', '.join(map(str, phases))}"
            )
        positions = self.description.model.max_position_embeddings
        if not SHORTEST_SEQUENCE <= sequence_length <= positions:
            raise UserError(
                f"--sequence-length {sequence_length} is not possible: use {SHORTEST_SEQUENCE} to {positions}, the positions"
                " of the model"
            )
        predictions = math.ceil(self.origin.config.objective.mlm_probability * sequence_length)
        return replace(
            self.origin.config.phases[-1], sequence_length=sequence_length, max_predictions_per_seq=predictions
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest row that the model was trained on: of a run its longest phase, else its positions."""
        return self.description.model.max_position_embeddings if self.origin.run is None else self.origin.run.longest()

    @property
    def reach(self) -> str:
        """How long its rows may be, in words that follow "the model"."""
        trained = self.longest < self.description.model.max_position_embeddings
        return f"was trained on {self.longest} at most" if trained else f"has {self.longest} positions"

    def ids(self, text: Text, *, single_segment: bool = False) -> tuple[list[int], list[int]]:
        """[CLS] A [SEP], or [CLS] A [SEP] B [SEP]: ids and segments; see `encode`."""
        parts = [text] if isinstance(text, str) else list(text)
        if not single_segment:
            remedy = "single_segment=True parts both by [SEP] alone"
            self.description.model.require_segments(len(parts), f"the pair of {parts[0][:SHOWN]!r}", remedy)
        pieces = [self.tokenizer.encode(part).ids for part in parts]
        ids, segments = row_of(self.tokenizer, pieces)
        return ids, [0] * len(ids) if single_segment else segments

    def encode(self, texts: Sequence[Text], *, single_segment: bool = False) -> Encoded:
        """Encode texts, in batches of like length.

        Args:
          texts: each a text or a pair.
          single_segment: both texts of a pair are segment 0, for a model that knows no other.

        Raises:
          UserError: a text is longer than the rows the model was trained on; a pair, and the model has one segment; as
            `require_finite`.
        """
        if isinstance(texts, str):
            raise UserError(f"{texts[:SHOWN]!r} is one text: give a list of texts")
        rows = [self.ids(text, single_segment=single_segment) for text in texts]
        self._require_short([len(ids) for ids, _ in rows], texts)
        sequences = [np.empty(0, np.float32)] * len(rows)
        pooled = np.empty((len(rows), self.description.model.hidden_size), np.float32)
        for batch in self.batches(rows):
            output = jax.device_get(self(batch.fields).encoder)
            for row, number in enumerate(batch.numbers):
                sequences[number] = np.asarray(output.sequence_output[row, : len(rows[number][0])], np.float32)
                require_finite(sequences[number], self.params)
                if output.pooled_output is not None:
                    pooled[number] = output.pooled_output[row, 0]
        return Encoded([ids for ids, _ in rows], sequences, pooled if self.description.pooler else None)

    def batches(self, rows: Sequence[Row]) -> Iterator[TextBatch]:
        """Batches of rows (ids, segments) of at most the model's positions, the longest first."""
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number][0]))
        most = power_of_two(len(rows))  # a single text is computed alone
        while order:
            width = -(-len(rows[order[0]][0]) // WIDTH_STEP) * WIDTH_STEP
            width = min(width, self.description.model.max_position_embeddings)
            count = max(1, min(most, TOKENS_AT_ONCE // width))
            yield TextBatch(order[:count], batch_of_rows([rows[number] for number in order[:count]], count, width))
            order = order[count:]

    def _require_short(self, lengths: Sequence[int], texts: Sequence[Text]) -> None:
        for number, length in enumerate(lengths):
            if length > self.longest:
                text = texts[number] if isinstance(texts[number], str) else texts[number][0]
                raise UserError(
                    f"text {number} ({str(text)[:SHOWN]!r}) is {length} tokens long, and the model {self.reach}:"
                    " shorten or split it"
                )


def row_of(tokenizer: Tokenizer, pieces: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Return ids and segments of [CLS] A [SEP], or [CLS] A [SEP] B [SEP], from the ids of each segment."""
    ids, segments = [tokenizer.cls_id], [0]
    for segment, piece in enumerate(pieces):
        ids += [*piece, tokenizer.sep_id]
        segments += [segment] * (len(piece) + 1)
    return ids, segments


def load(path: str | Path, *, dtype: Any = jnp.float32, asked: Asked | None = None) -> Pretrained:
    """Load a model and its tokenizer from a run, a directory of Hugging Face's, or a TF1 checkpoint.

    Args:
      path: of the checkpoint; its format is found out.
      dtype: the network is computed in; parameters are float32. None: as the run's configuration says, or as this
        machine computes best.
      asked: what files do not say (`--vocab` and the like of `bert-jax convert`).

    Raises:
      UserError: no checkpoint, one that is not whole, no vocabulary.
    """
    checkpoint = open_checkpoint(any_path(path), asked or Asked())
    if checkpoint.tokenizer is None:
        raise UserError(f"{path} has no vocabulary: put its vocab.txt beside it, or name one with --vocab")
    origin = _origin_of(checkpoint)
    if dtype is None:
        dtype = COMPUTE_DTYPES[resolve_compute_dtype(origin.config.compute_dtype, jax.devices()[0].platform)]
    return Pretrained(checkpoint.description, checkpoint.parameters(), checkpoint.tokenizer, Compute(dtype), origin)


def _origin_of(checkpoint: Checkpoint) -> Origin:
    if checkpoint.format == BERT_JAX:
        run = RunDirectory(checkpoint.path)
        config = run.config()
        untrained = f"not trained by it (distill.labels=0): {', '.join(config.untrained)}" if config.untrained else None
        weights = ", ".join(filter(None, [run.averaging(), untrained])) or None
        return Origin(checkpoint.path, checkpoint.format, run, checkpoint.step, config, weights)
    return Origin(checkpoint.path, checkpoint.format, None, None, config_for(checkpoint.description))
