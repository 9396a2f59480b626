# SPDX-License-Identifier: Apache-2.0
"""Pre-training, put together: configuration + data -> run directory. Checks everything before it compiles."""

import json
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, UTC
from pathlib import Path

import jax
from jax.sharding import Mesh

from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import to_dict
from bert_jax.errors import Interrupted, TryAgain, UserError
from bert_jax.feed.kinds import require_segments
from bert_jax.feed.shards import DataDirectory, open_data, TRAIN
from bert_jax.feed.widths import row_lengths
from bert_jax.files import write_json
from bert_jax.host import __version__
from bert_jax.mesh import distributed
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.mesh.distributed import all_or_none, is_main, say
from bert_jax.mesh.peak import device_peak
from bert_jax.mesh.sharding import check_batch, check_heads, make_mesh
from bert_jax.model.attention import AttentionCase, resolve_implementation
from bert_jax.model.attention.check import check_at_start
from bert_jax.process.output_lock import locked
from bert_jax.runs.checkpoint import Checkpoints, first_line
from bert_jax.runs.directory import forget_metrics_after, join_run, RunDirectory, start_or_resume
from bert_jax.runs.names import MODEL_FILE
from bert_jax.tokenization import Tokenizer
from bert_jax.train.loop import listen_for_stop, StopRequest, train
from bert_jax.train.metrics import MetricsWindow
from bert_jax.train.session import Session
from bert_jax.train.state import resolve_compute_dtype, Training, TrainState


def pretrain(config: PretrainConfig, data_path: Path, output: Path, *, resume_command: str) -> RunDirectory:
    """Pre-train to the end of the configured steps, from the run's newest checkpoint if there is one.

    Of several processes (`distributed.initialize`) each calls this with the same arguments; `output` is a folder that all
    of them share.

    Args:
      config: the run.
      data_path: made by `bert-jax prepare`.
      output: the run directory.
      resume_command: printed when the run is interrupted.

    Raises:
      UserError: bad input, named; a loss that is not finite; another process writes into `output`.
      Interrupted: asked to stop; the state is saved.
    """
    use_compilation_cache()
    distributed.require_connection()
    with ExitStack() as held:
        with all_or_none():
            if is_main():
                held.enter_context(locked(output, "pretrain"))
        return _pretrain(config, data_path, output, resume_command)


def _pretrain(config: PretrainConfig, data_path: Path, output: Path, resume_command: str) -> RunDirectory:
    with all_or_none():
        data = open_data(data_path)
        training = prepare_training(config, data)
        tokenizer = data.load_tokenizer()
    config = training.config
    run = open_run_directory(output, config, data, tokenizer)
    # Stops are listened for until the last save is complete.
    with listen_for_stop() as stop, Checkpoints(run.checkpoints, config.keep_checkpoints) as checkpoints:
        stop.idle = True
        if distributed.of_main(checkpoints.latest or 0) == config.total_steps:
            last = len(config.phases) - 1
            say(
                f"{run.path} has finished its {config.total_steps:,} steps; to train on, take it over into a new run (bert-jax"
                f" convert {run.path} NEW --to bert-jax) and give that more steps (--output NEW phases.{last}.steps=N)"
            )
            return run
        state, done, window = restore_or_begin(training, run, checkpoints)
        session = Session(training, data, tokenizer, run, checkpoints, window)
        done = train_session(session, state, done, stop)
    if stop.signal_number is not None and done < config.total_steps:
        raise Interrupted(
            f"saved at step {done:,} of {config.total_steps:,}; go on with: {resume_command}", stop.signal_number
        )
    return run


def prepare_training(config: PretrainConfig, data: DataDirectory) -> Training:
    """The run on this machine's mesh, with everything refused that can be before compiling.

    Raises:
      UserError: naming the setting.
    """
    mesh = make_mesh(config.mesh)
    check_inputs(config, data, mesh)
    # The run records the dtype it was computed in, so that resuming it on another platform does not change it.
    dtype = resolve_compute_dtype(config.compute_dtype, mesh.devices.flat[0].platform)
    training = Training(replace(config, compute_dtype=dtype), mesh)
    resolve_implementation(config.attention, attention_case(training))  # refuses one that cannot do this
    _ = training.abstract_state  # refuses a mesh that cannot cut the parameters
    return training


def open_run_directory(output: Path, config: PretrainConfig, data: DataDirectory, tokenizer: Tokenizer) -> RunDirectory:
    """The run directory, made or recognised by the main process and seen by all.

    Raises:
      UserError: see `start_or_resume`; processes that were started differently or share no folder.
    """
    settings, manifest = json.dumps(to_dict(config)), json.dumps(data.manifest)
    distributed.require_same({"configuration": settings, "--data": manifest, "--output": str(output.absolute())})
    with all_or_none():
        if is_main():
            start_or_resume(output, config, data.manifest, tokenizer)
    with all_or_none():
        return join_run(output, config)


def train_session(session: Session, state: TrainState, done: int, stop: StopRequest) -> int:
    """Train from step `done` on; returns the steps done.

    Raises:
      UserError: a loss that is not finite.
      TryAgain: of several processes, another one has gone.
    """
    if is_main():
        record_environment(session.run, session.training.mesh)
    session.say_choices()
    with all_or_none():
        say(check_attention(session.training))
    with session.progress(done):
        if done == 0:
            session.measure_data()
        try:
            return train(state, done, session.phases(done), session.schedule(), session.hooks(), stop)
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            raise TryAgain(
                f"process {jax.process_index()} cannot go on ({first_line(error)}): has another one gone? The newest"
                " complete checkpoint is good: start all processes again with the same command"
            ) from error


