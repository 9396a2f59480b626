# SPDX-License-Identifier: Apache-2.0
"""A step of a run, taken again on any machine in float32, operation by operation (`bert-jax replay`)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.files import read_json
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.config.training import MeshConfig, TrainingConfig
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.mesh.distributed import say
from bert_jax.mesh.sharding import parameter_path, put_on_mesh
from bert_jax.rerun.finite import examine, OperationReport
from bert_jax.rerun.opening import open_again, Opened
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.cost import BAD
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.names import CHECKPOINTS
from bert_jax.runs.reading import read_metrics
from bert_jax.train.bad_steps import BadSteps, not_finite
from bert_jax.train.capsule import read_capsule
from bert_jax.train.session import StepSpan
from bert_jax.train.state import DROPOUT, resolve_compute_dtype, Training, TrainState
from bert_jax.train.step import compile_scores, compile_train_step, CompiledStep, Loss, train_step

MOST_TEXTS = 4
TOKENS_AT_ONCE = 8192  # that the operations are looked at with, to bound their memory


@dataclass(frozen=True)
class Replayed:
    """The result of a replayed step."""

    step: int
    capsule: JsonObject | None  # what the run noted of it
    found: OperationReport  # in float32
    own: OperationReport | None  # in the type that the run computes in, where that is another one
    own_dtype: str
    bad_parameters: list[str]  # not finite before the step
    sums: Mapping[str, float]  # in float32
    texts: list[tuple[float | None, str]]  # of the batch, with their losses (nats), the worst first

    @property
    def is_bad(self) -> bool:
        """Whether anything was not finite: a loss too, which a mask's -inf may reach without an operation at fault."""
        bad_operations = self.found.bad or (self.own and self.own.bad)
        return bool(self.bad_parameters or bad_operations or not_finite(self.sums))


def replay(path: Path, step: int | None = None, data: str | None = None) -> Replayed:
    """Take a step of a run again, from the nearest state before it that is saved.

    Args:
      step: from 1; None: of the newest capsule.
      data: where the run's data lies, if not where it lay.

    Raises:
      UserError: nothing bad is noted and no step is named, or run or data cannot be opened.
    """
    use_compilation_cache()
    capsule = read_capsule(RunDirectory(path), step)
    opened = open_again(path, data, _on_one_device)
    if step is None and capsule is None:
        raise UserError(f"{path}: no bad step is noted there: name the step to take again with --step N")
    number = int(capsule["step"]) if capsule else step or 0
    objective, total = opened.objective, opened.objective.training.config.total_steps
    if not 1 <= number <= total:
        raise UserError(f"--step {number}: the run has the steps 1 to {total:,}")
    moved = int(capsule["moved"]) if capsule else _moved(opened.run, number)
    state = state_before(opened, number, moved, None if capsule is None else capsule["checkpoint"] or 0)
    batch = _global_batch(opened, number, moved)
    bad_parameters = _not_finite(state.params)
    found, sums = _look(opened, state, batch, "float32")
    dtype = _own_dtype(opened.run, objective.training)
    own = _look(opened, state, batch, dtype)[0] if dtype != "float32" and not found.bad else None
    texts = list(_texts(opened, state.params, batch, found))
    return Replayed(number, capsule, found, own, dtype, bad_parameters, sums, texts)


def _on_one_device(config: TrainingConfig) -> TrainingConfig:
    return replace(config, mesh=MeshConfig(data=1), attention="reference", profile=None)


def _own_dtype(run: RunDirectory, training: Training) -> str:
    """Return the type that the run computed in; `auto` stands for that of the devices it had, not of these here."""
    try:
        platform = read_json(run.environment_file, "remove it").get("platform")
    except FileNotFoundError:
        platform = None
    return resolve_compute_dtype(training.config.compute_dtype, platform or training.platform)


def _moved(run: RunDirectory, step: int) -> int:
    """Return the batches that had been passed over before a step, by the lines of metrics."""
    lines = [line for line in read_metrics(run.metrics_file)[0] if line["kind"] == BAD and line["step"] < step]
    return int(lines[-1]["moved"]) if lines else 0


# ---- the state before the step -----------------------------------------------------------------------------------------


