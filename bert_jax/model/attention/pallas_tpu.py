# SPDX-License-Identifier: Apache-2.0
"""Fused attention for TPU: blocks of examples, softmax and dropout inside one kernel, forward and backward.

Rows have at most 512 tokens, so the keys and values of a row fit in VMEM whole and softmax needs no running maximum.
The arrays stay in the layout of the projections, [B, S, H * D]: a program takes as many neighbouring heads as fill 128
lanes (two of size 64) and zeroes the lanes of the others before a product, which costs nothing on a matrix unit that is
128 wide; heads are never transposed or padded in HBM. The backward pass computes the probabilities again from the
logsumexp, in one visit: scores lie key-major there, so that what belongs to a query lies along lanes. A causal row is
computed in blocks of 128 queries, each with the keys up to its end: nothing above the blocks of the diagonal.

Shapes: B rows, S tokens (Q of queries, K of keys, in a block of either), H heads, D head size. A program holds R rows
and P heads: W = P * D features; G = H / P groups of heads.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bert_jax.model.attention.blocks import column_part, kept, row_part
from bert_jax.model.attention.case import AttentionCase, interpreting, RESIDUALS
from bert_jax.model.attention.reference import MASKED

LONGEST_ROW = 512  # tokens
LANES = 128
CAUSAL_BLOCK = LANES  # queries: their scores and logsumexp begin at whole lanes
WIDEST_PROGRAM = 512  # bytes of a token's features: with more, 512 tokens do not fit in the 16 MB of VMEM of every chip


class TpuKernelPlan(NamedTuple):
    """The static side of a kernel."""

    heads: int  # H, of the whole array
    head_size: int  # D
    program_heads: int  # P
    program_rows: int  # R
    dropout_rate: float  # 0: seeds are not read
    causal: bool
    interpret: bool

    @property
    def width(self) -> int:
        """W, features of a program."""
        return self.program_heads * self.head_size

    def query_blocks(self, length: int) -> list[tuple[int, int]]:
        """The queries of a row that are computed at once, from the first to the one before the second number, up to which
        their keys reach."""
        size = CAUSAL_BLOCK if self.causal else length
        return [(begin, min(begin + size, length)) for begin in range(0, length, size)]


def refusal(case: AttentionCase) -> str | None:
    """Why the kernel cannot do it, or None."""
    if case.platform != "tpu" and not interpreting():
        return f"attention=pallas_tpu needs a TPU and this is a {case.platform}: set attention=auto"
    for length in case.sequence_lengths:
        if length > LONGEST_ROW:
            return f"attention=pallas_tpu takes rows of at most {LONGEST_ROW} tokens, not {length}: set attention=xla"
        if length % 16:
            return f"attention=pallas_tpu takes rows of a multiple of 16 tokens, not {length}: set attention=xla"
    if jnp.dtype(case.dtype) not in (jnp.bfloat16, jnp.float32):
        return f"attention=pallas_tpu computes in bfloat16 or float32, not {jnp.dtype(case.dtype)}: set attention=xla"
    widest = WIDEST_PROGRAM // jnp.dtype(case.dtype).itemsize
    if heads_of_a_program(case.heads, case.head_size) * case.head_size > widest:
        return (
            f"attention=pallas_tpu cannot group {case.heads} heads of size {case.head_size} on a device into multiples"
            f" of {LANES} features, at most {widest}: set attention=xla or another mesh.tensor"
        )
    if case.head_size % 8:
        return f"attention=pallas_tpu takes heads of a multiple of 8, not {case.head_size}: set attention=xla"
    return None


def heads_of_a_program(heads: int, head_size: int) -> int:
    """The fewest heads that divide `heads` and fill whole lanes; all of them if no fewer do."""
    for count in range(1, heads):
        if heads % count == 0 and count * head_size % LANES == 0:
            return count
    return heads


def pallas_tpu_attention(
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
    plan = TpuKernelPlan(
        heads=H,
        head_size=D,
        program_heads=heads_of_a_program(H, D),
        program_rows=max(rows for rows in range(1, LONGEST_ROW // S + 1) if B % rows == 0),
        dropout_rate=dropout_rate,
        causal=causal,
        interpret=interpreting(),
    )
    flat = (x.reshape(B, S, H * D) for x in (query, key, value))
    return _attend(*flat, sequence_ids[:, None, :], dropout_seeds.reshape(B, 1, 2 * H), plan).reshape(B, S, H, D)


# ---- the calls -----------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, seeds: jax.Array, plan: TpuKernelPlan
) -> jax.Array:
    """q, k, v [B, S, H * D], ids [B, 1, S], seeds [B, 1, 2 * H] -> [B, S, H * D]."""
    return _call_forward(q, k, v, ids, seeds, plan)[0]


def _attend_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, seeds: jax.Array, plan: TpuKernelPlan
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    o, lse = (checkpoint_name(x, RESIDUALS) for x in _call_forward(q, k, v, ids, seeds, plan))
    return o, (q, k, v, ids, seeds, o, lse)


def _attend_backward(plan: TpuKernelPlan, residuals: tuple[jax.Array, ...], d_o: jax.Array) -> tuple[Any, ...]:
    q, k, v, ids, seeds, o, lse = residuals
    dq, dk, dv = _call_backward(q, k, v, ids, seeds, o, lse, d_o.astype(o.dtype), plan)
    return dq, dk, dv, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _call_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, seeds: jax.Array, plan: TpuKernelPlan
) -> tuple[jax.Array, jax.Array]:
    """The output [B, S, H * D] and the logsumexp of every query's scores [B, G, P, S] float32."""
    specs, B, S = _TpuSpecs(q.shape, plan), *q.shape[:2]
    groups = plan.heads // plan.program_heads
    return pl.pallas_call(
        partial(_forward_kernel, plan=plan),
        name="attention_forward",
        grid=specs.grid,
        in_specs=[specs.seeds, specs.ids, *[specs.features] * 3],
        out_specs=[specs.features, specs.lse],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, v.dtype),
            jax.ShapeDtypeStruct((B, groups, plan.program_heads, S), jnp.float32),
        ],
        **_options(q, plan, products=2, arrays=4),
    )(seeds, ids, q, k, v)


