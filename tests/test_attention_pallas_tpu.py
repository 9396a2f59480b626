# SPDX-License-Identifier: Apache-2.0
"""The TPU kernel: interpreted on this CPU, and compiled for TPUs that are not there."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from attention_samples import assert_near, assert_only_own_gradients, make_sample, numpy_attention, run
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.config.training import MeshConfig
from bert_jax.mesh.chips import parse_topology, topology_devices
from bert_jax.mesh.sharding import make_mesh, ROWS
from bert_jax.model.attention import attention, AttentionCase, interpreted_kernels, refusal
from bert_jax.plan.hlo import buffer_shapes, kernel_calls

# ---- interpreted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "rate", "heads", "head_size"),
    [
        (16, 0.1, 2, 64),
        (48, 0.1, 2, 64),
        (96, 0.0, 2, 64),
        (128, 0.1, 4, 64),
        (256, 0.0, 2, 64),
        (384, 0.1, 1, 128),
        (512, 0.1, 2, 64),
        (32, 0.1, 8, 32),  # four heads fill the lanes
        (32, 0.1, 2, 16),  # no number of heads fills them
    ],
)
def test_output_and_gradients_equal_numpy(length, rate, heads, head_size):
    sample = make_sample(length, heads, head_size)
    with interpreted_kernels():
        assert_near(run("pallas_tpu", sample, rate), numpy_attention(sample, rate), 1e-5)


@pytest.mark.parametrize(("length", "heads"), [(128, 2), (512, 2), (48, 3)])  # 3: heads that no even group divides
def test_in_bfloat16(length, heads):
    """2e-2: inputs, probabilities, score gradients and results are rounded to 8 bits each."""
    sample = make_sample(length, heads)
    with interpreted_kernels():
        found = run("pallas_tpu", sample, 0.1, jnp.bfloat16)
    assert all(x.dtype == jnp.bfloat16 for x in found)
    assert_near(found, numpy_attention(sample, 0.1), 2e-2)


def test_gradients_stay_inside_a_packed_example():
    with interpreted_kernels():
        assert_only_own_gradients("pallas_tpu")


# ---- compiled ------------------------------------------------------------------------------------------------------

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
ROW, LENGTH, HEADS, HEAD_SIZE = 2, 256, 2, 64  # of one device


def compile_for(topology: str, implementation: str, causal: bool = False) -> str:
    """Output and gradients over data=2, tensor=2, as optimized HLO."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install bert-jax[plan]")
    mesh = make_mesh(MeshConfig(data=2, tensor=2), topology_devices(parse_topology(topology)))

    def array(shape: tuple[int, ...], dtype: object, *spec: object) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))

    rows = ROWS[0]
    # As the projections give it: [B, S, H * D].
    features = array((2 * ROW, LENGTH, 2 * HEADS * HEAD_SIZE), jnp.bfloat16, rows, None, "tensor")
    ids, seeds = array((2 * ROW, LENGTH), jnp.int32, rows), array((2 * ROW, 2 * HEADS, 2), jnp.uint32, rows, "tensor")

    def compute(query: jax.Array, key: jax.Array, value: jax.Array, d_output: jax.Array, ids: object, seeds: object):
        def attend(*inputs: jax.Array) -> jax.Array:
            split = [x.reshape(2 * ROW, LENGTH, 2 * HEADS, HEAD_SIZE) for x in inputs]
            options = {"dropout_rate": 0.1, "dropout_seeds": seeds, "implementation": implementation}
            return attention(*split, ids, causal=causal, **options).reshape(d_output.shape)

        output, gradient = jax.vjp(attend, query, key, value)
        return output, *gradient(d_output)

    with jax.set_mesh(mesh):
        return jax.jit(compute).lower(*[features] * 4, ids, seeds).compile().as_text()


def largest_buffer(text: str) -> int:
    return max(math.prod(dimensions) for _, dimensions in buffer_shapes(text))


@pytest.mark.parametrize("chip", CHIPS)
def test_auto_compiles_it_without_a_buffer_of_scores(chip):
    text = compile_for(CHIPS[chip], "auto")
    assert text.count('custom_call_target="tpu_custom_call"') == 2  # forward, backward
    assert not any(kind in text for kind in (" all-gather(", " all-reduce(", " collective-permute(", " all-to-all("))
    shapes = {dimensions for _, dimensions in buffer_shapes(text)}
    assert not [dimensions for dimensions in shapes if dimensions.count(LENGTH) > 1]
    assert largest_buffer(text) < ROW * HEADS * LENGTH**2  # in whatever shape


def test_it_compiles_for_the_past_only_and_states_fewer_flops():
    """Two blocks of 128 queries, so three of four blocks of scores: two products of them forward, five backward."""
    calls = kernel_calls(compile_for(CHIPS["v5e"], "auto", causal=True))
    product = 2 * ROW * HEADS * HEAD_SIZE * LENGTH**2 * 3 // 4
    assert sorted(call.flops or 0 for call in calls) == [2 * product, 5 * product]


def test_the_reference_does_have_such_a_buffer():
    """So that the test above can fail."""
    assert largest_buffer(compile_for(CHIPS["v5e"], "reference")) >= ROW * HEADS * LENGTH**2


# ---- refused -------------------------------------------------------------------------------------------------------

CASE = AttentionCase("tpu", "TPU v5 lite", (128, 512), 16, 64, jnp.bfloat16, 0.1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sequence_lengths": (128, 1024)}, "takes rows of at most 512 tokens, not 1024: set attention=xla"),
        ({"sequence_lengths": (100,)}, "takes rows of a multiple of 16 tokens, not 100: set attention=xla"),
        ({"dtype": jnp.float16}, "computes in bfloat16 or float32, not float16: set attention=xla"),
        ({"heads": 5}, "cannot group 5 heads of size 64 on a device into multiples of 128 features, at most 256"),
        ({"heads": 3, "dtype": jnp.float32}, "cannot group 3 heads of size 64 .* at most 128: set attention=xla"),
        ({"heads": 2, "head_size": 10}, "takes heads of a multiple of 8, not 10: set attention=xla"),
        ({"platform": "gpu"}, "needs a TPU and this is a gpu: set attention=auto"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(change, reason):
    assert refusal("pallas_tpu", CASE) is None
    assert re.match(f"attention=pallas_tpu {reason}", refusal("pallas_tpu", CASE._replace(**change)) or "")
