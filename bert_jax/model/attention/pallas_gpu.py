# SPDX-License-Identifier: Apache-2.0
"""Fused attention for NVIDIA GPUs: blocks of examples, softmax and dropout inside one kernel, forward and backward.

As FlashAttention-2 (2307.08691): a program owns a block of queries, visits the keys of its row block by block and keeps
a running maximum and sum. The backward program i computes the gradients of key block i and then of query block i; so
nothing is added up between programs, and results are the same from run to run. A program visits only the part of the row
that holds its own examples (`reach`): what other examples and padding take in a packed row costs nothing. In a causal row
it visits no block above the diagonal.

The arrays stay in the layout of the projections, [B, S, H * D]; a program takes the D features of one head from it.

Shapes: B rows, S tokens (Q of queries, K of keys, in a block of either), N blocks of a row, H heads, D head size.
"""

import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from bert_jax.model.attention.blocks import column_part, kept, row_part
from bert_jax.model.attention.case import AttentionCase, interpreting, RESIDUALS
from bert_jax.model.attention.reference import MASKED

HEAD_SIZES = (16, 32, 64, 128)  # powers of two, as blocks in Triton must be
BLOCKS = (128, 64, 32, 16)  # tokens of a block: powers of two again; 16 is Triton's smallest for a product

# The Triton backend of Pallas says at every lowering that it will go. Its successor, Mosaic GPU, does not take these
# kernels yet. So that one message is silenced, and tests/test_attention_pallas_gpu.py fails once the backend is gone.
warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)


class Tiling(NamedTuple):
    """How a kernel is cut: tokens of a program's own block and of a visited one, warps, and stages of its pipeline."""

    own: int
    visited: int
    warps: int = 4
    stages: int = 2


class GpuKernelPlan(NamedTuple):
    """The static side of a kernel."""

    heads: int  # H
    head_size: int  # D
    tiling: Tiling
    dropout_rate: float  # 0: seeds are not read
    causal: bool
    interpret: bool


def tilings(length: int, dtype: Any) -> tuple[Tiling, Tiling]:
    """Return how the forward and the backward kernel are cut for rows of `length` tokens, as measured on an H200.

    Rows of up to 128 tokens are one block of the backward kernel: probabilities and dropout bits are then computed once
    for all three gradients. float32 keeps to smaller tiles, which fit shared memory.
    """
    block = _largest_block(length, 64)
    if jnp.dtype(dtype) == jnp.float32:
        return Tiling(block, block), Tiling(block, block)
    if length in BLOCKS:
        return Tiling(block, block), Tiling(length, length, warps=8 if length == 128 else 4, stages=1)
    long = _largest_block(length, 128)
    return Tiling(long, min(long, 64), stages=3), Tiling(block, block, stages=3)


def _largest_block(length: int, most: int) -> int:
    return next(block for block in BLOCKS if block <= most and length % block == 0)


def refusal(case: AttentionCase) -> str | None:
    """Why the kernel cannot do it, or None."""
    if case.platform != "gpu" and not interpreting():
        return f"attention=pallas_gpu needs an NVIDIA GPU and this is a {case.platform}: set attention=auto"
    for length in case.sequence_lengths:
        if length % BLOCKS[-1]:
            return (
                f"attention=pallas_gpu takes rows of a multiple of {BLOCKS[-1]} tokens, not {length}: set attention=xla"
            )
    if case.head_size not in HEAD_SIZES:
        sizes = ", ".join(map(str, HEAD_SIZES))
        return f"attention=pallas_gpu takes heads of size {sizes}, not {case.head_size}: set attention=xla"
    if jnp.dtype(case.dtype) not in (jnp.bfloat16, jnp.float32):
        return f"attention=pallas_gpu computes in bfloat16 or float32, not {jnp.dtype(case.dtype)}: set attention=xla"
    return None


def pallas_gpu_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sequence_ids: jax.Array,
    *,
    dropout_rate: float,
    dropout_seeds: jax.Array | None,
    causal: bool,
) -> jax.Array:
    """See `bert_jax.model.attention.attention`, and `refusal` for what it takes. Softmax is float32 whatever the inputs are."""
    B, S, H, D = query.shape
    if dropout_seeds is None or dropout_rate == 0:
        dropout_rate, dropout_seeds = 0.0, jnp.zeros((B, H, 2), jnp.uint32)
    cuts = tilings(S, query.dtype)
    plans = tuple(GpuKernelPlan(H, D, tiling, dropout_rate, causal, interpreting()) for tiling in cuts)
    flat = (x.reshape(B, S, H * D) for x in (query, key, value))
    return _attend(*flat, sequence_ids, dropout_seeds, plans).reshape(B, S, H, D)


