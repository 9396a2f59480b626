# SPDX-License-Identifier: Apache-2.0
"""The words behind [MASK], and the label of a pair, as a loaded model predicts them.

Shapes: B rows, S tokens, M predicted positions in a row, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.feed.batch import batch_of_rows
from bert_jax.feed.kinds import PAIRS
from bert_jax.feed.one_text import MASK, tokens_of
from bert_jax.model.forward import require_finite
from bert_jax.use.model import Pretrained, Row, row_of, SHOWN

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
    """The predictions for one text."""

    masks: list[Slot]
    is_next: float | None  # probability of label 0 (B follows A, or A and B stand in order); None: no head for pairs


def require_mask(text: str) -> None:
    """Refuse a text without a place to fill.

    Raises:
      UserError: naming it.
    """
    if MASK not in text:
        raise UserError(f"{shorten(text)!r}: has no {MASK} to fill: put one where a word is to be predicted")


def encode(model: Pretrained, text: str) -> Row:
    """Return ids and segments of [CLS] text [SEP], each [MASK] one token; a [SEP] inside begins segment B.

    Raises:
      UserError: more segments than the model was trained on, or longer than its longest sequence.
    """
    name, remedy = repr(shorten(text)), f"remove the {SEPARATOR}"
    parts = text.split(SEPARATOR)
    if len(parts) > 2:
        raise UserError(f"{name}: has {len(parts)} segments: the model takes at most two")
    objective = model.origin.config.objective
    if len(parts) == 2 and objective.examples not in PAIRS:
        raise UserError(f"{name}: has two segments, and objective.name={objective.name} trains on one: {remedy}")
    model.description.model.require_segments(len(parts), name, remedy)
    ids, segments = row_of(model.tokenizer, [tokens_of(model.tokenizer, part)[0].tolist() for part in parts])
    if len(ids) > model.longest:
        raise UserError(f"{name}: is {len(ids)} tokens long and the model {model.reach}: shorten it")
    return ids, segments


def predict(model: Pretrained, rows: Sequence[Row], top_k: int) -> list[TextPrediction]:
    """Predict the masked tokens of texts given as ids and segments, each with its `top_k` likeliest entries.

    Raises:
      UserError: the model has no MLM head.
    """
    model.require_masked_lm("filling masks")
    predictions = []
    for begin in range(0, len(rows), TEXTS_AT_ONCE):
        part = rows[begin : begin + TEXTS_AT_ONCE]
        places = [np.flatnonzero(np.array(ids) == model.tokenizer.mask_id) for ids, _ in part]
        predictions += predict_at(model, part, places, top_k)
    return predictions


def predict_at(
    model: Pretrained, rows: Sequence[Row], places: Sequence[np.ndarray], top_k: int
) -> list[TextPrediction]:
    """Predict the tokens at some places of each row; left to right those behind them. The model has a head for tokens."""
    positions = model.description.model.max_position_embeddings
    width = min(-(-max(len(ids) for ids, _ in rows) // 64) * 64, positions)  # few shapes, few compilations
    batch = batch_of_rows(rows, len(rows), width)
    slots = -(-max(1, *map(len, places)) // 8) * 8
    batch["masked_lm_positions"] = np.stack([np.pad(own, (0, slots - len(own))) for own in places]).astype(np.int32)
    output = model(batch)
    assert output.mlm_logits is not None  # whoever calls has seen to it
    entries = model.tokenizer.vocab_size
    values, tokens = jax.device_get(_best(output.mlm_logits, entries, min(top_k, entries)))
    require_finite(values, model.params)
    is_next: list[float | None] = [None] * len(rows)
    if output.nsp_logits is not None:
        is_next = np.asarray(jax.nn.softmax(output.nsp_logits, axis=-1)[:, 0, 0]).tolist()
    words = model.tokenizer.vocabulary
    predictions = []
    for row, own in enumerate(places):
        ranked = [
            [TokenProbability(words[token], value) for token, value in zip(*best, strict=True)]
            for best in zip(tokens[row].tolist(), values[row].tolist(), strict=True)
        ]
        masks = [Slot(place, best) for place, best in zip(own.tolist(), ranked, strict=False)]
        predictions.append(TextPrediction(masks, is_next[row]))
    return predictions


@partial(jax.jit, static_argnums=(1, 2))
def _best(logits: jax.Array, entries: int, top_k: int) -> tuple[jax.Array, jax.Array]:
    """Return probabilities and ids, [B, M, K] each, of the likeliest entries for logits [B, M, V].

    Rows of the table beyond the vocabulary's `entries` have no name and take no part.
    """
    values, tokens = jax.lax.top_k(jax.nn.softmax(logits[:, :, :entries], axis=-1), top_k)
    return values, tokens


def shorten(text: str) -> str:
    """Return the beginning of a text, for messages."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
