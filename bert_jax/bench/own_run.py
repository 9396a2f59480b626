# SPDX-License-Identifier: Apache-2.0
"""`bert-jax pretrain` as a command that is given so many seconds, by the run's own clock (`runs/cost.py`).

What counts is what its user waits for in front of the first step and between steps: start-up, compilation, batches, steps.
Saving, and scoring what is held out, do not count. Starting Python and its imports come before that clock.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import write_json
from bert_jax.base.types import JsonObject
from bert_jax.bench.own_text import last_line
from bert_jax.bench.side_process import ON_THE_CPU, SideError
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import to_dict
from bert_jax.runs.cost import CLOCK
from bert_jax.runs.names import CHECKPOINTS, METRICS_FILE

COUNTED = ("restart", "compile", "data_wait", "steps")  # parts of the clock
LOG_EVERY = 10  # steps between two readings of the clock
LOOK_EVERY = 0.3  # seconds between two looks at them
PACE_STEPS, PACE_BEGIN = 4 * LOG_EVERY, LOG_EVERY  # of each phase, where its pace is taken; the first ones warm up
STOPPED = 128 + signal.SIGTERM  # exit status


@dataclass(frozen=True)
class Pace:
    """How long a run takes: seconds before its steps, and of a step of each phase."""

    overhead: float
    step_seconds: tuple[float, ...]

    def fitted(self, config: PretrainConfig, seconds: float) -> PretrainConfig:
        """Return the run with its phases so long, in proportion, that it ends after so many seconds.

        Raises:
          UserError: they do not suffice.
        """
        left = seconds - self.overhead
        whole = sum(phase.steps * one for phase, one in zip(config.phases, self.step_seconds, strict=True))
        if left <= 0 or min(round(left / whole * phase.steps) for phase in config.phases) < 1:
            raise UserError(
                f"{self.overhead:.0f} of {seconds:g} s pass before the first step, and a phase would have no step: give more"
                " bench.duel_seconds"
            )
        return config.scaled(left / whole)


def take_pace(config: PretrainConfig, data: Path, folder: Path) -> Pace:
    """Run a few steps of each phase: the config's own but for the learning rate."""
    phases = tuple(replace(phase, steps=PACE_STEPS, learning_rate=None, warmup_steps=None) for phase in config.phases)
    optimizer = replace(config.optimizer, warmup_steps=0, warmup_share=None)
    run_for(replace(config, phases=phases, optimizer=optimizer, save_every=PACE_STEPS), data, folder, float("inf"))
    lines = clock_lines(folder)
    working = {line["step"]: line["data_wait"] + line["steps"] for line in lines}
    begins = range(0, PACE_STEPS * len(phases), PACE_STEPS)
    spans = [working[begin + PACE_STEPS] - working[begin + PACE_BEGIN] for begin in begins]
    overhead = lines[-1]["restart"] + lines[-1]["compile"]
    return Pace(overhead, tuple(span / (PACE_STEPS - PACE_BEGIN) for span in spans))


def run_for(config: PretrainConfig, data: Path, run: Path, seconds: float) -> None:
    """Run `bert-jax pretrain` on a CPU, compiling anew, to its end or so many seconds.

    Args:
      config: every checkpoint of it is kept, and the end alone is scored.
      data: made by `bert-jax prepare`.
      run: the run directory.
      seconds: by its clock, after which it is asked to stop.

    Raises:
      SideError: it failed, with what it said last; the time was over before its first step.
    """
    config = replace(config, log_every=LOG_EVERY, eval_every=0, eval_batches=1, keep_checkpoints=config.total_steps)
    write_json(file := run.with_name(f"{run.name}.json"), to_dict(config))
    command = [sys.executable, "-m", "bert_jax.cli", "pretrain", str(file), "--data", str(data), "--output", str(run)]
    log = run.with_name(f"{run.name}.log")
    asked = False
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | ON_THE_CPU) as process,
    ):
        try:
            while process.poll() is None:
                if not asked and (lines := clock_lines(run)) and counted(lines[-1]) >= seconds:
                    process.send_signal(signal.SIGTERM)
                    asked = True
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_EVERY)
        finally:
            process.terminate()  # where this process was asked to stop
    if asked and (counted(clock_lines(run)[0]) >= seconds or not points_of(run)):
        raise SideError(f"{seconds:g} s were over before bert-jax pretrain had a step: give more bench.duel_seconds")
    if process.returncode not in (0, STOPPED):
        raise SideError(f"bert-jax pretrain failed: {last_line(log.read_text(encoding='utf-8'))}")


def clock_lines(run: Path) -> list[JsonObject]:
    """Return the readings of a run's clock so far, by step."""
    file = run / METRICS_FILE
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = (json.loads(line) for line in text.split("\n")[:-1])  # the last one may be under way
    return [line for line in lines if line["kind"] == CLOCK]


def counted(line: Mapping[str, float]) -> float:
    """Return the seconds of a reading that count."""
    return sum(line[part] for part in COUNTED)


def points_of(run: Path) -> list[JsonObject]:
    """Return the checkpoints of a run by step: `step`, `seconds` that counted until then, and `model`, where it lies.

    The end of a phase between two readings has none, and is left out.
    """
    lines = clock_lines(run)
    taken: dict[int, float] = {}
    for line in lines:
        if line["step"] % LOG_EVERY == 0 or line is lines[-1]:
            taken.setdefault(line["step"], counted(line))  # the first of a step: the next phase is not compiled yet
    steps = sorted(int(folder.name) for folder in (run / CHECKPOINTS).glob("*") if folder.name.isdecimal())
    return [
        {"step": step, "seconds": taken[step], "model": str(run / CHECKPOINTS / str(step))}
        for step in steps
        if step in taken
    ]
