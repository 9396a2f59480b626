# SPDX-License-Identifier: Apache-2.0
"""`bert-jax plan`: what is read from a compiled step, what is estimated from it, and what is refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import refusal_of, small_config
from jax.sharding import Mesh, SingleDeviceSharding
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.training import MeshConfig
from bert_jax.mesh.chips import CHIPS, parse_topology, Topology, topology_devices
from bert_jax.mesh.sharding import make_mesh
from bert_jax.model.accounting import count_bytes
from bert_jax.plan import as_text, local_machine, make_plan, topology_machine
from bert_jax.plan.estimate import collective_seconds, estimate_step
from bert_jax.plan.hlo import Collective
from bert_jax.plan.machine import wires
from bert_jax.plan.program import bytes_on_device, refused, StepProgram
from bert_jax.train.state import Training

AXES = ("dcn", "data", "fsdp", "tensor")
V5E, V5P, H200 = (next(chip for chip in CHIPS if chip.name == name) for name in ("v5e", "v5p", "H200"))


def config_of_one_phase(**changes):
    config = small_config(**changes)
    return replace(config, phases=config.phases[:1])


# ---- the whole, once on this machine and once for chips that are not there ---------------------------------------------


@pytest.fixture(scope="module")
def local_plan():
    return make_plan(config_of_one_phase(mesh=MeshConfig(data=4, tensor=2)), local_machine(), search=False)


def test_memory_by_class_is_that_of_the_state(local_plan):
    """Parameters and optimizer on one of eight devices; the classes add up to what the compiler says."""
    training = Training(local_plan.config, make_mesh(local_plan.config.mesh))
    state, memory = training.abstract_state, local_plan.phases[0].program.memory
    assert memory.parameters == bytes_on_device(state.params)
    assert count_bytes(state.params) / 2 <= memory.parameters < count_bytes(state.params)  # tensor=2 cuts most of it
    assert memory.optimizer == 2 * memory.parameters + 12  # two moments, three counters
    assert memory.batch == 4 * (4 * 16 * 4 + 3 * 3 * 4 + 3 * 4)  # 4 rows of 16: four fields, three of [M], three of [E]
    assert memory.temporary > memory.gradients == memory.parameters
    assert 0 <= memory.other < 2_000


def test_figures_of_the_program(local_plan):
    program = local_plan.phases[0].program
    assert program.fits
    assert 1 <= program.flops / program.formula_flops <= 1.2  # the pooler and NSP weigh something at 16 features
    assert (program.kernels, program.kernel_flops, program.host_transfers) == (0, 0, [])
    assert {exchange.axes for exchange in local_plan.phases[0].estimate.exchanges} == {("data",), ("tensor",)}


def test_days_and_rates_belong_together(local_plan):
    (phase,) = local_plan.phases
    assert phase.sequences_per_second * phase.estimate.seconds == pytest.approx(16)
    assert phase.tokens_per_second == pytest.approx(16 * phase.sequences_per_second)
    assert local_plan.days == phase.days == pytest.approx(8 * phase.estimate.seconds / 86_400)


def test_text_says_what_it_found(local_plan):
    text = as_text(local_plan)
    for words in (
        "8 devices",
        "data=4",
        "tensor=2",
        "fits        as configured",
        "all-reduce over tensor",
        "without a word at most 4 steps, ",
        "assumptions",
    ):
        assert words in text


def test_a_plan_is_json(local_plan):
    record = json.loads(json.dumps(local_plan.as_record()))
    assert record["fits"] is True
    assert record["machine"]["used_devices"] == 8
    assert record["phases"][0]["program"]["memory"]["total"] == local_plan.phases[0].program.memory.total
    state = Training(local_plan.config, make_mesh(local_plan.config.mesh)).abstract_state
    seconds = 4 * local_plan.phases[0].estimate.seconds  # save_every=4
    assert record["checkpoint"] == {
        "bytes": 3 * count_bytes(state.params) + 12,  # with two moments, three counters
        "steps_at_risk": 4,
        "seconds_at_risk": pytest.approx(seconds),
    }


@pytest.fixture
def small(tmp_path) -> str:
    """A configuration of one phase."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install 'bert-jax[plan]'")
    config = tmp_path / "small.py"
    config.write_text(
        "from bert_jax.config import *\n"
        "model = ModelConfig(vocab_size=256, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,"
        " intermediate_size=256, max_position_embeddings=128)\n"
        "phase = PhaseConfig(sequence_length=128, steps=1000, batch_size=16)\n"
        "config = PretrainConfig(model=model, phases=(phase,), optimizer=OptimizerConfig(warmup_steps=10))\n"
    )
    return str(config)