def state_before(opened: Opened, step: int, moved: int, newest: int | None = None) -> TrainState:
    """Return the state before a step: of the newest saved one, and the steps from there.

    Args:
      moved: batches that were passed over before it.
      newest: the checkpoint that the run had then; later ones may be of other batches, after it was rolled back.

    Raises:
      UserError: the run began behind that step, with the step of another run.
    """
    training = opened.objective.training
    folder, done = _nearest(opened.run, step, newest)
    if folder is None:
        state, record = opened.objective.initial_state(), {}
        done = int(state.step)
        if step <= done:
            raise UserError(f"--step {step}: the run began with the state of step {done:,}: name a later one")
    else:
        with Checkpoints(folder) as checkpoints:
            abstract = training.abstract_state
            items = {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step)}
            restored = checkpoints.restore(done, items)
        state, record = TrainState(restored["params"], *restored["optimizer"]).exchanged(), restored["record"]
    where = "its first state" if folder is None else f"the checkpoint of step {done:,}"
    say(f"step {step:,}: from {where}, {step - 1 - done:,} steps before it")
    bad = BadSteps(training.config)
    bad.restore(record.get("bad_steps", {}))
    programs: dict[Any, CompiledStep] = {}
    with tqdm(total=step - 1 - done, unit="step", leave=False, disable=None) as bar:
        for number, batch in _batches(opened, done, step - 1, moved):
            shape = tuple((name, field.shape) for name, field in sorted(batch.items()))
            if shape not in programs:
                programs[shape] = compile_train_step(training, opened.objective.loss, batch)
            state, sums = programs[shape](state, put_on_mesh(training.mesh, batch), bad.limit(number))
            bad.why(number, {name: float(value) for name, value in jax.device_get(sums).items()})
            bar.update()
    return state


def _nearest(run: RunDirectory, step: int, newest: int | None = None) -> tuple[Path | None, int]:
    """Return the folder of checkpoints with the newest state before a step, and the steps done there; none: (None, 0)."""
    end = step if newest is None else min(step, newest + 1)
    found = [
        (int(place.name), folder)
        for folder in (run.checkpoints, run.bad_steps / CHECKPOINTS)
        for place in (folder.iterdir() if folder.is_dir() else ())
        if place.name.isdecimal() and int(place.name) < end and (place / "optimizer").is_dir()
    ]
    done, folder = max(found, default=(0, None), key=lambda pair: pair[0])
    return folder, done