def _call_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ids: jax.Array,
    seeds: jax.Array,
    o: jax.Array,
    lse: jax.Array,
    d_o: jax.Array,
    plan: TpuKernelPlan,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of q, k and v, [B, S, H * D] each."""
    specs = _TpuSpecs(q.shape, plan)
    return pl.pallas_call(
        partial(_backward_kernel, plan=plan),
        name="attention_backward",
        grid=specs.grid,
        in_specs=[specs.seeds, specs.ids, *[specs.features] * 5, specs.lse],
        out_specs=[specs.features] * 3,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        **_options(q, plan, products=5, arrays=8),
    )(seeds, ids, q, k, v, o, d_o, lse)


class _TpuSpecs:
    """The part of each array that a program sees: R rows and one group of heads."""

    def __init__(self, shape: tuple[int, ...], plan: TpuKernelPlan):
        rows, S, P = plan.program_rows, shape[1], plan.program_heads
        self.grid = (shape[0] // rows, plan.heads // P)
        self.features = pl.BlockSpec((rows, S, plan.width), lambda b, g: (b, 0, g))
        self.lse = pl.BlockSpec((rows, 1, P, S), lambda b, g: (b, g, 0, 0))
        self.ids = pl.BlockSpec((rows, 1, S), lambda b, g: (b, 0, 0))
        self.seeds = pl.BlockSpec((rows, 1, 2 * plan.heads), lambda b, g: (b, 0, 0), memory_space=pltpu.SMEM)


def _options(q: jax.Array, plan: TpuKernelPlan, products: int, arrays: int) -> dict[str, Any]:
    """Return what both calls share; the cost is that of `products` matrix products of all computed scores a head and
    `arrays` of q's size."""
    B, S, features = q.shape
    scores = sum((end - begin) * end for begin, end in plan.query_blocks(S))  # of a head
    return {
        "interpret": plan.interpret,
        "compiler_params": pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        "cost_estimate": pl.CostEstimate(
            flops=2 * products * B * scores * features,
            transcendentals=B * plan.heads * scores,
            bytes_accessed=arrays * q.size * q.dtype.itemsize,
        ),
    }


# ---- the kernels ---------------------------------------------------------------------------------------------------