# ---- the calls -----------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ids: jax.Array,
    seeds: jax.Array,
    plans: tuple[GpuKernelPlan, GpuKernelPlan],
) -> jax.Array:
    """q, k, v [B, S, H * D], ids [B, S], seeds [B, H, 2], plans of forward and backward -> [B, S, H * D]."""
    return _call_forward(q, k, v, ids, seeds, plans[0])[0]


def _attend_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ids: jax.Array,
    seeds: jax.Array,
    plans: tuple[GpuKernelPlan, GpuKernelPlan],
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    o, lse = (checkpoint_name(x, RESIDUALS) for x in _call_forward(q, k, v, ids, seeds, plans[0]))
    return o, (q, k, v, ids, seeds, o, lse)


def _attend_backward(
    plans: tuple[GpuKernelPlan, GpuKernelPlan], residuals: tuple[jax.Array, ...], d_o: jax.Array
) -> tuple[Any, ...]:
    plan, (q, k, v, ids, seeds, o, lse) = plans[1], residuals
    product = (o.astype(jnp.float32) * d_o.astype(jnp.float32)).reshape(*o.shape[:2], plan.heads, plan.head_size)
    delta = product.sum(-1).swapaxes(1, 2)  # [B, H, S]
    dq, dk, dv = _call_backward(q, k, v, ids, seeds, lse, delta, d_o.astype(o.dtype), plan)
    return dq, dk, dv, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _call_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, seeds: jax.Array, plan: GpuKernelPlan
) -> tuple[jax.Array, jax.Array]:
    """The output [B, S, H * D] and the logsumexp of every query's scores [B, H, S] float32."""
    (B, S, _), specs = q.shape, _GpuSpecs(q.shape, plan)
    return pl.pallas_call(
        partial(_forward_kernel, plan=plan),
        name="attention_forward",
        grid=specs.grid,
        in_specs=[specs.seeds, specs.ids, specs.reach, specs.block, specs.row, specs.row],
        out_specs=[specs.block, specs.block_numbers],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, v.dtype),
            jax.ShapeDtypeStruct((B, plan.heads, S), jnp.float32),
        ],
        compiler_params=specs.compiler_params,
        interpret=plan.interpret,
    )(seeds, ids, reach(ids, plan.tiling.own), q, k, v)


