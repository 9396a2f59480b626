# SPDX-License-Identifier: Apache-2.0
"""What fits: found with few compilations, here of a made-up compiler whose memory is known."""

from dataclasses import dataclass, field, replace

import jax
import pytest
from conftest import small_config

from bert_jax.config.pretrain import PhaseConfig
from bert_jax.config.training import MeshConfig
from bert_jax.mesh.sharding import make_mesh
from bert_jax.plan.fitting import largest_micro_batch, smallest_change
from bert_jax.plan.machine import Machine
from bert_jax.plan.program import micro_batch_rows, StepProgram

LIMIT = 1_000


@dataclass
class MadeUpCompiler:
    """Memory is state / fsdp + rows x row's bytes, less with remat, and what accumulation holds."""

    state: float = 100
    row: float = 20
    curve: float = 0.0  # of the rows' square: memory is not quite affine
    says_what_it_takes: bool = True
    calls: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def __call__(self, config, number, machine):
        mesh = make_mesh(config.mesh, machine.devices)
        rows = micro_batch_rows(config, number, mesh)
        share = {"none": 1.0, "dots": 0.5, "full": 0.1}[config.remat]
        accumulated = 50 if config.micro_batches > 1 else 0
        length = config.phases[number].sequence_length / 16
        needed = (self.state + accumulated) / mesh.shape["fsdp"]
        needed += length * share * (rows * self.row + rows**2 * self.curve)
        self.calls.append((rows, (config.remat, mesh.shape["fsdp"], config.micro_batches)))
        fits = needed <= LIMIT
        known = int(needed) if fits or self.says_what_it_takes else 0
        return StepProgram(rows, known, fits, None, 0, 0, 0, "", 1.0, (), 0, 0, ())


MACHINE = Machine("eight", jax.devices(), None, LIMIT, None, None)


def run_of(batch: int, **changes):
    phases = (PhaseConfig(sequence_length=16, steps=8, batch_size=batch, max_predictions_per_seq=3),)
    return small_config(**({"phases": phases, "mesh": MeshConfig()} | changes))


# ---- the largest micro-batch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 4, 16, 500])
def test_a_straight_line_is_found_from_anywhere(rows):
    """(1000 - 100) / 20 = 45 rows: 40, as from 16 rows on only multiples of 8 are looked at. Few compilations."""
    compiler, config = MadeUpCompiler(), run_of(8 * rows)
    found = largest_micro_batch(config, 0, MACHINE, compiler(config, 0, MACHINE), compiler)
    assert (found.rows, found.needed) == (40, 900)
    assert len(compiler.calls) <= 5


def test_small_numbers_are_exact():
    compiler, config = MadeUpCompiler(row=100), run_of(8 * 2)
    found = largest_micro_batch(config, 0, MACHINE, compiler(config, 0, MACHINE), compiler)
    assert found.rows == 9


def test_a_curve_is_verified_not_believed():
    """What is reported was compiled and fits, and the next size is refused."""
    compiler, config = MadeUpCompiler(curve=0.5), run_of(8 * 2)
    found = largest_micro_batch(config, 0, MACHINE, compiler(config, 0, MACHINE), compiler)
    assert found.rows == 24  # 100 + 24 x 20 + 288 = 868; 32 rows take 1252
    assert any(rows == found.rows for rows, _ in compiler.calls)


def test_a_compiler_that_does_not_say_how_much_it_would_take():
    compiler, config = MadeUpCompiler(says_what_it_takes=False), run_of(8 * 128)
    found = largest_micro_batch(config, 0, MACHINE, compiler(config, 0, MACHINE), compiler)
    assert 24 <= found.rows <= 40
    assert found.refused_rows > found.rows


def test_nothing_fits():
    compiler, config = MadeUpCompiler(state=2_000), run_of(8 * 4)
    assert largest_micro_batch(config, 0, MACHINE, compiler(config, 0, MACHINE), compiler).rows == 0


# ---- the smallest change -----------------------------------------------------------------------------------------------


def change_for(compiler, config):
    programs = [compiler(config, number, MACHINE) for number in range(len(config.phases))]
    return smallest_change(config, MACHINE, programs, compiler)


def test_micro_batches_come_first():
    """128 rows a device take 2660; 64 take 1430, 32 take 790 with accumulation."""
    compiler = MadeUpCompiler()
    change = change_for(compiler, run_of(8 * 128))
    assert change.settings == ("micro_batches=4",)
    assert change.config.phases[0].batch_size == 8 * 128
    assert [program.fits for program in change.programs] == [True]


def test_remat_where_one_row_is_too_much():
    compiler = MadeUpCompiler(row=1_000)
    assert change_for(compiler, run_of(8)).settings == ("remat=dots",)


def test_a_cheaper_remat_with_more_micro_batches_goes_before_a_dearer_one():
    compiler = MadeUpCompiler(row=1_000)
    assert change_for(compiler, run_of(8 * 2)).settings == ("micro_batches=2", "remat=dots")


def test_fsdp_where_the_state_is_too_large():
    compiler = MadeUpCompiler(state=3_000)
    change = change_for(compiler, run_of(8))
    assert change.settings == ("mesh.fsdp=4",)
    assert change.programs[0].needed == 3_000 / 4 + 20


def test_every_phase_must_fit():
    """The second phase has rows twice as long and sets the number of micro-batches; the first is compiled with it too."""
    first = run_of(8 * 64).phases[0]
    config = run_of(8 * 64, phases=(first, replace(first, sequence_length=32, max_predictions_per_seq=5)))
    compiler = MadeUpCompiler()
    change = change_for(compiler, config)
    assert change.settings == ("micro_batches=4",)  # 16 rows of twice 20, 150 for the state: 790
    assert len(change.programs) == 2
    assert all(program.fits for program in change.programs)


def test_no_change_is_enough():
    assert change_for(MadeUpCompiler(state=100_000), run_of(8)) is None


def test_hopeless_sizes_are_not_compiled():
    """From 4096 rows the first two sizes tell that 1024, 512, ... 64 rows are too many."""
    compiler = MadeUpCompiler()
    change = change_for(compiler, run_of(8 * 4_096))
    assert change.settings == ("micro_batches=128",)
    assert len(compiler.calls) <= 5