def check_inputs(config: PretrainConfig, data: DataDirectory, mesh: Mesh) -> None:
    """Everything that can be refused before compiling.

    Raises:
      UserError: naming the setting and the data.
    """
    vocab_size = data.vocab_size
    if vocab_size > config.model.vocab_size:
        raise UserError(
            f"{data.directory}: its vocabulary has {vocab_size} entries and model.vocab_size={config.model.vocab_size} is"
            f" smaller: set model.vocab_size={vocab_size}"
        )
    one_segment = "set objective=mlm_full_sentences or mlm_document, whose rows have one"
    require_segments(config, f"{one_segment}, or model.type_vocab_size=2 for a new model")
    for number, phase in enumerate(config.phases):
        check_batch(phase.batch_size, config.micro_batches, mesh, f"phases.{number}.batch_size")
        check_examples(config, data, number)
    check_heads(config.model.num_attention_heads, mesh)


def check_examples(config: PretrainConfig, data: DataDirectory, number: int) -> None:
    """Refuse data without the examples of a phase: of the run's objective and the phase's sequence length."""
    phase, kind = config.phases[number], config.objective.examples
    count = data.split(TRAIN).num_examples(kind, phase.sequence_length)
    if count == 0:
        raise UserError(
            f"{data.directory}: has no training examples of {phase.sequence_length} tokens for {config.objective.name}:"
            " prepare more text"
        )
    if config.packing == "buckets" and count < phase.batch_size:
        raise UserError(
            f"packing=buckets needs at least a batch of examples: {data.directory} has {count} of"
            f" {phase.sequence_length} tokens, phases.{number}.batch_size={phase.batch_size}: set"
            f" phases.{number}.batch_size={count} or less, or packing=padded"
        )


def attention_case(training: Training) -> AttentionCase:
    """What a run asks of attention on one of its devices."""
    config, device = training.config, training.mesh.devices.flat[0]
    return AttentionCase(
        platform=device.platform,
        device_kind=device.device_kind,
        sequence_lengths=tuple(sorted({size for phase in config.phases for size in row_lengths(config, phase)})),
        heads=config.model.num_attention_heads // training.mesh.shape["tensor"],
        head_size=config.model.head_size,
        dtype=training.compute.dtype,
        dropout_rate=config.model.attention_probs_dropout_prob,
    )


def check_attention(training: Training) -> str:
    """The line to say of the run's attention, which is compared with the reference on this device first.

    Raises:
      UserError: it is too far from the reference.
    """
    case = attention_case(training)
    name = resolve_implementation(training.config.attention, case)
    return f"attention: {name}" if name == "reference" else check_at_start(name, case)


def restore_or_begin(
    training: Training, run: RunDirectory, checkpoints: Checkpoints
) -> tuple[TrainState, int, MetricsWindow]:
    """The newest complete checkpoint, or a new state: (state, steps done, sums since the last line of metrics).

    Which checkpoint: 1. the newest complete one; 2. an unfinished save is never used, and is named; 3. none: step 0.
    """
    done = distributed.of_main(-1 if checkpoints.latest is None else checkpoints.latest)
    if is_main() and checkpoints.unfinished:
        basis = "no checkpoint is complete" if done < 0 else f"the last complete checkpoint is of step {done:,}"
        say(f"a save was cut off ({', '.join(checkpoints.unfinished)}) and is removed; {basis}")
        checkpoints.remove_unfinished()
    dropped = forget_metrics_after(run, done) if is_main() else 0
    if done < 0 and (run.path / MODEL_FILE).is_file():
        raise UserError(f"{run.path}: was converted, and its checkpoint is gone: convert it again")
    if done < 0:
        return training.initial_state(), 0, MetricsWindow()
    total = training.config.total_steps
    if done > total:
        raise UserError(
            f"{run.path}: its checkpoint is of step {done:,}, beyond the {total:,} of this configuration: raise phases.0.steps"
        )
    if not checkpoints.has(done, "optimizer"):
        return begin_with_weights(training, run, checkpoints, done), done, MetricsWindow()
    abstract = training.abstract_state
    restored = checkpoints.restore(done, {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step)})
    (opt_state, step), record = restored.pop("optimizer"), restored.pop("record")
    state = TrainState(restored["params"], opt_state, step)
    again = f"; {dropped} lines of metrics after it will be computed again" if dropped else ""
    say(f"resuming {run.path} at step {done:,} of {training.config.total_steps:,}{again}")
    return state, done, MetricsWindow(**record["window"])


def begin_with_weights(training: Training, run: RunDirectory, checkpoints: Checkpoints, done: int) -> TrainState:
    """The weights of a converted checkpoint that came without an optimizer's state: its moments begin at 0."""
    params = checkpoints.restore(done, {"params": training.abstract_state.params})["params"]
    say(f"begins with the weights of {run.path / 'checkpoints' / str(done)}; the optimizer's moments begin at 0")
    return training.initial_state()._replace(params=params)


def record_environment(run: RunDirectory, mesh: Mesh) -> None:
    """Write versions, the mesh's devices and their peak to environment.json."""
    devices = list(mesh.devices.flat)
    peak, source = device_peak(devices[0])
    write_json(
        run.environment_file,
        {
            "bert_jax": __version__,
            "jax": jax.__version__,
            "devices": f"{len(devices)} x {devices[0].device_kind}",
            "platform": devices[0].platform,
            "device_count": mesh.size,
            "processes": jax.process_count(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "peak_flops_per_device": peak,
            "peak_source": source,
        },
    )
