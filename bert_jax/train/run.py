# SPDX-License-Identifier: Apache-2.0
"""A run of any kind, from its newest checkpoint to its end or to a stop."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, ExitStack
from datetime import datetime, UTC
from importlib.metadata import version
from pathlib import Path

import jax
from jax.sharding import Mesh

from bert_jax.base.errors import first_line, Interrupted, TryAgain, UserError
from bert_jax.base.files import write_json
from bert_jax.base.host import __version__, processor
from bert_jax.base.output_lock import locked
from bert_jax.checks.cost import cost_line
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.mesh.distributed import all_or_none, is_main, of_main, require_connection, require_same, say
from bert_jax.mesh.peak import device_peak
from bert_jax.model.attention import AttentionCase, resolve_implementation
from bert_jax.model.attention.check import check_at_start
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.cost import Cost
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.trackers import require_installed
from bert_jax.train.loop import listen_for_stop
from bert_jax.train.session import RunObjective, Session
from bert_jax.train.state import TrainState


def train_run(
    objective: RunObjective,
    run: RunDirectory,
    case: AttentionCase | None,
    *,
    resume_command: str,
    until: int | None = None,
) -> tuple[Session, TrainState | None]:
    """Train to the end of the configured steps, from the run's newest checkpoint if there is one.

    Args:
      objective: what is trained.
      run: its directory, made or recognised.
      case: what the run asks of attention on one device; None: its model has none.
      resume_command: printed when the run is interrupted.
      until: stop after so many steps, as if asked to; None: at the end.

    Returns:
      The session and the last state, which is saved; None where the run had finished, and nothing is made of its end.

    Raises:
      UserError: a loss that is not finite.
      TryAgain: of several processes, another one has gone.
      Interrupted: asked to stop; the state is saved.
    """
    training = objective.training
    total = training.config.total_steps
    # Stops are listened for until the last save is complete.
    with listen_for_stop() as stop, Checkpoints(run.checkpoints, training.config.keep_checkpoints) as checkpoints:
        session = Session(objective, run, checkpoints)
        stop.idle, stop.until = True, until
        finished = objective.finished()
        if finished is not None and of_main(checkpoints.latest or 0) == total:
            say(finished)
            return session, None
        require_installed(training.config.tracker)  # of a run that is made again, which has not asked yet
        if (traced := training.config.profiled_steps) is not None and traced[0] > total:
            raise UserError(f"profile={training.config.profile}: the run has the steps 1 to {total:,}")
        objective.say_choices()
        if is_main():
            record_environment(run, training.mesh, objective.data_place)
        with all_or_none():
            say(check_attention(training.config.attention, case))
        try:
            state, done = session.train(stop)
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            raise TryAgain(
                f"process {jax.process_index()} cannot go on ({first_line(error)}): has another one gone? The newest"
                " complete checkpoint is good: start all processes again with the same command"
            ) from error
    if is_main():
        say(cost_line(Cost(session.progress.clock.seconds, session.progress.clock.restarts)))
    if stop.signal_number is not None and done < total:
        raise Interrupted(f"saved at step {done:,} of {total:,}; go on with: {resume_command}", stop.signal_number)
    return session, state


@contextmanager
def locked_by_main(output: Path, stage: str) -> Iterator[None]:
    """Get ready to compute, and keep an output for this run: the main process holds the lock for all.

    Raises:
      UserError: another process has it.
    """
    use_compilation_cache()
    require_connection()
    with ExitStack() as held:
        with all_or_none():
            if is_main():
                held.enter_context(locked(output, stage))
        yield


def open_shared[R](output: Path, same: Mapping[str, str], start: Callable[[], R], read: Callable[[], R | None]) -> R:
    """Return the run in a directory that the main process makes or recognises, as this process then sees it.

    Args:
      same: what every process must have been started with: its name, and as text.
      start: makes or recognises the run, in the main process.
      read: the run as any process finds it there; None: it is not there, or another one.

    Raises:
      UserError: from `start`; processes that were started differently or share no folder.
    """
    require_same({**same, "--output": str(output.absolute())})
    with all_or_none():
        if is_main():
            start()
    with all_or_none():
        if (run := read()) is None:
            raise UserError(
                f"{output}: is not there, or not the same, for every process: --output must be a folder that all hosts share"
            )
        return run


def check_attention(name: str, case: AttentionCase | None) -> str:
    """Return the line to say of a run's attention, which is compared with the reference on this device first.

    Raises:
      UserError: it is too far from the reference.
    """
    name = resolve_implementation(name, case)
    return f"attention: {name}" if case is None or name == "reference" else check_at_start(name, case)


def record_environment(run: RunDirectory, mesh: Mesh, data: str) -> None:
    """Write versions, the processor, the mesh's devices and their peak, and where the data lies to environment.json."""
    devices = list(mesh.devices.flat)
    peak, source = device_peak(devices[0])
    write_json(
        run.environment_file,
        {
            "bert_jax": __version__,
            **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
            "processor": processor(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "data": data,
            "devices": f"{len(devices)} x {devices[0].device_kind}",
            "platform": devices[0].platform,
            "device_count": mesh.size,
            "processes": jax.process_count(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "peak_flops_per_device": peak,
            "peak_source": source,
        },
    )
