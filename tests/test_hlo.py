# SPDX-License-Identifier: Apache-2.0
"""Reading HLO: small programs whose products, collectives and transfers are counted by hand."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.mesh.chips import parse_topology, topology_devices
from bert_jax.plan.hlo import (
    buffer_shapes,
    Collective,
    collectives,
    device_groups,
    estimated_cycles,
    HloProgram,
    host_transfers,
    kernel_calls,
    matrix_products,
    parse_instruction,
    summed,
)

AXES = ("dcn", "data", "fsdp", "tensor")


def make_mesh(*sizes: int) -> Mesh:
    count = int(np.prod(sizes))
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 4, devices=jax.devices()[:count])


MESH = make_mesh(1, 2, 2, 2)


def five_products(x, w):
    """[16, 32] @ [32, 32], five times: 5 x 2 x 16 x 32 x 32 FLOPs."""
    return jax.lax.scan(lambda x, _: (jnp.dot(x, w), None), x, None, length=5)[0]


X, W = jnp.ones((16, 32)), jnp.ones((32, 32))


def compiled_text(function, *arguments) -> str:
    return jax.jit(function).lower(*arguments).compile().as_text()


# ---- matrix products -----------------------------------------------------------------------------------------------


def test_products_in_a_loop_count_as_often_as_they_run():
    (product,) = matrix_products(compiled_text(five_products, X, W))
    assert (product.flops, product.count, product.operands) == (2 * 16 * 32 * 32, 5, ("f32", "f32"))


def test_loops_in_loops_multiply():
    def outer(x, w):
        return jax.lax.scan(lambda x, _: (jnp.sin(five_products(x, w)), None), x, None, length=3)[0]

    assert summed(matrix_products(compiled_text(outer, X, W))) == 15 * 2 * 16 * 32 * 32


def test_a_gradient_takes_twice_the_products_of_the_forward_pass():
    text = compiled_text(jax.value_and_grad(lambda w, x: five_products(x, w).sum()), W, X)
    # The first of the five gradients with respect to x is not needed, but a loop computes it all the same.
    assert summed(matrix_products(text)) == 3 * 5 * 2 * 16 * 32 * 32


def test_batched_products_and_their_types():
    def scores(query, key):
        return jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)

    query = jnp.ones((2, 8, 4, 16), jnp.bfloat16)
    lowered = jax.jit(scores).lower(query, query)
    products = matrix_products(lowered.compile().as_text())
    assert summed(products) == 2 * (2 * 4) * 8 * 8 * 16


@pytest.mark.parametrize("options", [{}, {"lhs_dilation": (2, 3)}, {"rhs_dilation": (2, 1)}])
def test_convolutions_agree_with_the_compilers_own_count(options):
    """XLA's cost analysis leaves out the places of the window that fall on padding or holes, as we do."""

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 2), ((1, 2), (0, 1)), **options)

    compiled = jax.jit(convolve).lower(jnp.ones((2, 3, 9, 8)), jnp.ones((5, 3, 3, 2))).compile()
    text = compiled.as_text()
    if " convolution(" not in text:
        pytest.skip("this backend writes convolutions as something else")
    assert summed(matrix_products(text)) == compiled.cost_analysis()["flops"]


TPU_BATCHED = """HloModule batched

ENTRY %main (a: bf16[16,128,2,64], b: bf16[16,128,2,64]) -> f32[16,2,128,128] {
  %a = bf16[16,128,2,64]{3,1,2,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[16,128,2,64]{3,1,2,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = f32[16,2,128,128]{3,2,1,0:T(8,128)} convolution(%a, %b), WINDOW, dim_labels=0b1f_0o1i->01bf, SOURCE
}
""".replace("WINDOW", "window={size=16x2 stride=15x1 lhs_dilate=16x2}").replace(
    "SOURCE", 'metadata={op_name="jit(f)/bqhd,bkhd->bhqk/dot_general"}'
)


def test_a_batch_written_as_a_spread_window_is_not_counted_twice():
    """The TPU compiler writes the batch (16 rows, 2 heads) as a window of 16 x 2 of which one place is no hole."""
    (product,) = matrix_products(TPU_BATCHED)
    assert product.flops == 2 * (16 * 2) * 128 * 128 * 64
    assert product.source == "jit(f)/bqhd,bkhd->bhqk/dot_general"


GPU_CALL = """HloModule gpu

ENTRY %main (a: bf16[64,32], b: bf16[32,16]) -> bf16[64,16] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,16]{1,0} parameter(1)
  %gemm = (bf16[64,16]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", CONFIG
  ROOT %result = bf16[64,16]{1,0} get-tuple-element(%gemm), index=0
}
"""