def _forward_kernel(
    seeds_ref: jax.Ref,
    ids_ref: jax.Ref,
    q_ref: jax.Ref,
    k_ref: jax.Ref,
    v_ref: jax.Ref,
    o_ref: jax.Ref,
    lse_ref: jax.Ref,
    *,
    plan: TpuKernelPlan,
) -> None:
    """Scores lie query-major, [Q, K]: the sums of softmax run along lanes."""
    kept_share = 1 - plan.dropout_rate
    first_head = pl.program_id(1) * plan.program_heads

    def one_row(row: Any) -> None:
        for begin, end in plan.query_blocks(q_ref.shape[1]):
            one_block(row, begin, end)

    def one_block(row: Any, begin: int, end: int) -> None:
        """The queries from `begin` to `end` - 1, and the keys before `end`."""
        q, k, v = _scaled(q_ref[row, begin:end], plan), k_ref[row, :end], v_ref[row, :end]
        visible = _are_visible(ids_ref[row], begin, end, 0, plan)  # [Q, K]
        o = jnp.zeros(q.shape, jnp.float32)
        for head in range(plan.program_heads):
            scores = jnp.where(visible, _dot(_lanes_of(head, q, plan), k, 1, 1), MASKED)  # [Q, K]
            top = scores.max(axis=1, keepdims=True)  # [Q, 1]
            p = jnp.exp(scores - top)
            total = p.sum(axis=1, keepdims=True)
            if plan.dropout_rate:
                p = jnp.where(_keep(seeds_ref, row, first_head + head, 0, begin, p.shape, plan), p, 0.0)
            o_head = _dot(p.astype(v.dtype), v, 1, 0) * (1 / (total * kept_share))
            o = _put_lanes_of(head, o, o_head, plan)
            lse_ref[row, 0, head : head + 1, begin:end] = _row(top + jnp.log(total))
        o_ref[row, begin:end] = o.astype(o_ref.dtype)

    _for_each_row(plan, one_row)


def _backward_kernel(
    seeds_ref: jax.Ref,
    ids_ref: jax.Ref,
    q_ref: jax.Ref,
    k_ref: jax.Ref,
    v_ref: jax.Ref,
    o_ref: jax.Ref,
    d_o_ref: jax.Ref,
    lse_ref: jax.Ref,
    dq_ref: jax.Ref,
    dk_ref: jax.Ref,
    dv_ref: jax.Ref,
    *,
    plan: TpuKernelPlan,
) -> None:
    """Scores lie key-major, [K, Q]: logsumexp and delta, one number a query, lie along lanes and are never transposed.

    With keep the mask of dropout and c = 1 / (1 - rate), c is taken out of every product:

    dv = c (p keep)' do,   ds = c p (keep (do v') - delta / c),   dq = ds k,   dk = ds' q,   delta = rowsum(do o).
    """
    kept_share, scale = 1 - plan.dropout_rate, plan.head_size**-0.5
    first_head = pl.program_id(1) * plan.program_heads

    def one_row(row: Any) -> None:
        blocks = plan.query_blocks(q_ref.shape[1])
        made = [one_block(row, *block) for block in blocks]
        for begin, end in blocks:
            seeing = [gradients for gradients in made if len(gradients[0]) >= end]  # by the queries that see these keys
            for ref, parts in zip((dk_ref, dv_ref), zip(*seeing, strict=True), strict=True):
                total = reduce(jnp.add, [part[begin:end] for part in parts])
                ref[row, begin:end] = (total * (1 / kept_share)).astype(ref.dtype)

    def one_block(row: Any, begin: int, end: int) -> tuple[jax.Array, jax.Array]:
        """The gradient of the queries from `begin` to `end` - 1, and what they add to those of the keys before `end`."""
        q, k, v = _scaled(q_ref[row, begin:end], plan), k_ref[row, :end], v_ref[row, :end]
        d_o, o = d_o_ref[row, begin:end], o_ref[row, begin:end]
        visible = _are_visible(ids_ref[row], begin, end, 1, plan)  # [K, Q]
        delta = _sum_heads(d_o.astype(jnp.float32) * o.astype(jnp.float32), plan)  # P of [1, Q]
        dq, dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
        for head in range(plan.program_heads):
            q_head, k_head, d_o_head = (_lanes_of(head, x, plan) for x in (q, k, d_o))
            scores = jnp.where(visible, _dot(k, q_head, 1, 1), MASKED)  # [K, Q]
            p = jnp.exp(scores - lse_ref[row, 0, head : head + 1, begin:end])
            dp, p_kept = _dot(v, d_o_head, 1, 1), p
            if plan.dropout_rate:
                keep = _keep(seeds_ref, row, first_head + head, 1, begin, p.shape, plan)
                dp, p_kept = jnp.where(keep, dp, 0.0), jnp.where(keep, p, 0.0)
            ds = (p * (dp - delta[head] * kept_share)).astype(k.dtype)
            dv += _dot(p_kept.astype(d_o.dtype), d_o_head, 1, 0)
            dk += _dot(ds, q_head, 1, 0)
            dq += _dot(ds, k_head, 0, 0)
        dq_ref[row, begin:end] = (dq * (scale / kept_share)).astype(dq_ref.dtype)
        return dk, dv

    _for_each_row(plan, one_row)


