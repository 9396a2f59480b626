# SPDX-License-Identifier: Apache-2.0
"""LSTMs over rows of tokens: one direction, and both beside each other.

Shapes: B rows, S tokens, D features of the input, U units, H features of the state: U, or those of the projection.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bert_jax.mesh.sharding import keep_rows
from bert_jax.model.custom_gradients import dense, multiply


class _State(NamedTuple):
    """Memory of an LSTM of the tokens that it has read."""

    hidden: jax.Array  # [B, H] in the dtype of the computation
    cell: jax.Array  # [B, U] float32


class Lstm(nnx.Module):
    """One direction of an LSTM (Hochreiter and Schmidhuber 1997, with forget gates); gates in the order i, f, g, o.

    With a projection, the state that is returned and read again is a linear map of the units' output (Sak et al. 2014,
    1402.1128, section 2).
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        projection: int | None = None,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        initial, size = jax.nn.initializers, projection or units
        self.input = nnx.Param(initial.glorot_uniform()(rngs.params(), (inputs, 4 * units)))
        self.recurrent = nnx.Param(initial.orthogonal()(rngs.params(), (size, 4 * units)))
        # Forget gates begin open: Jozefowicz et al. 2015, section 2.2.
        self.bias = nnx.Param(jnp.zeros(4 * units).at[units : 2 * units].set(1))
        self.projection = nnx.Param(initial.glorot_uniform()(rngs.params(), (units, size))) if projection else None
        self.units, self.size, self.dtype = units, size, dtype

    def __call__(self, x: jax.Array, sequence_ids: jax.Array, *, reverse: bool) -> jax.Array:
        """Read rows from their first token on, or with `reverse` from their last.

        Args:
          x: [B, S, D].
          sequence_ids: [B, S] int32: where one begins, nothing is known of the one before; at padding, 0, the state stays.
          reverse: the direction.

        Returns:
          [B, S, H] the state behind each token, in the dtype of the computation.
        """
        rows = x.shape[0]
        first = _State(jnp.zeros((rows, self.size), self.dtype), jnp.zeros((rows, self.units), jnp.float32))
        # All that does not wait for the state is one product ahead of the loop.
        gates = dense(x.astype(self.dtype), self.input[...], self.bias[...])
        begins = begins_anew(sequence_ids, reverse)
        over_tokens = (gates.swapaxes(0, 1), begins.T, (sequence_ids > 0).T)
        recurrent = self.recurrent[...].astype(self.dtype)
        projection = None if self.projection is None else self.projection[...].astype(self.dtype)

        def read(state: _State, at: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[_State, jax.Array]:
            own, begins, valid = at[0], at[1][:, None], at[2][:, None]
            hidden, cell = jnp.where(begins, 0, state.hidden), jnp.where(begins, 0, state.cell)
            summed = own.astype(jnp.float32) + multiply(hidden, recurrent, jnp.float32)
            i, f, g, o = jnp.split(summed, 4, axis=-1)
            new_cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            new_hidden = (jax.nn.sigmoid(o) * jnp.tanh(new_cell)).astype(self.dtype)
            if projection is not None:
                new_hidden = multiply(new_hidden, projection)
            new = _State(jnp.where(valid, new_hidden, hidden), jnp.where(valid, new_cell, cell))
            return new, new.hidden

        return jax.lax.scan(read, first, over_tokens, reverse=reverse)[1].swapaxes(0, 1)


def begins_anew(sequence_ids: jax.Array, reverse: bool) -> jax.Array:
    """Return where a sequence begins in the direction that is read: [B, S] int32 -> [B, S] bool, at padding nowhere."""
    nothing = jnp.zeros_like(sequence_ids[:, :1])
    before = [sequence_ids[:, 1:], nothing] if reverse else [nothing, sequence_ids[:, :-1]]
    return (sequence_ids != jnp.concatenate(before, axis=1)) & (sequence_ids > 0)


class BiLstm(nnx.Module):
    """Both directions beside each other."""

    def __init__(
        self,
        inputs: int,
        units: int,
        projection: int | None = None,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.forward = Lstm(inputs, units, projection, dtype=dtype, rngs=rngs)
        self.backward = Lstm(inputs, units, projection, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, sequence_ids: jax.Array) -> jax.Array:
        """[B, S, D], [B, S] int32 -> [B, S, 2 H]; both directions read all of `x`."""
        return self.each(x, x, sequence_ids)

    def each(self, forward: jax.Array, backward: jax.Array, sequence_ids: jax.Array) -> jax.Array:
        """[B, S, D] for each direction, [B, S] int32 -> [B, S, 2 H]."""
        directions = (
            self.forward(forward, sequence_ids, reverse=False),
            self.backward(backward, sequence_ids, reverse=True),
        )
        return keep_rows(jnp.concatenate(directions, axis=-1))

    @staticmethod
    def ends(x: jax.Array) -> jax.Array:
        """Return what both directions have read when they are through: [B, S, 2 H] -> [B, 1, 2 H].

        Padding is behind a row's tokens, and there the forward state is still that of the last of them.
        """
        forward, backward = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([forward[:, -1:], backward[:, :1]], axis=-1)
