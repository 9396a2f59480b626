# SPDX-License-Identifier: Apache-2.0
"""What is handed to cuDNN, computed by the other implementation of the same JAX function; what is refused."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from attention_samples import assert_near, make_sample, numpy_attention

from bert_jax.model.attention import AttentionCase, refusal
from bert_jax.model.attention.cudnn import cudnn_attention


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Arguments by name of every call for cuDNN, which is answered without cuDNN."""
    calls, original = [], jax.nn.dot_product_attention

    def answer(*inputs: jax.Array, implementation: str, **options: object) -> jax.Array:
        calls.append({"implementation": implementation, **options})
        return original(*inputs, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)
    return calls


def test_equals_numpy(handed_over):
    query, key, value, d_output, ids, _ = sample = make_sample(48)
    attend = partial(cudnn_attention, dropout_rate=0.1, dropout_seeds=None, causal=False)
    with jax.default_matmul_precision("highest"):
        output, gradient = jax.vjp(lambda *x: attend(*x, ids), *map(jnp.asarray, (query, key, value)))
        assert_near((output, *gradient(jnp.asarray(d_output))), numpy_attention(sample, 0.0), 1e-5)
    assert handed_over[0]["implementation"] == "cudnn"
    # Not [B, 1, 1, S], which cuDNN's path refuses (jax#28974).
    assert handed_over[0]["mask"].shape == (query.shape[0], 1, 48, 48)


def test_it_never_leaves_dropout_out_silently():
    query, key, value, _, ids, seeds = make_sample(48)
    with pytest.raises(ValueError, match="takes no dropout"):
        cudnn_attention(query, key, value, ids, dropout_rate=0.1, dropout_seeds=seeds, causal=False)


CASE = AttentionCase("gpu", "NVIDIA H200", (128, 512), 16, 64, jnp.bfloat16, 0.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dropout_rate": 0.1}, "takes no dropout and model.attention_probs_dropout_prob is 0.1: set it to 0, or"),
        ({"dtype": jnp.float32}, "computes in 16 bits, not float32: set compute_dtype=bfloat16"),
        (
            {"sequence_lengths": (128, 192)},
            r"returns NaN gradients for rows of 192 tokens .*\(64 beyond a multiple of 128",
        ),
        ({"sequence_lengths": (64,)}, "returns NaN gradients for rows of 64 tokens .*: set attention=pallas_gpu"),
        ({"sequence_lengths": (127,)}, "takes rows of an even number of tokens, not 127: set attention=xla"),
        ({"head_size": 100}, "takes heads of a multiple of 8 and at most 128 features, not 100: set attention=xla"),
        ({"platform": "cpu"}, "needs an NVIDIA GPU and this is a cpu: set attention=auto"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(change, reason):
    assert refusal("cudnn", CASE) is None
    assert re.match(f"attention=cudnn {reason}", refusal("cudnn", CASE._replace(**change)) or "")
