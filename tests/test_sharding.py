# SPDX-License-Identifier: Apache-2.0
"""The mesh and the table of sharding rules."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import small_config
from jax.sharding import PartitionSpec as P

import bert_jax.mesh.sharding
from bert_jax.base.errors import UserError
from bert_jax.config.model import ModelConfig
from bert_jax.config.training import MeshConfig
from bert_jax.mesh.sharding import (
    AXES,
    check_batch,
    check_heads,
    device_groups,
    make_mesh,
    own_row_shards,
    own_rows,
    parameter_path,
    partition_spec,
    put_on_mesh,
    RULES,
)
from bert_jax.train.state import Training

# ---- the mesh --------------------------------------------------------------------------------------------------------


def test_minus_one_takes_all_devices_that_are_left():
    assert dict(make_mesh(MeshConfig(-1, 2, 2)).shape) == {"dcn": 1, "data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(MeshConfig()).shape) == {"dcn": 1, "data": 8, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((16, 1, 1), "mesh data=16, fsdp=1, tensor=1 needs 16 devices and there are 8: set mesh.data=8"),
        ((4, 2, 2), "mesh data=4, fsdp=2, tensor=2 needs 16 devices and there are 8: set mesh.data=2"),
        ((3, 3, 1), "mesh data=3, fsdp=3, tensor=1 needs 9 .* are 8: set smaller sizes, one of them -1"),
        ((-1, 3, 1), "does not fit 8 devices: the sizes without data multiply to 3 .* make it 2 or 4"),
    ],
)
def test_meshes_that_do_not_fit(sizes, message):
    """One line, with the nearest sizes that work."""
    with pytest.raises(UserError, match=f"{message}$"):
        make_mesh(MeshConfig(*sizes))


def test_dcn_is_the_outermost_axis():
    mesh = make_mesh(MeshConfig(2, 1, 2, dcn=2))
    assert mesh.axis_names == AXES
    np.testing.assert_array_equal(np.vectorize(lambda device: device.id)(mesh.devices).ravel(), np.arange(8))


def made_up_devices(platform: str, processes: int, each: int, slices: int = 0) -> list[SimpleNamespace]:
    """Devices of several processes, and of as many slices if there are any, in an order that mixes them."""
    devices = []
    for place in range(each):
        for process in range(processes):
            number = {"slice_index": process * slices // processes} if slices else {}
            devices.append(SimpleNamespace(platform=platform, process_index=process, place=place, **number))
    return devices


def test_dcn_joins_slices_of_tpus():
    """Two slices of two hosts each: a place on the axis `dcn` is a slice."""
    devices = made_up_devices("tpu", processes=4, each=4, slices=2)
    groups = device_groups(MeshConfig(dcn=2), devices, 2)
    assert [{device.slice_index for device in group} for group in groups] == [{0}, {1}]
    assert [len(group) for group in groups] == [8, 8]
    for dcn in (1, 4):
        with pytest.raises(
            UserError, match=r"2 slices of 8 devices, which only dcn joins: set mesh.dcn=2 and mesh.data=-1"
        ):
            device_groups(MeshConfig(dcn=dcn), devices, dcn)


def test_dcn_joins_whole_nodes_elsewhere():
    """Four hosts with GPUs: two places of two hosts each; without dcn the hosts follow one another."""
    devices = made_up_devices("gpu", processes=4, each=2)
    places = device_groups(MeshConfig(dcn=2), devices, 2)
    assert [[device.process_index for device in group] for group in places] == [[0, 0, 1, 1], [2, 2, 3, 3]]
    (one,) = device_groups(MeshConfig(), devices, 1)
    assert [device.process_index for device in one] == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(UserError, match=r"dcn=3 does not divide the 4 nodes that it joins: set mesh.dcn=2 or 4"):
        device_groups(MeshConfig(dcn=3), devices, 3)


def test_a_run_of_several_processes_uses_all_devices():
    with pytest.raises(UserError, match=r"uses 4 of 8 devices, and .* all must be used: set mesh.data=-1"):
        make_mesh(MeshConfig(4), made_up_devices("cpu", processes=2, each=4))


def test_heads_are_never_cut():
    mesh = make_mesh(MeshConfig(1, 1, 8))
    check_heads(ModelConfig(hidden_size=64, num_attention_heads=16), mesh)
    with pytest.raises(
        UserError, match=r"mesh.tensor=8 does not divide model.num_attention_heads=12.* mesh.tensor=6 or 12"
    ):
        check_heads(ModelConfig(), mesh)


# ---- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_a_rule_and_every_rule_a_parameter(tied):
    """An unmatched parameter raises; a line of the table that no parameter takes would be dead."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    # 101 entries: not divisible by tensor=2, so the second choice for the vocabulary is taken too.
    taken = set()
    for vocab_size in (104, 101):
        model = replace(small_config().model, tie_word_embeddings=tied, vocab_size=vocab_size)
        params = Training(small_config(model=model), mesh).abstract_state.params
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            taken.add(partition_spec(parameter_path(path), leaf.shape, mesh))
    expected = {spec for pattern, spec in RULES if tied is False or "decoder" not in pattern}
    assert taken == expected


