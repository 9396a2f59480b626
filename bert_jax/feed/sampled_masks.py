# SPDX-License-Identifier: Apache-2.0
"""How prepared data looks once it is masked, measured on a sample of the training split: `masks` of the passport."""

import math

import numpy as np

from bert_jax.base.types import JsonObject
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.feed.batch import BatchShape
from bert_jax.feed.examples import EVALUATION_SEED, Examples
from bert_jax.feed.layout import SpecialIds
from bert_jax.feed.mask_statistics import mask_report
from bert_jax.feed.shards import objective_of, Split, table_name
from bert_jax.tokenization import Tokenizer

ENOUGH_PICKED = 20_000  # tokens; a split of 80/10/10 is then known to a percentage point
_ROWS = 256  # masked at once


def measure_masks(split: Split, kind: str, sequence_length: int, tokenizer: Tokenizer) -> JsonObject:
    """Return `mask_report` of evenly spread examples of a table, masked as in the paper: 15 %, 80/10/10."""
    objective = ObjectiveConfig(name=objective_of(kind))
    examples = Examples(
        split=split,
        shape=BatchShape(_ROWS, sequence_length, math.ceil(objective.mlm_probability * sequence_length)),
        objective=objective,
        special=SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id),
        vocab_size=tokenizer.vocab_size,
    )
    filled = split.record["tables"][table_name(kind, sequence_length)]["valid_token_share"]
    picked = objective.mlm_probability * filled * sequence_length  # in an example, about
    count = min(len(examples), math.ceil(ENOUGH_PICKED / picked))
    indices = np.linspace(0, len(examples), count, endpoint=False, dtype=np.int64)[:, None]
    batches = (
        examples.masked_batch(some, np.zeros(len(some), np.int64), EVALUATION_SEED)
        for some in np.split(indices, range(_ROWS, count, _ROWS))
    )
    return mask_report(batches, objective, tokenizer.mask_id, tokenizer.vocab_size)
