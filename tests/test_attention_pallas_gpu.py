# SPDX-License-Identifier: Apache-2.0
"""The GPU kernel: interpreted on this CPU, and lowered for an H200 that is not there."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_samples import assert_near, assert_only_own_gradients, make_sample, numpy_attention, run
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from bert_jax.model.attention import attention, AttentionCase, interpreted_kernels, pallas_gpu, refusal

# ---- interpreted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "rate", "heads", "head_size"),
    [
        (16, 0.1, 2, 64),
        (48, 0.1, 3, 32),  # blocks of 16
        (96, 0.0, 2, 64),  # blocks of 32
        (128, 0.1, 2, 64),
        (256, 0.1, 1, 128),
        (384, 0.0, 1, 16),
        (512, 0.1, 1, 64),
    ],
)
def test_output_and_gradients_equal_numpy(length, rate, heads, head_size):
    sample = make_sample(length, heads, head_size)
    with interpreted_kernels():
        assert_near(run("pallas_gpu", sample, rate), numpy_attention(sample, rate), 1e-5)


def test_in_bfloat16():
    """2e-2: inputs, probabilities, score gradients and results are rounded to 8 bits each."""
    sample = make_sample(128)
    with interpreted_kernels():
        found = run("pallas_gpu", sample, 0.1, jnp.bfloat16)
    assert all(x.dtype == jnp.bfloat16 for x in found)
    assert_near(found, numpy_attention(sample, 0.1), 2e-2)


@pytest.mark.parametrize(("own", "visited", "length"), [(64, 16, 128), (32, 64, 128), (128, 128, 128)])
def test_every_tiling_computes_the_same(own, visited, length, monkeypatch):
    """A program's own block and the blocks it visits may differ in size; a row of one block has a path of its own."""
    tiling = pallas_gpu.Tiling(own, visited)
    monkeypatch.setattr(pallas_gpu, "tilings", lambda *_: (tiling, tiling))
    sample = make_sample(length, heads=1, head_size=16)
    with interpreted_kernels():
        assert_near(run("pallas_gpu", sample, 0.1), numpy_attention(sample, 0.1), 1e-5)


@pytest.mark.parametrize("length", [16, 48, 96, 128, 384, 512])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_blocks_divide_the_row(length, dtype):
    for tiling in pallas_gpu.tilings(length, dtype):
        assert length % tiling.own == 0
        assert length % tiling.visited == 0


def test_a_block_reaches_what_it_attends_to_and_in_packed_rows_no_more():
    block, length = 16, 96
    packed = np.repeat([1, 2, 3, 0], [20, 30, 26, 20])
    shuffled = np.random.default_rng(0).permutation(packed)
    found = np.asarray(pallas_gpu.reach(jnp.asarray(np.stack([packed, shuffled]), jnp.int32), block))
    for ids, reached in zip((packed, shuffled), found, strict=True):
        for number, (first, behind) in enumerate(reached):
            own = ids[number * block : (number + 1) * block]
            wanted = np.flatnonzero(np.isin(ids, own))
            assert first <= wanted.min()
            assert behind > wanted.max()
    # Block 0 holds example 1, block 1 examples 1 and 2, block 3 examples 2 and 3, block 5 padding alone.
    assert found[0, :2].tolist() == [[0, 20], [0, 50]]
    assert found[0, 3].tolist() == [20, 76]
    assert found[0, 5].tolist() == [76, length]


def test_gradients_stay_inside_a_packed_example():
    with interpreted_kernels():
        assert_only_own_gradients("pallas_gpu")


# ---- lowered -------------------------------------------------------------------------------------------------------

B, S, H, D = 2, 256, 2, 64  # rows, tokens, heads, head size


def lower_for(chip: str, dtype: object, implementation: str = "auto", causal: bool = False) -> str:
    """Output and gradients as StableHLO for a GPU."""

    def compute(query: jax.Array, key: jax.Array, value: jax.Array, d_output: jax.Array, ids: object, seeds: object):
        options = {"dropout_rate": 0.1, "dropout_seeds": seeds, "implementation": implementation}
        output, gradient = jax.vjp(lambda *x: attention(*x, ids, causal=causal, **options), query, key, value)
        return output, *gradient(d_output)

    device = AbstractDevice(device_kind=chip, num_cores=132, platform="gpu")
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    features = jax.ShapeDtypeStruct((B, S, H, D), dtype)
    ids, seeds = jax.ShapeDtypeStruct((B, S), jnp.int32), jax.ShapeDtypeStruct((B, H, 2), jnp.uint32)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(compute).trace(*[features] * 4, ids, seeds).lower(lowering_platforms=("cuda",)).as_text()


def largest_tensor(text: str) -> int:
    return max(math.prod(map(int, re.findall(r"\d+", shape))) for shape in re.findall(r"tensor<((?:\d+x)+)", text))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("dtype", "causal"), [(jnp.bfloat16, False), (jnp.float32, False), (jnp.bfloat16, True)])
def test_auto_lowers_it_for_an_h200_without_a_tensor_of_scores(dtype, causal):
    """Fails too once JAX no longer has the Triton backend (today it warns of that)."""
    text = lower_for("NVIDIA H200", dtype, causal=causal)
    assert len(re.findall(r"custom_call @\S*triton", text)) == 2  # forward, backward
    assert largest_tensor(text) < B * H * S**2


def test_on_an_older_gpu_auto_takes_xla_which_does_have_such_a_tensor():
    text = lower_for("NVIDIA A100-SXM4-40GB", jnp.bfloat16)
    assert "triton" not in text
    assert largest_tensor(text) >= B * H * S**2


# ---- refused -------------------------------------------------------------------------------------------------------

CASE = AttentionCase("gpu", "NVIDIA H200", (128, 512, 2048), 16, 64, jnp.bfloat16, 0.1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sequence_lengths": (128, 100)}, "takes rows of a multiple of 16 tokens, not 100: set attention=xla"),
        ({"sequence_lengths": (8,)}, "takes rows of a multiple of 16 tokens, not 8: set attention=xla"),
        ({"head_size": 96}, "takes heads of size 16, 32, 64, 128, not 96: set attention=xla"),
        ({"dtype": jnp.float16}, "computes in bfloat16 or float32, not float16: set attention=xla"),
        ({"platform": "tpu"}, "needs an NVIDIA GPU and this is a tpu: set attention=auto"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(change, reason):
    assert refusal("pallas_gpu", CASE) is None
    assert refusal("pallas_gpu", CASE._replace(**change)) == f"attention=pallas_gpu {reason}"
