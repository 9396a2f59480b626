# SPDX-License-Identifier: Apache-2.0
"""Attention: one entry point, several implementations behind it.

    reference    plain jax.numpy; what the others are compared with
    xla          the same, computed again in the backward pass instead of kept; any platform
    pallas_tpu   our fused kernel for TPU
    pallas_gpu   our fused kernel for NVIDIA GPUs, made for Hopper
    cudnn        cuDNN's fused kernel, without dropout

All of them drop the same probabilities for the same seeds, and in a causal model show a token the past only. What an
implementation cannot do it refuses by name; nothing falls back silently. The fused ones run on each device for itself:
over a mesh of several devices they are wrapped in `jax.shard_map`.

Shapes: B rows, S tokens, H heads, D head size.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import jax
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from bert_jax.base.errors import UserError
from bert_jax.mesh.sharding import ROWS, uncut
from bert_jax.model.attention import cudnn, pallas_gpu, pallas_tpu
from bert_jax.model.attention.case import AttentionCase, interpreted_kernels, interpreting, RESIDUALS
from bert_jax.model.attention.reference import reference_attention
from bert_jax.model.attention.xla import xla_attention

__all__ = [
    "IMPLEMENTATIONS",
    "NONE",
    "RESIDUALS",
    "AttentionCase",
    "attention",
    "interpreted_kernels",
    "interpreting",
    "refusal",
    "resolve_implementation",
]

IMPLEMENTATIONS: Mapping[str, Callable[..., jax.Array]] = {
    "reference": reference_attention,
    "xla": xla_attention,
    "pallas_tpu": pallas_tpu.pallas_tpu_attention,
    "pallas_gpu": pallas_gpu.pallas_gpu_attention,
    "cudnn": cudnn.cudnn_attention,
}
# The fused ones, which see one device's part, and what each cannot do. The others can do everything, and are cut by XLA.
REFUSALS: Mapping[str, Callable[[AttentionCase], str | None]] = {
    "pallas_tpu": pallas_tpu.refusal,
    "pallas_gpu": pallas_gpu.refusal,
    "cudnn": cudnn.refusal,
}
NONE = "none"  # of a model of LSTMs
HOPPER = ("H100", "H200", "GH200")
HEADS = ("tensor",)  # the axes of the mesh that cut heads


def refusal(name: str, case: AttentionCase) -> str | None:
    """Why an implementation cannot do what is asked, in one line with what to set instead; None if it can."""
    if name not in IMPLEMENTATIONS:
        return f"attention={name} is not known: choose auto or one of {', '.join(IMPLEMENTATIONS)}"
    return REFUSALS[name](case) if name in REFUSALS else None


def resolve_implementation(name: str, case: AttentionCase | None) -> str:
    """`auto` -> the fastest implementation known to be right for the case, NONE where there is no case; a name -> itself.

    Raises:
      UserError: there is no such implementation, or it cannot do what is asked.
    """
    if case is None:
        if name == "auto":
            return NONE
        raise UserError(f"attention={name}: the model is a biLM, which has no attention: leave it out")
    if name == "auto":
        favourite = _favourite(case)
        return "xla" if refusal(favourite, case) else favourite
    if reason := refusal(name, case):
        raise UserError(reason)
    return name


def _favourite(case: AttentionCase) -> str:
    if case.platform == "tpu":
        return "pallas_tpu"
    if case.platform == "gpu":
        return "pallas_gpu" if any(chip in case.device_kind for chip in HOPPER) else "xla"
    return "reference"


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sequence_ids: jax.Array,
    *,
    dropout_rate: float = 0.0,
    dropout_seeds: jax.Array | None = None,
    causal: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Scaled dot-product attention, block-diagonal in `sequence_ids`, with dropout of the probabilities.

    Attention Is All You Need (2017), section 3.2.1; dropout of the probabilities as in google-research/bert.

    Args:
      query, key, value: [B, S, H, D].
      sequence_ids: [B, S] int32; a token attends to the tokens of its own id. Padding (0) attends to padding.
      dropout_rate: share of probabilities that are zeroed.
      dropout_seeds: [B, H, 2] uint32, or None: nothing is dropped.
      causal: a token sees no token behind it in the row, as in a decoder (section 3.2.3).
      implementation: `auto` or a name in `IMPLEMENTATIONS`. Platform and mesh are those of `jax.set_mesh`, if it is in
        force while this is traced, or else the default backend, whole.

    Returns:
      [B, S, H, D] in the dtype of `value`.

    Raises:
      UserError: the implementation is not known or cannot do this.
    """
    dropout_rate = 0.0 if dropout_seeds is None else dropout_rate
    mesh = jax.sharding.get_abstract_mesh()
    name = resolve_implementation(implementation, _case_of(query, dropout_rate, causal, mesh))
    attend: Callable[..., jax.Array] = partial(IMPLEMENTATIONS[name], dropout_rate=dropout_rate, causal=causal)
    if name in REFUSALS:
        attend = _on_each_device(attend, mesh, seeded=dropout_seeds is not None)
    return attend(query, key, value, sequence_ids, dropout_seeds=dropout_seeds)


def _case_of(query: jax.Array, dropout_rate: float, causal: bool, mesh: AbstractMesh) -> AttentionCase:
    """Return the case of one device that takes its part of `query` [B, S, H, D]."""
    _, length, heads, head_size = query.shape
    ways = math.prod(mesh.shape[axis] for axis in uncut(HEADS))
    if heads % ways:
        raise UserError(f"model.num_attention_heads={heads} is not divisible by mesh.tensor={ways}: change one of them")
    device = mesh.abstract_device or jax.devices()[0]
    return AttentionCase(
        device.platform, device.device_kind, (length,), heads // ways, head_size, query.dtype, dropout_rate, causal
    )


def _on_each_device(attend: Callable[..., jax.Array], mesh: AbstractMesh, seeded: bool) -> Callable[..., jax.Array]:
    """`attend` on every device's own rows and heads, with nothing sent between them."""
    rows, heads = uncut(ROWS[0]), uncut(HEADS)
    if mesh.size == 1 or not rows + heads:
        return attend
    features, seeds = P(rows, None, heads, None), P(rows, heads, None)

    def local(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, seeds: jax.Array | None) -> jax.Array:
        return attend(q, k, v, ids, dropout_seeds=seeds)

    mapped = jax.shard_map(
        local,
        in_specs=(features, features, features, P(rows), seeds if seeded else None),
        out_specs=features,
        check_vma=False,  # pallas_call does not say over which axes its results vary
    )
    return lambda q, k, v, ids, *, dropout_seeds: mapped(q, k, v, ids, dropout_seeds)
