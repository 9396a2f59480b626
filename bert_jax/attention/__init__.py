# SPDX-License-Identifier: Apache-2.0
"""Attention: one entry point, several implementations behind it.

What an implementation cannot do it refuses by name; nothing falls back silently.
"""

import jax

from bert_jax.attention.reference import reference_attention
from bert_jax.errors import UserError

IMPLEMENTATIONS = {"reference": reference_attention}


def resolve_implementation(name: str) -> str:
    """The implementation that `auto` stands for on this platform, or `name` itself.

    Raises:
      UserError: no such implementation.
    """
    if name == "auto":
        return "reference"
    if name not in IMPLEMENTATIONS:
        raise UserError(f"attention={name} is not known: choose auto or one of {', '.join(IMPLEMENTATIONS)}")
    return name


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sequence_ids: jax.Array,
    *,
    dropout_rate: float = 0.0,
    dropout_seeds: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Scaled dot-product attention, block-diagonal in `sequence_ids`, with dropout of the probabilities.

    Attention Is All You Need (2017), section 3.2.1; dropout of the probabilities as in google-research/bert.

    Args:
      query, key, value: [B, S, H, D].
      sequence_ids: [B, S] int32; a token attends to the tokens of its own id. Padding (0) attends to padding.
      dropout_rate: share of probabilities that are zeroed.
      dropout_seeds: [B, H, 2] uint32, or None: nothing is dropped.
      implementation: `auto` or a name in `IMPLEMENTATIONS`.

    Returns:
      [B, S, H, D] in the dtype of `value`.
    """
    function = IMPLEMENTATIONS[resolve_implementation(implementation)]
    return function(query, key, value, sequence_ids, dropout_rate=dropout_rate, dropout_seeds=dropout_seeds)