def _batches(opened: Opened, begin: int, end: int, moved: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield steps `begin` + 1 to `end` by number, with their global batches."""
    for span in opened.objective.spans():
        first, last = max(begin, span.begin), min(end, span.end)
        if first < last:
            feed = opened.objective.batches(StepSpan(span.number, span.begin, last + moved), first + moved)
            yield from enumerate(map(dict, feed), start=first + 1)


def _global_batch(opened: Opened, step: int, moved: int) -> dict[str, np.ndarray]:
    ((_, batch),) = _batches(opened, step - 1, step, moved)
    return batch


# ---- the step ----------------------------------------------------------------------------------------------------------


def _not_finite(params: PyTree) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [parameter_path(path) for path, leaf in leaves if not np.isfinite(np.asarray(leaf)).all()]


def _look(
    opened: Opened, state: TrainState, batch: Mapping[str, np.ndarray], dtype: str
) -> tuple[OperationReport, dict[str, float]]:
    """Take the step, operation by operation; its loops over micro-batches bound the memory."""
    given = opened.objective.training
    parts = _parts(batch, given.config.micro_batches)
    config = replace(given.config, compute_dtype=dtype, remat="none", scan_layers=True, micro_batches=parts)
    training, loss = replace(given, config=replace(config, on_bad_step="stop")), opened.objective.loss
    schedule = training.schedule
    layers = training.description.model.num_hidden_layers

    def step(state: TrainState, batch: dict[str, jax.Array], key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        return train_step(training, loss, state, batch, key, schedule)

    arrays = put_on_mesh(training.mesh, batch)
    (_, sums), found = examine(step, state, arrays, training.key(DROPOUT), layers=layers, outer_loops=int(parts > 1))
    return found, {name: float(value) for name, value in jax.device_get(sums).items()}


def _parts(batch: Mapping[str, np.ndarray], configured: int) -> int:
    """Return the micro-batches that a batch is looked at in; one where its rows belong together in groups."""
    rows, width = batch["input_ids"].shape
    if "row_examples" in batch:
        return configured
    examples = len(batch.get("example_weights", batch["input_ids"]))
    wanted = max(configured, math.ceil(rows * width / TOKENS_AT_ONCE))
    return next(parts for parts in range(wanted, examples + 1) if examples % parts == 0)


# ---- texts -------------------------------------------------------------------------------------------------------------


def _texts(
    opened: Opened, params: PyTree, batch: Mapping[str, np.ndarray], found: OperationReport
) -> Iterator[tuple[float | None, str]]:
    """Yield texts of the batch with their losses: rows that are not finite first, then those of the largest losses."""
    rows = len(batch["input_ids"])
    named = [place.rows for place in found.bad if place.shape[:1] == (rows,) and len(place.rows) < rows]
    losses = _row_losses(opened.objective.training, opened.objective.loss, params, batch)
    order = sorted(range(rows), key=lambda row: -math.inf if _is_bad(losses, row) else -losses[row] if losses else row)
    for row in [*(named[0] if named else ()), *order][:MOST_TEXTS]:
        ids = [int(token) for token in batch["input_ids"][row][batch["sequence_ids"][row] > 0]]
        yield (losses[row] if losses else None), opened.tokenizer.decode(ids)


def _is_bad(losses: Sequence[float], row: int) -> bool:
    return bool(losses) and not math.isfinite(losses[row])


def _row_losses(training: Training, loss: Loss, params: PyTree, batch: Mapping[str, np.ndarray]) -> list[float]:
    """Return the loss of each row without dropout (nats, the sum of the means of its terms); none where rows are grouped."""
    if len({len(field) for field in batch.values()}) > 1:
        return []
    one = {name: field[:1] for name, field in batch.items()}
    scores = compile_scores(replace(training, config=replace(training.config, compute_dtype="float32")), loss, one)
    found = []
    for row in range(len(batch["input_ids"])):
        terms = jax.device_get(
            scores(params, put_on_mesh(training.mesh, {name: field[row : row + 1] for name, field in batch.items()}))
        )
        found.append(sum(float(term.loss) / max(float(term.weight), 1.0) for term in terms.values()))
    return found


# ---- what is printed ---------------------------------------------------------------------------------------------------


def report(replayed: Replayed) -> str:
    """Return what came of the step, for people."""
    lines = [f"step {replayed.step:,} in float32, {replayed.found.operations:,} operations"]
    if replayed.capsule:
        lines.append(f"  the run noted    {replayed.capsule['why']}")
    numbers = {name: replayed.sums[name] for name in replayed.sums if name.endswith(("_loss", "_norm"))}
    lines.append(f"  here             {', '.join(f'{name}={value:.6g}' for name, value in numbers.items())}")
    lines += [f"  NOT FINITE       the parameter {path}, before the step" for path in replayed.bad_parameters]
    lines += _bad_lines(replayed.found, "float32")
    if replayed.own is not None:
        lines += _bad_lines(replayed.own, replayed.own_dtype)
    if replayed.is_bad and not any("NOT FINITE" in line for line in lines):
        lines.append(
            "  NOT FINITE       a loss or norm, of what is infinite on purpose: does a label stand where a mask is?"
        )
    if not replayed.is_bad:
        lines.append(f"  every operation is finite{_why_finite(replayed)}")
    lines += ["", *_table(replayed.found), "", "texts of the batch, the worst first:"]
    for loss, text in replayed.texts:
        words = "" if loss is None else f"loss {loss:.4g}  "
        lines.append(f"  {words}{text[:200]}")
    return "\n".join(lines)


def _why_finite(replayed: Replayed) -> str:
    if replayed.capsule is None or "not finite" not in str(replayed.capsule["why"]):
        return ""
    return ": what the run noted is not seen here, so look at its device, its versions and its attention"


def _bad_lines(found: OperationReport, dtype: str) -> list[str]:
    if not found.bad:
        return []
    first, others = found.bad[0], len(found.bad) - 1
    rows = f", rows {', '.join(map(str, first.rows[:8]))}" if first.rows else ""
    line = f"  NOT FINITE       first {first.name} makes {first.value} of finite numbers: {first.place.words()}"
    return [f"{line}; {dtype} {list(first.shape)}{rows}{f'; {others} more after it' if others else ''}"]


def _table(found: OperationReport) -> list[str]:
    """Return the largest magnitude in each layer and region, forward and backward."""
    places = {(place.layer, place.region) for place in found.largest}
    bad = {operation.place for operation in found.bad}
    lines = [f"{'largest magnitude':<28}{'forward':>14}{'backward':>14}"]
    for layer, region in sorted(places, key=lambda place: (place[0] is not None, place[0] or 0, place[1])):
        name = f"layer {layer}, {region}" if layer else region
        cells = [(place, found.largest.get(place)) for place in found.largest if place[1:] == (layer, region)]
        shown = {place.direction: f"{value:.3g}{'!' if place in bad else ''}" for place, value in cells}
        lines.append(f"{name:<28}{shown.get('forward', ''):>14}{shown.get('backward', ''):>14}")
    return lines
