# SPDX-License-Identifier: Apache-2.0
"""cuDNN's fused attention through `jax.nn.dot_product_attention`, for runs without attention dropout.

Its dropout seed is fixed when the program is compiled, so it cannot follow the seeds of rows. Examples of a packed row
are kept apart by a mask [B, 1, S, S], which JAX hands to cuDNN as a bias: shared by all heads, but in memory. It says
too what lies in the future of a causal model; nothing is skipped for that.
"""

import jax
import jax.numpy as jnp

from bert_jax.model.attention.case import AttentionCase
from bert_jax.model.attention.reference import visible


def refusal(case: AttentionCase) -> str | None:
    """Why cuDNN cannot do it, or None."""
    if case.platform != "gpu":
        return f"attention=cudnn needs an NVIDIA GPU and this is a {case.platform}: set attention=auto"
    if case.dropout_rate:
        return (
            f"attention=cudnn takes no dropout and model.attention_probs_dropout_prob is {case.dropout_rate}:"
            " set it to 0, or attention=pallas_gpu"
        )
    if jnp.dtype(case.dtype) not in (jnp.bfloat16, jnp.float16):
        return f"attention=cudnn computes in 16 bits, not {jnp.dtype(case.dtype)}: set compute_dtype=bfloat16"
    for length in case.sequence_lengths:
        if length % 128 == 64:
            return (
                f"attention=cudnn returns NaN gradients for rows of {length} tokens with a mask (64 beyond a multiple of"
                " 128, pytorch#196678): set attention=pallas_gpu"
            )
        if length % 2:
            return f"attention=cudnn takes rows of an even number of tokens, not {length}: set attention=xla"
    if case.head_size % 8 or case.head_size > 128:
        return (
            f"attention=cudnn takes heads of a multiple of 8 and at most 128 features, not {case.head_size}:"
            " set attention=xla"
        )
    return None


def cudnn_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sequence_ids: jax.Array,
    *,
    dropout_rate: float,
    dropout_seeds: jax.Array | None,
    causal: bool,
) -> jax.Array:
    """See `bert_jax.model.attention.attention`, and `refusal` for what it takes.

    Raises:
      ValueError: something is to be dropped.
    """
    if dropout_rate and dropout_seeds is not None:
        raise ValueError("cuDNN's attention takes no dropout")
    mask = visible(sequence_ids, causal)
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")
