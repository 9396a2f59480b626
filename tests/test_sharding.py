# SPDX-License-Identifier: Apache-2.0
"""The mesh and the table of sharding rules."""

from dataclasses import replace

import jax
import pytest
from conftest import small_config
from jax.sharding import PartitionSpec as P

from bert_jax.config import MeshConfig, ModelConfig
from bert_jax.errors import UserError
from bert_jax.sharding import check_batch, make_mesh, parameter_path, partition_spec, RULES
from bert_jax.train_state import Training


def test_minus_one_takes_all_devices_that_are_left():
    assert dict(make_mesh(MeshConfig(-1, 2, 2)).shape) == {"dcn": 1, "data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(MeshConfig()).shape) == {"dcn": 1, "data": 8, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("sizes", [(16, 1, 1), (3, 3, 1), (-1, 3, 1)])
def test_meshes_that_do_not_fit(sizes):
    with pytest.raises(UserError, match=f"mesh data={sizes[0]}, fsdp={sizes[1]}, tensor=1 .* 8"):
        make_mesh(MeshConfig(*sizes))


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
        UserError, match=r"the parameter \S+ of shape \(.*\) cannot be cut over the mesh data=1, fsdp=8"
    ):
        _ = training.abstract_state


def test_an_unknown_parameter_is_an_error():
    with pytest.raises(ValueError, match="no sharding rule matches the parameter encoder/mystery"):
        partition_spec("encoder/mystery", (4, 4), make_mesh(MeshConfig()))


@pytest.mark.parametrize(("batch", "choices"), [(12, "8 or 16"), (3, "8")])
def test_batches_that_do_not_divide(batch, choices):
    with pytest.raises(UserError, match=f"batch_size={batch} is not divisible .* = 8: use {choices}$"):
        check_batch(batch, 2, make_mesh(MeshConfig(2, 2, 2)), "batch_size")