def test_a_plan_for_chips_that_are_not_there(small, tmp_path, capsys):
    """The command, with libtpu: the step of `demo`'s first phase for four v5e chips."""
    output = tmp_path / "plan.json"
    assert main(["plan", small, "--topology", "v5e:2x2", "--quick", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    (phase,) = record["phases"]
    assert record["machine"]["usable_memory"] == int(15.75 * 2**30)
    assert record["compute"]["compute_dtype"] == "bfloat16"
    assert 1 <= phase["program"]["flops"] / phase["program"]["formula_flops"] <= 1.15
    assert phase["estimate"]["compiler"] > phase["estimate"]["products"] > 0
    assert [exchange["axes"] for exchange in phase["estimate"]["exchanges"]] == [["data"]]
    text = capsys.readouterr().out
    assert "v5e:2x2: 4 devices of 15.75 GiB" in text
    assert "largest micro-batch" not in text


def test_flags_of_the_compiler_are_compiled_and_compared(small, tmp_path, capsys):
    """Those of the chip itself: of four chips of tpu7x, which are eight devices."""
    output = tmp_path / "plan.json"
    command = ["plan", small, "--topology", "tpu7x:2x2x1", "--quick", "--output", str(output), "--flags"]
    assert main(command) == 0
    record, text = json.loads(output.read_text()), capsys.readouterr().out
    assert record["machine"]["devices"] == 8
    assert record["flags"]["xla_tpu_scoped_vmem_limit_kib"] == "98304"
    (before,), (after,) = record["phases"], record["flagged_phases"]
    assert before["program"]["product_flops"] == after["program"]["product_flops"]
    assert "LIBTPU_INIT_ARGS='--xla_tpu_enable_data_parallel_all_reduce_opt=true " in text


def test_a_flag_that_the_compiler_does_not_have_is_named(small, monkeypatch, capsys):
    command = [small, "--topology", "v5e:1x1", "--quick", "--flags"]
    monkeypatch.setattr("bert_jax.plan.planning.tqdm", partial(tqdm, disable=True))
    assert "No such compile option: 'xla_tpu_no_flag'" in refusal_of(capsys, "plan", *command, "xla_tpu_no_flag=1")
    assert "--flags xla_tpu_no_flag has no value" in refusal_of(capsys, "plan", *command, "xla_tpu_no_flag")


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if chip.flags], ids=lambda chip: chip.name)
def test_the_compiler_has_the_flags_of_each_chip(chip):
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install 'bert-jax[plan]'")
    there = SingleDeviceSharding(topology_devices(Topology(chip, chip.slices[0]))[0])
    double = jax.jit(lambda x: 2 * x, in_shardings=there, out_shardings=there)
    flags = dict(flag.split("=") for flag in chip.flags)
    double.lower(jax.ShapeDtypeStruct((8, 128), "float32")).compile(compiler_options=flags)


# ---- estimates ---------------------------------------------------------------------------------------------------------


def torus(*sizes: int, dcn: int = 1) -> Mesh:
    """A mesh over made-up TPU chips in a grid, all along `data`."""
    grid = [SimpleNamespace(coords=(*place, *[0] * (3 - len(sizes))), platform="tpu") for place in np.ndindex(*sizes)]
    devices = np.array(grid * dcn, dtype=object).reshape(dcn, len(grid), 1, 1)
    return SimpleNamespace(devices=devices, axis_names=AXES, shape=dict(zip(AXES, devices.shape, strict=True)))


@pytest.mark.parametrize(
    ("sizes", "chip", "links"),
    [
        ((4, 4), V5E, 2),
        ((16, 16), V5E, 4),
        ((8, 16), V5E, 3),
        ((2, 1), V5E, 1),
        ((4, 4, 4), V5P, 6),
        ((2, 2, 2), V5P, 3),
    ],
)
def test_links_along_an_axis(sizes, chip, links):
    """A row of 16 (v5e) or 4 (v5p) chips is joined to a ring and sends both ways; a shorter one is a line."""
    assert wires(torus(*sizes), ("data",), chip) == links * chip.link_bandwidth


def test_a_part_of_a_ring_is_a_line():
    """Four of eight chips in a row have no link from the last one to the first."""
    row = [SimpleNamespace(coords=(place, 0, 0), platform="tpu") for place in range(8)]
    mesh = SimpleNamespace(devices=np.array(row, dtype=object).reshape(1, 2, 4, 1), axis_names=AXES)
    assert wires(mesh, ("fsdp",), V5P) == V5P.link_bandwidth
    assert wires(mesh, ("data", "fsdp"), V5P) == 2 * V5P.link_bandwidth


def test_a_gpu_has_its_link_to_the_switch():
    assert wires(torus(8), ("data",), H200) == 450e9


def test_seconds_of_an_all_reduce():
    """1 GB over 256 chips with four links of 50 GB/s: every byte is sent twice but for the chip's own share."""
    seconds = collective_seconds(Collective("all-reduce", ("data",), 10**9, 1), torus(16, 16), V5E)
    assert seconds == pytest.approx(2 * 255 / 256 * 1e9 / 200e9 + 5e-6)


