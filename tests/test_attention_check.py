# SPDX-License-Identifier: Apache-2.0
"""The check before a run: it passes what is right, and stops at what is wrong."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from bert_jax.base.errors import UserError
from bert_jax.model import attention
from bert_jax.model.attention import AttentionCase, interpreted_kernels
from bert_jax.model.attention.check import _error, check_at_start, compare_with_reference
from bert_jax.model.attention.reference import reference_attention

CASE = AttentionCase("cpu", "cpu", (16, 32), 2, 64, jnp.float32, 0.1)


def test_a_kernel_that_agrees_is_named_with_its_largest_error():
    with interpreted_kernels():
        line = check_at_start("pallas_tpu", CASE)
    assert line.startswith(
        "attention: pallas_tpu, checked against the reference on rows of 16, 32 tokens: largest error "
    )
    assert line.endswith(" (1e-05 is allowed)")


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_every_length_is_compared_in_output_and_gradients(rate):
    found = compare_with_reference("xla", CASE._replace(dtype=jnp.bfloat16, dropout_rate=rate))
    assert [each.sequence_length for each in found] == [16, 32]
    for each in found:
        assert set(each.errors) == {"output", "d_query", "d_key", "d_value"}
        assert all(0 < error <= each.tolerance == 2e-2 for error in each.errors.values())  # bfloat16 against float32
        assert each.agrees


def test_gradients_that_are_0_throughout_agree():
    """Dropout of 0.9 leaves these scores none; what another implementation makes up is found all the same."""
    case = CASE._replace(sequence_lengths=(8,), heads=1, head_size=3, dropout_rate=0.9, causal=True)
    (found,) = compare_with_reference("xla", case)
    assert found.agrees
    assert found.errors["d_query"] == 0
    assert _error(jnp.full(3, 1e-3), jnp.zeros(3)) == pytest.approx(1e-3)


def broken(change: Callable[[jax.Array], jax.Array]) -> dict:
    """The implementations with an `xla` whose output is changed."""
    return {
        **attention.IMPLEMENTATIONS,
        "xla": lambda *inputs, **options: change(reference_attention(*inputs, **options)),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 1.0001, r"output of rows of 16 tokens is 1\.0e-04 from the reference, 1e-05 is allowed"),
        (lambda x: x.at[0, 0, 0, 0].set(jnp.nan), "output of rows of 16 tokens is nan from the reference"),
    ],
)
def test_a_wrong_result_stops_the_run(monkeypatch, change, message):
    monkeypatch.setattr(attention, "IMPLEMENTATIONS", broken(change))
    with pytest.raises(UserError, match=f"^attention=xla is wrong on this cpu: {message}"):
        check_at_start("xla", CASE)


def test_other_dropout_bits_are_noticed(monkeypatch):
    """Seeds of head 0 for every head."""

    def shared(*inputs: jax.Array, dropout_rate: float, dropout_seeds: jax.Array, causal: bool) -> jax.Array:
        seeds = jnp.broadcast_to(dropout_seeds[:, :1], dropout_seeds.shape)
        return reference_attention(*inputs, dropout_rate=dropout_rate, dropout_seeds=seeds, causal=causal)

    monkeypatch.setattr(attention, "IMPLEMENTATIONS", {**attention.IMPLEMENTATIONS, "xla": shared})
    with pytest.raises(UserError, match="is wrong on this cpu"):
        check_at_start("xla", CASE)


def test_what_cannot_be_done_is_refused_and_not_checked():
    with pytest.raises(UserError, match=r"^attention=pallas_tpu needs a TPU and this is a cpu"):
        check_at_start("pallas_tpu", CASE)