def _call_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ids: jax.Array,
    seeds: jax.Array,
    lse: jax.Array,
    delta: jax.Array,
    d_o: jax.Array,
    plan: GpuKernelPlan,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of q, k and v, [B, S, H * D] each."""
    specs = _GpuSpecs(q.shape, plan)
    return pl.pallas_call(
        partial(_backward_kernel, plan=plan),
        name="attention_backward",
        grid=specs.grid,
        in_specs=[specs.seeds, specs.ids, specs.reach, *[specs.row] * 4, specs.row_numbers, specs.row_numbers],
        out_specs=[specs.block] * 3,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        compiler_params=specs.compiler_params,
        interpret=plan.interpret,
    )(seeds, ids, reach(ids, plan.tiling.own), q, k, v, d_o, lse, delta)


def reach(ids: jax.Array, block: int) -> jax.Array:
    """Return the part of its row that each block of tokens attends to, as the first token and the one after the last.

    It holds every token with an id between the smallest and the largest one of the block, so it is right for ids in any
    order, and tight where they count up, as in packed rows.

    Args:
      ids: [B, S] int32.
      block: tokens of a block; divides S.

    Returns:
      [B, N, 2] int32.
    """
    B, S = ids.shape
    blocks = ids.reshape(B, S // block, 1, block)
    inside = (ids[:, None] >= blocks.min(-1)) & (ids[:, None] <= blocks.max(-1))  # [B, N, S]
    first, behind = jnp.argmax(inside, -1), S - jnp.argmax(inside[..., ::-1], -1)
    return jnp.stack([first, behind], -1).astype(jnp.int32)


class _GpuSpecs:
    """The part of each array that a program sees: one head of one row, whole or a block of its tokens."""

    def __init__(self, shape: tuple[int, ...], plan: GpuKernelPlan):
        B, S, _ = shape
        D, block = plan.head_size, plan.tiling.own
        self.grid = (S // block, B, plan.heads)
        self.block = pl.BlockSpec((None, block, D), lambda i, b, h: (b, i, h))
        self.row = pl.BlockSpec((None, S, D), lambda i, b, h: (b, 0, h))
        self.block_numbers = pl.BlockSpec((None, None, block), lambda i, b, h: (b, h, i))  # one a token
        self.row_numbers = pl.BlockSpec((None, None, S), lambda i, b, h: (b, h, 0))
        self.ids = pl.BlockSpec((None, S), lambda i, b, h: (b, 0))
        self.reach = pl.BlockSpec((None, None, 2), lambda i, b, h: (b, i, 0))
        self.seeds = pl.BlockSpec((None, None, 2), lambda i, b, h: (b, h, 0))
        self.compiler_params = plgpu.CompilerParams(num_warps=plan.tiling.warps, num_stages=plan.tiling.stages)


# ---- the kernels ---------------------------------------------------------------------------------------------------


def _forward_kernel(
    seeds_ref: jax.Ref,
    ids_ref: jax.Ref,
    reach_ref: jax.Ref,
    q_ref: jax.Ref,
    k_ref: jax.Ref,
    v_ref: jax.Ref,
    o_ref: jax.Ref,
    lse_ref: jax.Ref,
    *,
    plan: GpuKernelPlan,
) -> None:
    own, q = _own_block(plan), q_ref[...]

    def one_block(keys: Any, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        o, top, total = carry  # [Q, D], [Q], [Q]
        scores = _scores(q, k_ref[keys, :], _are_visible(ids_ref, own, keys, plan), plan)  # [Q, K]
        new_top = jnp.maximum(top, scores.max(axis=1))
        p = jnp.exp(scores - new_top[:, None])
        shrink = jnp.exp(top - new_top)
        total = total * shrink + p.sum(axis=1)
        if plan.dropout_rate:
            p = jnp.where(_keep(seeds_ref, own, keys, plan), p, 0.0)
        v = v_ref[keys, :]
        return o * shrink[:, None] + _dot(p.astype(v.dtype), v), new_top, total

    start = (
        jnp.zeros((own.size, plan.head_size), jnp.float32),
        jnp.full(own.size, -jnp.inf, jnp.float32),
        jnp.zeros(own.size, jnp.float32),
    )
    o, top, total = _visit(_keys_reached(reach_ref, own, plan), plan, one_block, start)
    o_ref[...] = (o / (total * (1 - plan.dropout_rate))[:, None]).astype(o_ref.dtype)
    lse_ref[...] = top + jnp.log(total)


def _backward_kernel(
    seeds_ref: jax.Ref,
    ids_ref: jax.Ref,
    reach_ref: jax.Ref,
    q_ref: jax.Ref,
    k_ref: jax.Ref,
    v_ref: jax.Ref,
    d_o_ref: jax.Ref,
    lse_ref: jax.Ref,
    delta_ref: jax.Ref,
    dq_ref: jax.Ref,
    dk_ref: jax.Ref,
    dv_ref: jax.Ref,
    *,
    plan: GpuKernelPlan,
) -> None:
    """dv = p_kept' do,   ds = p (keep (do v') / (1 - rate) - delta),   dq = ds k,   dk = ds' q,   delta = rowsum(do o).

    p_kept are the probabilities after dropout.
    """
    own = _own_block(plan)
    zeros = jnp.zeros((own.size, plan.head_size), jnp.float32)

    def of_keys(queries: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        dk, dv = carry
        p_kept, ds = pair(queries, own)
        return dk + _dot(ds.T, q_ref[queries, :]), dv + _dot(p_kept.T, d_o_ref[queries, :])

    def of_queries(keys: Any, dq: jax.Array) -> jax.Array:
        return dq + _dot(pair(own, keys)[1], k_ref[keys, :])

    def pair(queries: Any, keys: Any) -> tuple[jax.Array, jax.Array]:
        """p_kept and ds [Q, K] of one block of queries and one of keys."""
        scores = _scores(q_ref[queries, :], k_ref[keys, :], _are_visible(ids_ref, queries, keys, plan), plan)
        p = jnp.exp(scores - lse_ref[queries][:, None])
        dp, p_kept = _dot(d_o_ref[queries, :], v_ref[keys, :].T), p
        if plan.dropout_rate:
            keep, scale = _keep(seeds_ref, queries, keys, plan), 1 / (1 - plan.dropout_rate)
            dp, p_kept = jnp.where(keep, dp * scale, 0.0), jnp.where(keep, p * scale, 0.0)
        ds = p * (dp - delta_ref[queries][:, None])
        return p_kept.astype(d_o_ref.dtype), ds.astype(q_ref.dtype)

    if own.size == ids_ref.shape[0]:  # the row is one block: what both gradients need is computed once
        p_kept, ds = pair(own, own)
        dk, dv, dq = _dot(ds.T, q_ref[own, :]), _dot(p_kept.T, d_o_ref[own, :]), _dot(ds, k_ref[own, :])
    else:
        dk, dv = _visit(_queries_reached(reach_ref, own, plan), plan, of_keys, (zeros, zeros))
        dq = _visit(_keys_reached(reach_ref, own, plan), plan, of_queries, zeros)
    scale = plan.head_size**-0.5
    dk_ref[...] = (dk * scale).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)
    dq_ref[...] = (dq * scale).astype(dq_ref.dtype)


# ---- parts of the kernels ------------------------------------------------------------------------------------------


def _own_block(plan: GpuKernelPlan) -> Any:
    """The tokens that the program owns, as a slice of the row."""
    return pl.ds(pl.program_id(0) * plan.tiling.own, plan.tiling.own)


def _keys_reached(reach_ref: jax.Ref, own: Any, plan: GpuKernelPlan) -> tuple[Any, Any]:
    """The first key that the program's own queries see, and the one after the last: in a causal row none behind them."""
    first, behind = reach_ref[0], reach_ref[1]
    return first, lax.min(behind, own.start + own.size) if plan.causal else behind