def test_between_slices_each_chip_sends_its_share():
    """Two slices of 16: inside over two links, then a sixteenth of it over the network."""
    collective = Collective("all-reduce", ("dcn", "data"), 10**9, 1)
    inside, between = 2 * 15 / 16 * 1e9 / 100e9, 2 * 1 / 2 * 1e9 / 16 / 3.125e9
    assert collective_seconds(collective, torus(4, 4, dcn=2), V5E) == pytest.approx(inside + between + 55e-6)


PROGRAM = StepProgram(
    rows=8,
    needed=2**30,
    fits=True,
    memory=None,
    product_flops=197 * 10**10,
    kernel_flops=0,
    kernels=0,
    kernel_flops_source="",
    formula_flops=197e10,
    collectives=(Collective("all-reduce", ("data",), 10**8, 2),),
    traffic=819 * 10**7,
    cycles=30 * 10**6,
    host_transfers=(),
)


def machine(chip, peak):
    return SimpleNamespace(chip=chip, peak=peak)


def test_a_step_takes_the_compilers_cycles_then_its_collectives():
    found = estimate_step(PROGRAM, machine(V5E, V5E.bf16_flops), torus(4, 4))
    assert found.products == pytest.approx(0.010)
    assert found.traffic == pytest.approx(0.010)
    assert found.compiler == pytest.approx(0.020)
    assert found.seconds == pytest.approx(0.020 + found.network)
    assert found.overlapped == pytest.approx(0.020)
    assert found.network == pytest.approx(2 * (2 * 15 / 16 * 1e8 / 100e9 + 5e-6))


def test_kernels_take_time_that_the_cycles_do_not_hold():
    kernels = replace(PROGRAM, kernel_flops=int(0.3 * 197e10))
    found = estimate_step(kernels, machine(V5E, V5E.bf16_flops), torus(4, 4))
    assert found.compiler == pytest.approx(0.020 + 0.010)


def test_without_cycles_a_share_of_the_peak_is_assumed():
    found = estimate_step(replace(PROGRAM, cycles=0), machine(V5E, V5E.bf16_flops), torus(4, 4))
    assert found.seconds == pytest.approx(0.010 / 0.6 + found.network)
    assert found.compiler is None


def test_without_a_peak_nothing_is_estimated():
    found = estimate_step(replace(PROGRAM, cycles=0), machine(None, None), torus(4, 4))
    assert found.seconds is None
    assert "not known" in found.basis


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("E1000: the total memory required for HLO temporaries (33.50G) exceeds available HBM (15.75G).", 33.5 * 2**30),
        ("Ran out of memory in memory space hbm. Used 512.0M of 15.75G hbm.", 2**29),
        ("something else", 0),
    ],
)
def test_the_compilers_refusal_says_how_much_it_takes(message, needed):
    program = refused(8, f"RESOURCE_EXHAUSTED: {message}", 1.0)
    assert (program.needed, program.fits, program.memory) == (needed, False, None)


# ---- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base", "--topology", "v5e:5x5"], "there is no topology 'v5e:5x5': the shapes of v5e are 1x1, 2x2, 2x4"),
        (["base", "--topology", "local", "--slices", "2"], "--slices is for TPU topologies"),
        (["base", "--topology", "local", "--flags"], "--flags are the TPU compiler's"),
        (["base", "--topology", "local", "mesh.fsdp=3"], "does not fit 8 devices"),
        (["base", "--topology", "local", "phases.0.batch_size=100"], "phases.0.batch_size=100 is not divisible by"),
        (["tiny", "--topology", "local", "mesh.tensor=4"], "model.num_attention_heads=2"),
        (["electra_tiny", "--topology", "local", "mesh.tensor=2"], "model.num_attention_heads=1"),  # the generator's
        (["base", "--topology", "local", "compute_dtype=float8_e4m3"], "compute_dtype=float8_e4m3 is not known"),
        (["base", "--topology", "local", "attention=pallas_tpu"], "attention=pallas_tpu"),
        (["base", "--topology", "local", "--output", "no/such/folder/plan.json"], "there is no folder no/such/folder"),
        (["nothing", "--topology", "local"], "there is no configuration 'nothing'"),
    ],
)
def test_bad_input_is_answered_by_one_line(arguments, message, capsys):
    assert message in refusal_of(capsys, "plan", *arguments)


def test_slices_need_the_axis_that_joins_them():
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install 'bert-jax[plan]'")
    machine = topology_machine(parse_topology("2xv5e:2x2"))
    with pytest.raises(UserError, match=r"set mesh\.dcn=2"):
        make_plan(config_of_one_phase(mesh=MeshConfig()), machine, search=False)


def test_the_stage_leaves_accelerators_to_those_who_run():
    """A process of its own, where nobody has set JAX_PLATFORMS: the stage does, before JAX is imported."""
    code = (
        "import os\nfrom bert_jax.cli import main\n"
        "assert main(['plan', 'tiny', '--topology', 'v5e:5x5']) == 2\nprint(os.environ['JAX_PLATFORMS'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "cpu\n"
