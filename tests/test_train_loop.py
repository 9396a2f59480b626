# SPDX-License-Identifier: Apache-2.0
"""The loop: what is due when, no compilation and no hidden transfer while it runs."""

import os
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from conftest import small_config

import bert_jax.train.loop
import bert_jax.train.pretraining
import bert_jax.train.session
from bert_jax.base import stopping
from bert_jax.feed.batch import batch_spec, BatchShape
from bert_jax.feed.feed import feed
from bert_jax.train.loop import Hooks, listen_for_stop, LoopSchedule, Phase, StopRequest, Stopwatch, train
from bert_jax.train.pretraining import pretrain, Pretraining

COMPILED = "/jax/core/compile/backend_compile_duration"


def test_schedule():
    """Every so many steps, and always at the end."""
    schedule = LoopSchedule(total_steps=10, save_every=4, eval_every=3)
    assert [step for step in range(1, 11) if schedule.save_due(step)] == [4, 8, 10]
    assert [step for step in range(1, 11) if schedule.eval_due(step)] == [3, 6, 9, 10]
    assert [step for step in range(1, 11) if LoopSchedule(10, 4, 0).eval_due(step)] == [10]


def test_step_zero_compiles_once_and_the_loop_never_again(prepared, tmp_path, monkeypatch):
    """From the first step's measurement to the last step's, nothing is compiled; each phase compiles its step once, and makes
    its evaluation ready once."""
    events: list[str] = []
    ready: list[int] = []
    before = Pretraining.before

    def note_before(self, span):
        ready.append(span.number)
        before(self, span)

    monkeypatch.setattr(Pretraining, "before", note_before)
    measured = bert_jax.train.session.Session.measured
    compile_step = bert_jax.train.session.compile_train_step

    def note_step(self, done, *arguments):
        measured(self, done, *arguments)
        events.append(f"step {done}")

    def note_compile(*arguments):
        events.append("train step")
        return compile_step(*arguments)

    monkeypatch.setattr(bert_jax.train.session.Session, "measured", note_step)
    monkeypatch.setattr(bert_jax.train.session, "compile_train_step", note_compile)
    listener = lambda name, *_, **__: events.append("compile") if name == COMPILED else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        config = replace(small_config(), eval_every=0, save_every=100)
        pretrain(config, prepared.data, tmp_path / "run", resume_command="")
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    first, last_of_phase_one = events.index("step 1"), events.index("step 8")
    assert "compile" in events[:first], "the listener must hear compilations"
    assert ready == [0, 1]
    assert events[first : last_of_phase_one + 1] == [f"step {step}" for step in range(1, 9)]
    second, last = events.index("step 9"), events.index("step 12")
    assert events[second : last + 1] == [f"step {step}" for step in range(9, 13)]
    assert events.count("train step") == 2


