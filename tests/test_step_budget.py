# SPDX-License-Identifier: Apache-2.0
"""The compiled train step of a small model holds a recorded budget on each mesh: collectives, FLOPs, no host transfer.

The budgets are in tests/budgets/, one file a mesh. After a change that is meant, record them anew and read the diff:

    BERT_JAX_RECORD_BUDGETS=1 python -m pytest tests/test_step_budget.py

What is exact depends on the compiler, so the exact comparison is made with the versions of jax and libtpu that recorded.
Everything else holds with any version.

Element types of matrix products are read before the compiler (StableHLO): a CPU's compiler turns bfloat16 operands into
float32 where the machine has no instructions for them.
"""

import importlib.util
import json
import os
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import pytest
from conftest import small_config

from bert_jax.config.model import ModelConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import MeshConfig
from bert_jax.feed.batch import BatchShape
from bert_jax.mesh.chips import parse_topology, topology_devices
from bert_jax.mesh.sharding import make_mesh, parameter_shardings, ROWS
from bert_jax.model.accounting import training_flops
from bert_jax.plan import hlo
from bert_jax.train.masked_lm import batch_fields, MaskedLmLoss
from bert_jax.train.state import Training
from bert_jax.train.step import lower_train_step

BUDGETS = Path(__file__).with_name("budgets")
RECORD = "BERT_JAX_RECORD_BUDGETS"

# Sizes that tell arrays apart by their dimensions.
B, S, M, V, D = 16, 64, 10, 520, 64
MODEL = ModelConfig(
    vocab_size=V,
    hidden_size=D,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=4 * D,
    max_position_embeddings=S,
)
SHAPE = BatchShape(B, S, M)
MESHES = {
    "one_device": MeshConfig(data=1),
    "data8": MeshConfig(data=8),
    "fsdp8": MeshConfig(data=1, fsdp=8),
    "data4_tensor2": MeshConfig(data=4, tensor=2),
    "data2_fsdp2_tensor2": MeshConfig(data=2, fsdp=2, tensor=2),
    "dcn2_data4": MeshConfig(dcn=2, data=4),
}
UNRECORDED = {"data2_fsdp2": MeshConfig(data=2, fsdp=2)}
TPU = "tpu_v5e_2x2_data4"


def config_for(mesh: MeshConfig, dtype: str = "bfloat16") -> PretrainConfig:
    phase = PhaseConfig(sequence_length=S, steps=100, batch_size=B, max_predictions_per_seq=M)
    return small_config(model=MODEL, phases=(phase,), mesh=mesh, compute_dtype=dtype)


@cache
def compiled(name: str, micro_batches: int = 1) -> tuple[Training, str]:
    """A run and the text of its compiled step."""
    devices = None
    mesh = (MESHES | UNRECORDED).get(name, MeshConfig())
    if name == TPU:
        devices = topology_devices(parse_topology("v5e:2x2"))
    config = replace(config_for(mesh), micro_batches=micro_batches)
    training = Training(config, make_mesh(config.mesh, devices))
    return training, lower_train_step(
        training, MaskedLmLoss(pairs=True, mask_id=4), batch_fields(SHAPE)
    ).compile().as_text()


def requires_libtpu(name: str) -> Any:
    missing = name == TPU and importlib.util.find_spec("libtpu") is None
    return pytest.param(
        name, marks=pytest.mark.skipif(missing, reason="libtpu is not installed: pip install 'bert-jax[plan]'")
    )


every_mesh = pytest.mark.parametrize("name", [requires_libtpu(name) for name in (*MESHES, TPU)])


# ---- the recorded part ---------------------------------------------------------------------------------------------


def measured(name: str) -> dict[str, Any]:
    """What a budget holds."""
    training, text = compiled(name)
    found: dict[str, dict[str, int]] = {}
    for each in hlo.collectives(text, training.mesh):
        entry = found.setdefault(f"{each.kind} over {' x '.join(each.axes)}", {"count": 0, "bytes": 0})
        entry["count"] += each.count
        entry["bytes"] += each.count * each.bytes
    versions = {"jax": jax.__version__} | ({"libtpu": version("libtpu")} if name == TPU else {})
    flops = hlo.summed(hlo.matrix_products(text)) + sum(
        (call.flops or 0) * call.count for call in hlo.kernel_calls(text)
    )
    return {"versions": versions, "flops": flops, "collectives": dict(sorted(found.items()))}


def differences(found: dict[str, Any], budget: dict[str, Any]) -> list[str]:
    """What differs from a budget, a line each, for people."""
    lines = []
    if found["flops"] != budget["flops"]:
        lines.append(f"FLOPs a device: {budget['flops']:,} in the budget, {found['flops']:,} now")
    for kind in sorted({*found["collectives"], *budget["collectives"]}):
        old, new = (each["collectives"].get(kind, {"count": 0, "bytes": 0}) for each in (budget, found))
        if old != new:
            lines.append(
                f"{kind}: {old['count']} of {old['bytes']:,} bytes in the budget, {new['count']} of {new['bytes']:,} now"
            )
    return lines


@every_mesh
def test_step_holds_its_budget(name):
    found, file = measured(name), BUDGETS / f"{name}.json"
    if os.environ.get(RECORD):
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    budget = json.loads(file.read_text(encoding="utf-8"))
    if budget["versions"] != found["versions"]:
        pytest.skip(f"recorded with {budget['versions']}, this is {found['versions']}")
    lines = differences(found, budget)
    assert not lines, "\n".join([f"the step on {name} changed:", *lines, f"if it is meant: {RECORD}=1, see this file"])


