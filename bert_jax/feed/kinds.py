# SPDX-License-Identifier: Apache-2.0
"""The kinds of examples in prepared data, the columns of their tables, and what their labels say.

`instances` draws them.
"""

from bert_jax.config.pretrain import PretrainConfig

KINDS = ("nsp", "sop", "full_sentences", "document")
PAIRS = ("nsp", "sop")
COLUMNS = ("a_start", "a_length", "b_start", "b_length", "label")
IS_NEXT, NOT_NEXT = 0, 1
IN_ORDER, SWAPPED = 0, 1
SHORTEST_SEQUENCE = 8


def special_tokens(kind: str) -> int:
    """[CLS] and [SEP]s in a row."""
    return 3 if kind in PAIRS else 2


def require_segments(config: PretrainConfig, remedy: str) -> None:
    """Refuse examples that are pairs for a model with one segment; `remedy`: what to do instead."""
    if config.objective.examples in PAIRS:
        config.model.require_segments(2, f"a pair of objective.name={config.objective.name}", remedy)