def test_a_hidden_transfer_is_an_error(prepared, tmp_path, monkeypatch):
    """A batch that was not put on the mesh by name does not slip through."""
    monkeypatch.setattr(bert_jax.train.session, "put_on_mesh", lambda mesh, batch: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        pretrain(small_config(), prepared.data, tmp_path / "run", resume_command="")


def run_made_up_steps(steps: int, stop: StopRequest, schedule: LoopSchedule, on_step=lambda step: None) -> list[str]:
    """What the loop does, in order, over steps that compute nothing."""
    events = []

    class Sum:
        """A result on the device: notes when the host waits for it."""

        def __init__(self, number: int):
            self.number = number

        def __array__(self, *_, **__):
            events.append(f"read {self.number}")
            return np.zeros(())

    def step(state, batch):
        events.append(f"begin {batch}")
        on_step(batch)
        return state, {"loss": Sum(batch)}

    def put(batch):
        events.append(f"put {batch}")
        return batch

    hooks = Hooks(
        measured=lambda *_: None,
        evaluate=lambda done, _: events.append(f"evaluate {done}"),
        save=lambda done, _: events.append(f"save {done}"),
        put=put,
    )
    phase = Phase(0, 0, steps, lambda: step, lambda begin: (batch for batch in range(begin + 1, steps + 1)))
    train(None, 0, [phase], schedule, hooks, stop)
    return events


def test_the_next_batch_is_on_the_device_before_the_host_waits():
    """While the device computes step n, batch n + 1 is put there and step n + 1 begun; only then is n waited for."""
    assert run_made_up_steps(3, StopRequest(), LoopSchedule(3, save_every=9, eval_every=0)) == [
        *("put 1", "begin 1"),
        *("put 2", "begin 2", "read 1"),
        *("put 3", "begin 3", "read 2"),
        *("read 3", "evaluate 3", "save 3"),
    ]


@pytest.mark.parametrize(("batch", "last"), [(1, "put 1"), (3, "save 2")])
def test_a_stop_while_a_step_is_compiled_saves_what_was_done_before(batch, last, capfd):
    """As fine-tuning compiles, when a new shape of batch comes; nothing is saved where nothing was done."""

    def compile_at(step: int) -> None:
        if step == batch:
            with stopping.building():
                signal.raise_signal(signal.SIGTERM)

    with listen_for_stop() as stop:
        events = run_made_up_steps(5, stop, LoopSchedule(5, save_every=9, eval_every=0), compile_at)
    assert [event for event in events if event != f"begin {batch}"][-1] == last
    assert stop.signal_number == signal.SIGTERM
    assert "SIGTERM: finishing" in capfd.readouterr().err


def test_a_stop_while_a_phase_is_compiled_ends_at_once():
    """Everything before it is saved: nothing to wait for."""

    def compile_phase():
        signal.raise_signal(signal.SIGTERM)

    hooks = Hooks(*[lambda *_: pytest.fail("no step was begun")] * 4)
    phase = Phase(0, 0, 3, compile_phase, lambda begin: (batch for batch in ()))
    with pytest.raises(stopping.Signalled), listen_for_stop() as stop:
        train(None, 0, [phase], LoopSchedule(3, save_every=9, eval_every=0), hooks, stop)


def test_programs_are_made_while_the_state_is(prepared, tmp_path, monkeypatch):
    """The train step and the evaluation of the first phase: making or reading a state takes seconds, compiling too."""
    begun = {name: threading.Event() for name in ("step", "evaluation")}

    def make_state(_):
        assert all(event.wait(60) for event in begun.values())
        raise Stopped

    monkeypatch.setattr(Pretraining, "initial_state", make_state)
    monkeypatch.setattr(Pretraining, "before", lambda *_: begun["evaluation"].set())
    monkeypatch.setattr(bert_jax.train.session, "compile_train_step", lambda *_: begun["step"].set())
    with pytest.raises(Stopped):
        pretrain(small_config(), prepared.data, tmp_path / "run", resume_command="")


@pytest.mark.parametrize(("eval_every", "evaluating"), [(0, [1]), (8, [0, 1]), (9, [1]), (5, [0, 1]), (100, [1])])
def test_the_programs_of_the_evaluations_that_a_phase_comes_to_are_compiled_when_it_begins(eval_every, evaluating):
    """Phases of 8 and 4 steps; within the steps a stop would have to wait for the compiler."""
    objective, compiled = Pretraining.__new__(Pretraining), []
    objective.use_tf_data = False
    objective.config = config = replace(small_config(), eval_every=eval_every)
    objective.score_pass = compiled.append
    schedule = LoopSchedule(config.total_steps, config.save_every, eval_every)
    due = [number for number, steps in enumerate((range(1, 9), range(9, 13))) if any(map(schedule.eval_due, steps))]
    for span in objective.spans():
        objective.before(span)
    assert compiled == due == evaluating


class Stopped(Exception):
    """Raised by a step."""


@pytest.mark.parametrize("ended_by", ["the last step", "a stop", "an error"])
def test_a_phase_closes_its_feed_however_it_ends(tf_data_iterators, ended_by):
    """tf.data's autotuning thread may hold the end of an iterator up for more than a minute, and so of the run."""
    stop, alive = StopRequest(), []

    def make_batch(step: int):
        return {name: np.zeros((1, 1), dtype) for name, (_, dtype) in batch_spec(BatchShape(1, 1, 1)).items()}

    def step(state, batch):
        alive.append(tf_data_iterators.open)
        if ended_by == "a stop":
            stop.signal_number = signal.SIGTERM
        if ended_by == "an error":
            raise Stopped
        return state, {"loss": np.zeros(())}

    hooks = Hooks(measured=lambda *_: None, evaluate=lambda *_: None, save=lambda *_: None, put=lambda batch: batch)
    make_feed = partial(feed, make_batch, use_tf_data=True)
    phases = [
        Phase(0, 0, 3, lambda: step, partial(make_feed, end=3)),
        Phase(1, 3, 6, lambda: step, partial(make_feed, end=6)),
    ]
    with pytest.raises(Stopped) if ended_by == "an error" else nullcontext() as caught:
        train(None, 0, phases, LoopSchedule(6, save_every=9, eval_every=0), hooks, stop)
    del caught
    assert alive == [1] * (6 if ended_by == "the last step" else 1), "one feed at a time"
    assert tf_data_iterators.autotuned == [False] * (2 if ended_by == "the last step" else 1)
    assert tf_data_iterators.open == 0


def test_several_processes_stop_where_all_agree(monkeypatch, capfd):
    """A signal is passed on and the loop goes on until the step that JAX names, in every process."""
    sent, asked = [], []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, number)))
    monkeypatch.setattr(bert_jax.train.loop, "stop_agreed", lambda done: asked.append(done) or done == 4)
    stop = StopRequest(shared=True)
    interrupt = lambda step: stop(signal.SIGINT, None) if step == 2 else None  # noqa: E731
    events = run_made_up_steps(9, stop, LoopSchedule(9, save_every=99, eval_every=0), interrupt)
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert asked == [1, 2, 3, 4], "once after each step"
    assert events[-2:] == ["read 4", "save 4"]
    assert stop.signal_number == signal.SIGTERM
    assert "SIGINT: finishing this step, then saving" in capfd.readouterr().err


def test_a_second_ctrl_c_stops_at_once(capfd):
    # A shell starts its background jobs with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), listen_for_stop() as stop:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        assert "finishing this step, then saving" in capfd.readouterr().err
        signal.raise_signal(signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_pauses_do_not_count(monkeypatch):
    """A clock that reads 0 at the start, 2 to 9 around the pause, 10 and 14 at the laps."""
    readings = iter([0.0, 2.0, 9.0, 10.0, 14.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    clock = Stopwatch()
    with clock.paused():
        pass
    assert clock.lap() == 3.0
    assert clock.lap() == 4.0