@pytest.mark.parametrize("axis", ['"1"', "1"])
def test_calls_of_cublas_are_products(axis):
    numbers = f'{{"lhs_contracting_dimensions":[{axis}],"rhs_contracting_dimensions":["0"]}}'
    config = f'backend_config={{"gemm_backend_config":{{"dot_dimension_numbers":{numbers}}}}}'
    (product,) = matrix_products(GPU_CALL.replace("CONFIG", config))
    assert product.flops == 2 * 64 * 32 * 16
    assert product.operands == ("bf16", "bf16")


# ---- loops ---------------------------------------------------------------------------------------------------------

TPU_LOOP = """HloModule loop

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = f32[8,128]{1,0:T(8,128)} dot(%x, %x), lhs_contracting_dims={1}, CYCLES
  ROOT %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %y)
}

%condition (p.1: (s32[], f32[8,128])) -> pred[] {
  %bound = s32[]{:T(128)} constant(24)
  %p.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

ENTRY %main (a: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %a = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %while = (s32[]{:T(128)}, /*index=1*/f32[8,128]{1,0:T(8,128)}) while(%a), condition=%condition, body=%body, SOURCE
}
""".replace("SOURCE", 'metadata={op_name="jit(f)/while"}').replace(
    "CYCLES", 'backend_config={"window_config":{"estimated_cycles":"100"}}'
)


def test_a_loop_without_a_noted_trip_count_is_read_from_its_condition():
    assert [product.count for product in matrix_products(TPU_LOOP)] == [24]
    assert estimated_cycles(TPU_LOOP) == (2400, 1)


def test_a_loop_that_depends_on_data_is_an_error_not_a_guess():
    text = TPU_LOOP.replace("constant(24)", "parameter(1)")
    with pytest.raises(ValueError, match=r"trip count of the loop while \(jit\(f\)/while\) is not known"):
        matrix_products(text)


# ---- collectives ---------------------------------------------------------------------------------------------------


SPEC = P("data", "tensor")


def collectives_of(body) -> list[Collective]:
    """Of a function of one device's part of [16, 32] float32, cut over data and tensor."""
    mapped = jax.shard_map(body, mesh=MESH, in_specs=SPEC, out_specs=SPEC, check_vma=False)
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=NamedSharding(MESH, SPEC))
    return collectives(jax.jit(mapped).lower(x).compile().as_text(), MESH)


LOCAL = 8 * 16 * 4  # bytes of [16, 32] float32 cut over data and tensor


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda x: jax.lax.psum(x, "tensor"), ("all-reduce", ("tensor",), LOCAL, 1)),
        (lambda x: jax.lax.psum(x, ("data", "fsdp")), ("all-reduce", ("data", "fsdp"), LOCAL, 1)),
        (lambda x: jax.lax.psum(x, AXES), ("all-reduce", ("data", "fsdp", "tensor"), LOCAL, 1)),
        (lambda x: jax.lax.all_gather(x, "data").sum(0), ("all-gather", ("data",), 2 * LOCAL, 1)),
        (lambda x: jnp.tile(jax.lax.psum_scatter(x, "fsdp", tiled=True), (2, 1)), ("reduce-scatter", ("fsdp",), LOCAL, 1)),
        (lambda x: jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 0)]), ("collective-permute", ("fsdp",), LOCAL, 1)),
        (lambda x: jax.lax.all_to_all(x, "data", 0, 1, tiled=True).reshape(8, 16), ("all-to-all", ("data",), LOCAL, 1)),
    ],
)  # fmt: skip
def test_kinds_axes_and_bytes(body, expected):
    assert collectives_of(body) == [Collective(*expected)]


def test_collectives_in_a_loop_count_as_often_as_they_run():
    def body(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(jax.lax.psum(x, "tensor")), None), x, None, length=4)[0]

    assert collectives_of(body) == [Collective("all-reduce", ("tensor",), LOCAL, 4)]


def test_the_most_bytes_come_first_and_equal_ones_are_added_up():
    def body(x):
        x = jnp.sin(jax.lax.psum(x, "tensor"))
        x = jnp.cos(jax.lax.psum(x, "tensor"))
        return x + jax.lax.psum(x[:2], "data").sum()

    assert [(each.axes, each.count) for each in collectives_of(body)] == [(("tensor",), 2), (("data",), 1)]


@pytest.mark.parametrize(
    "written",
    [
        "{{0,2},{1,3},{4,6},{5,7}}",
        "[4,2]<=[2,2,2]T(0,2,1)",
        "mesh['dcn'=1,'data'=2,'fsdp'=2,'tensor'=2] {'fsdp'}",
    ],
)
def test_the_forms_of_replica_groups(written):
    """Pairs along fsdp, in the three ways that compilers write them."""
    line = f"  %x = f32[4] all-reduce(%y), channel_id=1, replica_groups={written}, use_global_device_ids=true"
    assert device_groups(parse_instruction(line), MESH) == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_no_groups_are_all_devices():
    line = "  %x = f32[4] all-reduce(%y), replica_groups={}, to_apply=%add"
    assert device_groups(parse_instruction(line), MESH) == [list(range(8))]