def test_a_vocabulary_that_does_not_divide_is_cut_along_the_features():
    mesh = make_mesh(MeshConfig(1, 2, 4))
    path = "encoder/embeddings/word"
    assert partition_spec(path, (30_524, 768), mesh) == P("tensor", "fsdp")
    assert partition_spec(path, (30_522, 768), mesh) == P(None, ("fsdp", "tensor"))


def test_sizes_that_cannot_be_cut_are_named():
    mesh = make_mesh(MeshConfig(1, 8, 1))
    model = ModelConfig(hidden_size=12, num_attention_heads=2, num_hidden_layers=1, intermediate_size=32)
    training = Training(small_config(model=model, phases=small_config().phases[:1]), mesh)
    with pytest.raises(
        UserError,
        match=r"the parameter \S+ of shape \(.*\) cannot be cut over the mesh data=1, fsdp=8, tensor=1: fsdp=8 does not"
        r" divide 12: make it 6 or 12$",
    ):
        _ = training.abstract_state


def test_an_unknown_parameter_is_an_error():
    with pytest.raises(ValueError, match="no sharding rule matches the parameter encoder/mystery"):
        partition_spec("encoder/mystery", (4, 4), make_mesh(MeshConfig()))


def test_a_rule_that_cuts_twice_over_an_axis_is_an_error(monkeypatch):
    monkeypatch.setattr(bert_jax.mesh.sharding, "RULES", ((r"pooler/kernel$", P("fsdp", ("tensor", "fsdp"))),))
    with pytest.raises(ValueError, match=r"sharding rule .* does not suit pooler/kernel"):
        partition_spec("pooler/kernel", (16, 16), make_mesh(MeshConfig(1, 2, 4)))


def test_parameters_and_moments_are_made_in_parts():
    """Every array is where the table says, and each device of fsdp=4 x tensor=2 holds about an eighth of all bytes: no
    device ever has a whole copy."""
    model = ModelConfig(128, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=256)
    model = replace(model, max_position_embeddings=32)
    training = Training(small_config(model=model), make_mesh(MeshConfig(1, 4, 2)))
    state, declared = training.initial_state(), training.abstract_state
    held = dict.fromkeys(jax.devices(), 0)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(declared), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
        for shard in leaf.addressable_shards:
            assert shard.data.shape == wanted.sharding.shard_shape(leaf.shape)
            held[shard.device] += shard.data.nbytes
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert max(held.values()) < whole / 6


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "choices"), [(12, "8 or 16"), (3, "8")])
def test_batches_that_do_not_divide(batch, choices):
    with pytest.raises(UserError, match=f"batch_size={batch} is not divisible .* = 8: use {choices}$"):
        check_batch(batch, 2, make_mesh(MeshConfig(2, 2, 2)), "batch_size")


def mesh_of(processes: np.ndarray, **sizes: int) -> SimpleNamespace:
    """A mesh as far as rows need one, from the process of each device."""
    shape = dict.fromkeys(AXES, 1) | sizes
    devices = np.vectorize(lambda process: SimpleNamespace(process_index=process), otypes=[object])(processes)
    return SimpleNamespace(shape=shape, devices=devices.reshape(list(shape.values())))


def test_a_process_feeds_the_rows_its_devices_hold():
    """Also where these are not next to one another, as on TPUs whose mesh follows the wires."""
    mesh = mesh_of(np.array([0, 0, 1, 1, 1, 1, 0, 0]), dcn=2, data=2, fsdp=2)
    assert own_row_shards(mesh, 0) == [0, 1, 6, 7]
    np.testing.assert_array_equal(own_rows(16, mesh, 0), [0, 1, 2, 3, 12, 13, 14, 15])
    np.testing.assert_array_equal(own_rows(16, mesh, 1), np.arange(4, 12))


def test_processes_that_share_tensor_feed_the_same_rows():
    mesh = mesh_of(np.array([0, 1, 0, 1]), data=2, tensor=2)
    np.testing.assert_array_equal(own_rows(4, mesh, 0), np.arange(4))
    np.testing.assert_array_equal(own_rows(4, mesh, 1), np.arange(4))


def test_one_process_feeds_all_rows():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    np.testing.assert_array_equal(own_rows(8, mesh), np.arange(8))
    batch = {"input_ids": np.arange(16).reshape(8, 2)}
    (array,) = put_on_mesh(mesh, batch).values()
    np.testing.assert_array_equal(array, batch["input_ids"])
    assert {shard.data.shape for shard in array.addressable_shards} == {(2, 2)}
