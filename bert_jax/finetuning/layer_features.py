# SPDX-License-Identifier: Apache-2.0
"""Features that probes read: the output of every layer for the examples of a split, from one pass.

Shapes: K layers, the embeddings' output among them, R features (texts, or words of tagging), B rows, S tokens, D features of
the encoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bert_jax.base.types import PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.conversion.own_format import flat, nested, stacked_shapes
from bert_jax.finetuning.batches import (
    choose_widths,
    Draw,
    NOBODY,
    passes,
    TOKENS_AT_ONCE,
    TOKENS_AT_ONCE_ON_CPU,
    Units,
)
from bert_jax.finetuning.split import TaskSplit
from bert_jax.finetuning.tagging_split import TaggingSplit
from bert_jax.model.encoder import Compute
from bert_jax.model.forward import compiled_forward, require_finite
from bert_jax.tasks.tagging_rows import LEFT_OUT
from bert_jax.train.evaluation import read_behind

WIDTHS = 4  # of rows: few shapes, few compilations
MEAN, CLS, LAST = "mean", "cls", "last"  # how a text's tokens become one vector


class Places(NamedTuple):
    """The tokens of a split whose features are read, in the order of their rows."""

    units: np.ndarray  # [R] number of the unit, which is a row
    tokens: np.ndarray  # [R] place of a word's first piece in the row; of texts the first token behind [CLS]


@dataclass(frozen=True)
class LayerFeatures:
    """The features of a split, from every layer."""

    values: np.ndarray  # [K, R, D] float16, which keeps three digits
    places: Places
    words: np.ndarray  # [R] id of the token at each place


def layer_features(
    description: ModelDescription, params: PyTree, split: TaskSplit, pooling: str, chosen: np.ndarray | None = None
) -> LayerFeatures:
    """Run the encoder over a split once and keep what every layer gives.

    Args:
      description: of the checkpoint; its heads are not run.
      params: of the checkpoint, nested.
      split: its units are rows by themselves.
      pooling: of a text's tokens, [CLS] and [SEP] among them: mean, cls, last. Words of tagging are read at their first piece.
      chosen: numbers of the units that count; None: all.

    Raises:
      UserError: as `require_finite`.
    """
    encoder = ModelDescription(description.model, pooler=False, mlm=False, nsp=False)
    names, theirs = stacked_shapes(encoder), flat(params)
    own = nested({name: theirs[name] for name in names})
    forward = compiled_forward(encoder, Compute(jnp.float32))
    units, places = split.units, _places(split)
    if chosen is not None:
        places = Places(*(part[np.isin(places.units, chosen)] for part in places))
    layers = description.model.num_hidden_layers + 1
    values = np.empty((layers, len(places.units), description.model.hidden_size), np.float16)
    bounds = np.searchsorted(places.units, np.arange(len(units) + 1))  # of each unit's features
    is_tagging = isinstance(split, TaggingSplit)

    def begun() -> Iterator[tuple[Draw, jax.Array]]:
        for draw in _draws(units, np.unique(places.units), description.model.max_position_embeddings):
            fields = units.table.fields(draw.rows, draw.shape.width)
            found = forward(own, fields, True).encoder.all_layers
            yield draw, _narrow(found) if is_tagging else _pooled(found, fields["sequence_ids"] > 0, pooling)

    with tqdm(total=len(units), unit="example", desc=f"layers of {split.name}", disable=None, leave=False) as bar:
        for draw, found in read_behind(begun()):
            for row in np.flatnonzero(draw.rows != NOBODY):
                part = slice(*bounds[draw.rows[row] : draw.rows[row] + 2])
                values[:, part] = found[:, row, places.tokens[part]] if is_tagging else found[:, row, None]
            bar.update(int((draw.rows != NOBODY).sum()))
    require_finite(values, own)
    ids = units.table.ids[units.table.begins[places.units] + places.tokens]
    return LayerFeatures(values, places, ids)


def _places(split: TaskSplit) -> Places:
    """The first piece of each word of tagging, else one place for each text."""
    if not isinstance(split, TaggingSplit):
        return Places(np.arange(len(split.units)), np.ones(len(split.units), np.int64))
    read = np.flatnonzero(split.words.rows != LEFT_OUT)
    order = read[np.lexsort((split.words.tokens[read], split.words.rows[read]))]
    return Places(split.words.rows[order], split.words.tokens[order])


def _draws(units: Units, wanted: np.ndarray, positions: int) -> Iterator[Draw]:
    """Batches of the wanted units, like lengths together."""
    some = Units(units.table, units.firsts[wanted], units.counts[wanted])
    widths = choose_widths(some.lengths, WIDTHS, positions)
    at_once = TOKENS_AT_ONCE_ON_CPU if jax.default_backend() == "cpu" else TOKENS_AT_ONCE
    return passes(some, widths, 1, at_once)


@partial(jax.jit, static_argnums=2)
def _pooled(layers: jax.Array, valid: jax.Array, pooling: str) -> jax.Array:
    """[K, B, S, D], [B, S] -> [K, B, D] float16."""
    if pooling == CLS:
        return layers[:, :, 0].astype(jnp.float16)
    if pooling == LAST:
        last = jnp.maximum(valid.sum(1) - 1, 0)[None, :, None, None]
        return jnp.take_along_axis(layers, last, axis=2)[:, :, 0].astype(jnp.float16)
    weights = valid.astype(jnp.float32)
    total = jnp.einsum("kbsd,bs->kbd", layers.astype(jnp.float32), weights)
    return (total / jnp.maximum(weights.sum(1), 1)[None, :, None]).astype(jnp.float16)


@jax.jit
def _narrow(layers: jax.Array) -> jax.Array:
    """[K, B, S, D] as float16."""
    return layers.astype(jnp.float16)