def _queries_reached(reach_ref: jax.Ref, own: Any, plan: GpuKernelPlan) -> tuple[Any, Any]:
    """The first query that sees the program's own keys, and the one after the last: in a causal row none before them."""
    first, behind = reach_ref[0], reach_ref[1]
    return lax.max(first, own.start) if plan.causal else first, behind


def _visit(reached: tuple[Any, Any], plan: GpuKernelPlan, visit: Any, start: Any) -> Any:
    """Fold `visit(tokens, carry)` over the blocks that hold the tokens from the first to the one before the second."""
    size = plan.tiling.visited
    first, behind = lax.div(reached[0], size), lax.div(reached[1] + size - 1, size)
    return lax.fori_loop(first, behind, lambda j, carry: visit(pl.ds(j * size, size), carry), start)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of two matrices, summed in float32; float32 factors are not rounded."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return plgpu.dot(a, b, precision=precision)


def _are_visible(ids_ref: jax.Ref, queries: Any, keys: Any, plan: GpuKernelPlan) -> jax.Array:
    """Return which keys each query sees: [Q, K] bool."""
    same = ids_ref[queries][:, None] == ids_ref[keys][None, :]
    return same & (_places(queries)[:, None] >= _places(keys)[None, :]) if plan.causal else same


def _places(tokens: Any) -> jax.Array:
    """The places in the row of a block of tokens, int32."""
    return tokens.start + jnp.arange(tokens.size, dtype=jnp.int32)


def _scores(q: jax.Array, k: jax.Array, are_visible: jax.Array, plan: GpuKernelPlan) -> jax.Array:
    """[Q, D] and [K, D] -> [Q, K] float32, masked where a query does not see a key."""
    return jnp.where(are_visible, _dot(q, k.T) * plan.head_size**-0.5, MASKED)


def _keep(seeds_ref: jax.Ref, queries: Any, keys: Any, plan: GpuKernelPlan) -> jax.Array:
    """`bert_jax.model.dropout.keep_mask` of a block of one head: [Q, K] bool."""
    q, k = (_places(part).astype(jnp.uint32) for part in (queries, keys))
    row_hash, column_hash = row_part(seeds_ref[0], q), column_part(seeds_ref[1], k)
    return kept(row_hash[:, None], column_hash[None, :], plan.dropout_rate)