def test_differences_are_readable():
    budget = {"flops": 10, "collectives": {"all-reduce over data": {"count": 2, "bytes": 4_096}}}
    found = {"flops": 12, "collectives": {"all-gather over fsdp": {"count": 1, "bytes": 64}}}
    assert differences(found, budget) == [
        "FLOPs a device: 10 in the budget, 12 now",
        "all-gather over fsdp: 0 of 0 bytes in the budget, 1 of 64 now",
        "all-reduce over data: 2 of 4,096 bytes in the budget, 0 of 0 now",
    ]
    assert differences(budget, budget) == []


# ---- what holds with any version -----------------------------------------------------------------------------------


@every_mesh
def test_at_most_a_tenth_more_flops_than_the_formula(name):
    """Without remat; products that a device does for nothing would show."""
    training, _ = compiled(name)
    formula = training_flops(MODEL, B * S, B * S**2, B * M) / training.mesh.size
    assert 1 <= measured(name)["flops"] / formula <= 1.10


@every_mesh
def test_nothing_goes_to_the_host(name):
    assert hlo.host_transfers(compiled(name)[1]) == []


def gathered(text: str) -> list[tuple[hlo.Instruction, hlo.Shape]]:
    """Every all-gather of a program and the arrays that come out."""
    program = hlo.HloProgram(text)
    found = []
    for instruction, _ in program.collective_instructions():
        if instruction.collective_kind == "all-gather":
            found += [(instruction, shape) for shape in instruction.shapes]
    return found


@every_mesh
def test_logits_are_never_gathered(name):
    """An array [.., V] that is gathered can only be the table or the bias; logits have the masked positions too."""
    for instruction, (_, sizes) in gathered(compiled(name)[1]):
        assert not (V in sizes and (M in sizes or B * M in sizes)), instruction


@every_mesh
def test_parameters_are_gathered_over_fsdp_only(name):
    """Where nothing is cut over fsdp, no device asks others for their part of a parameter, or of its gradient."""
    training, text = compiled(name)
    if training.mesh.shape["fsdp"] > 1:
        pytest.skip("this mesh cuts parameters over fsdp")
    parameters = {leaf.shape for leaf in jax.tree.leaves(training.abstract_state.params) if leaf.ndim > 1}
    layers = {shape[1:] for shape in parameters if len(shape) == 3}
    found = [instruction for instruction, (_, sizes) in gathered(text) if sizes in parameters | layers]
    assert found == []


def bytes_between_rows(name: str, micro_batches: int) -> int:
    """Bytes that a device exchanges with those that have other rows, in a step."""
    training, text = compiled(name, micro_batches)
    return sum(each.count * each.bytes for each in hlo.collectives(text, training.mesh) if {*ROWS[0]} & {*each.axes})


@pytest.mark.parametrize("name", ["data8", "fsdp8", "dcn2_data4", "data2_fsdp2"])
def test_gradients_are_exchanged_once_a_step(name):
    """Not once a micro-batch; nor are parameters that fsdp cuts gathered as often."""
    once = bytes_between_rows(name, 1)
    assert once > 100_000
    assert bytes_between_rows(name, 2) <= 1.05 * once


@pytest.mark.parametrize("name", ["fsdp8", "data2_fsdp2"])
def test_parameters_are_gathered_once_and_gradients_scattered(name):
    """Each parameter that fsdp cuts is gathered once, and of its gradient a device gets its own part alone."""
    training, text = compiled(name)
    shardings = parameter_shardings(training.abstract_state.params, training.mesh)
    cut = sum("fsdp" in str(sharding.spec) for sharding in jax.tree.leaves(shardings))
    found = Counter()
    for each in hlo.collectives(text, training.mesh):
        found[each.kind, each.axes] += each.count
    assert cut > 10
    assert found["all-gather", ("fsdp",)] == found["reduce-scatter", ("fsdp",)] == cut


GATHER = re.compile(r'"stablehlo.all_gather".*-> tensor<([0-9x]+)x(\w+)>')


def test_kernels_of_layers_are_gathered_in_the_type_they_are_multiplied_in():
    """In half of the bytes; the tables, which are read in float32, are not. Asked before the compiler, as below."""
    config = config_for(MeshConfig(data=1, fsdp=8))
    training = Training(config, make_mesh(config.mesh))
    text = lower_train_step(training, MaskedLmLoss(pairs=True, mask_id=4), batch_fields(SHAPE)).as_text()
    types = {dtype: [sizes for sizes, found in GATHER.findall(text) if found == dtype] for dtype in ("bf16", "f32")}
    assert len(types["bf16"]) == 6
    assert all(sizes.startswith("2x") for sizes in types["bf16"])
    assert f"{V}x{D}" in types["f32"]


DOT = re.compile(r"stablehlo\.dot_general.*: \(tensor<([^>]*)>, tensor<([^>]*)>\).* loc\((#loc\d+)\)")
NAMED = re.compile(r'^(#loc\d+) = loc\("([^"]*)"', re.MULTILINE)


def asked_products(dtype: str) -> list[tuple[str, str, str]]:
    """(element types of both operands, name in the model) of every matrix product, before the compiler."""
    config = config_for(MeshConfig(data=1), dtype)
    training = Training(config, make_mesh(config.mesh))
    text = lower_train_step(training, MaskedLmLoss(pairs=True, mask_id=4), batch_fields(SHAPE)).as_text(debug_info=True)
    names = dict(NAMED.findall(text))
    return [(left.rsplit("x", 1)[1], right.rsplit("x", 1)[1], names[place]) for left, right, place in DOT.findall(text)]


def test_bfloat16_runs_multiply_bfloat16():
    products = asked_products("bfloat16")
    assert len(products) > 30
    assert [name for left, right, name in products if "f32" in (left, right)] == []


def test_float32_runs_multiply_float32():
    assert {(left, right) for left, right, _ in asked_products("float32")} == {("f32", "f32")}