# ---- parts of the kernels ------------------------------------------------------------------------------------------


def _for_each_row(plan: TpuKernelPlan, body: Callable[[Any], None]) -> None:
    if plan.program_rows == 1:
        body(0)
    else:
        lax.fori_loop(0, plan.program_rows, lambda row, _: body(row), None)


def _dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """The product of two matrices over one axis of each, summed in float32; float32 factors are not rounded."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    axes = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, axes, precision=precision, preferred_element_type=jnp.float32)


def _scaled(q: jax.Array, plan: TpuKernelPlan) -> jax.Array:
    return (q.astype(jnp.float32) * plan.head_size**-0.5).astype(q.dtype)


def _is_lane_of(head: int, plan: TpuKernelPlan) -> jax.Array:
    """[1, W] bool: the features of one head of the program."""
    lane = lax.broadcasted_iota(jnp.int32, (1, plan.width), 1)
    return (lane >= head * plan.head_size) & (lane < (head + 1) * plan.head_size)


def _lanes_of(head: int, x: jax.Array, plan: TpuKernelPlan) -> jax.Array:
    """x [., W] with the features of the other heads zeroed."""
    return x if plan.program_heads == 1 else jnp.where(_is_lane_of(head, plan), x, jnp.zeros_like(x))


def _put_lanes_of(head: int, x: jax.Array, part: jax.Array, plan: TpuKernelPlan) -> jax.Array:
    """x [., W] with the features of one head taken from `part`."""
    return part if plan.program_heads == 1 else jnp.where(_is_lane_of(head, plan), part, x)


def _sum_heads(x: jax.Array, plan: TpuKernelPlan) -> list[jax.Array]:
    """The sums over the features of each head: [S, W] -> P of [1, S]."""
    parts = jnp.split(jnp.transpose(x, (1, 0)), plan.program_heads, axis=0)  # P of [D, S]
    return [part.sum(axis=0, keepdims=True) for part in parts]


def _column(row: jax.Array) -> jax.Array:
    """[1, N] -> [N, 1]."""
    return jnp.transpose(jnp.broadcast_to(row, (8, row.shape[1])), (1, 0))[:, :1]


def _row(column: jax.Array) -> jax.Array:
    """[N, 1] -> [1, N]."""
    return jnp.transpose(jnp.broadcast_to(column, (column.shape[0], 8)), (1, 0))[:1]


def _are_visible(ids: jax.Array, begin: int, end: int, query_axis: int, plan: TpuKernelPlan) -> jax.Array:
    """Return which keys before `end` the queries from `begin` on see, of a row's ids [1, S]: bool, queries on `query_axis`."""
    queries, keys = ids[:, begin:end], ids[:, :end]
    same = _column(queries) == keys if query_axis == 0 else _column(keys) == queries
    if not plan.causal:
        return same
    return same & (begin + _places(same.shape, query_axis) >= _places(same.shape, 1 - query_axis))


def _places(shape: tuple[int, ...], axis: int) -> jax.Array:
    """0, 1, ... along one axis of `shape`, int32; the other one is 1."""
    line = tuple(size if place == axis else 1 for place, size in enumerate(shape))
    return lax.broadcasted_iota(jnp.int32, line, axis)


def _keep(
    seeds_ref: jax.Ref, row: Any, head: Any, query_axis: int, begin: int, shape: tuple[int, ...], plan: TpuKernelPlan
) -> jax.Array:
    """`bert_jax.model.dropout.keep_mask` of one head: `shape` bool, with the queries from `begin` on along `query_axis`."""
    queries, keys = begin + _places(shape, query_axis), _places(shape, 1 - query_axis)
    row_hash = row_part(seeds_ref[row, 0, 2 * head], queries.astype(jnp.uint32))
    column_hash = column_part(seeds_ref[row, 0, 2 * head + 1], keys.astype(jnp.uint32))
    return kept(row_hash, column_hash, plan.dropout_rate)