OVERLAPPED = """HloModule overlapped

%begin (p.0: f32[16,8]) -> f32[32,8] {
  %p.0 = f32[16,8]{1,0} parameter(0)
  ROOT %all-gather.1 = f32[32,8]{1,0} all-gather(%p.0), channel_id=63, replica_groups=[4,2]<=[8], dimensions={0}
}

%meanwhile (p.1: f32[16,8]) -> f32[32,8] {
  %p.1 = f32[16,8]{1,0} parameter(0)
  ROOT %all-gather.2 = f32[32,8]{1,0} all-gather(%p.1), channel_id=63, replica_groups=[4,2]<=[8], dimensions={0}
}

ENTRY %main (a: f32[16,8]) -> f32[32,8] {
  %a = f32[16,8]{1,0} parameter(0)
  %begin.1 = f32[32,8]{1,0} fusion(%a), kind=kCustom, calls=%begin
  %start = (f32[16,8]{1,0}, f32[32,8]{1,0}) all-gather-start(%a), channel_id=64, replica_groups=[4,2]<=[8], dimensions={0}
  %done = f32[32,8]{1,0} all-gather-done(%start)
  ROOT %fusion.2 = f32[32,8]{1,0} fusion(%a), kind=kCustom, calls=%meanwhile
}
"""


def test_asynchronous_forms_count_once():
    """A TPU's collective in several fusions on one channel is one; -start and -done are one."""
    assert collectives(OVERLAPPED, MESH) == [Collective("all-gather", ("tensor",), 2 * 16 * 8 * 4, 2)]


# ---- the rest ------------------------------------------------------------------------------------------------------


def test_buffers():
    text = compiled_text(five_products, X, W)
    assert {("f32", (16, 32)), ("f32", (32, 32)), ("s32", ())} <= buffer_shapes(text)
    assert ("f32", (5, 32, 32)) not in buffer_shapes(text)
    assert buffer_shapes("bf16[2,8]{1,0:T(8,128)(2,1)} x(), replica_groups=[4,2]<=[8]") == {("bf16", (2, 8))}


def test_host_transfers_are_found():
    def talks(x):
        jax.debug.callback(lambda value: None, x.sum())
        return x

    assert "callback" in "".join(host_transfers(compiled_text(talks, X)))
    assert host_transfers(compiled_text(five_products, X, W)) == []


def test_kernels_state_their_own_cost():
    line = (
        "ENTRY %main (a: f32[8]) -> f32[8] {\n  %a = f32[8]{0} parameter(0)\n"
        '  ROOT %k = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call", metadata={op_name="attention"},'
        ' backend_config={"custom_call_config":{"body":"AbC","cost_estimate":{"flops":"77","transcendentals":"0"}}}\n}\n'
    )
    (call,) = kernel_calls(line)
    assert (call.target, call.source, call.count, call.flops) == ("tpu_custom_call", "attention", 1, 77)
    assert kernel_calls(line.replace("cost_estimate", "other"))[0].flops is None


def test_every_executed_instruction_belongs_to_a_known_computation():
    program = HloProgram(compiled_text(five_products, X, W))
    assert program.entry in program.computations
    assert program.runs[program.entry] == 1
    assert max(program.runs.values()) == 6  # the loop's condition: five times true, once false


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'bert-jax[plan]'"
)
def test_a_program_compiled_for_tpu():
    """The same five products, which the TPU compiler writes as convolutions in a loop; sums over data are all-reduces."""
    devices = topology_devices(parse_topology("v5e:2x2"))
    mesh = jax.make_mesh((1, 4, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4, devices=devices)
    rows = jax.ShapeDtypeStruct((1024, 256), jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))
    weights = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=NamedSharding(mesh, P()))
    gradient = jax.value_and_grad(lambda w, x: five_products(x, w).sum(dtype=jnp.float32))
    out = NamedSharding(mesh, P())
    text = jax.jit(gradient, out_shardings=(out, out)).lower(weights, rows).compile().as_text()
    products = matrix_products(text)
    assert summed(products) == 3 * 5 * 2 * 256 * 256 * 256
    assert {product.operands for product in products} == {("bf16", "bf16")}
    kinds = {(each.kind, each.axes) for each in collectives(text, mesh)}
    assert kinds == {("all-reduce", ("data",))}
    assert estimated_cycles(text)[0] > 0
    assert host_transfers(text) == []
