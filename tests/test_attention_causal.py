# SPDX-License-Identifier: Apache-2.0
"""Attention that sees the past only: every implementation that runs here against NumPy, and no path from the future.

Shapes: B rows, S tokens, H heads, D head size.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_samples import assert_near, make_sample, numpy_attention, run, Sample
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.base.errors import UserError
from bert_jax.config.training import MeshConfig
from bert_jax.mesh.sharding import make_mesh
from bert_jax.model.attention import attention, AttentionCase, IMPLEMENTATIONS, interpreted_kernels, pallas_gpu
from bert_jax.model.attention.check import check_at_start, compare_with_reference
from bert_jax.model.attention.cudnn import cudnn_attention
from bert_jax.model.attention.reference import reference_attention

RUN_HERE = ("reference", "xla", "pallas_tpu", "pallas_gpu")
KERNELS = ("pallas_tpu", "pallas_gpu")
BLOCK = 128  # queries of a block of the TPU kernel; a multiple of the GPU kernel's blocks


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with interpreted_kernels():
        yield


# ---- against NumPy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "length", "rate"),
    [
        ("reference", 48, 0.1),
        ("xla", 48, 0.1),
        ("pallas_tpu", 48, 0.1),  # one block
        ("pallas_tpu", 256, 0.1),
        ("pallas_tpu", 304, 0.0),  # the last block is of 48
        ("pallas_gpu", 48, 0.1),  # blocks of 16
        ("pallas_gpu", 128, 0.1),
        ("pallas_gpu", 256, 0.0),
    ],
)
def test_output_and_gradients_equal_numpy(name, length, rate):
    """Whole rows, packed ones (block-diagonal and causal), and padding; the same dropout bits."""
    sample = make_sample(length)
    assert_near(run(name, sample, rate, causal=True), numpy_attention(sample, rate, causal=True), 1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_in_bfloat16(name):
    """2e-2: inputs, probabilities, score gradients and results are rounded to 8 bits each."""
    sample = make_sample(256, layouts=("crossing", "whole"))
    found = run(name, sample, 0.1, jnp.bfloat16, causal=True)
    assert all(x.dtype == jnp.bfloat16 for x in found)
    assert_near(found, numpy_attention(sample, 0.1, causal=True), 2e-2)


@pytest.mark.parametrize(("own", "visited"), [(64, 16), (16, 64), (128, 128)])
def test_every_tiling_of_the_gpu_kernel_computes_the_same(own, visited, monkeypatch):
    """The diagonal may cross a visited block that is larger or smaller than the program's own."""
    tiling = pallas_gpu.Tiling(own, visited)
    monkeypatch.setattr(pallas_gpu, "tilings", lambda *_: (tiling, tiling))
    sample = make_sample(128, heads=1, head_size=16)
    assert_near(run("pallas_gpu", sample, 0.1, causal=True), numpy_attention(sample, 0.1, causal=True), 1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_every_mesh_gives_the_same_bits(name):
    sample = make_sample(32, heads=4)

    def on_mesh(**sizes: int) -> list[np.ndarray]:
        mesh = make_mesh(MeshConfig(**sizes))
        cut = NamedSharding(mesh, P(("dcn", "data", "fsdp"), None, "tensor", None))
        placed = {field: jax.device_put(getattr(sample, field), cut) for field in Sample._fields[:4]}
        with jax.set_mesh(mesh):
            return [np.asarray(x) for x in run(name, sample._replace(**placed), 0.1, causal=True)]

    single = on_mesh(data=1)
    assert_near(tuple(map(jnp.asarray, single)), numpy_attention(sample, 0.1, causal=True), 1e-5)
    for found, wanted in zip(on_mesh(data=2, tensor=2), single, strict=True):
        np.testing.assert_array_equal(found, wanted)


# ---- no path from the future ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUN_HERE)
def test_the_future_has_no_gradient_and_changes_no_bit(name):
    """Of a packed row: what a token gives does not depend on those behind it, in its own example or another."""
    length, place = 48, 20
    sample = make_sample(length, heads=2, head_size=16, layouts=("crossing", "whole"))
    before = np.arange(length) <= place
    asked = sample._replace(d_output=sample.d_output * before[None, :, None, None])
    output, *gradients = run(name, asked, 0.1, causal=True)
    for gradient in map(np.asarray, gradients):
        assert (gradient[:, ~before] == 0).all()
        assert (gradient[:, place] != 0).all()
    loud = [np.where(before[None, :, None, None], x, np.float32(1e3)) for x in sample[:3]]
    changed = run(name, asked._replace(query=loud[0], key=loud[1], value=loud[2]), 0.1, causal=True)[0]
    np.testing.assert_array_equal(np.asarray(changed)[:, before], np.asarray(output)[:, before])
    assert not np.array_equal(np.asarray(run(name, asked, 0.1)[0])[:, before], np.asarray(output)[:, before])


@pytest.mark.parametrize("name", KERNELS)
def test_blocks_above_the_diagonal_are_not_visited(name):
    """NaN there would come through a product with a probability of 0. So it would in the reference, which visits all."""
    sample = make_sample(2 * BLOCK, heads=1, head_size=128, layouts=("whole",))
    later = (np.arange(2 * BLOCK) >= BLOCK)[None, :, None, None]
    unread = sample._replace(key=np.where(later, np.nan, sample.key), value=np.where(later, np.nan, sample.value))
    assert np.isfinite(run(name, unread, 0.0, causal=True)[0][:, :BLOCK]).all()
    assert np.isnan(run("reference", unread, 0.0, causal=True)[0][:, :BLOCK]).any()
    # Backward: early queries add nothing to the gradients of later keys, whatever comes back to them.
    unread = sample._replace(d_output=np.where(later, sample.d_output, np.float32(np.nan)))
    _, d_query, d_key, d_value = run(name, unread, 0.0, causal=True)
    for gradient in (d_query, d_key, d_value):
        assert np.isfinite(gradient[:, BLOCK:]).all()
        assert np.isnan(gradient[:, :BLOCK]).any()


# ---- checked before a run begins -----------------------------------------------------------------------------------


def test_the_check_at_the_start_of_a_run_is_of_causal_attention(monkeypatch):
    """An implementation that forgets the mask is found out."""
    case = AttentionCase("cpu", "cpu", (32,), 2, 16, jnp.float32, 0.1, causal=True)
    assert all(each.agrees for each in compare_with_reference("pallas_gpu", case))

    def forgetful(*inputs: jax.Array, causal: bool, **options: object) -> jax.Array:
        return reference_attention(*inputs, causal=False, **options)

    monkeypatch.setitem(IMPLEMENTATIONS, "xla", forgetful)
    with pytest.raises(UserError, match=r"^attention=xla is wrong on this cpu"):
        check_at_start("xla", case)


# ---- cuDNN, which does not run here --------------------------------------------------------------------------------


def test_cudnn_is_given_the_mask_of_the_past(monkeypatch):
    """What it is asked for, computed by JAX's own implementation in its place."""
    asked = {}
    own = jax.nn.dot_product_attention

    def on_cpu(query, key, value, *, mask, implementation):
        asked["implementation"] = implementation
        return own(query, key, value, mask=mask, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_cpu)
    sample = make_sample(16, head_size=16)
    found = cudnn_attention(
        *map(jnp.asarray, sample[:3]), sample.sequence_ids, dropout_rate=0.0, dropout_seeds=None, causal=True
    )
    assert asked == {"implementation": "cudnn"}
    wanted = attention(*map(jnp.asarray, sample[:3]), sample.sequence_ids, causal=True, implementation="reference")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
