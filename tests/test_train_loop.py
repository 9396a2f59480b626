# SPDX-License-Identifier: Apache-2.0
"""The loop: what is due when, no compilation and no hidden transfer while it runs."""

import signal
import time
from dataclasses import replace

import jax
import pytest
from conftest import small_config

import bert_jax.pretraining
from bert_jax.pretraining import pretrain
from bert_jax.train_loop import listen_for_stop, Schedule, Stopwatch

COMPILED = "/jax/core/compile/backend_compile_duration"


def test_schedule():
    """Every so many steps, and always at the end."""
    schedule = Schedule(total_steps=10, save_every=4, eval_every=3)
    assert [step for step in range(1, 11) if schedule.save_due(step)] == [4, 8, 10]
    assert [step for step in range(1, 11) if schedule.eval_due(step)] == [3, 6, 9, 10]
    assert [step for step in range(1, 11) if Schedule(10, 4, 0).eval_due(step)] == [10]


def test_step_zero_compiles_once_and_the_loop_never_again(prepared, tmp_path, monkeypatch):
    """From the first step's measurement to the last step's, nothing is compiled; each phase compiles its step once."""
    events: list[str] = []
    measured = bert_jax.pretraining.Session.measured
    compile_step = bert_jax.pretraining.compile_train_step

    def note_step(self, done, *arguments):
        measured(self, done, *arguments)
        events.append(f"step {done}")

    def note_compile(*arguments):
        events.append("train step")
        return compile_step(*arguments)

    monkeypatch.setattr(bert_jax.pretraining.Session, "measured", note_step)
    monkeypatch.setattr(bert_jax.pretraining, "compile_train_step", note_compile)
    listener = lambda name, *_, **__: events.append("compile") if name == COMPILED else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        config = replace(small_config(), eval_every=0, save_every=100)
        pretrain(config, prepared.data, tmp_path / "run", resume_command="")
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    first, last_of_phase_one = events.index("step 1"), events.index("step 8")
    assert "compile" in events[:first], "the listener must hear compilations"
    assert events[first : last_of_phase_one + 1] == [f"step {step}" for step in range(1, 9)]
    second, last = events.index("step 9"), events.index("step 12")
    assert events[second : last + 1] == [f"step {step}" for step in range(9, 13)]
    assert events.count("train step") == 2


def test_a_hidden_transfer_is_an_error(prepared, tmp_path, monkeypatch):
    """A batch that was not put on the mesh by name does not slip through."""
    monkeypatch.setattr(bert_jax.pretraining, "put_on_mesh", lambda mesh, batch: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        pretrain(small_config(), prepared.data, tmp_path / "run", resume_command="")


def test_a_second_ctrl_c_stops_at_once(capfd):
    with pytest.raises(KeyboardInterrupt), listen_for_stop() as stop:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        assert "finishing this step, then saving" in capfd.readouterr().err
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_pauses_do_not_count(monkeypatch):
    """A clock that reads 0 at the start, 2 to 9 around the pause, 10 and 14 at the laps."""
    readings = iter([0.0, 2.0, 9.0, 10.0, 14.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    clock = Stopwatch()
    with clock.paused():
        pass
    assert clock.lap() == 3.0
    assert clock.lap() == 4.0
